"""How far recovered cameras are from the truth, whatever frame and scale they are in."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Poses:
    """cam_from_world ([4, 4]) by photo name, and the size of the scene they look at."""

    cam_from_world: dict[str, NDArray[np.float64]]
    scene_size: float | None = None

    def centers(self, names: list[str]) -> NDArray[np.float64]:
        """Camera positions in the world, [N, 3]."""
        matrices = np.stack([self.cam_from_world[name] for name in names])
        return -np.einsum("nji,nj->ni", matrices[:, :3, :3], matrices[:, :3, 3])

    def rotations(self, names: list[str]) -> NDArray[np.float64]:
        """Rotations from world to camera, [N, 3, 3]."""
        return np.stack([self.cam_from_world[name][:3, :3] for name in names])


def read_true_poses(path: Path) -> Poses:
    """The truth that the sample capture wrote (``cameras.json``)."""
    document = json.loads(path.read_text(encoding="utf-8"))
    matrices = {photo["name"]: np.array(photo["cam_from_world"]) for photo in document["photos"]}
    return Poses(matrices, float(document["scene_size"]))


def recovered_poses(sparse: Path) -> Poses:
    """Poses of the registered photos of a COLMAP model (a folder of .bin files)."""
    import pycolmap  # noqa: PLC0415

    model = pycolmap.Reconstruction(sparse)
    matrices = {}
    for number in model.reg_image_ids():
        image = model.image(number)
        matrix = np.eye(4)
        matrix[:3] = image.cam_from_world().matrix()
        matrices[image.name] = matrix
    return Poses(matrices)


@dataclass(frozen=True)
class Similarity:
    """x -> scale * rotation @ x + translation."""

    scale: float
    rotation: NDArray[np.float64]  # [3, 3]
    translation: NDArray[np.float64]  # [3]

    def apply(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Maps points, [N, 3]."""
        return self.scale * points @ self.rotation.T + self.translation


def align(source: NDArray[np.float64], target: NDArray[np.float64]) -> Similarity:
    """The similarity that brings points closest to their partners (Umeyama 1991).

    Args:
        source: [N, 3], not all on one line.
        target: [N, 3].

    Returns:
        target_from_source.
    """
    mean_source, mean_target = source.mean(axis=0), target.mean(axis=0)
    a, b = source - mean_source, target - mean_target
    u, singular, vt = np.linalg.svd(b.T @ a / len(source))
    sign = np.array([1.0, 1.0, np.sign(np.linalg.det(u) * np.linalg.det(vt))])
    rotation = u @ np.diag(sign) @ vt
    scale = float((singular * sign).sum() / (a**2).sum(axis=1).mean())
    return Similarity(scale, rotation, mean_target - scale * rotation @ mean_source)


def truth_from_recovered(recovered: Poses, truth: Poses) -> Similarity:
    """The similarity between the two worlds, from the positions of the cameras in both."""
    names = sorted(recovered.cam_from_world.keys() & truth.cam_from_world.keys())
    return align(recovered.centers(names), truth.centers(names))


def pose_errors(recovered: Poses, truth: Poses) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Errors of the recovered cameras once their world is laid onto the true one.

    Args:
        recovered: In any frame and scale.
        truth: With the size of the scene.

    Returns:
        Distances of the positions as fractions of the scene's size, and angles between the
        orientations in degrees; by photo, names sorted, those in both.
    """
    assert truth.scene_size is not None
    names = sorted(recovered.cam_from_world.keys() & truth.cam_from_world.keys())
    assert len(names) >= 3, "three cameras are needed to lay one world onto another"
    similarity = align(recovered.centers(names), truth.centers(names))
    distances = np.linalg.norm(similarity.apply(recovered.centers(names)) - truth.centers(names), axis=1)
    relative = np.einsum(
        "nij,kj,nlk->nil", recovered.rotations(names), similarity.rotation, truth.rotations(names)
    )
    cosines = (np.trace(relative, axis1=1, axis2=2) - 1) / 2
    return distances / truth.scene_size, np.degrees(np.arccos(np.clip(cosines, -1, 1)))
