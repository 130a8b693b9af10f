"""A stage's progress as protobuf."""

from __future__ import annotations

from services.common.stage import Progress
from splatmill.v1 import progress_pb2


def progress_to_proto(stage: progress_pb2.Stage.ValueType, progress: Progress) -> progress_pb2.StageProgress:
    """The message for one Progress."""
    message = progress_pb2.StageProgress(
        stage=stage,
        step=progress.step,
        fraction=min(1.0, max(0.0, progress.fraction)),
        eta_seconds=progress.eta_seconds,
        log_lines=progress.log_lines,
    )
    if (figures := progress.training) is not None:
        message.training.CopyFrom(
            progress_pb2.TrainingProgress(
                iteration=figures.iteration,
                iterations=figures.iterations,
                loss=figures.loss,
                iterations_per_second=figures.iterations_per_second,
                gaussian_count=figures.gaussian_count,
                test_psnr=figures.test_psnr,
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
        self._pending: progress_pb2.StageProgress | None = None

    def add(self, message: progress_pb2.StageProgress) -> None:
        """Takes a message in."""
        if self._pending is not None:
            lines = [*self._pending.log_lines, *message.log_lines]
            merged = progress_pb2.StageProgress()
            merged.CopyFrom(message)
            del merged.log_lines[:]
            merged.log_lines.extend(lines)
            if not message.HasField("training") and self._pending.HasField("training"):
                merged.training.CopyFrom(self._pending.training)
            if not message.HasField("gpu_memory") and self._pending.HasField("gpu_memory"):
                merged.gpu_memory.CopyFrom(self._pending.gpu_memory)
            message = merged
        self._pending = message

    def take(self) -> list[progress_pb2.StageProgress]:
        """What has come since the last take: one message, or none."""
        taken, self._pending = self._pending, None
        return [] if taken is None else [taken]
