"""Photos that do not fit into memory."""

from __future__ import annotations

import subprocess
import sys
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from services.common.options import TrainingOptions
from services.trainer.config import resolve
from services.trainer.cpu.backend import CpuBackend
from services.trainer.dataset import DatasetLoader
from services.trainer.evaluate import mean_psnr
from services.trainer.memory import _halved
from services.trainer.photo_cache import CachedPictures, PhotoCache
from services.trainer.settings import TrainerSettings
from services.trainer.trainer import Trainer
from splatmill.errors import Reason, SplatmillError
from tests.helpers.colmap_writer import write_scene

# Peak memory in MiB of a process that loads a scene and reads each photo twice.
READ_ALL = """
import resource, sys
from pathlib import Path
from services.common.options import TrainingOptions
from services.trainer.config import resolve
from services.trainer.dataset import DatasetLoader
from services.trainer.settings import TrainerSettings
from services.trainer.photo_cache import AHEAD, prefetch

config = resolve(TrainingOptions(), TrainerSettings(), "cuda")
loader = DatasetLoader(Path(sys.argv[1]), config, int(sys.argv[2]))
list(loader.load())
views = loader.dataset().train * 2
for row, view in enumerate(views):
    prefetch([later.pictures for later in views[row + 1 :]])
    assert view.pictures[0].float().mean() > 1
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


class Photos:
    """Photos of a size, and how often each was decoded."""

    def __init__(self, size: int) -> None:
        self.size, self.decoded = size, []

    def decode(self, key: int):
        def read():
            self.decoded.append(key)
            return (torch.full((self.size,), key, dtype=torch.uint8),)

        return read


def test_the_budget_is_kept_and_the_oldest_goes_first():
    photos, cache = Photos(100), PhotoCache(350)
    for key in (1, 2, 3, 1, 4, 1, 2):
        (picture,) = cache.get(key, photos.decode(key))
        assert int(picture[0]) == key
    assert photos.decoded == [1, 2, 3, 4, 2]
    assert cache.bytes == cache.most_bytes == 300


def test_one_larger_than_the_budget_is_held_alone():
    cache = PhotoCache(350)
    cache.get(1, Photos(100).decode(1))
    cache.get(2, Photos(1000).decode(2))
    assert cache.bytes == 1000
    cache.get(3, Photos(100).decode(3))
    assert cache.bytes == 100


def test_what_is_prefetched_is_decoded_once_and_elsewhere():
    cache, decoded, go_on = PhotoCache(350), [], threading.Event()

    def read():
        decoded.append(threading.current_thread())
        go_on.wait(10)
        return (torch.zeros(10, dtype=torch.uint8),)

    cache.prefetch(1, read)
    cache.prefetch(1, read)
    threading.Timer(0.1, go_on.set).start()
    cache.get(1, read)
    assert len(decoded) == 1
    assert decoded[0] is not threading.main_thread()


def test_what_cannot_be_decoded_is_said_to_whoever_asks():
    def read():
        raise SplatmillError(Reason.IMAGE_TRUNCATED, "cut off")

    cache = PhotoCache(350)
    cache.prefetch(1, read)
    for _ in range(2):
        with pytest.raises(SplatmillError, match="cut off"):
            cache.get(1, read)


def trainer_of(folder, memory: int) -> Trainer:
    config = resolve(
        TrainingOptions(iterations=60, train_image_size=320, test_every=5, max_gaussians=300),
        TrainerSettings(),
        "cpu",
    )
    loader = DatasetLoader(folder, config, memory)
    list(loader.load())
    return Trainer(CpuBackend(), loader.dataset(), config)


def test_training_on_a_small_budget_ends_the_same(tmp_path):
    folder = write_scene(tmp_path, photos=12, size=(320, 200))
    photo = sum(320 * 200 * 3 // 4**level for level in range(3))
    trainers = [trainer_of(folder, memory) for memory in (1 << 40, 4 * photo)]
    for trainer in trainers:
        while not trainer.done:
            trainer.step()
    free, bounded = trainers
    assert isinstance(free.dataset.train[0].pictures, tuple)
    caches = {view.pictures.cache for view in bounded.dataset.train + bounded.dataset.test}
    assert len(caches) == 1
    assert 2 * photo <= caches.pop().most_bytes <= 4 * photo
    for (name, one), (_, other) in zip(free.gaussians.items(), bounded.gaussians.items(), strict=True):
        assert torch.equal(one, other), name
    assert mean_psnr(free, free.dataset.test) == mean_psnr(bounded, bounded.dataset.test)


def test_halving_goes_on_without_holding_them_all(tmp_path):
    folder = write_scene(tmp_path, photos=5, size=(320, 200))
    for levels in (slice(None), slice(1)):
        pairs = []
        for memory in (1 << 40, 1):
            view = trainer_of(folder, memory).dataset.train[0]
            view = replace(view, cameras=view.cameras[levels], pictures=view.pictures[levels])
            pairs.append(_halved(view))
        eager, cached = pairs
        assert isinstance(cached.pictures, CachedPictures)
        assert cached.cameras[0].width == eager.cameras[0].width == cached.pictures[0].shape[1] == 160
        assert all(torch.equal(*pair) for pair in zip(eager.pictures, cached.pictures, strict=True))


def test_host_memory_does_not_grow_with_the_photos(tmp_path):
    peaks = []
    for photos in (8, 48):
        folder = write_scene(tmp_path / str(photos), photos=photos, size=(32, 24))
        noise = np.random.default_rng(0).integers(40, 255, (90, 120, 3), np.uint8)
        for path in (folder / "images").iterdir():
            Image.fromarray(noise).resize((1600, 1200)).save(path, "JPEG")
        done = subprocess.run(
            [sys.executable, "-c", READ_ALL, folder, str(24 * 2**20)],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        peaks.append(float(done.stdout))
    # 40 more photos are 220 MiB once decoded; threads and allocators account for the rest.
    assert peaks[1] - peaks[0] < 60
