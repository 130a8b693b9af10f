"""Commands that run things on this machine: the suite, the sample photos, the demo."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

import click

from splatmill.cli._session import Failure, base_url, shows_errors

# A module of each extra that the five services need.
_NEEDED = {
    "aiohttp": "gateway",
    "sqlmodel": "registry",
    "pycolmap": "sfm",
    "torch": "trainer",
    "scipy": "postproc",
    "grpc_health": "service",
    "pydantic_settings": "service",
}
_SAMPLE_PHOTOS = 30

data_dir_option = click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of jobs and database (environment: SPLATMILL_DATA_DIR; default: data).",
)
port_option = click.option(
    "--port",
    type=click.IntRange(1, 65535),
    help="HTTP port (environment: SPLATMILL_PORT; default: 8000).",
)


def require_services() -> None:
    """Raises Failure when packages of the services are not installed."""
    missing = sorted({extra for module, extra in _NEEDED.items() if find_spec(module) is None})
    if missing:
        raise Failure(
            "The services are not installed here.",
            "Install them with: pip install 'splatmill[client,gateway,registry,sfm,trainer,postproc]' "
            f"(missing: {', '.join(missing)}), or `make run` in a checkout.",
        )


def _set_environment(data_dir: Path | None, port: int | None) -> None:
    """The options of this command, for the services and for what prints addresses."""
    if data_dir is not None:
        os.environ["SPLATMILL_DATA_DIR"] = str(data_dir)
    if port is not None:
        os.environ["SPLATMILL_PORT"] = str(port)


@click.command()
@data_dir_option
@port_option
@click.pass_context
def up(context: click.Context, data_dir: Path | None, port: int | None) -> None:
    """Start all five services on this machine; Ctrl-C stops them."""
    require_services()
    from services.common import supervisor  # noqa: PLC0415

    _set_environment(data_dir, port)
    context.exit(supervisor.main([]))


@click.command()
@click.argument("directory", type=click.Path(file_okay=False, path_type=Path))
@click.option("--photos", default=_SAMPLE_PHOTOS, show_default=True, type=click.IntRange(min=2))
@click.option("--width", default=960, show_default=True, type=click.IntRange(min=32), help="In pixels.")
@click.option("--height", default=720, show_default=True, type=click.IntRange(min=32), help="In pixels.")
@click.option("--seed", default=0, show_default=True, help="The same seed makes the same photos.")
def sample(directory: Path, photos: int, width: int, height: int, seed: int) -> None:
    """Make sample photos in DIRECTORY.

    The true cameras are in cameras.json beside them.
    """
    from splatmill.cli._display import make_display  # noqa: PLC0415
    from splatmill.sample import write_capture  # noqa: PLC0415

    with make_display() as display:

        def tell(done: int, total: int) -> None:
            display.bar("sample", done / total, f"{done}/{total}")

        write_capture(directory, photos, width, height, seed, on_progress=tell)
    click.echo(f"Turn them into a splat:  splatmill submit {directory}")


@click.command()
@click.argument("photos_dir", required=False, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--exit", "leave", is_flag=True, help="Stop when the splat is done instead of serving it.")
@data_dir_option
@port_option
@click.pass_obj
@shows_errors
def demo(server: str, photos_dir: Path | None, leave: bool, data_dir: Path | None, port: int | None) -> None:
    """Turn photos into a splat, starting the suite first.

    Without PHOTOS_DIR it makes sample photos. A suite that runs already is used. The
    result is served until Ctrl-C.
    """
    from splatmill.cli._demo import run_demo  # noqa: PLC0415

    _set_environment(data_dir, port)
    run_demo(server, photos_dir, leave, base_url())
