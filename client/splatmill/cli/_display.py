"""A job in the terminal: bars where there is one, plain lines where the output goes to a file."""

from __future__ import annotations

import sys
import time
from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn
from rich.text import Text

from splatmill import UploadProgress, stage_name, state_name
from splatmill.cli._session import duration
from splatmill.v1 import progress_pb2
from splatmill.v1 import reconstruction_pb2 as pb

LABELS = {
    "sample": "Photos",
    "upload": "Upload",
    "sfm": "Cameras",
    "train": "Training",
    "postproc": "Clean-up",
}
_PLAIN_STEP = 0.1
_PLAIN_SECONDS = 15.0


class Display(ABC):
    """Shows an upload and a job's events; a context manager."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    @abstractmethod
    def say(self, line: str) -> None:
        """A line of text."""

    @abstractmethod
    def bar(self, name: str, fraction: float, note: str) -> None:
        """How far ``upload`` or a stage is."""

    def upload(self, progress: UploadProgress) -> None:
        """After a chunk of an upload."""
        fraction = progress.bytes_sent / progress.bytes_total if progress.bytes_total else 1.0
        note = f"{progress.photos_sent}/{progress.photos_total} photos, {progress.bytes_sent / 1e6:.1f} MB"
        self.bar("upload", fraction, note)

    def event(self, event: pb.JobEvent) -> None:
        """Something happened to the job."""
        kind = event.WhichOneof("payload")
        if kind == "queue_position_changed":
            self.say(f"waiting in the queue, position {event.queue_position_changed.position}")
        elif kind == "progress":
            self._progress(event.progress)
        elif kind == "task_state_changed":
            self._task(event.task_state_changed)
        elif kind == "job_state_changed":
            self.say(f"job {state_name(event.job_state_changed.new_state).lower()}")

    def _progress(self, progress: progress_pb2.StageProgress) -> None:
        for line in progress.log_lines:
            self.say(line)
        note = progress.step
        if progress.HasField("training"):
            training = progress.training
            note = f"{training.iteration}/{training.iterations}, {training.iterations_per_second:.0f} it/s"
        if progress.HasField("eta_seconds") and progress.fraction < 1:
            note += f", {duration(progress.eta_seconds)} left"
        self.bar(stage_name(progress.stage), progress.fraction, note)

    def _task(self, change: pb.TaskStateChanged) -> None:
        name = stage_name(change.stage)
        if change.new_state == pb.TASK_STATE_SUCCEEDED:
            self.bar(name, 1.0, "done")
        elif change.new_state == pb.TASK_STATE_LEASED:
            self.bar(name, 0.0, "" if change.attempt < 2 else f"attempt {change.attempt}")
        elif change.HasField("error"):
            again = "; it is tried again" if change.new_state == pb.TASK_STATE_QUEUED else ""
            self.say(f"{LABELS.get(name, name)} failed: {change.error.message}{again}")


class PlainDisplay(Display):
    """A line at each tenth of a bar, and every 15 seconds."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[float, float]] = {}

    def say(self, line: str) -> None:
        """A line of text."""
        click.echo(line)
        sys.stdout.flush()

    def bar(self, name: str, fraction: float, note: str) -> None:
        """How far ``upload`` or a stage is."""
        now = time.monotonic()
        shown, at = self._last.get(name, (-1.0, 0.0))
        due = fraction >= shown + _PLAIN_STEP or (fraction == 1 and shown < 1) or fraction < shown
        if due or (now > at + _PLAIN_SECONDS and fraction > shown):
            self._last[name] = (fraction, now)
            self.say(f"{LABELS.get(name, name)}: {100 * fraction:.0f} %{f' ({note})' if note else ''}")


class _Elapsed(ProgressColumn):
    """Seconds since the bar's first sign of work, in the words of the other texts."""

    def render(self, task: Task) -> Text:
        """One cell."""
        elapsed = task.finished_time if task.finished else task.elapsed
        return Text(duration(elapsed) if elapsed else "", style="cyan")


class BarDisplay(Display):
    """One bar for the upload and each stage; lines scroll above them."""

    def __init__(self, console: Console) -> None:
        self._progress_bars = Progress(
            TextColumn("{task.description:<9}"),
            BarColumn(bar_width=30),
            TextColumn("{task.percentage:>3.0f} %"),
            _Elapsed(),
            TextColumn("{task.fields[note]}", style="dim", markup=False),
            console=console,
            refresh_per_second=8,
        )
        self._ids: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        self._progress_bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress_bars.stop()

    def say(self, line: str) -> None:
        """A line of text."""
        self._progress_bars.console.print(Text(line, style="dim"), soft_wrap=True)

    def bar(self, name: str, fraction: float, note: str) -> None:
        """How far ``upload`` or a stage is."""
        if name not in self._ids:
            self._ids[name] = self._progress_bars.add_task(LABELS.get(name, name), total=1.0, note=note)
        self._progress_bars.update(self._ids[name], completed=fraction, note=note)


def make_display() -> Display:
    """Bars on a terminal, plain lines elsewhere."""
    console = Console()
    return BarDisplay(console) if console.is_terminal and not console.is_dumb_terminal else PlainDisplay()
