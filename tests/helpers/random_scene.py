"""Small random scenes for comparing backends."""

from __future__ import annotations

import math

import torch

from services.trainer.scene_types import Camera, Gaussians


def random_gaussians(count: int, seed: int = 0, degree: int = 3, size: float = 0.15) -> Gaussians:
    """Gaussians around the origin, of very different sizes and opacities."""
    r = torch.Generator().manual_seed(seed)
    rest = (degree + 1) ** 2 - 1
    return Gaussians(
        means=torch.randn(count, 3, generator=r) * 0.7,
        log_scales=torch.log(size * torch.rand(count, 3, generator=r) + 0.005),
        quats=torch.randn(count, 4, generator=r),
        opacity_logits=torch.randn(count, generator=r) * 2,
        sh0=torch.randn(count, 3, generator=r),
        sh_rest=torch.randn(count, rest, 3, generator=r) * 0.2,
    )


def look_at_origin(width: int, height: int, distance: float = 3.0, turn: float = 0.3) -> Camera:
    """A camera that looks at the origin from the side."""
    c, s = math.cos(turn), math.sin(turn)
    pose = torch.tensor(
        [[c, 0.0, s, 0.05], [0.0, 1.0, 0.0, -0.1], [-s, 0.0, c, distance], [0.0, 0.0, 0.0, 1.0]]
    )
    return Camera(pose, 0.9 * width, 0.95 * width, 0.48 * width, 0.53 * height, width, height)


def random_photo(height: int, width: int, channels: int = 3) -> torch.Tensor:
    """A photo of noise, [height, width, channels] uint8, the same each time.

    Of random ones a few have a pixel so near to the rendered one that the sign of their difference,
    which is the gradient of L1, is another in float64.
    """
    return torch.randint(
        0, 256, (height, width, channels), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
