"""The data that training works on: Gaussians, cameras, and what one step answers.

Conventions, everywhere in the trainer: quaternions are wxyz; scales are stored as natural
logarithms, opacities as logits; ``cam_from_world`` maps world points into the OpenCV
camera frame (x right, y down, z forward); pixel (0, 0)'s centre is at (0.5, 0.5).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Gaussians:
    """Parameters of N Gaussians, or anything of the same shape (gradients, Adam moments)."""

    means: Tensor  # [N, 3] float32, world units
    log_scales: Tensor  # [N, 3] float32, natural log of the standard deviations
    quats: Tensor  # [N, 4] float32, wxyz, need not be normalised
    opacity_logits: Tensor  # [N] float32
    sh0: Tensor  # [N, 3] float32, degree-0 coefficients of the colour
    sh_rest: Tensor  # [N, K - 1, 3] float32, the higher ones, K = (degree + 1)^2

    def __post_init__(self) -> None:
        """Checks the shapes."""
        count = self.means.shape[0]
        shapes = {
            "means": (count, 3),
            "log_scales": (count, 3),
            "quats": (count, 4),
            "opacity_logits": (count,),
            "sh0": (count, 3),
            "sh_rest": (count, self.sh_rest.shape[1], 3),
        }
        for name, tensor in self.items():
            if tuple(tensor.shape) != shapes[name]:
                raise ValueError(f"{name} has shape {tuple(tensor.shape)}, expected {shapes[name]}")

    @property
    def count(self) -> int:
        """Number of Gaussians, N."""
        return int(self.means.shape[0])

    def items(self) -> Iterator[tuple[str, Tensor]]:
        """The parameter groups by name, in the order of the fields."""
        for name in PARAMETER_NAMES:
            yield name, getattr(self, name)

    def zeros_like(self) -> Gaussians:
        """The same shapes, filled with zeros."""
        return Gaussians(**{name: torch.zeros_like(tensor) for name, tensor in self.items()})

    def select(self, index: Tensor) -> Gaussians:
        """Those named by ``index`` ([N] bool mask, or [M] int64 indices), as copies."""
        return Gaussians(**{name: tensor[index].contiguous() for name, tensor in self.items()})

    def append(self, other: Gaussians) -> Gaussians:
        """These followed by ``other``."""
        pairs = zip(self.items(), other.items(), strict=True)
        return Gaussians(**{name: torch.cat([mine, theirs]) for (name, mine), (_, theirs) in pairs})


PARAMETER_NAMES = ("means", "log_scales", "quats", "opacity_logits", "sh0", "sh_rest")


@dataclass(frozen=True)
class Camera:
    """A pinhole camera without distortion."""

    cam_from_world: Tensor  # [4, 4] float32 on the CPU, rigid
    fx: float  # pixels
    fy: float
    cx: float
    cy: float
    width: int  # pixels
    height: int

    def scaled(self, width: int, height: int) -> Camera:
        """The same camera for a picture of another size."""
        sx, sy = width / self.width, height / self.height
        return Camera(
            self.cam_from_world, self.fx * sx, self.fy * sy, self.cx * sx, self.cy * sy, width, height
        )


@dataclass
class StepOutput:
    """What one forward and backward pass answers. Tensors live on the backend's device."""

    loss: Tensor  # [] float32; reading it may synchronise, so do that rarely
    gradients: Gaussians  # d loss / d parameter
    mean2d_gradient_norms: Tensor  # [N] float32: norm of d loss / d (projected mean), in NDC units
    radii: Tensor  # [N] float32, pixels: extent on the picture (3 sigma), 0 where not visible
    exposure_gradient: Tensor | None = None  # [3, 4] d loss / d exposure, where one was given
