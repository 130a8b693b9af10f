"""Has a worker's device measured while there is nothing else to do."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import tempfile
from collections.abc import Mapping
from pathlib import Path

from services.common.child_process import run_in_child
from services.common.settings import ServiceSettings
from services.common.stage import StageContext, StageResult
from services.common.stage_spec import StageServiceSpec
from splatmill.errors import SplatmillError
from splatmill.v1 import options_pb2

log = logging.getLogger(__name__)

_TRIES = 3


class Calibrating:
    """Runs the stage's calibration, in a process of its own, until it has succeeded once.

    Args:
        spec: The stage; without a calibration nothing is ever done.
        settings: Of the service.
        busy: Held while the stage's own RPC works; what is measured meanwhile is not true.
    """

    def __init__(self, spec: StageServiceSpec, settings: ServiceSettings, busy: asyncio.Lock) -> None:
        self._spec = spec
        self._settings = settings
        self._busy = busy
        self._tries = _TRIES if spec.calibration else 0
        self._task: asyncio.Task[None] | None = None
        self.result: options_pb2.TrainingDevice | None = None
        """What is known of the device, once it is."""

    @property
    def pending(self) -> bool:
        """Whether the result may still come."""
        return self.result is None and self._tries > 0

    def begin(self) -> None:
        """Goes on in the background, where there is something left to do."""
        if self.pending and (self._task is None or self._task.done()):
            self._task = asyncio.create_task(self._measure())

    async def stop(self) -> None:
        """Ends it: the device is needed. It may begin again."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _measure(self) -> None:
        try:
            metrics = await self._metrics()
            describe = self._spec.training_device
            assert describe is not None  # comes with the calibration
            if not self._busy.locked():
                self.result = describe(self._settings, metrics)
                log.info("the speed of %s is known", self.result.name)
        except SplatmillError as error:
            self._tries -= 1
            log.warning("the speed of the device cannot be measured: %s", error)
        except Exception:  # estimates are not worth a worker
            self._tries -= 1
            log.exception("the speed of the device cannot be measured")

    async def _metrics(self) -> Mapping[str, float]:
        spec, metrics = self._spec, {}
        with tempfile.TemporaryDirectory(prefix="splatmill-", ignore_cleanup_errors=True) as name:
            folder = Path(name)
            run = run_in_child(
                spec.name,
                spec.calibration,
                folder,
                folder,
                spec.options(),
                StageContext(folder),
                self._settings,
            )
            async with contextlib.aclosing(run) as messages:  # type: ignore[type-var]
                async for message in messages:
                    if isinstance(message, StageResult):
                        metrics = dict(message.metrics)
        return metrics
