"""Milliseconds a training step spends in each CPU kernel, on a synthetic scene.

Usage: python bench/cpu_kernels.py [--width 640] [--height 480] [--gaussians 37000]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch

from services.trainer.backend import AdamConfig
from services.trainer.cpu import backend as module
from services.trainer.cpu.backend import CpuBackend
from services.trainer.scene_types import Camera, Gaussians

KERNELS = (
    "project_forward", "sort_by_depth", "fill_lists", "rasterize_forward", "ssim_forward",
    "ssim_backward", "rasterize_backward", "project_backward", "adam_update",
)  # fmt: skip


def scene(count: int, width: int, height: int) -> tuple[Gaussians, Camera]:
    """Gaussians that fill the picture, a few pixels large."""
    r = torch.Generator().manual_seed(0)
    depth = 2 + 4 * torch.rand(count, generator=r)
    spread = torch.rand(count, 2, generator=r) - 0.5
    focal = 0.9 * width
    means = torch.stack([spread[:, 0] * width, spread[:, 1] * height, torch.full((count,), focal)], -1)
    pixel = (width * height / count) ** 0.5
    scales = pixel * (0.3 + torch.rand(count, 3, generator=r)) / focal * depth[:, None]
    gaussians = Gaussians(
        means=means * (depth / focal)[:, None],
        log_scales=scales.log(),
        quats=torch.randn(count, 4, generator=r),
        opacity_logits=torch.randn(count, generator=r) * 2,
        sh0=torch.randn(count, 3, generator=r) * 0.5,
        sh_rest=torch.randn(count, 15, 3, generator=r) * 0.1,
    )
    return gaussians, Camera(torch.eye(4), focal, focal, width / 2, height / 2, width, height)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--width", type=int, default=640)
    parser.add_argument("--height", type=int, default=480)
    parser.add_argument("--gaussians", type=int, default=37_000)
    parser.add_argument("--steps", type=int, default=30)
    arguments = parser.parse_args()
    spent: dict[str, list[float]] = defaultdict(list)

    def timed(name: str, kernel: Callable[..., Any]) -> Callable[..., Any]:
        def call(*values: Any) -> Any:
            begun = time.perf_counter()
            answer = kernel(*values)
            spent[name].append(time.perf_counter() - begun)
            return answer

        return call

    for name in KERNELS:
        setattr(module, name, timed(name, getattr(module, name)))
    gaussians, camera = scene(arguments.gaussians, arguments.width, arguments.height)
    target = torch.randint(0, 256, (camera.height, camera.width, 3), dtype=torch.uint8)
    first, second = gaussians.zeros_like(), gaussians.zeros_like()
    rates = dict.fromkeys((name for name, _ in gaussians.items()), 0.0)
    backend = CpuBackend()
    steps = []
    for number in range(arguments.steps + 3):
        if number == 3:  # compiled and warm
            spent.clear()
            steps.clear()
        begun = time.perf_counter()
        out = backend.loss_and_gradients(gaussians, camera, target, 3, torch.zeros(3), 0.2)
        backend.adam_step(gaussians, out.gradients, first, second, rates, number + 1, AdamConfig())
        steps.append(time.perf_counter() - begun)
    calls = len(steps)
    for name in KERNELS:
        per_step = [sum(spent[name][k::calls]) if name != "adam_update" else 0 for k in range(calls)]
        total = sum(spent[name]) / calls if name == "adam_update" else statistics.median(per_step)
        print(f"{name:20} {1e3 * total:7.2f} ms")
    step = statistics.median(steps)
    print(f"{'step':20} {1e3 * step:7.2f} ms  {1 / step:.1f} steps a second")


if __name__ == "__main__":
    main()
