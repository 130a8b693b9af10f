"""Commands about what a job leaves, and what it may be told."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import click

from splatmill.cli._session import Failure, connected, shows_errors
from splatmill.cli.jobs import as_json

if TYPE_CHECKING:
    from splatmill.v1 import reconstruction_pb2 as pb


@click.command()
@click.argument("job_ids", metavar="JOB_ID...", nargs=-1, required=True)
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
@shows_errors
def delete(server: str, job_ids: tuple[str, ...], yes: bool) -> None:
    """Delete jobs and all their files."""
    if not yes:
        click.confirm(f"Delete {', '.join(job_ids)} with all photos and scenes?", abort=True)
    with connected(server) as client:
        for job_id in job_ids:
            client.delete(job_id)
            click.echo(f"{job_id} deleted")


@click.command()
@click.argument("key", metavar="JOB_OR_KEY")
@click.argument("names", nargs=-1)
@click.option(
    "-o",
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(),
    help="Folder to write to; the working folder without it.",
)
@click.option("--all", "everything", is_flag=True, help="Every file of the job, photos included.")
@click.option("--list", "only_list", is_flag=True, help="List the files instead.")
@click.pass_obj
@shows_errors
def download(
    server: str, key: str, names: tuple[str, ...], output: Path, everything: bool, only_list: bool
) -> None:
    """Download files of a job, by its id or its share key.

    Without NAMES: the scene in every format. A download that broke off goes on where it was.
    """
    from splatmill.cli._tables import print_artifacts  # noqa: PLC0415

    with connected(server) as client:
        if only_list:
            print_artifacts(client.artifacts(key))
            return
        if not names:
            names = _default_names(client.artifacts(key), everything)
        for name in names:
            path = client.download(key, name, local_path(output, name))
            click.echo(f"{path}  {path.stat().st_size:,} bytes")


def _default_names(artifacts: list[pb.Artifact], everything: bool) -> tuple[str, ...]:
    """The scene in every format, or everything; a job's own listing has it under its real names."""
    chosen = [
        artifact.name
        for artifact in artifacts
        if everything
        or artifact.public
        or artifact.name.startswith("scene.")
        or PurePosixPath(artifact.name).name == "point_cloud_filtered.ply"
    ]
    if not chosen:
        raise Failure("There is no scene yet.", "Wait until the job has ended.", "ARTIFACT_NOT_FOUND")
    return tuple(chosen)


def local_path(folder: Path, name: str) -> Path:
    """Where a file of that name goes; never outside the folder, whatever the server says."""
    parts = PurePosixPath(name).parts
    if not parts or any(part in ("..", "/") or "\\" in part or ":" in part for part in parts):
        raise Failure(f"{name!r} is no name of a file.", "`--list` shows the names.")
    return folder.joinpath(*parts)


@click.command()
@as_json
@click.pass_obj
@shows_errors
def options(server: str, json_output: bool) -> None:
    """List the options a job may have, and what the presets come to on this suite's devices."""
    from splatmill.cli._session import print_json  # noqa: PLC0415
    from splatmill.cli._tables import print_options, print_presets  # noqa: PLC0415
    from splatmill.errors import Reason, SplatmillError  # noqa: PLC0415
    from splatmill.v1 import reconstruction_pb2 as messages  # noqa: PLC0415

    with connected(server) as client:
        found = client.options()
        try:
            devices = client.presets()
        except SplatmillError as error:
            if error.reason not in (Reason.UNAUTHENTICATED, Reason.PERMISSION_DENIED):
                raise
            devices = []  # the options are for everyone, what is there is not
    if json_output:
        print_json(messages.ListOptionsResponse(options=found), messages.ListPresetsResponse(devices=devices))
    else:
        print_options(found)
        print_presets(devices)
