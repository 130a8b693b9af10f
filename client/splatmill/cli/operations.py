"""Commands for share links, failed attempts and workers."""

from __future__ import annotations

import re

import click

from splatmill.cli._session import connected, shows_errors, viewer_url

_SECONDS = {"m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 7 * 86_400.0}


class _Time(click.ParamType[float]):
    """A time such as ``90m``, ``12h`` or ``7d``, in seconds."""

    name = "time"

    def convert(self, value: object, param: click.Parameter | None, context: click.Context | None) -> float:
        """Reads it."""
        match = re.fullmatch(r"(\d+(?:\.\d+)?)([mhdw])", str(value).strip())
        if match is None or float(match[1]) <= 0:
            self.fail(f"{value!r} is no time such as 90m, 12h, 7d or 2w", param, context)
        return float(match[1]) * _SECONDS[match[2]]


@click.command()
@click.argument("job_id")
@click.option("--close", "action", flag_value="CLOSE", help="The link works no more.")
@click.option("--renew", "action", flag_value="RENEW", help="A new link; the old one never works again.")
@click.option("--for", "valid_for", type=_Time(), metavar="TIME", help="Works so long: 90m, 12h, 7d, 2w.")
@click.pass_obj
@shows_errors
def share(server: str, job_id: str, action: str | None, valid_for: float | None) -> None:
    """Open the share link of JOB_ID, close it, or make a new one."""
    from splatmill.v1 import reconstruction_pb2 as pb  # noqa: PLC0415

    wanted = pb.ShareAction.Value(f"SHARE_ACTION_{action or 'OPEN'}")
    with connected(server) as client:
        job = client.share(job_id, wanted, valid_for)
    if not job.shared:
        click.echo("The link is closed.")
        return
    click.echo(viewer_url(job.pub_key))
    if job.HasField("share_expires_at"):
        from splatmill.cli._tables import local_time  # noqa: PLC0415

        click.echo(f"It works until {local_time(job.share_expires_at)}.")


@click.command()
@click.argument("job_id", default="")
@click.pass_obj
@shows_errors
def errors(server: str, job_id: str) -> None:
    """List failed attempts: of JOB_ID, or of all jobs."""
    from splatmill import stage_name  # noqa: PLC0415

    with connected(server) as client:
        found = client.errors(job_id)
    if not found:
        click.echo("No attempt has failed.")
        return
    from splatmill.cli._tables import local_time, print_rows  # noqa: PLC0415

    print_rows(
        ["when", "job", "stage", "attempt", "reason", "message"],
        [
            [
                local_time(error.created_at),
                error.job_id,
                stage_name(error.stage),
                str(error.attempt),
                error.error.reason,
                error.error.message,
            ]
            for error in found
        ],
    )


@click.command()
@click.pass_obj
@shows_errors
def workers(server: str) -> None:
    """List the workers and what they are at."""
    from splatmill import stage_name  # noqa: PLC0415

    with connected(server) as client:
        found = client.workers()
    if not found:
        click.echo("No worker was heard of within a day.")
        return
    from splatmill.cli._tables import local_time, print_rows  # noqa: PLC0415

    print_rows(
        ["worker", "stages", "device", "last seen", "at"],
        [
            [
                worker.worker_id,
                " ".join(map(stage_name, worker.stages)),
                worker.device,
                local_time(worker.last_seen_at),
                worker.job_id or "-",
            ]
            for worker in found
        ],
    )
