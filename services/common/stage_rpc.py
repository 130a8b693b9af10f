"""A stage's own streaming RPC: the stage for any gRPC client, without the registry."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from services.common import option_codec
from services.common.child_process import run_in_child
from services.common.progress_codec import progress_to_proto
from services.common.settings import ServiceSettings
from services.common.stage import StageContext, StageResult
from services.common.stage_spec import StageServiceSpec
from services.common.store import LocalStore
from services.common.worker_token import check_worker_token
from splatmill.errors import Reason, SplatmillError
from splatmill.v1 import progress_pb2

log = logging.getLogger(__name__)


class StageServicer:
    """Answers the RPC that ``spec`` names; one run at a time, shared with the worker loop."""

    def __init__(
        self, spec: StageServiceSpec, settings: ServiceSettings, store: LocalStore, busy: asyncio.Lock
    ) -> None:
        self._spec = spec
        self._settings = settings
        self._store = store
        self._busy = busy
        setattr(self, spec.method, self._run)

    async def _run(self, request: Any, context: Any) -> AsyncIterator[Any]:
        check_worker_token(context, self._settings.worker_token)
        options = option_codec.from_proto(request.options, self._spec.options)
        input_dir, output_dir = self._folders(request.input_dir, request.output_dir)
        if self._busy.locked():
            raise SplatmillError(
                Reason.BUSY, "The service is at work on another task.", "Try again later.", retryable=True
            )
        async with self._busy:
            log.info("%s: %s to %s begins", self._spec.method, request.input_dir, request.output_dir)
            outcome = "ended early; its output is removed"
            try:
                async for response in self._work(input_dir, output_dir, options):
                    yield response
                outcome = "done"
            except SplatmillError as error:
                outcome = f"failed: {error.reason}: {error}"
                raise
            finally:
                log.info(
                    "%s: %s to %s: %s", self._spec.method, request.input_dir, request.output_dir, outcome
                )

    async def _work(self, input_dir: Path, output_dir: Path, options: Any) -> AsyncIterator[Any]:
        """The stage's messages; unless the result was sent, nothing stays of the output."""
        done = False
        made = _first_missing(output_dir)
        output_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="splatmill-", ignore_cleanup_errors=True) as scratch:
            run = run_in_child(
                self._spec.name, self._spec.function, input_dir, output_dir, options,
                StageContext(scratch_dir=Path(scratch)), self._settings,
            )  # fmt: skip
            try:
                async with contextlib.aclosing(run) as messages:  # type: ignore[type-var]
                    async for message in messages:
                        if isinstance(message, StageResult):
                            done = True
                            result = progress_pb2.StageResult(metrics=dict(message.metrics))
                            yield self._spec.response(result=result)
                        else:
                            yield self._spec.response(progress=progress_to_proto(self._spec.stage, message))
            finally:
                if not done:
                    await asyncio.to_thread(_remove, output_dir, made)

    def _folders(self, input_name: str, output_name: str) -> tuple[Path, Path]:
        """Checks the two folders of a request."""
        input_dir, output_dir = self._path(input_name, "input_dir"), self._path(output_name, "output_dir")
        if not input_dir.is_dir():
            raise SplatmillError(
                Reason.INPUT_NOT_FOUND, f"There is no folder {input_name!r} in the data folder.",
                "Name a folder relative to the service's data folder.", field="input_dir",
            )  # fmt: skip
        if output_dir.resolve().is_relative_to(input_dir.resolve()):
            raise SplatmillError(
                Reason.INVALID_REQUEST, "The output folder lies in the input folder.",
                "Name a folder outside of it.", field="output_dir",
            )  # fmt: skip
        if output_dir.exists() and not (output_dir.is_dir() and not any(output_dir.iterdir())):
            raise SplatmillError(
                Reason.INVALID_REQUEST, f"The output folder {output_name!r} is not empty, or no folder.",
                "Name a new folder.", field="output_dir",
            )  # fmt: skip
        return input_dir, output_dir

    def _path(self, name: str, field: str) -> Path:
        try:
            return self._store.path(name)
        except SplatmillError as error:
            raise SplatmillError(
                error.reason, f"{field} {name!r} is no path in the data folder.",
                "Name a relative path inside it.", field=field,
            ) from error  # fmt: skip


def _first_missing(folder: Path) -> Path | None:
    """The topmost folder that has to be made for ``folder`` to be there."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    return missing[-1] if missing else None


def _remove(folder: Path, made: Path | None) -> None:
    """Removes a folder, and those above it that were made for it and hold nothing else."""
    shutil.rmtree(folder, ignore_errors=True)
    if made is None:
        folder.mkdir(exist_ok=True)
        return
    for parent in folder.parents:
        if not parent.is_relative_to(made):
            return
        with contextlib.suppress(OSError):
            parent.rmdir()
