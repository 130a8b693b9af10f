"""A scene that is known: photos rendered of Gaussians, as structure from motion would leave them."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from PIL import Image

from services.trainer.cpu.backend import CpuBackend
from services.trainer.init import SH_C0
from services.trainer.scene_types import Camera, Gaussians
from tests.helpers.colmap_writer import WrittenImage, write_cameras, write_images, write_points

_DISTANCE = 4.0  # of the cameras from the middle, world units
_ARC = 1.2  # radians that they stand on
_NOISE = 0.03  # standard deviation, as of photos; without it the last hundredths of a fit decide a PSNR


def write_true_scene(
    folder: Path, photos: int = 16, count: int = 300, size: tuple[int, int] = (96, 72)
) -> Path:
    """Photos on an arc around coloured blobs, whose middles are the points; returns ``folder``."""
    (folder / "images").mkdir(parents=True)
    (folder / "sparse").mkdir()
    width, height = size
    blobs, backend, chance = _blobs(count), CpuBackend(), torch.Generator().manual_seed(1)
    ids = tuple(range(1, count + 1))
    images = []
    for k in range(photos):
        angle = _ARC * (k / max(1, photos - 1) - 0.5)
        camera = _camera(angle, width, height)
        pixels = backend.render(blobs, camera, 0, torch.zeros(3))
        pixels = (pixels + _NOISE * torch.randn(pixels.shape, generator=chance)).clamp(0, 1)
        name = f"photo_{k:03d}.png"
        Image.fromarray((pixels * 255).round().to(torch.uint8).numpy()).save(folder / "images" / name)
        quat = (math.cos(angle / 2), 0.0, math.sin(angle / 2), 0.0)  # wxyz, about y
        images.append(WrittenImage(name, quat, (0.0, 0.0, _DISTANCE), points=ids))
    parameters = (float(width), float(width), width / 2, height / 2)
    write_cameras(folder / "sparse/cameras.bin", {1: (1, width, height, parameters)})
    write_images(folder / "sparse/images.bin", images)
    colors = ((blobs.sh0 * SH_C0 + 0.5) * 255).round().clamp(0, 255).int().tolist()
    rows = zip(ids, blobs.means.tolist(), colors, strict=True)
    write_points(
        folder / "sparse/points3D.bin", {number: (tuple(mean), tuple(color)) for number, mean, color in rows}
    )
    return folder


def _blobs(count: int) -> Gaussians:
    chance = torch.Generator().manual_seed(0)
    means = (torch.rand(count, 3, generator=chance) * 2 - 1) * torch.tensor([1.6, 1.2, 0.8])
    quats = torch.zeros(count, 4)
    quats[:, 0] = 1
    colors = torch.rand(count, 3, generator=chance)
    return Gaussians(
        means=means,
        log_scales=torch.log(0.05 + 0.12 * torch.rand(count, 3, generator=chance)),
        quats=quats,
        opacity_logits=torch.full((count,), 3.0),
        sh0=(colors - 0.5) / SH_C0,
        sh_rest=torch.zeros(count, 15, 3),
    )


def _camera(angle: float, width: int, height: int) -> Camera:
    c, s = math.cos(angle), math.sin(angle)
    pose = torch.tensor([[c, 0, s, 0], [0, 1, 0, 0], [-s, 0, c, _DISTANCE], [0, 0, 0, 1.0]])
    return Camera(pose, float(width), float(width), width / 2, height / 2, width, height)
