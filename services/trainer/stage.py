"""The train stage: SfM output in, Gaussians out."""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
import time
from collections import deque
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from services.common.child import out_of_memory
from services.common.options import TrainingOptions
from services.common.splat_cloud import write_ply
from services.common.stage import GpuMemory, Progress, StageContext, StageResult, StageRun, TrainingFigures
from services.trainer.backends import choose_backend
from services.trainer.checkpoint import Checkpoints, fingerprint
from services.trainer.config import TrainingConfig, limited_by_photos, resolve
from services.trainer.dataset import Dataset, DatasetLoader
from services.trainer.density import drawable
from services.trainer.evaluate import evaluate, mean_psnr
from services.trainer.export import to_cloud
from services.trainer.footprint import PHOTO_SHARE, affordable_gaussians
from services.trainer.gpu_memory import GpuMemoryMeter, memory_line
from services.trainer.memory import MemoryLadder, free_bytes, is_out_of_memory, largest_picture, with_room
from services.trainer.preview import Previews
from services.trainer.report import (
    REPORT,
    CurvePoint,
    TrainingRecord,
    worst,
    write_comparisons,
    write_report,
)
from services.trainer.settings import TrainerSettings
from services.trainer.trainer import Trainer
from splatmill.errors import Reason, SplatmillError

log = logging.getLogger(__name__)

# Where each step ends, as a share of the stage.
_LOADED, _TRAINED, _EVALUATED = 0.03, 0.96, 0.99
_REPORT_SECONDS = 0.5
_UNKNOWN_PHOTO_MEMORY = 2 * 2**30  # bytes, where the system does not tell what is free
_MEMORY_EVERY = 20  # steps
_QUALITY_SHARES = (0.25, 0.5, 0.75)  # of the run, where the held-out photos are looked at
_RATE_SPAN = 6  # reports over which the speed is averaged


def run(input_dir: Path, output_dir: Path, options: TrainingOptions, context: StageContext) -> StageRun:
    """Trains a scene.

    Args:
        input_dir: The output of structure from motion, with ``images/`` and ``sparse/``.
        output_dir: Gets ``point_cloud/iteration_{N}/point_cloud.ply``,
            ``training_report.json`` and ``comparison_*.jpg``.
        options: None in a field means the setting of that name, or the device's default.
        context: Its checkpoint folder, where there is one, keeps the way so far.

    Yields:
        Progress about twice a second, with lines for the log and the training's figures.

    Returns:
        gaussian_count, iterations, train_seconds, and test_psnr and test_ssim where photos
        were held out.

    Raises:
        SplatmillError: INPUT_NOT_FOUND or INVALID_REQUEST for a missing or broken input,
            NO_POINTS without a point to start from, OUT_OF_MEMORY, TRAINING_DIVERGED when
            the loss is no number, EMPTY_SCENE when nothing is left that can be seen.
    """
    try:
        return (yield from _run(input_dir, output_dir, options, context, TrainerSettings()))
    except (MemoryError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise out_of_memory() from error
        raise


def _run(
    input_dir: Path,
    output_dir: Path,
    options: TrainingOptions,
    context: StageContext,
    settings: TrainerSettings,
) -> StageRun:
    record = TrainingRecord()
    started = time.monotonic()
    chosen = choose_backend(settings.trainer_device)
    backend = chosen.backend
    config = resolve(options, settings, backend.device.type)
    lines = [chosen.warning] if chosen.warning else []
    lines.append(f"training on {chosen.name}: {_describe(config)}")
    yield Progress("load", 0.0, log_lines=tuple(lines))
    dataset = yield from _load(input_dir, config, _photo_memory(settings))
    record.seconds["load"] = time.monotonic() - started

    checkpoints = Checkpoints(
        context.checkpoint_dir, fingerprint(dataset), config, settings.checkpoint_seconds, record
    )
    config, lines = _fitting(config, dataset, backend.device)
    trainer = Trainer(backend, dataset, config)
    previews = Previews(context.checkpoint_dir, settings.preview_seconds)
    resumed = checkpoints.resume(trainer)
    if record.resumed_at is None:
        previews.remove()  # of an earlier training, maybe in other coordinates
    yield Progress("load", _LOADED, log_lines=(*lines, resumed) if resumed else tuple(lines))
    with _termination_noted() as stop, contextlib.closing(checkpoints):
        training = _Training(trainer, record, checkpoints, previews, stop)
        yield from training.run()
    record.seconds["train"] = record.trained_seconds

    started = time.monotonic()
    yield Progress("evaluate", _TRAINED, log_lines=("comparing with the held-out photos",))
    qualities = with_room(backend, lambda: evaluate(trainer, trainer.dataset.test))
    comparisons = with_room(backend, lambda: write_comparisons(output_dir, trainer))
    record.seconds["evaluate"] = time.monotonic() - started

    yield Progress("export", _EVALUATED, log_lines=(f"writing {trainer.gaussians.count} Gaussians",))
    started = time.monotonic()
    folder = output_dir / "point_cloud" / f"iteration_{trainer.iteration}"
    folder.mkdir(parents=True)
    write_ply(folder / "point_cloud.ply", to_cloud(trainer.gaussians, config.antialiased))
    record.seconds["export"] = time.monotonic() - started
    report = write_report(output_dir / REPORT, trainer, chosen.name, record, qualities, comparisons)
    metrics = {
        "gaussian_count": float(trainer.gaussians.count),
        "iterations": float(trainer.iteration),
        "train_seconds": record.seconds["train"],
    }
    summary = f"trained {trainer.gaussians.count} Gaussians in {record.seconds['train']:.1f} s"
    if qualities:
        metrics["test_psnr"], metrics["test_ssim"] = report["test_psnr"], report["test_ssim"]
        summary += f", held-out PSNR {report['test_psnr']:.2f} dB, SSIM {report['test_ssim']:.4f}"
    previews.remove()
    lines = [summary]
    if len(qualities) > 1:
        views = ", ".join(f"{quality.name} ({quality.psnr:.1f} dB)" for quality in worst(qualities))
        lines.append(f"worst views: {views}")
    yield Progress("export", 1.0, 0.0, tuple(lines), training.judged(report["test_psnr"]))
    return StageResult(metrics)


def _fitting(
    config: TrainingConfig, dataset: Dataset, device: torch.device
) -> tuple[TrainingConfig, list[str]]:
    """The run with as many Gaussians as photos and memory allow, and a line for each that has them fewer."""
    lines, asked = [], config.max_gaussians
    config = limited_by_photos(config, len(dataset.train))
    if config.max_gaussians < asked:
        lines.append(f"{len(dataset.train)} photos are good for {config.max_gaussians} Gaussians")
    free = free_bytes(device)
    most = affordable_gaussians(free, largest_picture(dataset)) if free is not None else config.max_gaussians
    if most < config.max_gaussians:
        lines.append(f"memory has room for {most} Gaussians, not for {config.max_gaussians}")
        config = replace(config, max_gaussians=most)
    return config, lines


@contextlib.contextmanager
def _termination_noted() -> Iterator[threading.Event]:
    """Set when the process is asked to end; a checkpoint is then worth the seconds that are left."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = signal.signal(signal.SIGTERM, lambda *_: asked.set())
    try:
        yield asked
    finally:
        signal.signal(signal.SIGTERM, before)


def _photo_memory(settings: TrainerSettings) -> int:
    """Bytes that decoded photos may take."""
    if settings.photo_cache_mib is not None:
        return settings.photo_cache_mib * 2**20
    free = free_bytes(torch.device("cpu"))
    return _UNKNOWN_PHOTO_MEMORY if free is None else free // PHOTO_SHARE


def _load(input_dir: Path, config: TrainingConfig, memory: int) -> Generator[Progress, None, Dataset]:
    loader = DatasetLoader(input_dir, config, memory)
    reported = time.monotonic()
    for count in loader.load():
        if time.monotonic() - reported >= _REPORT_SECONDS:
            reported = time.monotonic()
            yield Progress("load", _LOADED * count / loader.photo_count)
    dataset = loader.dataset()
    photos = f"{len(dataset.train)} photos to train on, {len(dataset.test)} held out"
    line = f"{photos}, {len(dataset.positions)} points"
    yield Progress("load", _LOADED, log_lines=(line,))
    return dataset


@dataclass
class _Training:
    """Runs all steps and speaks of them."""

    trainer: Trainer
    record: TrainingRecord
    checkpoints: Checkpoints
    previews: Previews
    stop: threading.Event
    _lines: list[str] = field(default_factory=list)
    _memory: GpuMemory | None = None
    _test_psnr: float | None = None
    _figures: TrainingFigures | None = None
    _ladder: MemoryLadder = field(default_factory=MemoryLadder)

    def run(self) -> Generator[Progress, None, None]:
        """Yields about twice a second until all steps are done.

        Raises:
            SplatmillError: TRAINING_DIVERGED, EMPTY_SCENE.
        """
        trainer, total = self.trainer, self.trainer.config.iterations
        meter = GpuMemoryMeter(trainer.backend.device)
        quality_at = {max(1, round(share * total)) for share in _QUALITY_SHARES}
        started = reported = time.monotonic()
        begun, before = trainer.iteration, self.record.trained_seconds
        if self.record.curve:
            self._test_psnr = self.record.curve[-1].test_psnr
        marks: deque[tuple[float, int]] = deque([(started, begun)], maxlen=_RATE_SPAN)
        while not trainer.done:
            loss = self._step()
            self.record.trained_seconds = before + time.monotonic() - started
            if self.stop.is_set():
                self.checkpoints.save(trainer)
                raise SplatmillError(Reason.CANCELLED, "The training was told to stop.", retryable=True)
            if loss is None:
                continue
            self.checkpoints.save_when_due(trainer)
            self.previews.write_when_due(trainer)
            if trainer.iteration % _MEMORY_EVERY == 0:
                self._note_memory(meter)
            if trainer.iteration in quality_at:
                self._look_at_quality()
            now = time.monotonic()
            if now - reported >= _REPORT_SECONDS or trainer.iteration in (begun + 1, total):
                value = _checked(loss, trainer.iteration)
                reported = now = time.monotonic()
                yield self._progress(value, marks)
                marks.append((now, trainer.iteration))
        self.checkpoints.save(trainer)  # from here a longer run can go on
        with_room(trainer.backend, trainer.finish)
        trainer.backend.synchronize()
        self.record.trained_seconds = before + time.monotonic() - started
        if not bool(drawable(trainer.gaussians).any()):
            raise SplatmillError(
                Reason.EMPTY_SCENE,
                "Training ended with no Gaussian that could be seen.",
                "Check that the photos are not blank, and give more of them.",
            )

    def judged(self, test_psnr: float | None) -> TrainingFigures | None:
        """The figures of the last step with what the finished scene has; None where no step was left."""
        if self._figures is None:
            return None
        count = self.trainer.gaussians.count
        return replace(self._figures, gaussian_count=count, test_psnr=test_psnr)

    def _step(self) -> torch.Tensor | None:
        """A step's loss; None when memory ran out and room was made for another try."""
        try:
            return self.trainer.step()
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            self._lines.append(self._ladder.descend(self.trainer, error))
            self.record.memory_ladder.append(self._ladder.taken[-1])
            log.warning(self._lines[-1])
            return None

    def _look_at_quality(self) -> None:
        """The held-out photos' PSNR; training is worth more than that where memory has no room for it."""
        trainer = self.trainer
        try:
            self._test_psnr = with_room(trainer.backend, lambda: mean_psnr(trainer, trainer.dataset.test))
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            self._lines.append("memory has no room for a look at the held-out photos")

    def _progress(self, loss: float, marks: deque[tuple[float, int]]) -> Progress:
        trainer, total = self.trainer, self.trainer.config.iterations
        now, (then, before) = time.monotonic(), marks[0]
        rate = (trainer.iteration - before) / max(now - then, 1e-6)
        count = trainer.gaussians.count
        self.record.curve.append(
            CurvePoint(trainer.iteration, round(self.record.trained_seconds, 2), loss, count, self._test_psnr)
        )
        line = f"iteration {trainer.iteration}/{total} loss {loss:.4f} it/s {rate:.1f} gaussians {count}" + (
            "" if self._test_psnr is None else f" test PSNR {self._test_psnr:.2f}"
        )
        lines, self._lines = (*self._lines, line), []
        self._figures = TrainingFigures(trainer.iteration, total, loss, rate, count, self._test_psnr)
        return Progress(
            step="train",
            fraction=_LOADED + (_TRAINED - _LOADED) * trainer.iteration / total,
            eta_seconds=(total - trainer.iteration) / rate if rate > 0 else None,
            log_lines=lines,
            training=self._figures,
            gpu_memory=self._memory,
        )

    def _note_memory(self, meter: GpuMemoryMeter) -> None:
        memory = meter.read()
        if memory is not None:
            self._memory = memory
            self._lines.append(memory_line(memory))


def _checked(loss: torch.Tensor, iteration: int) -> float:
    value = float(loss)
    if value - value != 0.0:  # NaN or infinite
        raise SplatmillError(
            Reason.TRAINING_DIVERGED,
            f"Training diverged: the loss was no number any more at step {iteration}.",
            "Try another seed, or give more photos of the scene.",
        )
    return value


def _describe(config: TrainingConfig) -> str:
    size = (
        f"photos at {config.train_image_size} px" if config.train_image_size else "photos at their own size"
    )
    return f"{config.iterations} iterations, {size}, at most {config.max_gaussians} Gaussians"
