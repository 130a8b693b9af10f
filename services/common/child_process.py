"""Runs a stage in a process of its own, so that a crash, a cancel or a memory leak ends with it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pickle
import signal
import struct
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from services.common import log_context
from services.common.child import out_of_memory
from services.common.cores import thread_environment
from services.common.options import StageOptions
from services.common.settings import ServiceSettings
from services.common.stage import Progress, StageContext, StageResult
from splatmill.errors import Reason, SplatmillError

TERMINATE_SECONDS = 20.0
"""A training writes its last checkpoint meanwhile, gigabytes perhaps; other stages end at once."""


async def run_in_child(
    service: str,
    function: str,
    input_dir: Path,
    output_dir: Path,
    options: StageOptions,
    context: StageContext,
    settings: ServiceSettings,
) -> AsyncIterator[Progress | StageResult]:
    """Runs ``module:function`` and yields its progress, then its result.

    Closing the iterator, or cancelling the task that reads it, ends the process.

    Raises:
        SplatmillError: What the stage raised, or STAGE_CRASHED when the process died.
    """
    request = {
        "service": service,
        "function": function,
        "input_dir": input_dir,
        "output_dir": output_dir,
        "options": options,
        "context": context,
        "log_level": settings.log_level,
        "log_format": settings.log_format,
        "log_context": log_context.current(),
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.common.child",
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, start_new_session=True,
        env={**os.environ, **thread_environment()},
    )  # fmt: skip
    try:
        data = pickle.dumps(request)
        assert process.stdin is not None
        with contextlib.suppress(ConnectionError):
            process.stdin.write(struct.pack("<Q", len(data)) + data)
            await process.stdin.drain()
        while (message := await _receive(process)) is not None:
            if isinstance(message, SplatmillError):
                raise message
            yield message
            if isinstance(message, StageResult):
                return
        raise _crashed(await process.wait())
    finally:
        await asyncio.shield(_end(process))


async def _receive(process: asyncio.subprocess.Process) -> Progress | StageResult | SplatmillError | None:
    """The next message; None at the end of the stream."""
    assert process.stdout is not None
    try:
        (size,) = struct.unpack("<Q", await process.stdout.readexactly(8))
        message: Progress | StageResult | SplatmillError = pickle.loads(
            await process.stdout.readexactly(size)
        )
    except asyncio.IncompleteReadError:
        return None
    return message


def _crashed(status: int) -> SplatmillError:
    if status >= 0:
        return SplatmillError(
            Reason.STAGE_CRASHED, f"The stage's process ended with exit status {status} before it was done.",
            "The service's log has the details. Trying again may help.", retryable=True,
        )  # fmt: skip
    known = {int(number): number.name for number in signal.Signals}
    name = known.get(-status, f"signal {-status}")
    if -status == signal.SIGKILL:
        error = out_of_memory()
        return SplatmillError(
            Reason.STAGE_CRASHED, f"The stage's process was killed ({name}): most likely memory ran out.",
            error.remedy, retryable=True,
        )  # fmt: skip
    return SplatmillError(
        Reason.STAGE_CRASHED, f"The stage's process died of {name}.",
        "The service's log has the details. Trying again may help.", retryable=True,
    )  # fmt: skip


async def _end(process: asyncio.subprocess.Process) -> None:
    """Terminates the process and all it has started; kills what is left after a while."""
    if process.returncode is None:
        _signal_group(process.pid, signal.SIGTERM)
        try:
            await asyncio.wait_for(process.wait(), TERMINATE_SECONDS)
        except TimeoutError:
            _signal_group(process.pid, signal.SIGKILL)
            await process.wait()
    _signal_group(process.pid, signal.SIGKILL)


def _signal_group(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)
