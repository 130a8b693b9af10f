"""What 3DGS as Markov Chain Monte Carlo does at every step, in torch: penalties and noise.

The penalty on opacity is good for ``default`` as well.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from services.trainer.density import rotation_matrices
from services.trainer.scene_types import Gaussians

DEAD_OPACITY = 0.005
"""Opacity up to which a Gaussian is dead; noise moves those that are near it."""
NOISE_SHARPNESS = 100.0


class MarkovMoves(Protocol):
    """The moves, on one device."""

    def penalize(
        self, gaussians: Gaussians, gradients: Gaussians, opacity_weight: float, scale_weight: float
    ) -> None:
        """Adds the gradient of w_o mean(opacity) + w_s mean(standard deviation) to ``gradients``.

        Args:
            gaussians: The scene.
            gradients: Changed in place.
            opacity_weight: w_o.
            scale_weight: w_s, per world unit.
        """
        ...

    def shake(self, gaussians: Gaussians, noise: Tensor, strength: float) -> None:
        """Moves means by strength sigmoid(100 (0.005 - opacity)) Sigma n, Sigma the covariance.

        Args:
            gaussians: Changed in place.
            noise: n, standard normal numbers, [N, 3] float32.
            strength: Per world unit.
        """
        ...


class TorchMoves:
    """The moves as torch's operations: for every device, and what faster ones are tested against."""

    def penalize(
        self, gaussians: Gaussians, gradients: Gaussians, opacity_weight: float, scale_weight: float
    ) -> None:
        """See MarkovMoves."""
        opacity = torch.sigmoid(gaussians.opacity_logits)
        weight = opacity_weight / max(1, gaussians.count)
        gradients.opacity_logits.add_(opacity * (1 - opacity), alpha=weight)
        scales = gaussians.log_scales.exp()
        gradients.log_scales.add_(scales, alpha=scale_weight / max(1, scales.numel()))

    def shake(self, gaussians: Gaussians, noise: Tensor, strength: float) -> None:
        """See MarkovMoves."""
        opacity = torch.sigmoid(gaussians.opacity_logits)
        faint = torch.sigmoid(NOISE_SHARPNESS * (DEAD_OPACITY - opacity))
        rotations = rotation_matrices(gaussians.quats)
        own = torch.einsum("nji,nj->ni", rotations, noise) * (2 * gaussians.log_scales).exp()
        gaussians.means += torch.einsum("nij,nj->ni", rotations, own) * (faint * strength)[:, None]
