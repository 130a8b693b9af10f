"""Options over settings over the device's defaults."""

from __future__ import annotations

import pytest

from services.common import option_codec
from services.common.options import TrainingOptions
from services.common.settings import load_settings
from services.trainer.config import limited_by_photos, resolve
from services.trainer.settings import TrainerSettings
from splatmill.errors import Reason, SplatmillError
from splatmill.v1 import options_pb2


def test_a_gpu_takes_the_settings():
    config = resolve(TrainingOptions(), TrainerSettings(), "cuda")
    assert (config.iterations, config.densify_until_iter, config.train_image_size) == (10_000, 5_000, None)
    assert (config.sh_degree, config.test_every, config.coarse_to_fine) == (3, 8, False)


def test_a_cpu_takes_less():
    config = resolve(TrainingOptions(), TrainerSettings(), "cpu")
    assert 2000 <= config.iterations <= 3000
    assert config.densify_until_iter == config.iterations // 2
    assert (config.train_image_size, config.max_gaussians, config.coarse_to_fine) == (640, 40_000, True)


def test_what_the_environment_says_holds_on_a_cpu(monkeypatch):
    for name, value in {
        "TRAINING_ITERATIONS": "700",
        "DENSIFY_UNTIL_ITER": "300",
        "MAX_GAUSSIANS": "1234",
        "TRAIN_IMAGE_SIZE": "320",
    }.items():
        monkeypatch.setenv(f"SPLATMILL_{name}", value)
    config = resolve(TrainingOptions(), TrainerSettings(), "cpu")
    assert (config.iterations, config.densify_until_iter) == (700, 300)
    assert (config.max_gaussians, config.train_image_size) == (1234, 320)


def test_options_win(monkeypatch):
    monkeypatch.setenv("SPLATMILL_TRAINING_ITERATIONS", "700")
    monkeypatch.setenv("SPLATMILL_TEST_EVERY", "5")
    options = TrainingOptions(
        iterations=50, densify_until_iter=20, sh_degree=0, max_gaussians=500, train_image_size=100,
        test_every=0, seed=3,
    )  # fmt: skip
    for device in ("cpu", "cuda"):
        config = resolve(options, TrainerSettings(), device)
        assert (config.iterations, config.densify_until_iter, config.sh_degree) == (50, 20, 0)
        assert (config.max_gaussians, config.train_image_size) == (500, 100)
        assert (config.test_every, config.seed) == (0, 3)


def test_the_high_preset_has_what_its_photos_are_good_for():
    run = resolve(TrainingOptions(preset="high"), TrainerSettings(), "cuda")
    most = [limited_by_photos(run, photos).max_gaussians for photos in (3, 14, 15, 100, 200)]
    assert most == [100_000, 100_000, 105_000, 700_000, 1_000_000]
    asked = resolve(TrainingOptions(preset="high", max_gaussians=2_000_000), TrainerSettings(), "cuda")
    assert limited_by_photos(asked, 3).max_gaussians == 2_000_000
    usual = resolve(TrainingOptions(), TrainerSettings(), "cuda")
    assert limited_by_photos(usual, 3) == usual


def test_densification_ends_in_time():
    def until(**options):
        return resolve(TrainingOptions(**options), TrainerSettings(), "cuda").densify_until_iter

    assert until(iterations=2000) == 1000
    assert until(iterations=30_000) == 5000
    assert until(iterations=2000, densify_until_iter=9000) == 2000
    assert until(iterations=2000, densify_until_iter=0) == 0


def test_holding_out_every_photo_is_refused_where_it_is_said(monkeypatch):
    for parse in (
        lambda: option_codec.parse_form({"test_every": "1"}),
        lambda: option_codec.check(options_pb2.JobOptions(training={"test_every": 1})),
    ):
        with pytest.raises(SplatmillError, match="every photo would be held out") as caught:
            parse()
        assert (caught.value.reason, caught.value.field) == (Reason.INVALID_OPTION, "test_every")
        assert "2 or more" in caught.value.remedy
    monkeypatch.setenv("SPLATMILL_TEST_EVERY", "1")
    with pytest.raises(SplatmillError, match="every photo would be held out") as caught:
        load_settings(TrainerSettings)
    assert caught.value.field == "SPLATMILL_TEST_EVERY"
