"""What a training leaves for people: a report in JSON and pictures to compare by eye."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from services.trainer.config import TrainingConfig
from services.trainer.dataset import Dataset, View
from services.trainer.evaluate import PhotoQuality, rendered_and_photo
from services.trainer.schedule import Schedule
from services.trainer.trainer import Trainer

REPORT = "training_report.json"
COMPARISONS = 3
WORST_VIEWS = 3
_JPEG_QUALITY = 90
_DIFFERENCE_GAIN = 4.0  # differences are drawn this much stronger


@dataclass(frozen=True)
class CurvePoint:
    """A moment of the training."""

    iteration: int
    seconds: float
    loss: float
    gaussian_count: int
    test_psnr: float | None


@dataclass
class TrainingRecord:
    """What is noted while training runs."""

    curve: list[CurvePoint] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    """By step."""
    trained_seconds: float = 0.0
    """Of training, those of the attempts before this one included."""
    resumed_at: int | None = None
    """Step of the checkpoint that the run went on from."""
    memory_ladder: list[str] = field(default_factory=list)
    """What was given up when memory ran out."""

    def checkpoint(self) -> dict[str, Any]:
        """What a later attempt goes on from."""
        return {
            "curve": [asdict(point) for point in self.curve],
            "trained_seconds": self.trained_seconds,
            "memory_ladder": list(self.memory_ladder),
        }

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Goes on from an earlier attempt's record."""
        self.curve = [CurvePoint(**point) for point in saved["curve"]]
        self.trained_seconds = float(saved["trained_seconds"])
        self.memory_ladder = list(saved["memory_ladder"])


def write_report(
    path: Path,
    trainer: Trainer,
    device_name: str,
    record: TrainingRecord,
    qualities: Sequence[PhotoQuality],
    comparisons: Sequence[str],
) -> dict[str, Any]:
    """Writes the report and answers what is in it."""
    count = len(qualities)
    report: dict[str, Any] = {
        "test_psnr": sum(quality.psnr for quality in qualities) / count if count else None,
        "test_ssim": sum(quality.ssim for quality in qualities) / count if count else None,
        "gaussian_count": trainer.gaussians.count,
        "iterations": trainer.iteration,
        "device": {"type": trainer.backend.device.type, "name": device_name},
        "seconds": {step: round(seconds, 3) for step, seconds in record.seconds.items()},
        "resumed_at": record.resumed_at,
        "memory_ladder": record.memory_ladder,
        "settings": settings_of(trainer.config, trainer.schedule),
        "photos": photos_of(trainer.dataset),
        "held_out": [asdict(quality) for quality in qualities],
        "worst_views": [quality.name for quality in worst(qualities)],
        "curve": [asdict(point) for point in record.curve],
        "comparisons": list(comparisons),
    }
    if trainer.exposures is not None:
        report["exposure"] = exposure_of(trainer)
    path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return report


def worst(qualities: Sequence[PhotoQuality]) -> list[PhotoQuality]:
    """The up to three held-out photos that are met worst, the worst first."""
    return sorted(qualities, key=lambda quality: quality.psnr)[:WORST_VIEWS]


def settings_of(config: TrainingConfig, schedule: Schedule) -> dict[str, Any]:
    """All that was decided before the first step."""
    return {**asdict(config), "schedule": asdict(schedule)}


def exposure_of(trainer: Trainer) -> dict[str, Any]:
    """The learned transforms by photo, and how those without one are judged."""
    assert trainer.exposures is not None
    transforms = trainer.exposures.transforms.cpu()
    names = [view.name for view in trainer.dataset.train]
    return {
        "held_out": "each square of a checkerboard in the exposure that fits the squares of the other colour",
        "transforms": {
            name: [[round(value, 4) for value in row] for row in transform.tolist()]
            for name, transform in zip(names, transforms, strict=True)
        },
    }


def photos_of(dataset: Dataset) -> dict[str, Any]:
    """How many photos, and how large the largest is."""
    sizes = [(view.cameras[0].width, view.cameras[0].height) for view in dataset.train + dataset.test]
    width, height = max(sizes, key=lambda size: size[0] * size[1])
    return {"train": len(dataset.train), "test": len(dataset.test), "width": width, "height": height}


def write_comparisons(folder: Path, trainer: Trainer) -> list[str]:
    """Writes photo, rendering and difference side by side for up to three views.

    Held-out views where there are some, otherwise training ones.

    Args:
        folder: Gets the pictures.
        trainer: A trained scene.

    Returns:
        Names of the files.
    """
    held_out = bool(trainer.dataset.test)
    views = _spread(trainer.dataset.test or trainer.dataset.train, COMPARISONS)
    names = []
    for row, view in enumerate(views, start=1):
        name = f"comparison_{row}_{'held_out' if held_out else 'trained'}.jpg"
        picture, photo, weights = rendered_and_photo(trainer, view)
        side_by_side(photo, picture, weights).save(folder / name, quality=_JPEG_QUALITY)
        names.append(name)
    return names


def side_by_side(photo: Tensor, picture: Tensor, weights: Tensor | None = None) -> Image.Image:
    """Photo, rendering and their difference four times as strong, where it counts, next to each other."""
    difference = ((picture - photo).abs() * _DIFFERENCE_GAIN).clamp(0, 1)
    if weights is not None:
        difference = difference * weights[..., None]
    row = torch.cat((photo, picture, difference), dim=1)
    return Image.fromarray((row * 255).round().to(torch.uint8).cpu().numpy())


def _spread(views: Sequence[View], count: int) -> list[View]:
    """Up to ``count`` of the views, evenly spread."""
    if len(views) <= count:
        return list(views)
    return [views[(2 * row + 1) * len(views) // (2 * count)] for row in range(count)]
