"""A training that dies goes on, and ends as if nothing had happened."""

from __future__ import annotations

import json
import os
import signal
import threading
from pathlib import Path

import pytest
import torch

from services.common.options import TrainingOptions
from services.common.stage import StageContext
from services.trainer import stage
from services.trainer.backends import ChosenBackend
from splatmill.errors import Reason, SplatmillError
from tests.helpers.colmap_writer import write_scene
from tests.helpers.slow_backend import SlowBackend


@pytest.fixture(autouse=True)
def often(monkeypatch):
    monkeypatch.setenv("SPLATMILL_CHECKPOINT_SECONDS", "1e-9")
    monkeypatch.setattr(stage, "choose_backend", lambda preference: ChosenBackend(SlowBackend(), "slow"))
    monkeypatch.setattr(stage, "_REPORT_SECONDS", 0.0)
    before = signal.getsignal(signal.SIGTERM)
    yield
    assert signal.getsignal(signal.SIGTERM) is before, "the stage puts the process's handler back"


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    return write_scene(tmp_path_factory.mktemp("scene") / "sfm", photos=10, points=30)


def begin(source: Path, target: Path, kept: Path | None, **options):
    target.mkdir()
    context = StageContext(target, checkpoint_dir=kept)
    return stage.run(source, target, TrainingOptions(**options), context)


def whole(source: Path, target: Path, kept: Path | None, **options) -> dict:
    list(begin(source, target, kept, **options))
    return json.loads((target / "training_report.json").read_text())


def broken_at(step: int, source: Path, target: Path, kept: Path, **options) -> None:
    """Stops without a word, as a killed process does."""
    run = begin(source, target, kept, **options)
    for progress in run:
        if progress.training is not None and progress.training.iteration >= step:
            return
    raise AssertionError("the run ended before it was broken off")


def cloud(target: Path) -> bytes:
    (path,) = target.glob("point_cloud/*/point_cloud.ply")
    return path.read_bytes()


@pytest.mark.parametrize(("strategy", "exposure"), [("default", False), ("mcmc", False), ("default", True)])
def test_a_killed_run_ends_like_one_that_was_not(scene, tmp_path, strategy, exposure):
    options = {"iterations": 260, "densify_until_iter": 220, "strategy": strategy, "background": "random"}
    options["exposure"] = exposure
    report = whole(scene, tmp_path / "straight", None, **options)
    assert report["resumed_at"] is None
    broken_at(90, scene, tmp_path / "first", tmp_path / "kept", **options)
    broken_at(170, scene, tmp_path / "second", tmp_path / "kept", **options)
    report = whole(scene, tmp_path / "third", tmp_path / "kept", **options)
    assert report["resumed_at"] >= 169
    assert cloud(tmp_path / "third") == cloud(tmp_path / "straight")
    steps = [point["iteration"] for point in report["curve"]]
    assert steps == sorted(set(steps)), "the curve of all attempts, each step once"
    assert steps[0] == 1
    assert steps[-1] == 260
    seconds = [point["seconds"] for point in report["curve"]]
    assert seconds == sorted(seconds)
    assert report["seconds"]["train"] >= seconds[-1] - 0.01


def test_a_finished_run_is_extended(scene, tmp_path):
    whole(scene, tmp_path / "short", tmp_path / "kept", iterations=40)
    report = whole(scene, tmp_path / "long", tmp_path / "kept", iterations=70)
    assert report["resumed_at"] == 40
    assert report["iterations"] == 70


@pytest.mark.parametrize("changed", [{}, {"max_gaussians": 5000, "densify_until_iter": 60}])
def test_a_longer_run_may_have_other_limits(scene, tmp_path, changed):
    whole(scene, tmp_path / "short", tmp_path / "kept", iterations=40, max_gaussians=1000)
    options = {"iterations": 70, "max_gaussians": 1000, **changed}
    report = whole(scene, tmp_path / "long", tmp_path / "kept", **options)
    assert report["resumed_at"] == 40


OTHERS = {
    "seed": 7,
    "background": "white",
    "max_gaussians": 900,
    "densify_until_iter": 3,
    "train_image_size": 64,
    "coarse_to_fine": False,
    "strategy": "mcmc",
    "exposure": True,
    "antialiased": True,
    "sh_degree": 1,
    "test_every": 5,
}


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("broken", [True, False])
def test_other_options_begin_anew_and_say_so(scene, tmp_path, name, broken):
    """Not the scene that the former options gave, whatever was done of it."""
    first = {"iterations": 4, "max_gaussians": 1000}
    if broken:
        broken_at(2, scene, tmp_path / "a", tmp_path / "kept", **first)
    else:
        whole(scene, tmp_path / "a", tmp_path / "kept", **first)
    lines = [
        line
        for progress in begin(scene, tmp_path / "b", tmp_path / "kept", **{**first, name: OTHERS[name]})
        for line in progress.log_lines
    ]
    (said,) = (line for line in lines if "begins anew" in line)
    assert name in said.replace("(", " ").replace(")", " ").replace(",", " ").split()
    report = json.loads((tmp_path / "b" / "training_report.json").read_text())
    assert report["resumed_at"] is None
    assert report["settings"][name] == OTHERS[name]


def test_a_longer_run_with_fewer_gaussians_than_there_are_begins_anew(tmp_path):
    source = write_scene(tmp_path / "sfm", photos=3, points=150)
    whole(source, tmp_path / "a", tmp_path / "kept", iterations=3)
    report = whole(source, tmp_path / "b", tmp_path / "kept", iterations=6, max_gaussians=100)
    assert report["resumed_at"] is None
    assert report["gaussian_count"] <= 100


def test_training_goes_on_while_a_checkpoint_is_written(scene, tmp_path, monkeypatch):
    """What is saved is the moment at which it was begun, however long writing takes."""
    begun, go_on, saved = threading.Event(), threading.Event(), []

    def slowly(content, path):
        means = content["trainer"]["gaussians"]["means"]
        before = means.clone()
        begun.set()
        assert go_on.wait(20)
        saved.append((content["trainer"]["iteration"], torch.equal(means, before)))
        path.write_bytes(b"written")

    monkeypatch.setattr("services.trainer.checkpoint.torch.save", slowly)
    for progress in begin(scene, tmp_path / "a", tmp_path / "kept", iterations=60):
        if progress.training and progress.training.iteration == 30:
            assert begun.is_set()
            assert not saved
            go_on.set()
    assert saved[0] == (1, True)
    assert saved[-1] == (60, True), "the last one is waited for"


def test_a_killed_attempt_leaves_no_half_file(scene, tmp_path):
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / ".checkpoint.pt.0123abcd").write_bytes(b"half")
    whole(scene, tmp_path / "a", kept, iterations=10)
    assert [path.name for path in kept.iterdir()] == ["checkpoint.pt"]


def test_a_shorter_run_begins_anew(scene, tmp_path):
    whole(scene, tmp_path / "long", tmp_path / "kept", iterations=30)
    assert whole(scene, tmp_path / "short", tmp_path / "kept", iterations=20)["resumed_at"] is None


def test_other_photos_and_other_kinds_begin_anew(scene, tmp_path):
    whole(scene, tmp_path / "a", tmp_path / "kept", iterations=10)
    other = write_scene(tmp_path / "sfm", photos=11, points=30)
    assert whole(other, tmp_path / "b", tmp_path / "kept", iterations=20)["resumed_at"] is None
    assert whole(other, tmp_path / "c", tmp_path / "kept", iterations=30, sh_degree=1)["resumed_at"] is None
    assert (
        whole(other, tmp_path / "d", tmp_path / "kept", iterations=30, antialiased=True)["resumed_at"] is None
    )


def test_a_broken_checkpoint_costs_the_way_so_far_only(scene, tmp_path):
    whole(scene, tmp_path / "a", tmp_path / "kept", iterations=10)
    (file,) = (tmp_path / "kept").iterdir()
    file.write_bytes(file.read_bytes()[:1000])
    assert whole(scene, tmp_path / "b", tmp_path / "kept", iterations=20)["resumed_at"] is None


def test_a_full_disk_costs_the_checkpoint_only(scene, tmp_path, monkeypatch):
    def full(content, path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("services.trainer.checkpoint.torch.save", full)
    assert whole(scene, tmp_path / "a", tmp_path / "kept", iterations=10)["iterations"] == 10


def test_told_to_stop_it_saves_first(scene, tmp_path, monkeypatch):
    monkeypatch.setenv("SPLATMILL_CHECKPOINT_SECONDS", "1e9")
    run = begin(scene, tmp_path / "a", tmp_path / "kept", iterations=200)
    with pytest.raises(SplatmillError) as caught:
        for progress in run:
            if progress.training is not None and progress.training.iteration == 50:
                os.kill(os.getpid(), signal.SIGTERM)
    assert caught.value.reason is Reason.CANCELLED
    assert whole(scene, tmp_path / "b", tmp_path / "kept", iterations=200)["resumed_at"] == 51


def test_previews_last_as_long_as_their_training(scene, tmp_path, monkeypatch):
    monkeypatch.setenv("SPLATMILL_PREVIEW_SECONDS", "0.001")
    kept = tmp_path / "kept"

    def previews() -> list[str]:
        return sorted(path.name for path in kept.glob("*preview*"))

    def when_loaded(target: Path, **options) -> list[str]:
        return next(previews() for progress in begin(scene, target, kept, **options) if progress.training)

    broken_at(20, scene, tmp_path / "first", kept, iterations=60)
    assert previews() == ["preview.jpg", "preview.spz"], "of use until the next attempt goes on"
    monkeypatch.setenv("SPLATMILL_PREVIEW_SECONDS", "1000")
    assert when_loaded(tmp_path / "second", iterations=60) == ["preview.jpg", "preview.spz"]
    assert when_loaded(tmp_path / "third", iterations=60, sh_degree=1) == [], "another scene's"
    monkeypatch.setenv("SPLATMILL_PREVIEW_SECONDS", "0.001")
    assert whole(scene, tmp_path / "fourth", kept, iterations=60, sh_degree=1)["resumed_at"] is not None
    assert previews() == []
    assert (kept / "checkpoint.pt").is_file()
