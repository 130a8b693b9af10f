"""Options between protobuf, checked models and form fields."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common import option_codec
from services.common.options import Matcher, PostprocOptions, SfmOptions, TrainingOptions
from services.postproc.settings import PostprocSettings
from services.sfm.settings import SfmSettings
from services.trainer.config import resolve
from services.trainer.settings import TrainerSettings
from splatmill.errors import Reason, SplatmillError
from splatmill.v1 import options_pb2


def test_a_form_becomes_options():
    job = option_codec.parse_form({
        "original_resolution": "true", "matcher": "sequential", "iterations": " 3000 ",
        "outlier_std_threshold": "1.5", "seed": str(2**62), "max_gaussians": "",
    })  # fmt: skip
    assert job.sfm.original_resolution
    assert job.sfm.matcher == options_pb2.MATCHER_SEQUENTIAL
    assert job.training.iterations == 3000
    assert job.training.seed == 2**62
    assert not job.training.HasField("max_gaussians")  # an empty field of a browser's form
    assert job.postproc.outlier_std_threshold == 1.5
    assert not job.training.HasField("sh_degree")


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("iterations", "0", "at least 1 and at most 200000"),
        ("iterations", "many", "a whole number"),
        ("seed", str(2**63), "a whole number"),
        ("matcher", "magic", "exhaustive, sequential"),
        ("original_resolution", "maybe", "true or false"),
        ("outlier_std_threshold", "nan", "a number"),
        ("outlier_min_cluster_ratio", "inf", "at most 1"),
        ("iteration", "5", "iterations"),
    ],
)
def test_bad_form_fields_say_what_is_right(name, value, words):
    with pytest.raises(SplatmillError) as caught:
        option_codec.parse_form({name: value})
    assert caught.value.reason is Reason.INVALID_OPTION
    assert caught.value.field == name
    assert words in caught.value.remedy


@given(
    st.builds(
        SfmOptions,
        original_resolution=st.none() | st.booleans(),
        max_features=st.none() | st.integers(256, 65536),
        matcher=st.none() | st.sampled_from(Matcher),
    )
    | st.builds(
        TrainingOptions,
        test_every=st.none() | st.just(0) | st.integers(2, 1000),
        seed=st.none() | st.integers(0, 2**63 - 1),
    )
    | st.builds(
        PostprocOptions,
        outlier_remove_small_clusters=st.none() | st.booleans(),
        outlier_min_cluster_ratio=st.none() | st.floats(0, 1),
    )
)
def test_options_survive_the_wire(options):
    kinds = {
        SfmOptions: options_pb2.SfmOptions,
        TrainingOptions: options_pb2.TrainingOptions,
        PostprocOptions: options_pb2.PostprocOptions,
    }
    message = option_codec.to_proto(options, kinds[type(options)]())
    again = type(message).FromString(message.SerializeToString())
    assert option_codec.from_proto(again, type(options)) == options


@pytest.mark.parametrize(
    "message",
    [
        options_pb2.SfmOptions(max_features=1),
        options_pb2.SfmOptions(matcher=77),
        options_pb2.TrainingOptions(sh_degree=4),
        options_pb2.PostprocOptions(outlier_std_threshold=float("nan")),
    ],
)
def test_messages_are_checked(message):
    models = {
        "SfmOptions": SfmOptions,
        "TrainingOptions": TrainingOptions,
        "PostprocOptions": PostprocOptions,
    }
    with pytest.raises(SplatmillError) as caught:
        option_codec.from_proto(message, models[message.DESCRIPTOR.name])
    assert caught.value.reason is Reason.INVALID_OPTION
    assert caught.value.remedy


def test_every_option_is_described_and_stands_in_the_protos():
    described = {info.name: info for info in option_codec.describe()}
    fields = {
        field.name for part in options_pb2.JobOptions.DESCRIPTOR.fields for field in part.message_type.fields
    }
    assert set(described) == fields
    assert all(info.help and info.type for info in described.values())
    assert described["sh_degree"].maximum == 3
    assert list(described["matcher"].choices) == ["exhaustive", "sequential"]


def test_defaults_are_those_of_the_services():
    described = {info.name: info.default_value for info in option_codec.describe()}
    assert all(described.values())
    for settings in (SfmSettings(), TrainerSettings(), PostprocSettings()):
        for name, default in described.items():
            if hasattr(settings, name):
                shown = str(getattr(settings, name))
                by_device = name in {"iterations", "max_gaussians", "train_image_size", "densify_until_iter"}
                assert by_device or default == shown.lower(), name
    gpu, cpu = (resolve(TrainingOptions(), TrainerSettings(), device) for device in ("cuda", "cpu"))
    for name in ("iterations", "max_gaussians"):
        assert described[name] == f"{getattr(gpu, name)} on a GPU, {getattr(cpu, name)} without"
    assert str(cpu.train_image_size) in described["train_image_size"]
