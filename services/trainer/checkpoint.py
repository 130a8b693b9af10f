"""Checkpoints: a training that dies goes on from the last one, in another process or on another machine.

A checkpoint lies in a folder that outlives the attempts of a task. It is written beside and
renamed, so that there is always a whole one; it names what it belongs to, so that a run on
other photos, or of another kind, never takes it for its own.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import pickle
import secrets
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from services.trainer.config import TrainingConfig
from services.trainer.dataset import Dataset
from services.trainer.report import TrainingRecord
from services.trainer.trainer import Trainer

log = logging.getLogger(__name__)

_NAME = "checkpoint.pt"
_FORMAT = 3
_EXTENSIBLE = ("iterations", "densify_until_iter", "max_gaussians")  # what a longer run may have more of


def fingerprint(dataset: Dataset) -> str:
    """Names the photos, cameras and points."""
    digest = hashlib.sha256()
    for view in sorted(dataset.train + dataset.test, key=lambda view: view.name):
        digest.update(view.name.encode())
        digest.update(view.cameras[0].cam_from_world.numpy().tobytes())
    digest.update(dataset.positions.numpy().tobytes())
    return digest.hexdigest()


def differing(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Options that keep a run from going on where another one is; none: it goes on.

    A longer run goes on from a shorter one, and may then end densification later and have other
    limits. Otherwise all options are the same, or the scene would not be what they ask for.

    Args:
        before: Options of the run that left the checkpoint.
        now: Options of the run that may go on.
    """
    free = _EXTENSIBLE if now["iterations"] > before.get("iterations", 0) else ()
    return [name for name, value in now.items() if name not in free and before.get(name) != value]


class Checkpoints:
    """Writes and finds the checkpoint of a run. Training goes on while one is written.

    Args:
        folder: That outlives attempts; None where there is none, and nothing is kept.
        photos: What is trained on; see ``fingerprint``.
        config: The run as it was asked for, before memory had its say: that may be another
            on the next machine.
        seconds: Pause between two checkpoints.
        record: What is noted on the way, saved and restored with the rest.
    """

    def __init__(
        self,
        folder: Path | None,
        photos: str,
        config: TrainingConfig,
        seconds: float,
        record: TrainingRecord,
    ) -> None:
        self._folder = folder
        self._photos = photos
        self._options: dict[str, Any] = json.loads(json.dumps(asdict(config)))  # plain values
        self._seconds = seconds
        self._record = record
        self._saved_at = time.monotonic()
        self._pool = ThreadPoolExecutor(1, "checkpoint")
        self._writing: Future[None] | None = None

    def resume(self, trainer: Trainer) -> str:
        """Puts a fresh trainer where the last checkpoint was, if that is on this run's way.

        Returns:
            What came of it, for the log; empty where there was no checkpoint.
        """
        if self._folder is None or not (self._folder / _NAME).is_file():
            return ""
        try:
            saved = torch.load(self._folder / _NAME, map_location="cpu", weights_only=True)
        except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
            log.warning("the checkpoint cannot be read: %s", error)
            return "the last checkpoint cannot be read: training begins anew"
        if saved.get("format") != _FORMAT or saved.get("photos") != self._photos:
            return "the last checkpoint is of other photos or cameras: training begins anew"
        step, others = int(saved["trainer"]["iteration"]), differing(saved["options"], self._options)
        count = len(saved["trainer"]["gaussians"]["means"])
        if not others and count > self._options["max_gaussians"]:
            others = ["max_gaussians"]
        if others:
            names = ", ".join(others)
            return f"the checkpoint of step {step} had other options ({names}): training begins anew"
        try:
            trainer.restore(saved["trainer"])
            self._record.restore(saved["record"])
        except Exception:
            # A mistake of ours; it must not fail the next attempt as well.
            (self._folder / _NAME).unlink(missing_ok=True)
            raise
        self._record.resumed_at = trainer.iteration
        return f"going on from the checkpoint of step {step}"

    def save_when_due(self, trainer: Trainer) -> bool:
        """Begins to save when the last checkpoint is old enough; answers whether it did.

        Only copying to the host's memory holds the training up.
        """
        if self._folder is None or time.monotonic() - self._saved_at < self._seconds:
            return False
        if self._writing is not None and not self._writing.done():
            return False  # a slow disk; there is one copy in memory, not more
        self._saved_at = time.monotonic()
        try:
            content = _copied(self._content(trainer))
        except (MemoryError, RuntimeError) as error:
            log.warning("the checkpoint could not be written: %s", error)
            return False
        self._writing = self._pool.submit(self._write, content)
        return True

    def save(self, trainer: Trainer) -> None:
        """Saves, and returns when it is done. A full disk costs the checkpoint, not the training."""
        if self._writing is not None:
            self._writing.result()
        if self._folder is not None:
            self._write(self._content(trainer))
            self._saved_at = time.monotonic()

    def close(self) -> None:
        """Waits for what is being written; nothing can be saved any more."""
        self._pool.shutdown()

    def _content(self, trainer: Trainer) -> dict[str, Any]:
        return {
            "format": _FORMAT, "photos": self._photos, "options": self._options,
            "trainer": trainer.checkpoint(), "record": self._record.checkpoint(),
        }  # fmt: skip

    def _write(self, content: Mapping[str, Any]) -> None:
        assert self._folder is not None
        partial = self._folder / f".{_NAME}.{secrets.token_hex(4)}"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            for left in self._folder.glob(f".{_NAME}.*"):  # by an attempt that was killed
                left.unlink(missing_ok=True)
            torch.save(content, partial)
            os.replace(partial, self._folder / _NAME)
        except (OSError, MemoryError, RuntimeError) as error:
            log.warning("the checkpoint could not be written: %s", error)
            partial.unlink(missing_ok=True)


def _copied(content: Any) -> Any:
    """The same with every tensor copied to the host's memory."""
    if isinstance(content, torch.Tensor):
        return content.detach().to("cpu", copy=True)
    if isinstance(content, dict):
        return {name: _copied(value) for name, value in content.items()}
    return content
