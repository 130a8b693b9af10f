"""Checkpoints: a training that dies goes on from the last one, in another process or on another machine.

A checkpoint lies in a folder that outlives the attempts of a task. It is written beside and
renamed, so that there is always a whole one; it names what it belongs to, so that a run on
other photos, or of another kind, never takes it for its own.
"""

from __future__ import annotations

import hashlib
import logging
import os
import pickle
import time
from pathlib import Path

import torch

from services.trainer.config import TrainingConfig
from services.trainer.dataset import Dataset
from services.trainer.report import TrainingRecord
from services.trainer.trainer import Trainer

log = logging.getLogger(__name__)

_NAME = "checkpoint.pt"
_FORMAT = 2


def fingerprint(dataset: Dataset, config: TrainingConfig) -> str:
    """Names the photos, cameras and points, and the choices that a continued run must share.

    The length of the run is none of them: a finished training can be extended.
    """
    choices = (config.sh_degree, config.strategy, config.test_every, config.antialiased, config.exposure)
    digest = hashlib.sha256(" ".join(map(str, choices)).encode())
    for view in dataset.train + dataset.test:
        digest.update(view.name.encode())
        digest.update(view.cameras[0].cam_from_world.numpy().tobytes())
    digest.update(dataset.positions.numpy().tobytes())
    return digest.hexdigest()


class Checkpoints:
    """Writes and finds the checkpoint of a run.

    Args:
        folder: That outlives attempts; None where there is none, and nothing is kept.
        identity: The run's fingerprint.
        seconds: Pause between two checkpoints.
        record: What is noted on the way, saved and restored with the rest.
    """

    def __init__(self, folder: Path | None, identity: str, seconds: float, record: TrainingRecord) -> None:
        self._folder = folder
        self._identity = identity
        self._seconds = seconds
        self._record = record
        self._saved_at = time.monotonic()

    def resume(self, trainer: Trainer) -> bool:
        """Puts a fresh trainer where the last checkpoint was; answers whether there was one."""
        if self._folder is None or not (self._folder / _NAME).is_file():
            return False
        try:
            saved = torch.load(self._folder / _NAME, map_location="cpu", weights_only=True)
        except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
            log.warning("the checkpoint cannot be read, training begins anew: %s", error)
            return False
        if saved.get("format") != _FORMAT or saved.get("identity") != self._identity:
            return False
        if saved["trainer"]["iteration"] > trainer.config.iterations:
            return False
        trainer.restore(saved["trainer"])
        self._record.restore(saved["record"])
        self._record.resumed_at = trainer.iteration
        return True

    def save_when_due(self, trainer: Trainer) -> bool:
        """Saves when the last checkpoint is old enough; answers whether it did."""
        if self._folder is None or time.monotonic() - self._saved_at < self._seconds:
            return False
        self.save(trainer)
        return True

    def save(self, trainer: Trainer) -> None:
        """Saves now. A disk that is full costs the checkpoint, not the training."""
        if self._folder is None:
            return
        partial = self._folder / f".{_NAME}.{os.getpid()}"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            content = {
                "format": _FORMAT, "identity": self._identity, "trainer": trainer.checkpoint(),
                "record": self._record.checkpoint(),
            }  # fmt: skip
            torch.save(content, partial)
            os.replace(partial, self._folder / _NAME)
        except (OSError, RuntimeError) as error:
            log.warning("the checkpoint could not be written: %s", error)
            partial.unlink(missing_ok=True)
        self._saved_at = time.monotonic()
