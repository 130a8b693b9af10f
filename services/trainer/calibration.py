"""Measures what the device can do, in a second or two, by the real training on scenes of chance.

It runs like a stage, in a process of its own, so that no GPU memory stays taken. The steps
are those of ``Trainer``: kernels, optimiser and Python together.
"""

from __future__ import annotations

import io
import math
import os
import resource
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy.optimize import nnls

from services.common.options import TrainingOptions
from services.common.stage import Progress, StageContext, StageResult, StageRun
from services.trainer.backend import Backend
from services.trainer.backends import choose_backend
from services.trainer.config import TrainingConfig, resolve
from services.trainer.dataset import Dataset, View, loading_threads
from services.trainer.estimate import DeviceSpeed
from services.trainer.memory import free_bytes
from services.trainer.scene_types import Camera
from services.trainer.schedule import plan
from services.trainer.settings import TrainerSettings
from services.trainer.trainer import Trainer

_TINY = (64, 48, 500)
# Width, height, Gaussians: about what the device has to do, and less.
_ON_CPU = ((160, 120, 10_000), (160, 120, 40_000), (640, 480, 10_000), (640, 480, 40_000))
_ON_GPU = ((400, 300, 50_000), (400, 300, 250_000), (1600, 1200, 50_000), (1600, 1200, 250_000))
_WARM_STEPS, _STEPS, _REPEATS = 2, 4, 3
_MOST_FIRST_STEP = 3.0  # seconds; a first step that took longer has compiled kernels, which is done once
_PHOTO = (1600, 1200)
_PHOTOS = 4
_NEAR, _FAR = 2.0, 6.0  # depths of the Gaussians, world units
_LONG = 1_000_000
_RSS_UNIT = 1 if sys.platform == "darwin" else 1024

# What trained scenes look like: standard deviations as a share of the distance between
# Gaussians spread evenly over the picture, how far they scatter, and how solid they are.
_SPREAD, _SCATTER = 0.6, 0.7
_SOLID_MEAN, _SOLID_SCATTER = -1.0, 2.0  # logits


def run(input_dir: Path, output_dir: Path, options: TrainingOptions, context: StageContext) -> StageRun:
    """Measures the device that trainings will have. A stage without files.

    Yields:
        Progress, once.

    Returns:
        ``DeviceSpeed.metrics``.
    """
    del input_dir, output_dir, context
    settings = TrainerSettings()
    backend = choose_backend(settings.trainer_device).backend
    config = replace(resolve(options, settings, backend.device.type), coarse_to_fine=False)
    ready = _seconds_so_far()
    yield Progress("measure", 0.0)
    first_step = min(_MOST_FIRST_STEP, _seconds(backend, scene(backend, config, *_TINY), 1))
    is_gpu = backend.device.type == "cuda"
    base = 0 if is_gpu else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _RSS_UNIT
    free = free_bytes(backend.device)
    fixed, by_pixel, by_gaussian = step_times(backend, config, _ON_GPU if is_gpu else _ON_CPU)
    speed = DeviceSpeed(
        is_gpu=float(is_gpu),
        step_seconds=fixed,
        seconds_per_pixel=by_pixel,
        seconds_per_gaussian=by_gaussian,
        start_seconds=ready + first_step,
        decode_seconds_per_pixel=_decode_seconds() / (_PHOTO[0] * _PHOTO[1]),
        base_bytes=float(base),
        free_bytes=float(free or 0),
    )
    return StageResult(speed.metrics())


def _seconds_so_far() -> float:
    """What this process has taken to come here, without waiting for others where that can be told.

    The processor's time leaves waiting out but counts all threads, the clock the other way round.
    """
    try:
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, AttributeError):
        return time.process_time()
    return min(age, time.process_time())


def step_times(
    backend: Backend, config: TrainingConfig, sizes: Sequence[tuple[int, int, int]]
) -> tuple[float, float, float]:
    """Fits a + b P + c N to steps, none of them negative, the relative errors as small as can be.

    Args:
        backend: The device.
        config: Of the harmonics and the strategy.
        sizes: Width, height and Gaussians of each scene to try.

    Returns:
        a, b and c in seconds.
    """
    rows, times = [], []
    for width, height, gaussians in sizes:
        trainer = scene(backend, config, width, height, gaussians)
        _seconds(backend, trainer, _WARM_STEPS)
        best = min(_seconds(backend, trainer, _STEPS) for _ in range(_REPEATS)) / _STEPS
        rows.append([1.0, width * height, gaussians])
        times.append(best)
    weighted = np.array(rows) / np.array(times)[:, None]
    scales = weighted.max(axis=0)  # so that no column is lost for its unit
    fixed, by_pixel, by_gaussian = nnls(weighted / scales, np.ones(len(times)))[0] / scales
    return float(fixed), float(by_pixel), float(by_gaussian)


def scene(backend: Backend, config: TrainingConfig, width: int, height: int, count: int) -> Trainer:
    """A training of chance that costs about what one of that size costs when it is half done.

    Args:
        backend: The device.
        config: Of the harmonics and the strategy; its run is long enough for any calibration.
        width: Of the pictures in pixels.
        height: Of them.
        count: Gaussians, spread over the picture.
    """
    chance = torch.Generator().manual_seed(0)
    focal = float(width)
    camera = Camera(torch.eye(4), focal, focal, width / 2, height / 2, width, height)
    pictures = torch.randint(0, 256, (2, height, width, 3), dtype=torch.uint8, generator=chance)
    places = torch.rand(count, 3, generator=chance)
    depths = _NEAR + (_FAR - _NEAR) * places[:, 2]
    positions = torch.stack(
        ((places[:, 0] - 0.5) * depths, (places[:, 1] - 0.5) * (height / width) * depths, depths), dim=1
    )
    dataset = Dataset(
        train=tuple(View(str(row), (camera,), (picture,), 0.0) for row, picture in enumerate(pictures)),
        test=(), extent=1.0, positions=positions, colors=torch.full((count, 3), 128, dtype=torch.uint8),
    )  # fmt: skip
    config = replace(config, iterations=_LONG, densify_until_iter=0, max_gaussians=count)
    trainer = Trainer(backend, dataset, config, replace(plan(config, 2), sh_every=1))
    own = depths * math.sqrt(height / width / count)  # distance to the next one over the picture
    scales = (_SPREAD * own)[:, None] * torch.exp(_SCATTER * torch.randn(count, 3, generator=chance))
    logits = _SOLID_MEAN + _SOLID_SCATTER * torch.randn(count, generator=chance)
    trainer.gaussians.log_scales.copy_(scales.log())
    trainer.gaussians.opacity_logits.copy_(logits)
    trainer.gaussians.quats.copy_(torch.randn(count, 4, generator=chance))
    return trainer


def _seconds(backend: Backend, trainer: Trainer, steps: int) -> float:
    backend.synchronize()
    began = time.perf_counter()
    for _ in range(steps):
        trainer.step()
    backend.synchronize()
    return time.perf_counter() - began


def _decode_seconds() -> float:
    """Of one photo, when several are decoded at once as the loader does."""
    noise = np.random.default_rng(0).integers(0, 256, (_PHOTO[1] // 8, _PHOTO[0] // 8, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).resize(_PHOTO).save(file, "JPEG", quality=92)
    with ThreadPoolExecutor(loading_threads()) as pool:
        began = time.perf_counter()
        list(pool.map(lambda _: np.asarray(Image.open(io.BytesIO(file.getvalue()))), range(_PHOTOS)))
        return (time.perf_counter() - began) / _PHOTOS
