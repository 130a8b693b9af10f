"""The command line, ``splatmill --help``.

Only click is imported here and in the modules of the commands; what a command needs it
imports when it runs, so that ``--help`` and completion answer at once.
"""

from __future__ import annotations

import click

from splatmill.cli._session import default_server
from splatmill.cli.database import db
from splatmill.cli.files import delete, download, options
from splatmill.cli.jobs import cancel, list_jobs, queue, retry, status, submit, watch
from splatmill.cli.keys import keys
from splatmill.cli.operations import errors, share, workers
from splatmill.cli.suite import demo, sample, up

__all__ = ["main"]


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--server",
    metavar="HOST:PORT",
    default=default_server,
    help="The registry's gRPC address (environment: SPLATMILL_REGISTRY_ADDRESS; default: localhost:50051).",
)
@click.version_option(package_name="splatmill")
@click.pass_context
def main(context: click.Context, server: str) -> None:
    """Photos in, a 3D Gaussian splat in the browser out.

    Start everything and try it:  splatmill demo
    """
    context.obj = server


for _command in (
    up,
    demo,
    sample,
    submit,
    watch,
    status,
    list_jobs,
    queue,
    cancel,
    retry,
    delete,
    download,
    options,
    share,
    errors,
    workers,
    keys,
    db,
):
    main.add_command(_command)
