"""The small interface that a rasteriser has to fill to be trained with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from services.trainer.markov_moves import MarkovMoves
from services.trainer.scene_types import Camera, Gaussians, StepOutput


@dataclass(frozen=True)
class AdamConfig:
    """Constants of Adam as the 3DGS reference uses it."""

    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-15


class Backend(MarkovMoves, Protocol):
    """Rendering, its gradient, the optimiser's step and a Markov chain's moves on one device.

    The rasterisation is that of 3D Gaussian Splatting (Kerbl et al. 2023): EWA projection
    with a 0.3 pixel low-pass filter, alpha = min(0.99, opacity * exp(-power)), alphas below
    1/255 skipped, front to back until the transmittance falls below 1e-4.

    The low-pass filter widens a Gaussian and so makes a small or far one brighter than it is,
    the more the coarser the picture. ``antialiased`` multiplies each projected Gaussian's
    opacity by rho = sqrt(max(det(cov2d), 0) / det(cov2d + 0.3 I)), cov2d the covariance in
    pixel^2 before the filter: the 2D Mip filter of Mip-Splatting (Yu et al. 2024), with the
    filter's 0.3 instead of 0.1, and what gsplat calls "antialiased". Gradients pass through
    rho to means, scales and quaternions. A scene is to be shown in the mode that it was
    trained in.
    """

    device: torch.device

    def render(
        self,
        gaussians: Gaussians,
        camera: Camera,
        sh_degree: int,
        background: Tensor,
        antialiased: bool = False,
    ) -> Tensor:
        """Renders a picture without gradients.

        Args:
            gaussians: The scene, on ``device``.
            camera: Where from, and how large.
            sh_degree: Degree of spherical harmonics in use, 0 to the stored degree.
            background: Linear RGB behind the scene, [3] float32 on ``device``.
            antialiased: Whether opacities are multiplied by rho, see above.

        Returns:
            RGB, not clamped, [height, width, 3] float32 on ``device``.
        """
        ...

    def loss_and_gradients(
        self,
        gaussians: Gaussians,
        camera: Camera,
        target: Tensor,
        sh_degree: int,
        background: Tensor,
        dssim_weight: float,
        antialiased: bool = False,
        exposure: Tensor | None = None,
    ) -> StepOutput:
        """One forward and backward pass of (1 - w) L1 + w (1 - SSIM), w = ``dssim_weight``.

        SSIM has an 11 x 11 Gaussian window of sigma 1.5, zero padding, C1 = 0.01^2,
        C2 = 0.03^2, and is averaged over all pixels and channels.

        Args:
            gaussians: The scene, on ``device``; left unchanged.
            camera: The photo's camera.
            target: The photo, [height, width, 3] uint8 on ``device``; or [height, width, 4], the
                fourth a weight of 0 to 255 that rendering and photo are multiplied with before
                they are compared: where it is 0, neither is seen and no gradient comes back.
            sh_degree: Degree of spherical harmonics in use.
            background: Linear RGB behind the scene, [3] float32 on ``device``.
            dssim_weight: Weight of D-SSIM, 0 to 1.
            antialiased: Whether opacities are multiplied by rho, see above.
            exposure: [M | b], [3, 4] float32 on ``device``: M r + b is compared with the photo
                instead of what is rendered, r.

        Returns:
            Loss and gradients; the tensors are valid until the next call.
        """
        ...

    def adam_step(
        self,
        parameters: Gaussians,
        gradients: Gaussians,
        first_moments: Gaussians,
        second_moments: Gaussians,
        learning_rates: dict[str, float],
        step: int,
        config: AdamConfig,
    ) -> None:
        """Updates parameters and moments in place with Adam (Kingma & Ba 2015).

        Args:
            parameters: What to update.
            gradients: Their gradients.
            first_moments: Running mean of the gradients.
            second_moments: Running mean of their squares.
            learning_rates: By parameter name.
            step: Number of this step, from 1, for the bias correction.
            config: Constants.
        """
        ...

    def synchronize(self) -> None:
        """Waits until the device has done all it was given."""
        ...

    def release(self) -> None:
        """Gives back the memory that it holds for its next step; what a step answered is void then."""
        ...


def check_target(target: Tensor, camera: Camera) -> None:
    """Raises ValueError for a photo that is not as the camera and ``loss_and_gradients`` have it."""
    shape = tuple(target.shape)
    if (
        shape[:2] != (camera.height, camera.width)
        or shape[2:] not in ((3,), (4,))
        or target.dtype != torch.uint8
    ):
        expected = (camera.height, camera.width, "3 or 4")
        raise ValueError(f"target is {target.dtype} {shape}, expected uint8 {expected}")
