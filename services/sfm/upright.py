"""Turns a reconstruction so that what was up for the photographer is up in the scene.

Structure from motion cannot know where up is. People, however, hold cameras level more
often than not, and that is enough.
"""

from __future__ import annotations

import numpy as np
import pycolmap
from numpy.typing import NDArray

# How much a camera's own up counts against its horizon. Small, since a camera that looks
# down still has a level horizon; not zero, since horizons of photos taken side by side
# leave the tilt open.
_UP_WEIGHT = 0.02


def upright_rotation(cam_from_world: NDArray[np.float64]) -> NDArray[np.float64]:
    """The rotation that stands a scene upright in COLMAP's axes: x right, y down, z ahead.

    The up direction u minimises the mean of (right . u)^2 + w |u - up|^2 over all
    cameras, with ``right`` and ``up`` their axes in the world: level horizons, and up
    roughly where the cameras have it. The mean direction of view becomes +z.

    Args:
        cam_from_world: Rotations of the cameras, [N, 3, 3].

    Returns:
        upright_from_world, [3, 3].
    """
    right, up, forward = cam_from_world[:, 0], -cam_from_world[:, 1], cam_from_world[:, 2]
    horizon = right.T @ right / len(right)
    u = np.linalg.solve(horizon + _UP_WEIGHT * np.eye(3), up.mean(axis=0))
    if np.linalg.norm(u) < 1e-6:  # cameras that contradict each other: leave the first one upright
        u = up[0]
    u /= np.linalg.norm(u)
    ahead = forward.mean(axis=0)
    if np.linalg.norm(ahead - (ahead @ u) * u) < 0.2:  # all around: there is no front but the first photo's
        ahead = forward[0]
    ahead = ahead - (ahead @ u) * u
    if np.linalg.norm(ahead) < 1e-6:  # straight up or down
        ahead = np.cross(right[0], u)
    ahead /= np.linalg.norm(ahead)
    return np.stack([np.cross(-u, ahead), -u, ahead])


def make_upright(model: pycolmap.Reconstruction) -> None:
    """Turns a model in place, its points and cameras alike.

    Args:
        model: With at least one registered photo.
    """
    order = sorted(model.reg_image_ids(), key=lambda number: str(model.image(number).name))
    rotations = np.stack([model.image(number).cam_from_world().rotation.matrix() for number in order])
    rotation = pycolmap.Rotation3d(upright_rotation(rotations))
    model.transform(pycolmap.Sim3d(1.0, rotation, np.zeros(3)))
