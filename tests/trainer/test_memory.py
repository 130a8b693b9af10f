"""Memory that runs out: what is given up, in which order, and when it is the end."""

from __future__ import annotations

import json

import pytest
import torch

from services.common.options import TrainingOptions
from services.common.stage import StageContext
from services.trainer import memory, stage
from services.trainer.backends import ChosenBackend
from services.trainer.config import resolve
from services.trainer.dataset import DatasetLoader
from services.trainer.footprint import affordable_gaussians
from services.trainer.settings import TrainerSettings
from splatmill.errors import Reason, SplatmillError
from tests.helpers.colmap_writer import write_scene
from tests.helpers.slow_backend import SlowBackend

FAILURES = [
    MemoryError(),
    torch.cuda.OutOfMemoryError("CUDA out of memory"),
    RuntimeError("DefaultCPUAllocator: can't allocate memory"),
]


class Cramped(SlowBackend):
    """Has no memory in its third step, as often as told."""

    def __init__(self, failure: BaseException, times: int) -> None:
        super().__init__()
        self.failure, self.times, self.steps = failure, times, 0
        self.sizes: list[int] = []

    def loss_and_gradients(self, gaussians, camera, *rest, **keywords):
        self.steps += 1
        self.sizes.append(camera.width)
        if self.steps >= 3 and self.times > 0:
            self.times -= 1
            raise self.failure
        return super().loss_and_gradients(gaussians, camera, *rest, **keywords)


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    return write_scene(tmp_path_factory.mktemp("scene") / "sfm", photos=4, points=30)


@pytest.fixture(autouse=True)
def small_photos_count(monkeypatch):
    monkeypatch.setattr(memory, "_SMALLEST_SIDE", 8)


def run(monkeypatch, scene, folder, backend, **options):
    monkeypatch.setattr(stage, "choose_backend", lambda preference: ChosenBackend(backend, "cramped"))
    folder.mkdir()
    lines: list[str] = []
    for progress in stage.run(scene, folder, TrainingOptions(**options), StageContext(folder)):
        lines += progress.log_lines
    return lines, json.loads((folder / "training_report.json").read_text())


@pytest.mark.parametrize("failure", FAILURES)
def test_the_ladder_is_walked_and_recorded(monkeypatch, scene, tmp_path, failure):
    backend = Cramped(failure, 3)
    lines, report = run(monkeypatch, scene, tmp_path / "out", backend, iterations=12, coarse_to_fine=False)
    count = report["gaussian_count"]
    said = [line for line in lines if line.startswith("memory ran out")]
    assert len(said) == len(report["memory_ladder"]) == 3
    assert "emptied the caches" in said[0]
    assert f"no more than {count}" in said[1]
    assert "half the size" in said[2]
    assert backend.sizes[0] == 2 * backend.sizes[-1]
    assert report["iterations"] == 12, "no step is lost"


@pytest.mark.parametrize("failure", FAILURES)
def test_at_the_end_of_the_ladder_it_fails(monkeypatch, scene, tmp_path, failure):
    with pytest.raises(SplatmillError) as caught:
        run(monkeypatch, scene, tmp_path / "out", Cramped(failure, 99), iterations=12)
    assert caught.value.reason is Reason.OUT_OF_MEMORY
    assert caught.value.remedy
    assert not (tmp_path / "out" / "training_report.json").exists()


class CrampedView(SlowBackend):
    """Trains, but has no memory to render a picture until it has given some back; or never."""

    def __init__(self, failure: BaseException, helps: bool) -> None:
        super().__init__()
        self.failure, self.helps, self.releases = failure, helps, 0

    def render(self, *arguments, **keywords):
        if not (self.helps and self.releases):
            raise self.failure
        return super().render(*arguments, **keywords)

    def release(self):
        self.releases += 1


@pytest.mark.parametrize("failure", FAILURES)
def test_looking_at_the_scene_makes_room_for_itself(monkeypatch, tmp_path, failure):
    source = write_scene(tmp_path / "sfm", photos=8, points=30)
    backend = CrampedView(failure, helps=True)
    _, report = run(monkeypatch, source, tmp_path / "out", backend, iterations=8)
    assert backend.releases == 1
    assert report["memory_ladder"] == [], "the training is as good as any"
    assert report["test_psnr"] > 5


@pytest.mark.parametrize("failure", FAILURES)
def test_a_look_on_the_way_is_worth_less_than_the_training(monkeypatch, tmp_path, failure):
    source = write_scene(tmp_path / "sfm", photos=8, points=30)
    lines: list[str] = []
    backend = CrampedView(failure, helps=False)
    monkeypatch.setattr(stage, "choose_backend", lambda preference: ChosenBackend(backend, "cramped"))
    (tmp_path / "out").mkdir()
    with pytest.raises(SplatmillError) as caught:
        for progress in stage.run(
            source, tmp_path / "out", TrainingOptions(iterations=8), StageContext(tmp_path / "out")
        ):
            lines += progress.log_lines
    assert caught.value.reason is Reason.OUT_OF_MEMORY, "nobody knows how good it is: not completed"
    assert any("no room for a look" in line for line in lines)
    assert any(line.startswith("iteration 8/8") for line in lines), "it was trained to the end"


def test_another_error_is_none_of_its_business(monkeypatch, scene, tmp_path):
    with pytest.raises(RuntimeError, match="something else"):
        run(monkeypatch, scene, tmp_path / "out", Cramped(RuntimeError("something else"), 1), iterations=12)


def test_the_cap_fits_what_is_free(monkeypatch, scene, tmp_path):
    monkeypatch.setattr(stage, "free_bytes", lambda device: 700 * 2**20)
    lines, report = run(monkeypatch, scene, tmp_path / "out", SlowBackend(), iterations=3)
    assert any(line.startswith("memory has room for") for line in lines)
    assert report["settings"]["max_gaussians"] < 40_000


def test_more_memory_more_gaussians(scene):
    config = resolve(TrainingOptions(), TrainerSettings(), "cpu")
    loader = DatasetLoader(scene, config)
    list(loader.load())
    affordable = [
        affordable_gaussians(free, memory.largest_picture(loader.dataset())) for free in (0, 2**30, 2**34)
    ]
    assert affordable[0] == 1000
    assert affordable[0] < affordable[1] < affordable[2]
    assert memory.free_bytes(torch.device("cpu")) > 0
