"""Steps a second on a CPU, ours and OpenSplat's, turn by turn on the same photos.

    python -m bench.cpu_peer --opensplat build/opensplat --scene SCENE --iterations 300

OpenSplat is built by whoever wants to compare: ``cmake -DGPU_RUNTIME=CPU`` with the libtorch of
this environment. Both train on the same points at full size from the first step, without adding
Gaussians; both scenes are judged by our renderer on the photos that neither has seen.
"""

from __future__ import annotations

import argparse
import math
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import pycolmap
import torch
from numpy.typing import NDArray
from PIL import Image

from services.common.options import TrainingOptions
from services.common.splat_cloud import read_ply
from services.trainer.backends import choose_backend
from services.trainer.config import resolve
from services.trainer.dataset import Dataset, DatasetLoader
from services.trainer.evaluate import evaluate
from services.trainer.scene_types import Gaussians
from services.trainer.settings import TrainerSettings
from services.trainer.trainer import Trainer


def main() -> None:
    arguments = parse()
    options = {
        "iterations": arguments.iterations, "densify_until_iter": 0, "coarse_to_fine": False,
        "train_image_size": arguments.size,
    }  # fmt: skip
    config = resolve(TrainingOptions.model_validate(options), TrainerSettings(), "cpu")
    loader = DatasetLoader(arguments.scene, config)
    for _ in loader.load():
        pass
    dataset = loader.dataset()
    rates: dict[str, list[float]] = {"Splatmill": [], "OpenSplat": []}
    with tempfile.TemporaryDirectory() as folder:
        scene = Path(folder)
        center, unit = prepare(arguments.scene, scene, dataset)
        for _ in range(arguments.repeats):
            trainer = fresh(dataset, config)
            rates["Splatmill"].append(ours(trainer))
            rates["OpenSplat"].append(theirs(arguments.opensplat, scene, arguments.iterations))
        quality = {"Splatmill": judged(trainer)}
        count = {"Splatmill": trainer.gaussians.count}
        trainer.state.gaussians = peer_scene(scene / "out.ply", center, unit)
        quality["OpenSplat"], count["OpenSplat"] = judged(trainer), trainer.gaussians.count
    camera = dataset.train[0].cameras[0]
    for name, each in rates.items():
        print(
            f"| {name} | {camera.width}x{camera.height} | {arguments.iterations} | "
            f"{statistics.median(each):.1f} it/s ({min(each):.1f} to {max(each):.1f}) | {count[name]} | "
            f"{quality[name]:.2f} dB |"
        )


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--opensplat", type=Path, required=True, help="its binary")
    parser.add_argument("--scene", type=Path, required=True, help="folder with images/ and sparse/")
    parser.add_argument("--size", type=int, default=640, help="longest side of the photos, pixels")
    parser.add_argument("--iterations", type=int, default=300)
    parser.add_argument("--repeats", type=int, default=3)
    return parser.parse_args()


def prepare(source: Path, folder: Path, dataset: Dataset) -> tuple[NDArray[np.float64], float]:
    """The photos trained on, at the size of the dataset, and their model, as OpenSplat reads them.

    OpenSplat moves the cameras to the origin and into a cube of half side 1: they are there already.

    Returns:
        Where the origin and how long the unit is in the dataset.
    """
    (folder / "images").mkdir()
    (folder / "sparse" / "0").mkdir(parents=True)
    sizes = {view.name: (view.cameras[0].width, view.cameras[0].height) for view in dataset.train}
    model = pycolmap.Reconstruction(str(source / "sparse"))
    for image in list(model.images.values()):
        if image.name not in sizes:
            model.deregister_frame(image.frame_id)
            continue
        with Image.open(source / "images" / image.name) as photo:
            photo.convert("RGB").resize(sizes[image.name], Image.Resampling.LANCZOS).save(
                folder / "images" / image.name, quality=98
            )
    for camera in model.cameras.values():
        camera.rescale(*next(iter(sizes.values())))
    centers = np.array([image.projection_center() for image in model.images.values() if image.has_pose])
    center = centers.mean(axis=0)
    unit = float(np.abs(centers - center).max())
    model.transform(pycolmap.Sim3d(1 / unit, pycolmap.Rotation3d(), -center / unit))
    model.write_binary(str(folder / "sparse" / "0"))
    return center, unit


def fresh(dataset: Dataset, config) -> Trainer:
    trainer = Trainer(choose_backend("cpu").backend, dataset, config)
    trainer.step()  # compiles, and finds its room
    return trainer


def ours(trainer: Trainer) -> float:
    """Steps a second."""
    begun, started = trainer.iteration, time.perf_counter()
    while not trainer.done:
        trainer.step()
    return (trainer.iteration - begun) / (time.perf_counter() - started)


def theirs(binary: Path, scene: Path, iterations: int) -> float:
    """Steps a second between the first line that names a step and the last."""
    command = [
        binary.absolute(),
        scene,
        "-n",
        str(iterations),
        "-o",
        scene / "out.ply",
        "--num-downscales",
        "0",
    ]
    marks: list[tuple[int, float]] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("Step "):
                marks.append((int(line.split()[1].rstrip(":")), time.perf_counter()))
    if process.returncode:
        raise SystemExit(f"OpenSplat ended with {process.returncode}")
    (first, begun), (last, ended) = marks[0], marks[-1]
    return (last - first) / (ended - begun)


def peer_scene(path: Path, center: NDArray[np.float64], unit: float) -> Gaussians:
    cloud = read_ply(path)
    tensors = {
        "means": (cloud.positions * unit + center).astype(np.float32),
        "log_scales": cloud.log_scales + np.float32(math.log(unit)), "quats": cloud.quats,
        "opacity_logits": cloud.opacity_logits, "sh0": cloud.sh0, "sh_rest": cloud.sh_rest,
    }  # fmt: skip
    return Gaussians(**{name: torch.from_numpy(array).contiguous() for name, array in tensors.items()})


def judged(trainer: Trainer) -> float:
    """Mean PSNR of the held-out photos, dB."""
    qualities = evaluate(trainer, trainer.dataset.test)
    return sum(quality.psnr for quality in qualities) / len(qualities)


if __name__ == "__main__":
    main()
