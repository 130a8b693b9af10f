"""A colour transform for each training photo, so that a change of exposure is not painted into the scene.

Each photo i is compared with M_i r + b_i instead of with what is rendered, r: 3 x 4 numbers
[M_i | b_i], learned along with the scene. A scene twice as bright under transforms half as
strong would look the same, so the mean of all transforms is kept at the identity: the scene
has the colours of the average photo, and that is what is exported.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from services.trainer.backend import AdamConfig

_RATE_FIRST, _RATE_LAST = 0.01, 0.001
_SQUARES = 4  # fewest squares of the checkerboard along the shorter side
_LARGEST_SQUARE = 32  # pixels
_TOWARDS_IDENTITY = 1e-4  # a pixel; decides where a picture has too few colours to fit


class Exposures:
    """The transforms of all training photos and their optimiser.

    Args:
        count: Photos.
        device: Where they are used.
    """

    def __init__(self, count: int, device: torch.device) -> None:
        self._identity = torch.eye(3, 4, device=device)
        self.transforms = self._identity.repeat(count, 1, 1)  # [P, 3, 4]
        self._first = torch.zeros_like(self.transforms)
        self._second = torch.zeros_like(self.transforms)
        self._steps = [0] * count

    def update(self, row: int, gradient: Tensor, share: float, config: AdamConfig) -> None:
        """One step of Adam for one photo, after which the mean is the identity again.

        Args:
            row: The photo.
            gradient: Of its transform, [3, 4].
            share: How much of the run is done, 0 to 1; the rate falls exponentially with it.
            config: Constants of Adam.
        """
        self._steps[row] += 1
        rate = math.exp(math.log(_RATE_FIRST) * (1 - share) + math.log(_RATE_LAST) * share)
        first, second = self._first[row], self._second[row]
        first.lerp_(gradient, 1 - config.beta1)
        second.lerp_(gradient.square(), 1 - config.beta2)
        scale = math.sqrt(1 - config.beta2 ** self._steps[row])
        step = rate * scale / (1 - config.beta1 ** self._steps[row])
        self.transforms[row].addcdiv_(first, second.sqrt().add_(config.epsilon * scale), value=-step)
        self.transforms -= self.transforms.mean(dim=0) - self._identity

    def checkpoint(self) -> dict[str, Any]:
        """What a later process needs to go on."""
        return {
            "transforms": self.transforms, "first": self._first, "second": self._second,
            "steps": list(self._steps),
        }  # fmt: skip

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Goes on from a checkpoint of the same photos."""
        self.transforms.copy_(saved["transforms"])
        self._first.copy_(saved["first"])
        self._second.copy_(saved["second"])
        self._steps = [int(steps) for steps in saved["steps"]]


def exposed(planes: Tensor, transform: Tensor, out: Tensor) -> Tensor:
    """A picture as a photo's transform shows it.

    Args:
        planes: [3, height, width].
        transform: [3, 4].
        out: Where it goes, as ``planes``.

    Returns:
        ``out``.
    """
    flat = out.view(3, -1)
    torch.addmm(transform[:, 3:], transform[:, :3], planes.view(3, -1), out=flat)
    return out


def exposed_gradient(planes: Tensor, transform: Tensor, slope: Tensor, out: Tensor) -> Tensor:
    """From d loss / d (exposed picture) to d loss / d picture and d loss / d transform.

    Args:
        planes: The picture before the transform, [3, height, width].
        transform: [3, 4].
        slope: d loss / d (exposed picture), as ``planes``.
        out: Gets d loss / d picture, as ``planes``; not ``slope`` itself.

    Returns:
        d loss / d transform, [3, 4].
    """
    flat = slope.view(3, -1)
    torch.mm(transform[:, :3].T, flat, out=out.view(3, -1))
    return torch.cat((flat @ planes.view(3, -1).T, flat.sum(dim=1, keepdim=True)), dim=1)


def cross_fitted(picture: Tensor, photo: Tensor, weights: Tensor | None = None) -> Tensor:
    """A picture in the exposure of a photo that has no transform of its own.

    So that no pixel is judged by a fit that has seen it, the picture is a checkerboard: the
    least-squares transform of its white squares is applied to the black ones, and the other
    way round.

    Args:
        picture: Rendered, [height, width, 3].
        photo: The same, from 0 to 1.
        weights: [height, width], 0 where the photo does not count; None where all of it does.

    Returns:
        As ``picture``, not clamped.
    """
    height, width, _ = picture.shape
    square = max(1, min(_LARGEST_SQUARE, min(height, width) // _SQUARES))
    rows, columns = (torch.arange(size, device=picture.device) // square for size in (height, width))
    white = (rows[:, None] + columns[None]) % 2 == 0
    fitted = picture.clone()
    counts = torch.ones_like(white) if weights is None else weights > 0
    for color in (white, ~white):
        seen = color & counts
        if bool(seen.any()):
            transform = _least_squares(picture[seen], photo[seen])
            fitted[~color] = picture[~color] @ transform[:, :3].T + transform[:, 3]
    return fitted


def _least_squares(picture: Tensor, photo: Tensor) -> Tensor:
    """The transform [3, 4] that brings pixels [N, 3] closest to their partners."""
    colors = torch.cat((picture, torch.ones_like(picture[:, :1])), dim=1).double().cpu()
    pull = _TOWARDS_IDENTITY * len(colors) * torch.eye(4, dtype=torch.float64)
    left = colors.T @ colors + pull
    right = colors.T @ photo.double().cpu() + pull[:, :3]
    transform: Tensor = torch.linalg.solve(left, right)
    return transform.T.to(picture)
