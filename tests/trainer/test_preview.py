"""Looks at a scene that is still being trained."""

from __future__ import annotations

import gzip
import os
import struct
import threading

import pytest
from PIL import Image

from services.common.options import TrainingOptions
from services.trainer import preview
from services.trainer.config import resolve
from services.trainer.dataset import DatasetLoader
from services.trainer.preview import LARGEST_SHARE, PREVIEW, PREVIEW_SPLAT, Previews
from services.trainer.settings import TrainerSettings
from services.trainer.trainer import Trainer
from tests.helpers.colmap_writer import write_scene
from tests.helpers.slow_backend import SlowBackend


@pytest.fixture
def make_trainer(tmp_path):
    def make(**options):
        config = resolve(TrainingOptions(iterations=12, **options), TrainerSettings(), "cpu")
        sfm = tmp_path / "sfm"
        loader = DatasetLoader(sfm if sfm.exists() else write_scene(sfm, photos=4, points=30), config)
        list(loader.load())
        return Trainer(SlowBackend(), loader.dataset(), config)

    return make


def header(packed: bytes) -> tuple[int, int, int]:
    """Gaussians, degree and flags of a .spz; the whole of it must unpack to its size."""
    raw = gzip.decompress(packed)
    magic, version, count, degree, _, flags, _ = struct.unpack("<IIIBBBB", raw[:16])
    assert (magic, version) == (0x5053474E, 3)
    assert len(raw) == 16 + count * (9 + 1 + 3 + 3 + 4 + 3 * ((degree + 1) ** 2 - 1))
    return count, degree, flags


@pytest.mark.parametrize("antialiased", [False, True])
def test_previews_change_while_the_scene_does(make_trainer, tmp_path, antialiased):
    trainer = make_trainer(antialiased=antialiased)
    previews = Previews(tmp_path / "kept", 1e-9, clock=iter(range(0, 10**6, 1000)).__next__)
    pictures, splats = [], []
    while not trainer.done:
        trainer.step()
        if trainer.iteration % 6 == 0:
            while not previews.write_when_due(trainer):
                pass
            pictures.append((tmp_path / "kept" / PREVIEW).read_bytes())
            splats.append((tmp_path / "kept" / PREVIEW_SPLAT).read_bytes())
    assert pictures[0] != pictures[1]
    assert splats[0] != splats[1]
    assert header(splats[1]) == (trainer.gaussians.count, 3, int(antialiased))
    assert {path.name for path in (tmp_path / "kept").iterdir()} == {PREVIEW, PREVIEW_SPLAT}
    camera = trainer.dataset.train[2].cameras[0]
    assert Image.open(tmp_path / "kept" / PREVIEW).size == (camera.width, camera.height)


def test_looking_does_not_change_the_training(make_trainer, tmp_path):
    ends = []
    for folder in (None, tmp_path / "kept"):
        trainer = make_trainer()
        previews = Previews(folder, 1e-9, clock=iter(range(0, 10**6, 1000)).__next__)
        while not trainer.done:
            trainer.step()
            previews.write_when_due(trainer)
        ends.append(trainer.gaussians)
    for (name, without), (_, with_them) in zip(ends[0].items(), ends[1].items(), strict=True):
        assert without.equal(with_them), name


def test_the_splat_is_decimated(make_trainer, tmp_path, monkeypatch):
    monkeypatch.setattr(preview, "MOST_GAUSSIANS", 12)
    previews = Previews(tmp_path, 1.0, clock=iter([0.0, 5.0, 5.0, 5.0]).__next__)
    assert previews.write_when_due(make_trainer())
    assert 8 <= header((tmp_path / PREVIEW_SPLAT).read_bytes())[0] <= 12


def test_readers_find_whole_files_at_all_times(make_trainer, tmp_path):
    trainer = make_trainer()
    previews = Previews(tmp_path, 1e-9, clock=iter(range(0, 10**9, 1000)).__next__)
    while not previews.write_when_due(trainer):
        pass
    done, read, broken = threading.Event(), [], []

    def look() -> None:
        while not done.is_set():
            try:
                read.append(header((tmp_path / PREVIEW_SPLAT).read_bytes()))
                Image.open(tmp_path / PREVIEW).load()
            except Exception as error:  # noqa: BLE001  (whatever it is, it fails the test)
                broken.append(error)

    reader = threading.Thread(target=look)
    reader.start()
    for _ in range(60):
        previews.write_when_due(trainer)
    done.set()
    reader.join(10)
    assert broken == []
    assert len(read) > 5


def test_previews_take_no_more_than_their_share_of_the_time(make_trainer, tmp_path, monkeypatch):
    """Where one takes long the pause grows, and shrinks again to what is set."""
    now, took, written = 0.0, 0.0, []
    monkeypatch.setattr(preview, "_picture", lambda _: pytest.fail("not before it is due"))
    previews = Previews(tmp_path, 3.0, clock=lambda: now)
    trainer = make_trainer()
    now = 2.9
    assert not previews.write_when_due(trainer)

    def slow_picture(_: Trainer) -> Image.Image:
        nonlocal now
        now += took
        return Image.new("RGB", (4, 4))

    monkeypatch.setattr(preview, "_picture", slow_picture)
    for took in (0.01, 0.5, 0.01, 0.01, 2.0, 0.01):
        before = now
        while not previews.write_when_due(trainer):
            now += 0.05
        written.append((now - took - before, took))
    assert [round(pause, 0) for pause, _ in written] == [0, 3, 25, 3, 3, 100]
    for (_, cost), (pause, _) in zip(written, written[1:], strict=False):
        assert cost <= LARGEST_SHARE * pause + 1e-9


def test_not_before_they_are_due_and_not_without_a_folder(tmp_path):
    assert not Previews(tmp_path, 1e9).write_when_due(None)
    assert not Previews(None, 1e-9).write_when_due(None)
    Previews(None, 1e-9).remove()


@pytest.mark.parametrize("name", ["_picture", "decimated"])
def test_a_full_disk_or_memory_costs_the_preview_only(make_trainer, tmp_path, monkeypatch, name):
    def fail(*_: object) -> None:
        raise MemoryError

    (tmp_path / "file").write_text("in the way")
    trainer = make_trainer()
    clock = iter(range(0, 10**6, 1000)).__next__
    assert Previews(tmp_path / "file", 1.0, clock).write_when_due(trainer)
    monkeypatch.setattr(preview, name, fail)
    assert Previews(tmp_path / "kept", 1.0, clock).write_when_due(trainer)


def test_they_are_removed_with_what_a_killed_attempt_has_left(make_trainer, tmp_path):
    clock = iter(range(0, 10**6, 1000)).__next__
    previews = Previews(tmp_path, 1.0, clock)
    assert previews.write_when_due(make_trainer())
    (tmp_path / f".{PREVIEW_SPLAT}.{os.getpid() + 1}").write_bytes(b"half")
    (tmp_path / "checkpoint.pt").write_bytes(b"stays")
    (tmp_path / "sfm").rename(tmp_path.parent / "elsewhere")
    previews.remove()
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]
