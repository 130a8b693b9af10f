"""The child process that runs a stage; started by ``child_process``, never by hand.

It reads one pickled request from stdin and writes length-prefixed pickles to what was
stdout: Progress, then a StageResult or an error. Its own stdout becomes stderr, so that
nothing a library prints can get between.
"""

from __future__ import annotations

import ctypes
import faulthandler
import importlib
import logging
import os
import pickle
import signal
import struct
import sys
import threading
from typing import Any, BinaryIO

from services.common.log_context import about
from services.common.logging import set_up_logging
from services.common.stage import StageResult
from splatmill.errors import Reason, SplatmillError

log = logging.getLogger(__name__)

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Reads the request, runs the stage, answers."""
    _die_with_parent()
    faulthandler.enable()  # native libraries crash, too; the log then says where
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    (size,) = struct.unpack("<Q", sys.stdin.buffer.read(8))
    request: dict[str, Any] = pickle.loads(sys.stdin.buffer.read(size))
    threading.Thread(target=_exit_when_closed, daemon=True).start()
    set_up_logging(request["service"], request["log_level"], request["log_format"])
    try:
        with about(**request["log_context"]):
            _run(request, answers)
    except SplatmillError as error:
        _send(answers, error)
    except MemoryError:
        _send(answers, out_of_memory())
    except (Exception, SystemExit) as error:
        log.exception("%s failed unexpectedly", request["function"])
        _send(answers, SplatmillError(
            Reason.STAGE_CRASHED, f"The stage failed unexpectedly: {type(error).__name__}: {error}",
            "The service's log has the details. Trying again may help.", retryable=True,
        ))  # fmt: skip
    answers.flush()
    # Libraries with threads of their own may hang at interpreter exit; nothing is left to do.
    sys.stderr.flush()
    os._exit(0)


def out_of_memory() -> SplatmillError:
    """Memory ran out, in the words of every path that finds it."""
    return SplatmillError(
        Reason.OUT_OF_MEMORY, "The stage ran out of memory.",
        "Use fewer or smaller photos (max_image_size, train_image_size), or fewer Gaussians (max_gaussians).",
    )  # fmt: skip


def _run(request: dict[str, Any], answers: BinaryIO) -> None:
    module, _, name = request["function"].partition(":")
    function = getattr(importlib.import_module(module), name)
    run = function(request["input_dir"], request["output_dir"], request["options"], request["context"])
    while True:
        try:
            progress = next(run)
        except StopIteration as stop:
            result: StageResult = stop.value
            # Plain numbers: the service must not import torch to read one of its scalars.
            _send(answers, StageResult({key: float(value) for key, value in result.metrics.items()}))
            return
        _send(answers, progress)


def _send(answers: BinaryIO, message: object) -> None:
    data = pickle.dumps(message)
    answers.write(struct.pack("<Q", len(data)) + data)
    answers.flush()


def _die_with_parent() -> None:
    """Linux kills this process when its parent dies; elsewhere the closed pipe ends it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _exit_when_closed() -> None:
    """Ends this process and what it has started when the parent closes the pipe, or dies."""
    while os.read(0, 1):
        pass
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


if __name__ == "__main__":
    main()
