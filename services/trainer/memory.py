"""Memory: what is free, and what to do when it runs out."""

from __future__ import annotations

import gc
import os
import traceback
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from services.trainer.backend import Backend
from services.trainer.dataset import Dataset, View
from services.trainer.photo_cache import CachedPictures
from services.trainer.trainer import Trainer

_SMALLEST_SIDE = 128  # pixels; halving further would show nothing

ResultT = TypeVar("ResultT")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether this is what running out of memory looks like, on a GPU or not."""
    if isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)):
        return True
    # What torch raises on a CPU has no type of its own.
    text = str(error)
    return isinstance(error, RuntimeError) and (
        "can't allocate memory" in text or "out of memory" in text.lower()
    )


def free_bytes(device: torch.device) -> int | None:
    """Memory that is free on the device now; None when the system does not tell."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free)
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return None


def with_room(backend: Backend, work: Callable[[], ResultT]) -> ResultT:
    """What ``work`` answers; where memory runs out, it is tried again when all that can be is given back.

    Args:
        backend: Holds memory between its steps.
        work: Something that may be done twice.
    """
    try:
        return work()
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        _give_back(backend, error)
    return work()


def _give_back(backend: Backend, error: BaseException) -> None:
    """Gives back what the work that failed, and the backend, hold."""
    traceback.clear_frames(error.__traceback__)
    gc.collect()
    backend.release()


def largest_picture(dataset: Dataset) -> int:
    """Pixels of the largest picture of a dataset."""
    views = dataset.train + dataset.test
    return max(view.cameras[0].width * view.cameras[0].height for view in views)


class MemoryLadder:
    """What is tried, one after the other, each time that memory runs out."""

    def __init__(self) -> None:
        self.taken: list[str] = []
        """What was done so far, for the log and the report."""

    def descend(self, trainer: Trainer, error: BaseException) -> str:
        """Makes room and says how.

        Args:
            trainer: As it was before the step that failed.
            error: What it failed with; raised again when nothing is left to try.
        """
        rungs = (self._empty_caches, self._stop_growing, self._halve_photos, self._halve_photos)
        line = rungs[len(self.taken)](trainer) if len(self.taken) < len(rungs) else None
        if line is None:
            raise error
        _give_back(trainer.backend, error)
        self.taken.append(f"step {trainer.iteration}: {line}")
        return f"memory ran out at step {trainer.iteration}: {line}"

    def _empty_caches(self, trainer: Trainer) -> str:
        del trainer
        return "emptied the caches"

    def _stop_growing(self, trainer: Trainer) -> str:
        most = max(1, int(trainer.gaussians.count))
        trainer.control.max_gaussians = min(trainer.control.max_gaussians, most)
        return f"no more than {trainer.control.max_gaussians} Gaussians from here on"

    def _halve_photos(self, trainer: Trainer) -> str | None:
        views = trainer.dataset.train + trainer.dataset.test
        if min(min(view.cameras[0].width, view.cameras[0].height) for view in views) < 2 * _SMALLEST_SIDE:
            return None
        trainer.dataset = replace(
            trainer.dataset,
            train=tuple(map(_halved, trainer.dataset.train)),
            test=tuple(map(_halved, trainer.dataset.test)),
        )
        camera = trainer.dataset.train[0].cameras[0]
        return f"photos at half the size, {camera.width}x{camera.height}, from here on"


def _halved(view: View) -> View:
    """The view without its full size, or at half of it where it has no other."""
    if len(view.cameras) > 1:
        return replace(view, cameras=view.cameras[1:], pictures=view.pictures[1:])
    camera = view.cameras[0]
    small = (camera.scaled(camera.width // 2, camera.height // 2),)
    if isinstance(view.pictures, CachedPictures):
        return replace(view, cameras=small, pictures=view.pictures.changed(_half))
    return replace(view, cameras=small, pictures=(_half(view.pictures[0]),))


def _half(picture: Tensor) -> Tensor:
    """A picture at half its size, uint8 as it was, on its device."""
    height, width = picture.shape[0] // 2, picture.shape[1] // 2
    planes = picture.cpu().permute(2, 0, 1)[None].float()
    if planes.shape[1] == 4:  # what does not count must not colour what does
        planes[:, :3] *= planes[:, 3:] / 255
    small = interpolate(planes, (height, width), mode="area")[0].permute(1, 2, 0)
    if small.shape[2] == 4:
        share = small[..., 3:] / 255
        small = torch.cat((small[..., :3] / share.clamp_min(1e-6), 255 * (share >= 0.5)), dim=2)
    return small.round().to(torch.uint8).contiguous().to(picture.device)
