"""How close renderings come to photos that training has not seen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import conv2d

from services.trainer.dataset import View
from services.trainer.exposure import cross_fitted
from services.trainer.trainer import Trainer

_WINDOW, _SIGMA = 11, 1.5
_C1, _C2 = 0.01**2, 0.03**2
_BEST_PSNR = 100.0  # dB; what two equal pictures get instead of infinity


@dataclass(frozen=True)
class PhotoQuality:
    """How well one photo is met."""

    name: str
    psnr: float
    """dB."""
    ssim: float
    """-1 to 1."""


def evaluate(trainer: Trainer, views: Sequence[View]) -> list[PhotoQuality]:
    """PSNR and SSIM of each view at full size."""
    results = []
    for view in views:
        compared = rendered_and_photo(trainer, view)
        results.append(PhotoQuality(view.name, psnr(*compared), ssim(*compared)))
    return results


def mean_psnr(trainer: Trainer, views: Sequence[View]) -> float | None:
    """Mean PSNR of the views in dB; None without views."""
    if not views:
        return None
    return sum(psnr(*rendered_and_photo(trainer, view)) for view in views) / len(views)


def rendered_and_photo(trainer: Trainer, view: View) -> tuple[Tensor, Tensor, Tensor | None]:
    """What training renders of a view, clamped to 0 .. 1, its photo, and what of it counts.

    The first two are [height, width, 3], the third, where the photo has a mask, [height, width].
    Where exposures are learned, the scene has that of the average photo; it is then brought to
    the photo's own by a fit that no pixel is judged by (``exposure.cross_fitted``).
    """
    picture = trainer.render(view)
    pixels = view.pictures[0].to(picture.device).float() / 255
    photo, weights = pixels[..., :3], pixels[..., 3] if pixels.shape[2] == 4 else None
    if trainer.exposures is not None:
        picture = cross_fitted(picture, photo, weights)
    return picture.clamp(0, 1), photo, weights


def psnr(picture: Tensor, photo: Tensor, weights: Tensor | None = None) -> float:
    """Peak signal-to-noise ratio in dB of two pictures with values from 0 to 1, where they count."""
    error = _mean((picture - photo).square().mean(dim=2), weights)
    return _BEST_PSNR if error <= 10 ** (-_BEST_PSNR / 10) else -10 * math.log10(error)


def ssim(picture: Tensor, photo: Tensor, weights: Tensor | None = None) -> float:
    """Mean structural similarity (Wang et al. 2004), as in the loss.

    Gaussian window 11 x 11 of sigma 1.5, zero padding, C1 = 0.01^2, C2 = 0.03^2.

    Args:
        picture: [height, width, 3], values from 0 to 1.
        photo: The same.
        weights: [height, width], what both are multiplied with first and the mean is weighted by.
    """
    if weights is not None:
        picture, photo = picture * weights[..., None], photo * weights[..., None]
    x, y = (image.permute(2, 0, 1)[:, None] for image in (picture, photo))  # [3, 1, h, w] each
    mean_x, mean_y = _blur(x), _blur(y)
    xx, yy, xy = _blur(x * x), _blur(y * y), _blur(x * y)
    covariance = xy - mean_x * mean_y
    variances = xx - mean_x.square() + yy - mean_y.square()
    top = (2 * mean_x * mean_y + _C1) * (2 * covariance + _C2)
    similarity = top / ((mean_x.square() + mean_y.square() + _C1) * (variances + _C2))
    return _mean(similarity.mean(dim=(0, 1)), weights)


def _mean(values: Tensor, weights: Tensor | None) -> float:
    """Of values [height, width]."""
    return float(values.mean() if weights is None else (values * weights).sum() / weights.sum())


def _blur(planes: Tensor) -> Tensor:
    """[N, 1, h, w] convolved with the window, one direction after the other."""
    offsets = torch.arange(_WINDOW, dtype=planes.dtype, device=planes.device) - _WINDOW // 2
    line = torch.exp(-offsets.square() / (2 * _SIGMA**2))
    line = (line / line.sum()).reshape(1, 1, 1, _WINDOW)
    rows = conv2d(planes, line, padding=(0, _WINDOW // 2))
    return conv2d(rows, line.transpose(2, 3), padding=(_WINDOW // 2, 0))
