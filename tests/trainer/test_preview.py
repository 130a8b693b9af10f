"""The picture of a scene that is still being trained."""

from __future__ import annotations

from PIL import Image

from services.common.options import TrainingOptions
from services.trainer.config import resolve
from services.trainer.dataset import DatasetLoader
from services.trainer.preview import PREVIEW, Previews
from services.trainer.settings import TrainerSettings
from services.trainer.trainer import Trainer
from tests.helpers.colmap_writer import write_scene
from tests.helpers.slow_backend import SlowBackend


def test_previews_change_while_the_scene_does(tmp_path):
    config = resolve(TrainingOptions(iterations=40), TrainerSettings(), "cpu")
    loader = DatasetLoader(write_scene(tmp_path / "sfm", photos=4, points=30), config)
    list(loader.load())
    trainer = Trainer(SlowBackend(), loader.dataset(), config)
    previews = Previews(tmp_path / "kept", 1e-9)
    pictures = []
    while not trainer.done:
        trainer.step()
        if trainer.iteration % 20 == 0:
            assert previews.write_when_due(trainer)
            pictures.append((tmp_path / "kept" / PREVIEW).read_bytes())
    assert pictures[0] != pictures[1]
    assert [path.name for path in (tmp_path / "kept").iterdir()] == [PREVIEW]
    camera = trainer.dataset.train[2].cameras[0]
    assert Image.open(tmp_path / "kept" / PREVIEW).size == (camera.width, camera.height)


def test_not_before_they_are_due_and_not_without_a_folder(tmp_path):
    assert not Previews(tmp_path, 1e9).write_when_due(None)
    assert not Previews(None, 1e-9).write_when_due(None)


def test_a_folder_that_cannot_be_written_costs_the_picture_only(tmp_path):
    (tmp_path / "file").write_text("in the way")
    config = resolve(TrainingOptions(iterations=40), TrainerSettings(), "cpu")
    loader = DatasetLoader(write_scene(tmp_path / "sfm", photos=4, points=30), config)
    list(loader.load())
    trainer = Trainer(SlowBackend(), loader.dataset(), config)
    assert Previews(tmp_path / "file", 1e-9).write_when_due(trainer)
