"""A stage's progress as protobuf."""

from __future__ import annotations

import math
from collections import deque

from services.common.stage import Progress
from splatmill.v1 import progress_pb2

_MAX_LINE = 2000
_MAX_BYTES = 256 * 1024  # of log lines in one message; the limit of a whole call is 4 MiB


def progress_to_proto(stage: progress_pb2.Stage.ValueType, progress: Progress) -> progress_pb2.StageProgress:
    """The message for one Progress.

    Numbers that are none, which JSON cannot carry, are left out.
    """
    eta = progress.eta_seconds
    message = progress_pb2.StageProgress(
        stage=stage,
        step=progress.step,
        fraction=min(1.0, max(0.0, progress.fraction)),
        eta_seconds=max(0.0, eta) if eta is not None and math.isfinite(eta) else None,
        log_lines=[_line(line) for line in progress.log_lines],
    )
    figures = progress.training
    if figures is not None and math.isfinite(figures.loss) and math.isfinite(figures.iterations_per_second):
        message.training.CopyFrom(
            progress_pb2.TrainingProgress(
                iteration=figures.iteration,
                iterations=figures.iterations,
                loss=figures.loss,
                iterations_per_second=figures.iterations_per_second,
                gaussian_count=figures.gaussian_count,
                test_psnr=figures.test_psnr if _finite(figures.test_psnr) else None,
            )
        )
    if (gpu := progress.gpu_memory) is not None:
        message.gpu_memory.CopyFrom(
            progress_pb2.GpuMemory(index=gpu.index, used_mib=gpu.used_mib, total_mib=gpu.total_mib)
        )
    return message


class Coalescer:
    """Keeps the newest numbers and every log line between two reports."""

    def __init__(self) -> None:
        self._newest: progress_pb2.StageProgress | None = None
        self._lines: deque[str] = deque()

    def __bool__(self) -> bool:
        """Whether there is something to say."""
        return self._newest is not None

    def add(self, message: progress_pb2.StageProgress) -> None:
        """Takes a message in; it becomes this object's own."""
        self._lines.extend(message.log_lines)
        del message.log_lines[:]
        if self._newest is not None:
            for name in ("training", "gpu_memory"):
                if self._newest.HasField(name) and not message.HasField(name):
                    getattr(message, name).CopyFrom(getattr(self._newest, name))
        self._newest = message

    def take(self) -> list[progress_pb2.StageProgress]:
        """What has come since the last take: one message, or none.

        Lines beyond what fits well into one message stay for the next take.
        """
        if self._newest is None:
            return []
        taken = progress_pb2.StageProgress()
        taken.CopyFrom(self._newest)
        room = _MAX_BYTES
        while self._lines and room > 0:
            line = self._lines.popleft()
            taken.log_lines.append(line)
            room -= len(line) + 2
        if not self._lines:
            self._newest = None
        return [taken]


def _finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _line(text: str) -> str:
    """A line as protobuf and a log take it: one line, of bounded length, whole characters only."""
    text = " ".join(text.split("\n")).encode(errors="replace").decode()
    return text if len(text) <= _MAX_LINE else f"{text[:_MAX_LINE]}…"
