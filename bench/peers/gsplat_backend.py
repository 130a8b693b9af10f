"""gsplat's rasteriser in our training loop, to compare with: same loss, same Adam, same schedule."""

from __future__ import annotations

from typing import Any

import torch
from gsplat import rasterization
from torch import Tensor

from services.trainer.cuda.backend import CudaBackend
from services.trainer.exposure import exposed, exposed_gradient
from services.trainer.scene_types import Camera, Gaussians, StepOutput


class GsplatBackend(CudaBackend):
    """Projects, rasterises and differentiates with gsplat; loss and Adam are our kernels."""

    def __init__(self) -> None:
        super().__init__()
        self._views: dict[int, tuple[Camera, Tensor, Tensor]] = {}

    def render(
        self,
        gaussians: Gaussians,
        camera: Camera,
        sh_degree: int,
        background: Tensor,
        antialiased: bool = False,
    ) -> Tensor:
        with torch.no_grad():
            picture, _ = self._rasterize(gaussians, camera, sh_degree, background, antialiased)
        return picture

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
        leaves = Gaussians(**{name: t.detach().requires_grad_() for name, t in gaussians.items()})
        picture, info = self._rasterize(leaves, camera, sh_degree, background, antialiased)
        info["means2d"].retain_grad()
        planes = picture.detach().permute(2, 0, 1).contiguous()
        shown = planes if exposure is None else exposed(planes, exposure, torch.empty_like(planes))
        gradient, loss = self._loss(shown, target, dssim_weight)
        exposure_gradient = None
        if exposure is not None:
            shown_gradient = gradient.view_as(planes)
            gradient = torch.empty_like(planes)
            exposure_gradient = exposed_gradient(planes, exposure, shown_gradient, out=gradient)
        picture.backward(gradient.view_as(planes).permute(1, 2, 0))
        half = torch.tensor([camera.width / 2, camera.height / 2], device=self.device)
        norms = (info["means2d"].grad[0] * half).norm(dim=-1)
        gradients = Gaussians(
            **{n: torch.zeros_like(t) if t.grad is None else t.grad.contiguous() for n, t in leaves.items()}
        )
        radii = info["radii"][0].amax(dim=-1).float()
        return StepOutput(loss, gradients, norms, radii, exposure_gradient)

    def _rasterize(
        self, g: Gaussians, camera: Camera, sh_degree: int, background: Tensor, antialiased: bool
    ) -> tuple[Tensor, dict[str, Any]]:
        view, intrinsics = self._view(camera)
        pictures, _, info = rasterization(
            g.means, g.quats, g.log_scales.exp(), g.opacity_logits.sigmoid(),
            torch.cat((g.sh0[:, None], g.sh_rest), 1), view, intrinsics, camera.width, camera.height,
            sh_degree=sh_degree, packed=False, backgrounds=background[None], near_plane=0.01,
            rasterize_mode="antialiased" if antialiased else "classic",
        )  # fmt: skip
        return pictures[0], info

    def _view(self, camera: Camera) -> tuple[Tensor, Tensor]:
        known = self._views.get(id(camera))
        if known is None or known[0] is not camera:
            matrix = [[camera.fx, 0.0, camera.cx], [0.0, camera.fy, camera.cy], [0.0, 0.0, 1.0]]
            intrinsics = torch.tensor([matrix], device=self.device)
            known = (camera, camera.cam_from_world[None].to(self.device), intrinsics)
            self._views[id(camera)] = known
        return known[1], known[2]
