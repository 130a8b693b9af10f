"""Trains one scene and prints one row of a table: time, speed, quality, size, memory.

    python -m bench.train --scene SCENE --iterations 2000 --size 640
    python -m bench.train --scene SCENE --backend cuda --strategy mcmc --max-gaussians 500000

Peers, where they are installed: ``gsplat`` is gsplat with its own strategy in a plain loop,
``gsplat-raster`` its rasteriser in our loop.

Every training option is one here; one that is true or false needs no value to be true.
The scene is a folder as structure from motion leaves it: ``images/`` and ``sparse/*.bin``.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from pathlib import Path

import torch

from services.common.options import TrainingOptions
from services.common.splat_cloud import write_ply
from services.trainer.backends import choose_backend
from services.trainer.config import TrainingConfig, limited_by_photos, resolve
from services.trainer.dataset import Dataset, DatasetLoader
from services.trainer.evaluate import evaluate, mean_psnr
from services.trainer.settings import TrainerSettings
from services.trainer.stage import to_cloud
from services.trainer.trainer import Trainer


def main() -> None:
    arguments = parse()
    torch.manual_seed(0)
    backend, device_name = make_backend(arguments)
    given = {name: value for name, value in vars(arguments).items() if name in TrainingOptions.model_fields}
    options = TrainingOptions.model_validate({n: value for n, value in given.items() if value is not None})
    config = resolve(options, TrainerSettings(), arguments.defaults or backend.device.type)
    loader = DatasetLoader(arguments.scene, config)
    for _ in loader.load():
        pass
    dataset = loader.dataset()
    config = limited_by_photos(config, len(dataset.train))
    trainer = make_trainer(arguments.backend, backend, dataset, config)
    warm_up(trainer)
    seconds = train(trainer, arguments.curve)
    qualities = evaluate(trainer, trainer.dataset.test)
    psnr = sum(quality.psnr for quality in qualities) / max(1, len(qualities))
    ssim = sum(quality.ssim for quality in qualities) / max(1, len(qualities))
    camera = trainer.dataset.train[0].cameras[0]
    print(
        f"| {arguments.label or arguments.backend} | {device_name} | {arguments.scene.name} "
        f"| {camera.width}x{camera.height} | {config.iterations} | {seconds:.1f} s "
        f"| {config.iterations / seconds:.1f} it/s | {psnr:.2f} dB | {ssim:.4f} "
        f"| {trainer.gaussians.count} | {peak_memory(backend.device)} |"
    )
    if arguments.ply:
        write_ply(arguments.ply, to_cloud(trainer.gaussians, config.antialiased))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scene", type=Path, required=True, help="folder with images/ and sparse/")
    parser.add_argument(
        "--backend", choices=("auto", "cuda", "cpu", "gsplat", "gsplat-raster"), default="auto"
    )
    parser.add_argument("--defaults", choices=("cuda", "cpu"), help="whose defaults to take")
    short = {"train_image_size": ["--size"], "densify_until_iter": ["--densify-until"]}
    for name, field in TrainingOptions.model_fields.items():
        names = [f"--{name.replace('_', '-')}", *short.get(name, [])]
        parser.add_argument(
            *names, dest=name, nargs="?", const="true", metavar="VALUE", help=field.description
        )
    parser.add_argument("--curve", action="store_true", help="print the held-out PSNR ten times on the way")
    parser.add_argument("--label", help="what the row is called")
    parser.add_argument("--ply", type=Path, help="write the scene here")
    return parser.parse_args()


def make_backend(arguments: argparse.Namespace):
    if arguments.backend.startswith("gsplat"):
        from bench.peers.gsplat_backend import GsplatBackend  # noqa: PLC0415

        return GsplatBackend(), torch.cuda.get_device_name()
    chosen = choose_backend(arguments.backend)
    return chosen.backend, chosen.name


def make_trainer(name: str, backend, dataset: Dataset, config: TrainingConfig):
    if name == "gsplat":
        from bench.peers.gsplat_trainer import GsplatTrainer  # noqa: PLC0415

        return GsplatTrainer(backend, dataset, config)
    return Trainer(backend, dataset, config)


def warm_up(trainer) -> None:
    """Compiles what is compiled on first use, so that the time is that of the training."""
    for view in trainer.dataset.train[:1]:
        for camera, picture in zip(view.cameras, view.pictures, strict=True):
            target = picture.to(trainer.backend.device)
            output = trainer.backend.loss_and_gradients(
                trainer.gaussians, camera, target, trainer.config.sh_degree, trainer.background, 0.2,
                trainer.config.antialiased,
            )  # fmt: skip
        if not isinstance(trainer, Trainer):
            continue
        no_rates = dict.fromkeys((name for name, _ in trainer.gaussians.items()), 0.0)
        state = trainer.state
        trainer.backend.adam_step(
            state.gaussians, output.gradients, state.first_moments, state.second_moments,
            no_rates, 1, trainer._adam,
        )  # fmt: skip
        state.first_moments = state.gaussians.zeros_like()
        state.second_moments = state.gaussians.zeros_like()
    trainer.backend.synchronize()


def train(trainer, curve: bool) -> float:
    """Runs all steps; answers seconds without those spent on looking at the quality."""
    total = trainer.config.iterations
    looking = 0.0
    started = time.perf_counter()
    while not trainer.done:
        loss = trainer.step()
        if curve and trainer.iteration % max(1, total // 10) == 0:
            trainer.backend.synchronize()
            before = time.perf_counter()
            quality = mean_psnr(trainer, trainer.dataset.test)
            looking += time.perf_counter() - before
            print(
                f"  step {trainer.iteration} {before - started - looking:.1f} s loss {float(loss):.4f} "
                f"test PSNR {quality or 0:.2f} gaussians {trainer.gaussians.count}",
                file=sys.stderr,
            )
    trainer.finish()
    trainer.backend.synchronize()
    return time.perf_counter() - started - looking


def peak_memory(device: torch.device) -> str:
    if device.type == "cuda":
        return f"{torch.cuda.max_memory_reserved(device) / 2**20:.0f} MiB GPU"
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10:.0f} MiB"


if __name__ == "__main__":
    main()
