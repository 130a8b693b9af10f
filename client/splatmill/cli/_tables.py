"""Messages as text for people."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import click
from google.protobuf.timestamp_pb2 import Timestamp
from rich.console import Console
from rich.table import Table

from splatmill.cli._session import duration, viewer_url
from splatmill.states import job_error, preset_name, stage_name, state_name, task_state_name
from splatmill.v1 import options_pb2
from splatmill.v1 import reconstruction_pb2 as pb


def print_job(job: pb.Job) -> None:
    """One job in full."""
    rows = [("job", job.job_id), ("title", job.title), ("state", state_name(job.state))]
    rows += [("created", local_time(job.created_at)), ("photos", str(job.image_count))]
    if job.queue_position:
        rows.append(("queue position", str(job.queue_position)))
    if job.state == pb.JOB_STATE_PROCESSING:
        rows.append(("done", f"{100 * job.fraction:.0f} %"))
        if job.HasField("eta_seconds"):
            rows.append(("left", duration(job.eta_seconds)))
    if job.state == pb.JOB_STATE_COMPLETED:
        rows += [("Gaussians", f"{job.gaussian_count:,}"), ("viewer", viewer_url(job.pub_key))]
    elif job.has_scene:
        rows.append(("scene before", viewer_url(job.pub_key)))
    for name, value in rows:
        if value:
            click.echo(f"{name:<15} {value}")
    table = _table("stage", "state", "attempt", "progress", "figures")
    for task in job.tasks:
        figures = ", ".join(f"{name} {value:,.6g}" for name, value in sorted(task.metrics.items()))
        progress = (
            f"{100 * task.progress.fraction:.0f} % {task.progress.step}" if task.HasField("progress") else ""
        )
        state = task_state_name(task.state)
        table.add_row(stage_name(task.stage), state, str(task.attempt or ""), progress, figures)
    _print(table)
    for line in job.log_tail[-10:]:
        click.echo(f"  {line}")
    error = job_error(job)
    if error is not None:
        click.echo(f"{click.style(f'{error.reason}:', fg='red', bold=True)} {error}")


def print_jobs(jobs: Sequence[pb.Job]) -> None:
    """Jobs, one a line."""
    if not jobs:
        click.echo("No jobs.")
        return
    table = _table("job", "state", "done", "photos", "created", "key", "title")
    for job in jobs:
        done = f"{100 * job.fraction:.0f} %"
        created = local_time(job.created_at)
        state = state_name(job.state)
        table.add_row(job.job_id, state, done, str(job.image_count), created, job.pub_key, job.title)
    _print(table)


def print_queue(answer: pb.GetQueueResponse) -> None:
    """What runs and what waits."""
    limit = str(answer.max_concurrent) if answer.max_concurrent else "no limit"
    running, waiting = len(answer.running_jobs), len(answer.pending_jobs)
    click.echo(f"{running} running (at most: {limit}), {waiting} waiting")
    for job in answer.running_jobs:
        click.echo(f"  running  {job.job_id}  since {local_time(job.created_at)}")
    for job in answer.pending_jobs:
        click.echo(f"  {job.position:>7}  {job.job_id}  since {local_time(job.created_at)}")


def print_artifacts(artifacts: Sequence[pb.Artifact]) -> None:
    """Files, one a line."""
    table = _table("name", "bytes", "stage", "by share key")
    for artifact in artifacts:
        public = "yes" if artifact.public else ""
        table.add_row(artifact.name, f"{artifact.size_bytes:,}", stage_name(artifact.stage), public)
    _print(table)


def print_options(options: Sequence[pb.OptionInfo]) -> None:
    """Options, one a line."""
    table = _table("stage", "name", "value", "default", "what it does")
    for option in options:
        table.add_row(
            stage_name(option.stage), option.name, _values(option), option.default_value, option.help
        )
    _print(table)


def print_presets(devices: Sequence[options_pb2.TrainingDevice]) -> None:
    """The presets on each kind of device."""
    for device in devices:
        click.echo(f"\nTraining of about 40 photos on {device.name} ({plural(device.workers, 'trainer')}):")
        table = _table("preset", "steps", "Gaussians", "photos at", "time", "memory", "known from")
        for preset in device.presets:
            size = f"{preset.train_image_size} px" if preset.train_image_size else "full size"
            runs = plural(preset.past_runs, "training") if preset.past_runs else "the device's speed"
            table.add_row(
                preset_name(preset.preset), f"{preset.iterations:,}", f"up to {preset.max_gaussians:,}", size,
                f"about {duration(preset.seconds)}", f"{preset.memory_bytes / 1e9:.1f} GB", runs,
            )  # fmt: skip
        _print(table)


def plural(count: int, noun: str) -> str:
    """``1 trainer``, ``2 trainers``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def print_rows(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Any rows, one a line."""
    table = _table(*columns)
    for row in rows:
        table.add_row(*row)
    _print(table)


def _values(option: pb.OptionInfo) -> str:
    if option.choices:
        return " | ".join(option.choices)
    low = f"{option.minimum:g}" if option.HasField("minimum") else ""
    high = f"{option.maximum:.16g}" if option.HasField("maximum") else ""
    return f"{option.type} {low}..{high}" if low or high else option.type


def local_time(timestamp: Timestamp) -> str:
    """Date and time on this machine's clock."""
    if timestamp.ToNanoseconds() == 0:
        return ""
    moment: datetime = timestamp.ToDatetime(tzinfo=datetime.now().astimezone().tzinfo)
    return moment.strftime("%Y-%m-%d %H:%M:%S")


def _table(*columns: str) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        table.add_column(column, justify="right" if column in ("bytes", "photos", "done") else "left")
    return table


def _print(table: Table) -> None:
    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = 240  # a file has room; wrapped cells would be hard to search
    console.print(table)
