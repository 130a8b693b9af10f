"""The CPU backend: numba kernels behind the trainer's small interface; no compiler needed."""

# ruff: noqa: E402, I001
from __future__ import annotations

from services.trainer.cpu import environment  # before numba

import logging
import math
from dataclasses import replace
from typing import Any

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from services.common.cores import usable_cores
from services.trainer.backend import AdamConfig, check_target
from services.trainer.cpu.adam import adam_update
from services.trainer.cpu.binning import fill_lists, sort_by_depth
from services.trainer.cpu.loss import ssim_backward, ssim_forward
from services.trainer.cpu.projection import FORWARD_PLANES, RECORD, project_forward
from services.trainer.cpu.projection_gradient import BACKWARD_PLANES, project_backward
from services.trainer.cpu.raster import STATE_FLOATS, rasterize_backward, rasterize_forward
from services.trainer.cpu.tiles import TILE
from services.trainer.cpu.vector_ir import LANES
from services.trainer.exposure import exposed, exposed_gradient
from services.trainer.markov_moves import TorchMoves
from services.trainer.scene_types import Camera, Gaussians, StepOutput

log = logging.getLogger(__name__)

_ALIGNMENT = 64  # bytes of a vector register


class CpuBackend(TorchMoves):
    """Rasterises, differentiates and optimises on the CPU. Results are bit for bit repeatable.

    Args:
        threads: Cores to use; None for all that this process may use.
    """

    def __init__(self, threads: int | None = None) -> None:
        self.device = torch.device("cpu")
        self._threads = min(threads or usable_cores(), numba.config.NUMBA_NUM_THREADS)
        numba.set_num_threads(self._threads)
        self._scratch: dict[str, NDArray[Any]] = {}
        self._gradients: Gaussians | None = None
        self._tiles = (0, 0)
        self._camera: NDArray[np.float32] = np.empty(0, np.float32)
        self._room = 0  # tiles that a thread can list
        if not any(environment.CACHE_DIR.rglob("*.nbi")):
            log.info("compiling the CPU kernels; this happens once and takes about half a minute")

    def render(
        self,
        gaussians: Gaussians,
        camera: Camera,
        sh_degree: int,
        background: Tensor,
        antialiased: bool = False,
    ) -> Tensor:
        """See ``Backend.render``."""
        picture = self._forward(gaussians, camera, sh_degree, background, antialiased)
        return torch.from_numpy(picture.transpose(1, 2, 0).copy())

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
        """See ``Backend.loss_and_gradients``."""
        check_target(target, camera)
        picture = self._forward(gaussians, camera, sh_degree, background, antialiased)
        photo = target.contiguous().numpy()
        if exposure is None:
            slope, loss = self._loss(picture, photo, dssim_weight)
            return self._backward(gaussians, camera, sh_degree, picture, slope, loss, antialiased)
        planes = torch.from_numpy(picture)
        shown = exposed(planes, exposure, torch.from_numpy(self._buffer("shown", picture.shape)))
        shown_slope, loss = self._loss(shown.numpy(), photo, dssim_weight)
        exposure_gradient = exposed_gradient(planes, exposure, torch.from_numpy(shown_slope), out=shown)
        output = self._backward(gaussians, camera, sh_degree, picture, shown.numpy(), loss, antialiased)
        return replace(output, exposure_gradient=exposure_gradient)

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
        """See ``Backend.adam_step``."""
        correction = 1 / (1 - config.beta1**step)
        second_correction = np.float32(1 / math.sqrt(1 - config.beta2**step))
        constants = (np.float32(config.beta1), np.float32(config.beta2), np.float32(config.epsilon))
        groups = zip(
            parameters.items(), gradients.items(), first_moments.items(), second_moments.items(), strict=True
        )
        for (name, parameter), (_, gradient), (_, first), (_, second) in groups:
            rate = np.float32(learning_rates[name] * correction)
            flat = [_array(tensor).reshape(-1) for tensor in (parameter, gradient, first, second)]
            adam_update(*flat, rate, *constants, second_correction, self._threads)

    def synchronize(self) -> None:
        """See ``Backend.synchronize``; nothing runs behind the caller's back here."""

    def release(self) -> None:
        """See ``Backend.release``."""
        self._scratch.clear()
        self._gradients = None

    def _forward(
        self, gaussians: Gaussians, camera: Camera, sh_degree: int, background: Tensor, antialiased: bool
    ) -> NDArray[np.float32]:
        """Answers the picture, [3, height, width] float32, in scratch memory."""
        width, height, count = camera.width, camera.height, gaussians.count
        tiles_x, tiles_y = math.ceil(width / TILE), math.ceil(height / TILE)
        self._tiles = (tiles_x, tiles_y)
        records, half_heights = (
            self._buffer("records", (count, RECORD)),
            self._buffer("half_heights", (count,)),
        )
        self._camera = _packed(camera)
        self._project(gaussians, sh_degree, antialiased)
        ranges, lists = self._bin(count)
        picture = self._buffer("picture", (3, height, width))
        rasterize_forward(
            records, half_heights, ranges, lists, tiles_x, width, height,
            _array(background), self._buffer("state", (self._threads, STATE_FLOATS)), picture,
        )  # fmt: skip
        return picture

    def _project(self, gaussians: Gaussians, sh_degree: int, antialiased: bool) -> None:
        """Projects into scratch memory; once more where the tiles need more room than ever before."""
        count = gaussians.count
        needed = self._buffer("needed", (self._threads,), np.int64)
        self._room = max(self._room, 4 * math.ceil(count / self._threads))
        while True:
            project_forward(
                self._camera, *(_array(tensor) for _, tensor in gaussians.items()), sh_degree, *self._tiles,
                self._buffer("records", (count, RECORD)), self._buffer("depths", (count,)),
                self._buffer("counts", (count,), np.int32), self._buffer("offsets", (count,), np.int64),
                self._buffer("half_heights", (count,)), self._buffer("radii", (count,)),
                self._full_opacities(count, antialiased),
                self._tile_ids(), needed, self._buffer("forward", (self._threads, FORWARD_PLANES, LANES)),
            )  # fmt: skip
            most = int(needed.max())
            if most <= self._room:
                return
            self._room = most + most // 4

    def _tile_ids(self) -> NDArray[np.int32]:
        return self._buffer("tile_ids", (self._threads, self._room), np.int32)

    def _bin(self, count: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Answers where each tile's list begins, and the lists."""
        tiles_x, tiles_y = self._tiles
        counts = self._buffer("counts", (count,), np.int32)
        needed = self._buffer("needed", (self._threads,), np.int64)
        order, spare_order = (self._buffer(name, (count,), np.int32) for name in ("order", "spare_order"))
        keys, spare_keys = (self._buffer(name, (count,), np.uint32) for name in ("keys", "spare_keys"))
        total = sort_by_depth(self._buffer("depths", (count,)), counts, keys, order, spare_keys, spare_order)
        ranges = self._buffer("ranges", (tiles_x * tiles_y + 1,), np.int32)
        lists, slots = (self._buffer(name, (int(needed.sum()),), np.int32) for name in ("lists", "slots"))
        offsets = self._buffer("offsets", (count,), np.int64)
        fill_lists(spare_order, total, counts, offsets, self._tile_ids(), needed, ranges, lists, slots)
        return ranges, lists

    def _loss(
        self, picture: NDArray[np.float32], target: NDArray[np.uint8], dssim_weight: float
    ) -> tuple[NDArray[np.float32], float]:
        """Answers d loss / d picture, [3, height, width], and the loss."""
        maps = [self._buffer(f"ssim_{name}", picture.shape) for name in ("mean", "square", "product")]
        sums = self._buffer("sums", (self._threads, 2), np.float64)
        slope = self._buffer("slope", picture.shape)
        ssim_forward(picture, target, *maps, sums, self._threads)
        ssim_backward(picture, target, *maps, np.float32(dssim_weight), slope, self._threads)
        l1, similarity = (sums.sum(0) / picture.size).tolist()
        return slope, (1 - dssim_weight) * l1 + dssim_weight * (1 - similarity)

    def _backward(
        self,
        gaussians: Gaussians,
        camera: Camera,
        sh_degree: int,
        picture: NDArray[np.float32],
        slope: NDArray[np.float32],
        loss: float,
        antialiased: bool,
    ) -> StepOutput:
        count = gaussians.count
        if self._gradients is None or self._gradients.sh_rest.shape != gaussians.sh_rest.shape:
            self._gradients = gaussians.zeros_like()
        gradients = self._gradients
        records, half_heights = (
            self._buffer("records", (count, RECORD)),
            self._buffer("half_heights", (count,)),
        )
        pairs = int(self._buffer("needed", (self._threads,), np.int64).sum())
        pair_gradients = self._buffer("pair_gradients", (self._threads * self._room, 9))
        ranges = self._buffer("ranges", (self._tiles[0] * self._tiles[1] + 1,), np.int32)
        rasterize_backward(
            records, half_heights, ranges, self._buffer("lists", (pairs,), np.int32),
            self._buffer("slots", (pairs,), np.int32), self._tiles[0],
            camera.width, camera.height, picture, slope,
            self._buffer("state", (self._threads, STATE_FLOATS)), pair_gradients,
        )  # fmt: skip
        norms, radii = self._buffer("norms", (count,)), self._buffer("radii", (count,))
        project_backward(
            self._camera, _array(gaussians.means), _array(gaussians.log_scales), _array(gaussians.quats),
            _array(gaussians.sh_rest), sh_degree, records,
            self._buffer("counts", (count,), np.int32), self._buffer("offsets", (count,), np.int64),
            pair_gradients, self._full_opacities(count, antialiased),
            *(_array(tensor) for _, tensor in gradients.items()), norms,
            self._buffer("backward", (self._threads, BACKWARD_PLANES, LANES)),
        )  # fmt: skip
        return StepOutput(torch.tensor(loss), gradients, torch.from_numpy(norms), torch.from_numpy(radii))

    def _full_opacities(self, count: int, antialiased: bool) -> NDArray[np.float32] | None:
        """Opacities before the antialiasing factor, [N], which only an antialiased pass needs."""
        return self._buffer("full_opacities", (count,)) if antialiased else None

    def _buffer(self, name: str, shape: tuple[int, ...], dtype: Any = np.float32) -> NDArray[Any]:
        """A scratch array, 64-byte aligned, that only ever grows."""
        size = math.prod(shape)
        array = self._scratch.get(name)
        if array is None or array.size < size:
            array = _aligned(size + size // 4 + 1, dtype)
            self._scratch[name] = array
        return array[:size].reshape(shape)


def _aligned(size: int, dtype: Any) -> NDArray[Any]:
    width = np.dtype(dtype).itemsize
    raw = np.empty(size * width + _ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % _ALIGNMENT
    return raw[start : start + size * width].view(dtype)


def _array(tensor: Tensor) -> NDArray[Any]:
    """The tensor's own memory."""
    return np.asarray(tensor.detach().numpy())


def _packed(camera: Camera) -> NDArray[np.float32]:
    """The camera as the kernels read it, [21]."""
    matrix = camera.cam_from_world.double().numpy()
    center = -matrix[:3, :3].T @ matrix[:3, 3]
    intrinsics = [camera.fx, camera.fy, camera.cx, camera.cy, camera.width, camera.height]
    return np.array([*matrix[:3].ravel(), *intrinsics, *center], np.float32)
