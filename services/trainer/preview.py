"""A small picture of the scene now and then, for whoever waits for it."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from pathlib import Path

import torch
from PIL import Image

from services.trainer.trainer import Trainer

log = logging.getLogger(__name__)

PREVIEW = "preview.jpg"
_LONGEST = 640  # pixels
_QUALITY = 82


class Previews:
    """Renders the middle one of the training views into a JPEG that is always whole.

    Args:
        folder: Where it goes; None for no previews.
        seconds: Pause between two.
    """

    def __init__(self, folder: Path | None, seconds: float) -> None:
        self._folder = folder
        self._seconds = seconds
        self._written_at = time.monotonic()

    def write_when_due(self, trainer: Trainer) -> bool:
        """Writes a new one when the last is old enough; answers whether it did."""
        if self._folder is None or time.monotonic() - self._written_at < self._seconds:
            return False
        partial = self._folder / f".{PREVIEW}.{os.getpid()}"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            _picture(trainer).save(partial, "JPEG", quality=_QUALITY)
            os.replace(partial, self._folder / PREVIEW)
        except OSError as error:
            log.warning("the preview could not be written: %s", error)
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
        self._written_at = time.monotonic()
        return True


def _picture(trainer: Trainer) -> Image.Image:
    view = trainer.dataset.train[len(trainer.dataset.train) // 2]
    pixels = (trainer.render(view).nan_to_num(0.0).clamp(0, 1) * 255).round().to(torch.uint8)
    picture = Image.fromarray(pixels.cpu().numpy())
    picture.thumbnail((_LONGEST, _LONGEST))
    return picture
