"""Commands about jobs: submit, follow, list, change."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from splatmill.cli._session import (
    Failure,
    connected,
    duration,
    failure_of,
    parse_options,
    print_json,
    shows_errors,
    viewer_url,
)

if TYPE_CHECKING:
    from splatmill import Client
    from splatmill.cli._display import Display
    from splatmill.v1 import reconstruction_pb2 as pb

_STATES = ("uploading", "pending", "processing", "completed", "failed", "cancelled")
option_pairs = click.option(
    "-o",
    "--option",
    "pairs",
    metavar="NAME=VALUE",
    multiple=True,
    help="An option of the job; `splatmill options` lists them. May be given several times.",
)
as_json = click.option("--json", "json_output", is_flag=True, help="Print JSON.")


@click.command()
@click.argument("photos", nargs=-1, required=True, type=click.Path(path_type=Path))
@option_pairs
@click.option("--title", default="", help="A title for people.")
@click.option("--request-id", default="", help="Go on with the upload of an earlier call of this id.")
@click.option("--priority", default=0, help="Higher ones come first; above 0 is for administrators.")
@click.option("--wait/--no-wait", default=True, help="Follow the job until it ends.", show_default=True)
@click.pass_obj
@shows_errors
def submit(
    server: str,
    photos: tuple[Path, ...],
    pairs: tuple[str, ...],
    title: str,
    request_id: str,
    priority: int,
    wait: bool,
) -> None:
    """Upload PHOTOS (files or folders) and turn them into a splat."""
    from splatmill.cli._display import make_display  # noqa: PLC0415

    with connected(server) as client:
        with make_display() as display:
            job = client.create_job(
                photos,
                options=parse_options(pairs),
                title=title,
                request_id=request_id,
                priority=priority,
                on_upload_progress=display.upload,
            )
            display.say(f"job {job.job_id}, {job.image_count} photos")
            if wait:
                with goes_on(job.job_id):
                    job = follow(client, job.job_id, 0, display)
        if wait:
            conclude(job)
        else:
            click.echo(f"Follow it:  splatmill watch {job.job_id}")


@click.command()
@click.argument("job_id")
@click.pass_obj
@shows_errors
def watch(server: str, job_id: str) -> None:
    """Follow a job until it ends."""
    from splatmill.cli._display import make_display  # noqa: PLC0415

    with connected(server) as client:
        with make_display() as display, goes_on(job_id):
            job = follow(client, job_id, 0, display)
        conclude(job)


def follow(client: Client, job_id: str, after_sequence: int, display: Display) -> pb.Job:
    """Shows a job's events until it ends."""
    for event in client.watch(job_id, after_sequence):
        display.event(event)
    return client.get(job_id)


@contextlib.contextmanager
def goes_on(job_id: str) -> Iterator[None]:
    """Says at Ctrl-C that only the watching ends."""
    try:
        yield
    except KeyboardInterrupt:
        raise Failure(f"Job {job_id} goes on.", f"Follow it again with: splatmill watch {job_id}") from None


def conclude(job: pb.Job) -> None:
    """Tells how a job ended; raises when it has no scene."""
    from splatmill import job_error  # noqa: PLC0415
    from splatmill.v1 import reconstruction_pb2 as messages  # noqa: PLC0415

    if job.state == messages.JOB_STATE_COMPLETED:
        spent = job.finished_at.ToNanoseconds() - job.started_at.ToNanoseconds()
        click.echo(f"{job.gaussian_count:,} Gaussians in {duration(spent / 1e9)}")
        click.echo(f"View it:    {click.style(viewer_url(job.pub_key), bold=True)}")
        click.echo(f"Save it:    splatmill download {job.pub_key}")
        return
    error = job_error(job)
    if error is not None:
        raise failure_of(error)
    raise Failure(f"Job {job.job_id} was cancelled.", reason="CANCELLED")


@click.command()
@click.argument("job_id")
@as_json
@click.pass_obj
@shows_errors
def status(server: str, job_id: str, json_output: bool) -> None:
    """Show how a job stands."""
    from splatmill.cli._tables import print_job  # noqa: PLC0415

    with connected(server) as client:
        job = client.get(job_id)
    if json_output:
        print_json(job)
    else:
        print_job(job)


@click.command("list")
@click.option(
    "--state", "states", multiple=True, type=click.Choice(_STATES, case_sensitive=False), help="Only these."
)
@click.option("--limit", default=20, show_default=True, type=click.IntRange(min=1), help="At most so many.")
@as_json
@click.pass_obj
@shows_errors
def list_jobs(server: str, states: tuple[str, ...], limit: int, json_output: bool) -> None:
    """List jobs, newest first."""
    from splatmill.cli._tables import print_jobs  # noqa: PLC0415
    from splatmill.v1 import reconstruction_pb2 as messages  # noqa: PLC0415

    wanted = [messages.JobState.Value(f"JOB_STATE_{state.upper()}") for state in states]
    with connected(server) as client:
        jobs = client.list_jobs(wanted, limit)
    if json_output:
        print_json(messages.ListJobsResponse(jobs=jobs))
    else:
        print_jobs(jobs)


@click.command()
@as_json
@click.pass_obj
@shows_errors
def queue(server: str, json_output: bool) -> None:
    """Show what runs and what waits."""
    from splatmill.cli._tables import print_queue  # noqa: PLC0415

    with connected(server) as client:
        answer = client.queue()
    if json_output:
        print_json(answer)
    else:
        print_queue(answer)


@click.command()
@click.argument("job_ids", metavar="JOB_ID...", nargs=-1, required=True)
@click.pass_obj
@shows_errors
def cancel(server: str, job_ids: tuple[str, ...]) -> None:
    """Cancel jobs."""
    from splatmill import state_name  # noqa: PLC0415

    with connected(server) as client:
        for job_id in job_ids:
            job = client.cancel(job_id)
            click.echo(f"{job_id} {state_name(job.state)}")


@click.command()
@click.argument("job_id")
@click.option(
    "--from-stage",
    type=click.Choice(["sfm", "train", "postproc"]),
    help="First stage to run again; without it the first that did not succeed.",
)
@option_pairs
@click.option("--wait/--no-wait", default=True, help="Follow the job until it ends.", show_default=True)
@click.pass_obj
@shows_errors
def retry(server: str, job_id: str, from_stage: str | None, pairs: tuple[str, ...], wait: bool) -> None:
    """Run an ended job again, keeping what its earlier stages left."""
    from splatmill.cli._display import make_display  # noqa: PLC0415
    from splatmill.v1 import progress_pb2  # noqa: PLC0415

    stage = progress_pb2.Stage.Value(f"STAGE_{(from_stage or 'unspecified').upper()}")
    with connected(server) as client:
        seen = client.get(job_id).last_sequence
        job = client.retry(job_id, stage, parse_options(pairs))
        if not wait:
            click.echo(f"Follow it:  splatmill watch {job_id}")
            return
        with make_display() as display, goes_on(job_id):
            job = follow(client, job_id, seen, display)
        conclude(job)
