"""A look at the scene now and then, for whoever waits for it: a picture, and a small splat to walk around in.

Both show a training that is not done: they stay beside its checkpoint when it is broken off,
since the next attempt goes on from there, and go when it ends or begins anew.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from services.common.formats import write_spz
from services.trainer.decimate import decimated
from services.trainer.export import to_cloud
from services.trainer.memory import is_out_of_memory
from services.trainer.trainer import Trainer

log = logging.getLogger(__name__)

PREVIEW = "preview.jpg"
PREVIEW_SPLAT = "preview.spz"
MOST_GAUSSIANS = 20_000
"""Of the splat, so that a phone draws it and a slow line carries it."""
LARGEST_SHARE = 0.02
"""Most of the time that is spent on previews."""
_LONGEST = 640  # pixels
_QUALITY = 82
_GZIP_LEVEL = 1  # a twentieth larger than the usual level and done in three quarters of the time


class Previews:
    """Writes a picture from the middle one of the training views and a splat; each file is always whole.

    The pause between two grows where the last took long, so that a slow machine trains nearly as
    fast as without.

    Args:
        folder: Where they go; None for no previews.
        seconds: Least pause between two.
        clock: Seconds, from wherever.
    """

    def __init__(
        self, folder: Path | None, seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._folder = folder
        self._seconds = seconds
        self._clock = clock
        self._due_at = clock() + seconds

    def write_when_due(self, trainer: Trainer) -> bool:
        """Writes new ones when the last are old enough; answers whether it did."""
        if self._folder is None or self._clock() < self._due_at:
            return False
        trainer.backend.synchronize()  # what the device has yet to train is no cost of the preview
        started = self._clock()
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._replace(PREVIEW, lambda path: _picture(trainer).save(path, "JPEG", quality=_QUALITY))
            self._replace(PREVIEW_SPLAT, lambda path: _write_splat(path, trainer))
        except (OSError, MemoryError, RuntimeError) as error:
            if not isinstance(error, OSError) and not is_out_of_memory(error):
                raise
            log.warning("the preview could not be written: %s", error)
        ended = self._clock()
        self._due_at = ended + max(self._seconds, (ended - started) / LARGEST_SHARE)
        return True

    def remove(self) -> None:
        """Removes the files, and halves of them that a killed attempt has left."""
        if self._folder is None:
            return
        for name in (PREVIEW, PREVIEW_SPLAT):
            for path in (self._folder / name, *self._folder.glob(f".{name}.*")):
                with contextlib.suppress(OSError):
                    path.unlink(missing_ok=True)

    def _replace(self, name: str, write: Callable[[Path], None]) -> None:
        """Puts a file in its place when it is whole."""
        assert self._folder is not None
        partial = self._folder / f".{name}.{os.getpid()}"
        try:
            write(partial)
            os.replace(partial, self._folder / name)
        except OSError:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
            raise


def _picture(trainer: Trainer) -> Image.Image:
    view = trainer.dataset.train[len(trainer.dataset.train) // 2]
    pixels = (trainer.render(view).nan_to_num(0.0).clamp(0, 1) * 255).round().to(torch.uint8)
    picture = Image.fromarray(pixels.cpu().numpy())
    picture.thumbnail((_LONGEST, _LONGEST))
    return picture


def _write_splat(path: Path, trainer: Trainer) -> None:
    cameras = [view.cameras[0] for view in trainer.dataset.train]
    few = decimated(trainer.gaussians, cameras, MOST_GAUSSIANS)
    cloud = to_cloud(few, trainer.config.antialiased)
    write_spz(path, cloud, np.arange(len(cloud)), _GZIP_LEVEL)
