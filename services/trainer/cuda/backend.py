"""The CUDA backend: kernels of our own behind the trainer's small interface."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from services.trainer.backend import AdamConfig, check_target
from services.trainer.cuda.program import Kernels
from services.trainer.scene_types import Camera, Gaussians, StepOutput

_TILE = 16
_RECORD = 12  # floats of a projected Gaussian, and of its gradient
_SHORT_TILES = 0x7FFE  # most tiles that a short can number, NO_TILE apart
_LOSS_SLOTS, _LOSS_TILE = 64, 32  # as in loss.cu
_EXPOSURE_BLOCKS, _EXPOSURE_THREADS = 1024, 256  # the latter as in exposure.cu
_BACKWARD_THREADS = 128  # as in projection.cu
_RASTER_THREADS = 128  # as in common.cuh
_CAMERA_CACHE = 4096


class CudaBackend:
    """Rasterises, differentiates and optimises on an NVIDIA GPU.

    A step never waits for the device: the number of (Gaussian, tile) pairs, which sizes the
    sort, is read back one step late. When it outgrows the room, the pairs furthest away are
    left out of that one step and the next has the room.
    """

    def __init__(self, device: torch.device | None = None) -> None:
        self.device = device or torch.device("cuda", torch.cuda.current_device())
        self._kernels = {"short": self._make_kernels("short")}
        self._scratch: dict[str, Tensor] = {}
        self._cameras: dict[int, tuple[Camera, Tensor]] = {}
        self._gradients: Gaussians | None = None
        self._groups: tuple[tuple[int, ...], Tensor] | None = None
        self._capacity = 0
        self._total_host = torch.zeros(1, dtype=torch.int64, pin_memory=self.device.type == "cuda")
        self._total_ready: torch.cuda.Event | None = None
        self._picture_size = (0, 0)

    def render(
        self,
        gaussians: Gaussians,
        camera: Camera,
        sh_degree: int,
        background: Tensor,
        antialiased: bool = False,
    ) -> Tensor:
        """See ``Backend.render``."""
        picture = self._forward(gaussians, camera, sh_degree, background, antialiased, exact=True)
        return picture.permute(1, 2, 0).contiguous()

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
        exact = self._picture_size != (camera.width, camera.height)
        self._picture_size = (camera.width, camera.height)
        picture = self._forward(gaussians, camera, sh_degree, background, antialiased, exact)
        if exposure is None:
            slope, loss = self._loss(picture, target, dssim_weight)
            return self._backward(gaussians, camera, sh_degree, picture, slope, loss, antialiased)
        shown = self._buffer("shown", picture.numel()).view_as(picture)
        self._expose("expose", picture, exposure, shown)
        shown_slope, loss = self._loss(shown, target, dssim_weight)
        slope, exposure_gradient = shown, torch.zeros_like(exposure)
        self._expose("expose_backward", picture, exposure, shown_slope, slope, exposure_gradient)
        output = self._backward(gaussians, camera, sh_degree, picture, slope, loss, antialiased)
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
        if parameters.count == 0:
            return
        groups = self._adam_groups(parameters, gradients, first_moments, second_moments)
        correction = 1.0 / (1.0 - config.beta1**step)
        rates = [learning_rates[name] * correction for name, _ in parameters.items()]
        blocks = min(1024, math.ceil(max(t.numel() for _, t in parameters.items()) / 256))
        second_correction = 1.0 / math.sqrt(1.0 - config.beta2**step)
        constants = (config.beta1, config.beta2, config.epsilon, second_correction)
        self._kernels["short"].launch("adam", "adam_step", (blocks, 6), groups, *constants, *rates)

    def penalize(
        self, gaussians: Gaussians, gradients: Gaussians, opacity_weight: float, scale_weight: float
    ) -> None:
        """See ``MarkovMoves.penalize``."""
        count = gaussians.count
        if count:
            self._kernels["short"].launch(
                "markov", "penalize", (math.ceil(count / 256),),
                count, opacity_weight / count, scale_weight / (3 * count), gaussians.opacity_logits,
                gaussians.log_scales, gradients.opacity_logits, gradients.log_scales,
            )  # fmt: skip

    def shake(self, gaussians: Gaussians, noise: Tensor, strength: float) -> None:
        """See ``MarkovMoves.shake``."""
        if gaussians.count:
            self._kernels["short"].launch(
                "markov", "shake", (math.ceil(gaussians.count / 256),),
                gaussians.count, strength, gaussians.log_scales, gaussians.quats,
                gaussians.opacity_logits, noise, gaussians.means,
            )  # fmt: skip

    def synchronize(self) -> None:
        """See ``Backend.synchronize``."""
        torch.cuda.synchronize(self.device)

    def release(self) -> None:
        """See ``Backend.release``."""
        self._scratch.clear()
        self._gradients, self._groups = None, None
        self._capacity, self._total_ready = 0, None
        torch.cuda.empty_cache()

    def _forward(
        self,
        gaussians: Gaussians,
        camera: Camera,
        sh_degree: int,
        background: Tensor,
        antialiased: bool,
        exact: bool,
    ) -> Tensor:
        """Answers the picture as planes, [3, height, width] float32, in scratch memory."""
        width, height, count = camera.width, camera.height, gaussians.count
        picture = self._buffer("picture", 3 * height * width).view(3, height, width)
        if count == 0:
            return picture.copy_(background[:, None, None].expand_as(picture))
        tiles_x, tiles_y = math.ceil(width / _TILE), math.ceil(height / _TILE)
        kernels = self._kernels_for(tiles_x * tiles_y)
        records = self._buffer("records", count * _RECORD)
        depths, radii = self._buffer("depths", count), self._buffer("radii", count)
        tile_counts = self._buffer("tile_counts", count, torch.int32)
        kernels.launch(
            "projection", "project_forward", (math.ceil(count / 256),),
            count, gaussians.sh_rest.shape[1], sh_degree, antialiased, self._camera(camera), tiles_x, tiles_y,
            *(tensor for _, tensor in gaussians.items()), records, depths, tile_counts, radii,
        )  # fmt: skip
        sorted_pairs, ranges = self._bin(kernels, records, depths, tile_counts, tiles_x, tiles_y, exact)
        kernels.launch(
            "raster", "rasterize_forward", (tiles_x, tiles_y),
            width, height, tiles_x, ranges, sorted_pairs, records, background, picture,
            block=_RASTER_THREADS,
        )  # fmt: skip
        return picture

    def _bin(
        self,
        kernels: Kernels,
        records: Tensor,
        depths: Tensor,
        tile_counts: Tensor,
        tiles_x: int,
        tiles_y: int,
        exact: bool,
    ) -> tuple[Tensor, Tensor]:
        """Answers Gaussians by tile, nearest first, and each tile's range, [tiles, 2] int32."""
        count = depths.shape[0]
        order = self._buffer("order", count, torch.int64)
        torch.sort(depths, out=(self._buffer("sorted_depths", count), order))
        counts_by_depth = self._buffer("counts_by_depth", count, torch.int32)
        torch.index_select(tile_counts, 0, order, out=counts_by_depth)
        ends = self._buffer("ends", count, torch.int64)
        torch.cumsum(counts_by_depth, 0, dtype=torch.int64, out=ends)
        capacity = self._pair_capacity(ends, exact)
        key_type = torch.int16 if kernels is self._kernels["short"] else torch.int32
        tiles = self._buffer("tiles", capacity, key_type)
        tiles.fill_(torch.iinfo(key_type).max)
        pairs = self._buffer("pairs", capacity, torch.int32)
        kernels.launch(
            "binning", "fill_pairs", (math.ceil(count / 256),),
            count, tiles_x, tiles_y, np.int64(capacity), records, order, tile_counts, ends, tiles, pairs,
        )  # fmt: skip
        sorted_tiles = self._buffer("sorted_tiles", capacity, key_type)
        positions = self._buffer("positions", capacity, torch.int64)
        torch.sort(tiles, stable=True, out=(sorted_tiles, positions))
        sorted_pairs = self._buffer("sorted_pairs", capacity, torch.int32)
        ranges = self._buffer("ranges", tiles_x * tiles_y * 2, torch.int32)
        ranges.zero_()
        kernels.launch(
            "binning", "gather_pairs", (math.ceil(capacity / 256),),
            np.int64(capacity), tiles_x * tiles_y, sorted_tiles, positions, pairs, sorted_pairs, ranges,
        )  # fmt: skip
        return sorted_pairs, ranges

    def _pair_capacity(self, ends: Tensor, exact: bool) -> int:
        """Room for pairs: exact when asked (waits for the device), else from the step before."""
        if exact or self._capacity == 0:
            total = int(ends[-1].item())
            self._capacity = max(self._capacity, _rounded(1.25 * total))
            return self._capacity
        ready = self._total_ready
        if ready is not None and ready.query():  # type: ignore[no-untyped-call]
            total = int(self._total_host[0])
            if total > 0.9 * self._capacity:
                self._capacity = _rounded(1.25 * total)
            self._total_ready = None
        if self._total_ready is None:
            self._total_host.copy_(ends[-1:], non_blocking=True)
            self._total_ready = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._total_ready.record(torch.cuda.current_stream(self.device))
        return self._capacity

    def _loss(self, picture: Tensor, target: Tensor, dssim_weight: float) -> tuple[Tensor, Tensor]:
        """Answers d loss / d picture, [3, height, width], and the loss, []."""
        (_, height, width), channels = picture.shape, target.shape[2]
        kernels = self._kernels["short"]
        maps = [self._buffer(f"ssim_{name}", picture.numel()) for name in ("mean", "square", "product")]
        sums = self._buffer("loss_sums", 2 * _LOSS_SLOTS)
        sums.zero_()
        loss = torch.empty((), device=self.device)
        gradient = self._buffer("picture_gradient", picture.numel())
        grid = (math.ceil(width / _LOSS_TILE), math.ceil(height / _LOSS_TILE), 3)
        kernels.launch("loss", "ssim_forward", grid, width, height, channels, picture, target, *maps, sums)
        kernels.launch(
            "loss", "ssim_backward", grid,
            width, height, channels, float(dssim_weight), picture, target, *maps, sums, gradient, loss,
        )  # fmt: skip
        return gradient, loss

    def _expose(self, kernel: str, picture: Tensor, *tensors: Tensor) -> None:
        """See exposure.cu; every thread takes a few pixels, or the sums' atomics queue up."""
        pixels = picture[0].numel()
        blocks = min(_EXPOSURE_BLOCKS, math.ceil(pixels / _EXPOSURE_THREADS))
        self._kernels["short"].launch(
            "exposure", kernel, (blocks,), pixels, picture, *tensors, block=_EXPOSURE_THREADS
        )

    def _backward(
        self,
        gaussians: Gaussians,
        camera: Camera,
        sh_degree: int,
        picture: Tensor,
        picture_gradient: Tensor,
        loss: Tensor,
        antialiased: bool,
    ) -> StepOutput:
        count = gaussians.count
        gradients = self._gradient_buffers(gaussians)
        norms = self._buffer("mean2d_norms", count)
        radii = self._buffer("radii", count)
        if count == 0:
            return StepOutput(loss, gradients, norms, radii)
        width, height = camera.width, camera.height
        tiles_x, tiles_y = math.ceil(width / _TILE), math.ceil(height / _TILE)
        kernels = self._kernels_for(tiles_x * tiles_y)
        records = self._buffer("records", count * _RECORD)
        record_gradients = self._buffer("record_gradients", count * _RECORD)
        record_gradients.zero_()
        kernels.launch(
            "raster", "rasterize_backward", (tiles_x, tiles_y),
            width, height, tiles_x, self._scratch["ranges"], self._scratch["sorted_pairs"], records,
            picture, picture_gradient, record_gradients, block=_RASTER_THREADS,
        )  # fmt: skip
        kernels.launch(
            "projection", "project_backward", (math.ceil(count / _BACKWARD_THREADS),),
            count, gaussians.sh_rest.shape[1], sh_degree, antialiased, self._camera(camera),
            gaussians.means, gaussians.log_scales, gaussians.quats, records,
            self._scratch["tile_counts"], gaussians.sh_rest, record_gradients,
            *(tensor for _, tensor in gradients.items()), norms, block=_BACKWARD_THREADS,
        )  # fmt: skip
        return StepOutput(loss, gradients, norms, radii)

    def _kernels_for(self, tile_count: int) -> Kernels:
        """The kernels whose tile numbers are wide enough."""
        key = "short" if tile_count <= _SHORT_TILES else "int"
        if key not in self._kernels:
            self._kernels[key] = self._make_kernels(key)
        return self._kernels[key]

    def _make_kernels(self, tile_key: str) -> Kernels:
        return Kernels(self.device, tile_key)

    def _buffer(self, name: str, size: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """A flat scratch tensor of ``size`` elements that only ever grows."""
        tensor = self._scratch.get(name)
        if tensor is None or tensor.numel() < size or tensor.dtype != dtype:
            tensor = torch.empty(max(1, size + size // 4), dtype=dtype, device=self.device)
            self._scratch[name] = tensor
        return tensor[:size]

    def _gradient_buffers(self, gaussians: Gaussians) -> Gaussians:
        if self._gradients is None or self._gradients.sh_rest.shape != gaussians.sh_rest.shape:
            self._gradients = gaussians.zeros_like()
        return self._gradients

    def _camera(self, camera: Camera) -> Tensor:
        """The camera as the kernels read it, 21 floats on the device, kept for the next time."""
        known = self._cameras.get(id(camera))
        if known is not None and known[0] is camera:
            return known[1]
        matrix = camera.cam_from_world.double().cpu()
        center = -matrix[:3, :3].T @ matrix[:3, 3]
        intrinsics = [camera.fx, camera.fy, camera.cx, camera.cy, camera.width, camera.height]
        values = [*matrix[:3].flatten().tolist(), *intrinsics, *center.tolist()]
        packed = torch.tensor(values, dtype=torch.float32, device=self.device)
        if len(self._cameras) >= _CAMERA_CACHE:
            self._cameras.clear()
        self._cameras[id(camera)] = (camera, packed)
        return packed

    def _adam_groups(self, *sets: Gaussians) -> Tensor:
        """Addresses and sizes of all groups on the device; made anew only when one has moved."""
        key = tuple(tensor.data_ptr() for gaussians in sets for _, tensor in gaussians.items())
        sizes = tuple(tensor.numel() for _, tensor in sets[0].items())
        if self._groups is None or self._groups[0] != key + sizes:
            packed = torch.tensor(key + sizes, dtype=torch.int64, device=self.device)
            self._groups = (key + sizes, packed)
        return self._groups[1]


def _rounded(pairs: float) -> int:
    """Up to a multiple of 65,536, so that small changes do not allocate again."""
    return max(1, math.ceil(pairs / 65536)) * 65536
