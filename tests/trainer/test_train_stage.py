"""The whole stage on scenes of a few pixels, with the slow backend."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image

from services.common.options import TrainingOptions
from services.common.splat_cloud import read_ply
from services.common.stage import Progress, StageContext, StageResult
from services.trainer import stage
from services.trainer.backends import ChosenBackend
from splatmill.errors import Reason, SplatmillError
from tests.helpers.colmap_writer import write_scene
from tests.helpers.slow_backend import SlowBackend


class Brittle(SlowBackend):
    """Fails in its third step in the way it is told."""

    def __init__(self, failure):
        super().__init__()
        self.failure, self.steps = failure, 0

    def loss_and_gradients(self, *arguments):
        self.steps += 1
        if self.steps == 3 and isinstance(self.failure, BaseException):
            raise self.failure
        output = super().loss_and_gradients(*arguments)
        if self.steps >= 3 and not isinstance(self.failure, BaseException):
            output.loss = torch.tensor(self.failure)
        return output


@pytest.fixture(autouse=True)
def slow(monkeypatch):
    use(monkeypatch, SlowBackend())


def use(monkeypatch, backend):
    monkeypatch.setattr(stage, "choose_backend", lambda preference: ChosenBackend(backend, "a slow device"))


def run(source, target, **options) -> tuple[list[Progress], StageResult]:
    target.mkdir(exist_ok=True)
    generator = stage.run(source, target, TrainingOptions(**options), StageContext(target))
    progress = []
    while True:
        try:
            progress.append(next(generator))
        except StopIteration as stop:
            return progress, stop.value


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    return write_scene(tmp_path_factory.mktemp("scene") / "sfm", photos=10, points=30)


def test_a_run_leaves_what_it_promises(scene, tmp_path):
    progress, result = run(scene, tmp_path / "out", iterations=60)
    folder = tmp_path / "out"
    cloud = read_ply(folder / "point_cloud/iteration_60/point_cloud.ply")
    assert len(cloud) == result.metrics["gaussian_count"] > 0
    assert cloud.sh_degree == 3
    report = json.loads((folder / "training_report.json").read_text())
    assert report["test_psnr"] == pytest.approx(result.metrics["test_psnr"])
    assert report["test_ssim"] == pytest.approx(result.metrics["test_ssim"])
    assert [photo["name"] for photo in report["held_out"]] == ["photo_000.png", "photo_008.png"]
    assert report["test_psnr"] == pytest.approx(np.mean([photo["psnr"] for photo in report["held_out"]]))
    by_quality = sorted(report["held_out"], key=lambda photo: photo["psnr"])
    assert report["worst_views"] == [photo["name"] for photo in by_quality]
    assert any(line.startswith("worst views: photo_") for line in progress[-1].log_lines)
    assert report["photos"] == {"train": 8, "test": 2, "width": 24, "height": 18}
    assert (report["settings"]["iterations"], report["settings"]["schedule"]["densify_until"]) == (60, 30)
    assert report["device"] == {"type": "cpu", "name": "a slow device"}
    assert [point["iteration"] for point in report["curve"]][-1] == 60
    assert report["curve"][-1]["loss"] < report["curve"][0]["loss"]
    assert report["comparisons"] == ["comparison_1_held_out.jpg", "comparison_2_held_out.jpg"]
    with Image.open(folder / "comparison_1_held_out.jpg") as picture:
        assert picture.size == (3 * 24, 18)
    assert result.metrics["iterations"] == 60
    assert result.metrics["train_seconds"] > 0


def test_progress_goes_on_and_speaks(scene, tmp_path, monkeypatch):
    monkeypatch.setattr(stage, "_REPORT_SECONDS", 0.05)
    progress, result = run(scene, tmp_path / "out", iterations=60)
    fractions = [each.fraction for each in progress]
    assert fractions == sorted(fractions)
    assert (fractions[0], fractions[-1]) == (0, 1)
    assert {each.step for each in progress} == {"load", "train", "evaluate", "export"}
    figures = [each.training for each in progress if each.training]
    assert (figures[0].iteration, figures[-1].iteration) == (1, 60)
    assert len(figures) >= 5
    assert all(math.isfinite(each.loss) and each.iterations_per_second > 0 for each in figures)
    assert figures[-1].test_psnr == result.metrics["test_psnr"]
    assert figures[-1].gaussian_count == result.metrics["gaussian_count"]
    lines = [line for each in progress for line in each.log_lines]
    assert any(line.startswith("iteration 60/60 loss 0.") and " gaussians " in line for line in lines)
    assert not any("[GPU Memory]" in line for line in lines)
    etas = [each.eta_seconds for each in progress if each.step == "train"]
    assert etas[-1] == 0


def test_the_same_seed_gives_the_same_scene(scene, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        run(scene, tmp_path / name, iterations=12, seed=seed)
    path = "point_cloud/iteration_12/point_cloud.ply"
    a, b, c = ((tmp_path / name / path).read_bytes() for name in "abc")
    assert a == b
    assert a != c


def test_memory_lines_come_every_twenty_steps(scene, tmp_path, monkeypatch):
    class Meter:
        def __init__(self, device):
            pass

        def read(self):
            return stage.GpuMemory(0, 1473, 16380)

    monkeypatch.setattr(stage, "GpuMemoryMeter", Meter)
    progress, _ = run(scene, tmp_path / "out", iterations=60)
    lines = [line for each in progress for line in each.log_lines if "[GPU Memory]" in line]
    assert lines == ["[GPU Memory] GPU 0: 1473MB / 16380MB (9.0%)"] * 3
    trained = [each for each in progress if each.step == "train"]
    assert trained[-1].gpu_memory == stage.GpuMemory(0, 1473, 16380)


def test_three_photos_are_all_trained_on(tmp_path):
    source = write_scene(tmp_path / "sfm", photos=3, points=20)
    _, result = run(source, tmp_path / "out", iterations=10)
    assert "test_psnr" not in result.metrics
    report = json.loads((tmp_path / "out/training_report.json").read_text())
    assert report["test_psnr"] is None
    assert report["photos"]["train"] == 3
    assert report["comparisons"] == [f"comparison_{k}_trained.jpg" for k in (1, 2, 3)]


@pytest.mark.parametrize(("photos", "points"), [(1, 20), (3, 1), (1, 1)])
def test_the_smallest_scenes_train(tmp_path, photos, points):
    source = write_scene(tmp_path / "sfm", photos=photos, points=points)
    _, result = run(source, tmp_path / "out", iterations=5)
    assert result.metrics["gaussian_count"] >= 1


def fails(reason, source, target, **options):
    with pytest.raises(SplatmillError) as caught:
        run(source, target, **options)
    assert caught.value.reason == reason
    assert not list(target.glob("point_cloud/**/*.ply"))
    return caught.value


def test_no_points(tmp_path):
    none = write_scene(tmp_path / "none", photos=3, points=0)
    behind = write_scene(tmp_path / "behind", photos=3, points=10, point_depth=-4.0)
    for source in (none, behind):
        error = fails(Reason.NO_POINTS, source, tmp_path / "out", iterations=5)
        assert error.remedy


def test_missing_input(tmp_path):
    (tmp_path / "empty").mkdir()
    fails(Reason.INPUT_NOT_FOUND, tmp_path / "empty", tmp_path / "out", iterations=5)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_no_number(scene, tmp_path, monkeypatch, value):
    use(monkeypatch, Brittle(value))
    fails(Reason.TRAINING_DIVERGED, scene, tmp_path / "out", iterations=8)


def test_other_errors_stay_what_they_are(scene, tmp_path, monkeypatch):
    use(monkeypatch, Brittle(RuntimeError("something else")))
    with pytest.raises(RuntimeError, match="something else"):
        run(scene, tmp_path / "out", iterations=8)


def test_nothing_that_can_be_seen(scene, tmp_path, monkeypatch):
    class Fading(SlowBackend):
        def adam_step(self, parameters, *arguments):
            parameters.opacity_logits.fill_(-20.0)

    use(monkeypatch, Fading())
    fails(Reason.EMPTY_SCENE, scene, tmp_path / "out", iterations=3)
