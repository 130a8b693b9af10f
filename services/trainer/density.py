"""Adaptive density control of 3D Gaussian Splatting (Kerbl et al. 2023, section 5).

Where the picture still pulls at the Gaussians, small ones are doubled and large ones split;
those that are transparent, far too large, or in a camera's face are removed. The
optimiser's moments go with their Gaussians; new ones begin with none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from services.trainer.dataset import View
from services.trainer.scene_types import Gaussians, StepOutput

_NEAR_CHUNK = 65_536  # Gaussians x cameras at a time, to bound memory
_INVISIBLE = 1 / 255  # an alpha below this is never drawn
_NEAR_VIEW_MARGIN = 1.3  # how far beside the picture, as a factor, still counts as before the camera


@dataclass(frozen=True)
class DensityLimits:
    """Constants of density control, as the reference has them."""

    gradient_threshold: float = 2e-4
    """Mean gradient norm by the projected mean, in NDC, above which a Gaussian is doubled."""
    clone_share: float = 0.01
    """Of the extent: up to this standard deviation a Gaussian is cloned, above it split."""
    split_factor: float = 1.6
    """By which the parts of a split are smaller."""
    prune_opacity: float = 0.005
    """Opacity below which a Gaussian is removed."""
    prune_share: float = 0.1
    """Of the extent: standard deviation above which a Gaussian is removed, when asked."""


@dataclass
class TrainingState:
    """What is optimised: Gaussians and both of Adam's moments, always of one length."""

    gaussians: Gaussians
    first_moments: Gaussians
    second_moments: Gaussians

    @staticmethod
    def fresh(gaussians: Gaussians) -> TrainingState:
        """Gaussians that were not optimised yet."""
        return TrainingState(gaussians, gaussians.zeros_like(), gaussians.zeros_like())

    def keep(self, index: Tensor) -> None:
        """Keeps only those of ``index``."""
        self.gaussians = self.gaussians.select(index)
        self.first_moments = self.first_moments.select(index)
        self.second_moments = self.second_moments.select(index)

    def append(self, new: Gaussians) -> None:
        """Adds Gaussians without moments."""
        self.gaussians = self.gaussians.append(new)
        self.first_moments = self.first_moments.append(new.zeros_like())
        self.second_moments = self.second_moments.append(new.zeros_like())


class GradientStatistics:
    """Mean over the steps in which a Gaussian was visible of its gradient norm; stays on the device."""

    def __init__(self, count: int, device: torch.device) -> None:
        self._sum = torch.zeros(count, device=device)
        self._steps = torch.zeros(count, device=device)

    def add(self, output: StepOutput) -> None:
        """Takes one step into account."""
        self._sum += output.mean2d_gradient_norms
        self._steps += output.radii > 0

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint keeps."""
        return {"sum": self._sum, "steps": self._steps}

    def load(self, saved: Mapping[str, Tensor]) -> None:
        """Goes on from a checkpoint of as many Gaussians."""
        self._sum.copy_(saved["sum"])
        self._steps.copy_(saved["steps"])

    def mean(self) -> Tensor:
        """[N] float32; 0 where never visible."""
        return self._sum / self._steps.clamp_min(1)


@dataclass(frozen=True)
class DensityChange:
    """What a round of density control did."""

    cloned: int = 0
    split: int = 0
    pruned: int = 0


class NearCameras:
    """Finds Gaussians that float before a camera, nearer than anything it really saw.

    Args:
        views: The training photos; those without a known near depth are passed over.
        device: Where the Gaussians are.
    """

    def __init__(self, views: Sequence[View], device: torch.device) -> None:
        known = [view for view in views if view.near > 0]
        self._empty = not known
        if self._empty:
            return
        cameras = [view.cameras[0] for view in known]
        poses = torch.stack([camera.cam_from_world for camera in cameras])
        limits = [
            (
                max(camera.cx, camera.width - camera.cx) / camera.fx * _NEAR_VIEW_MARGIN,
                max(camera.cy, camera.height - camera.cy) / camera.fy * _NEAR_VIEW_MARGIN,
                view.near,
            )
            for camera, view in zip(cameras, known, strict=True)
        ]
        self._rotations = poses[:, :3, :3].to(device)  # [C, 3, 3]
        self._translations = poses[:, :3, 3].to(device)  # [C, 3]
        self._limits = torch.tensor(limits, device=device)  # [C, 3]: |x / z|, |y / z|, z

    def find(self, means: Tensor) -> Tensor:
        """Which of the means [N, 3] float before a camera, [N] bool."""
        found = torch.zeros(len(means), dtype=torch.bool, device=means.device)
        if self._empty:
            return found
        rows = max(1, _NEAR_CHUNK * 64 // len(self._limits))
        for start in range(0, len(means), rows):
            part = means[start : start + rows]
            x, y, z = (torch.einsum("cij,nj->nci", self._rotations, part) + self._translations).unbind(
                -1
            )  # [n, C] each
            limit_x, limit_y, near = self._limits.unbind(-1)
            inside = (z > 0) & (z < near) & (x.abs() < limit_x * z) & (y.abs() < limit_y * z)
            found[start : start + rows] = inside.any(dim=1)
        return found


def useless(
    gaussians: Gaussians, limits: DensityLimits, extent: float, prune_large: bool, near: NearCameras
) -> Tensor:
    """Which Gaussians are to be removed, [N] bool.

    Args:
        gaussians: The scene.
        limits: Constants.
        extent: Radius of the scene, world units.
        prune_large: Also those that are large in the world.
        near: Finds those in a camera's face.
    """
    # Written so that NaN counts as useless.
    keep = torch.sigmoid(gaussians.opacity_logits) >= limits.prune_opacity
    keep &= torch.isfinite(gaussians.means).all(dim=1)
    keep &= torch.isfinite(gaussians.quats).all(dim=1)
    keep &= torch.isfinite(gaussians.log_scales).all(dim=1)
    if prune_large:
        keep &= gaussians.log_scales.amax(dim=1).exp() <= limits.prune_share * extent
    return ~keep | near.find(gaussians.means)


def prune(state: TrainingState, drop: Tensor) -> int:
    """Removes ``drop`` ([N] bool) from the state, but never all; answers how many went."""
    pruned = int(drop.sum())
    if pruned == state.gaussians.count:
        return 0
    if pruned:
        state.keep(~drop)
    return pruned


def densify(
    state: TrainingState,
    mean_gradients: Tensor,
    drop: Tensor,
    limits: DensityLimits,
    extent: float,
    max_gaussians: int,
    generator: torch.Generator,
) -> DensityChange:
    """Clones and splits where gradients are large, and removes ``drop``.

    Of more candidates than ``max_gaussians`` leaves room for, those of the largest
    gradients are taken.

    Args:
        state: Changed in place.
        mean_gradients: [N], from ``GradientStatistics``.
        drop: Which to remove, [N] bool.
        limits: Constants.
        extent: Radius of the scene, world units.
        max_gaussians: Most Gaussians afterwards.
        generator: Of the places where split parts go, on the device of the state.

    Returns:
        How many were cloned, split and removed.
    """
    gaussians = state.gaussians
    pruned = int(drop.sum())
    if pruned == gaussians.count:
        drop, pruned = torch.zeros_like(drop), 0
    grow = (mean_gradients > limits.gradient_threshold) & ~drop
    room = max(0, max_gaussians - (gaussians.count - pruned))
    candidates = grow.nonzero()[:, 0]
    if len(candidates) > room:
        best = mean_gradients[candidates].topk(room).indices
        candidates = candidates[best].sort().values
    small = gaussians.log_scales[candidates].amax(dim=1).exp() <= limits.clone_share * extent
    cloned, split = candidates[small], candidates[~small]
    new = gaussians.select(cloned)
    if len(split):
        noise = torch.randn(2, len(split), 3, generator=generator, device=gaussians.means.device)
        new = new.append(split_parts(gaussians.select(split), noise, limits.split_factor))
    keep = ~drop
    keep[split] = False
    state.keep(keep)
    state.append(new)
    return DensityChange(len(cloned), len(split), pruned)


def split_parts(gaussians: Gaussians, noise: Tensor, factor: float) -> Gaussians:
    """Two smaller Gaussians for each, at places drawn from it.

    Args:
        gaussians: N Gaussians.
        noise: Standard normal numbers, [2, N, 3].
        factor: By which the parts are smaller.

    Returns:
        2 N Gaussians: all first parts, then all second ones.
    """
    scaled = gaussians.log_scales.exp() * noise  # [2, N, 3], in the Gaussian's own axes
    offsets = torch.einsum("nij,knj->kni", rotation_matrices(gaussians.quats), scaled)
    both = gaussians.append(gaussians)
    both.means = (gaussians.means + offsets).reshape(-1, 3)
    both.log_scales = both.log_scales - math.log(factor)
    return both


def rotation_matrices(quats: Tensor) -> Tensor:
    """[N, 3, 3] of quaternions wxyz [N, 4], which need not be normalised."""
    w, x, y, z = torch.nn.functional.normalize(quats, dim=-1).unbind(-1)
    rows = (
        torch.stack((1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)), -1),
        torch.stack((2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)), -1),
        torch.stack((2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)), -1),
    )
    return torch.stack(rows, -2)


def drawable(gaussians: Gaussians) -> Tensor:
    """Which Gaussians can show in a picture at all, [N] bool: finite and not too faint to be drawn."""
    keep = torch.sigmoid(gaussians.opacity_logits) >= _INVISIBLE
    for _, tensor in gaussians.items():
        keep &= torch.isfinite(tensor).reshape(len(tensor), -1).all(dim=1)
    return keep
