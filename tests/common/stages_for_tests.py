"""Tiny stages that child processes import by name."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy

from services.common.stage import Progress, StageContext, StageResult
from splatmill.errors import Reason, SplatmillError


def good(input_dir: Path, output_dir: Path, options, context: StageContext):
    print("a library that prints to stdout")  # noqa: T201
    for step in range(5):
        yield Progress("count", step / 5, log_lines=(f"step {step}",))
    (output_dir / "sub").mkdir()
    (output_dir / "sub" / "answer.txt").write_text("42")
    return StageResult({"answer": 42.0})


def typed_error(input_dir, output_dir, options, context):
    yield Progress("try", 0.1, log_lines=("the last words",))
    raise SplatmillError(Reason.NO_OVERLAP, "The photos do not overlap.", "Take more photos.")


def late_error(input_dir, output_dir, options, context):
    """Fails when a heartbeat with its words is on its way."""
    yield Progress("try", 0.1, log_lines=("the last words",))
    time.sleep(1.3)
    raise SplatmillError(Reason.NO_OVERLAP, "The photos do not overlap.", "Take more photos.")


def bug(input_dir, output_dir, options, context):
    yield Progress("try", 0.1)
    raise ZeroDivisionError("a bug")


def memory(input_dir, output_dir, options, context):
    yield Progress("try", 0.1)
    raise MemoryError


def killed(input_dir, output_dir, options, context):
    yield Progress("try", 0.1)
    os.kill(os.getpid(), signal.SIGKILL)


def endless(input_dir, output_dir, options, context):
    """Ignores SIGTERM, has a child of its own, and says both process numbers."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    grandchild = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    (output_dir / "partial.txt").write_text("half")
    number = 0
    while True:
        number += 1
        yield Progress("wait", 0.5, log_lines=(f"{os.getpid()} {grandchild.pid}",) if number == 1 else ())
        time.sleep(0.05)


def slow(input_dir, output_dir, options, context):
    for step in range(40):
        yield Progress("slow", step / 40, log_lines=(f"line {step}",))
        time.sleep(0.05)
    (output_dir / "done.txt").write_text("done")
    return StageResult({"steps": 40.0})


def segfault(input_dir, output_dir, options, context):
    yield Progress("try", 0.1)
    ctypes.string_at(0)


def says_nothing(input_dir, output_dir, options, context):
    yield Progress("try", 0.1)


def leaves(input_dir, output_dir, options, context):
    """A library that thinks it owns the process."""
    yield Progress("try", 0.1)
    sys.exit(3)


def environment(input_dir, output_dir, options, context):
    yield Progress("look", 0.5, log_lines=(json.dumps(dict(os.environ)),))
    return StageResult({"scalar": numpy.float32(0.5)})


def broken_module(input_dir, output_dir, options, context):
    import no_such_package  # noqa: F401, PLC0415

    yield Progress("never", 0.0)


def talkative(input_dir, output_dir, options, context):
    """Twelve megabytes of log at once: three times what a message may hold."""
    for number in range(6000):
        yield Progress("talk", number / 6000, log_lines=(f"{number} {'x' * 1990}",))
    return StageResult()


def quiet(input_dir, output_dir, options, context):
    """Says nothing: no heartbeat is on its way at the end."""
    (output_dir / "done.txt").write_text("done")
    return StageResult()
    yield Progress("never", 0.0)


def calibration(input_dir, output_dir, options, context):
    """Measures in no time."""
    yield Progress("measure", 0.0)
    return StageResult({"seconds": 7.0})


def slow_calibration(input_dir, output_dir, options, context):
    """Measures for ever; says where its process is in the folder of temporary files."""
    Path(os.environ["CALIBRATION_PID"]).write_text(str(os.getpid()))
    yield Progress("measure", 0.0)
    time.sleep(600)
    return StageResult()
