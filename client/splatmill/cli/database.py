"""Commands for the registry's database, run where the registry is installed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from splatmill.cli._session import Failure, shows_errors
from splatmill.cli.suite import data_dir_option

if TYPE_CHECKING:
    from services.registry.database import Database

_NEEDED = ("alembic", "psycopg", "sqlmodel", "pydantic_settings")

_F = TypeVar("_F", bound=Callable[..., Any])


def database_options(command: _F) -> _F:
    """Adds the options that say which database."""
    url = click.option(
        "--database-url",
        metavar="URL",
        help="PostgreSQL or SQLite (environment: SPLATMILL_DATABASE_URL; default: in the data folder).",
    )
    return url(data_dir_option(command))


@contextlib.contextmanager
def opened_database(database_url: str | None, data_dir: Path | None) -> Iterator[Database]:
    """The registry's database, as settings and options say.

    Raises:
        Failure: The registry is not installed here.
    """
    missing = [module for module in _NEEDED if find_spec(module) is None]
    if missing:
        raise Failure(
            f"The registry is not installed here (missing: {', '.join(missing)}).",
            "Install it with: pip install 'splatmill[client,registry]'",
        )
    from services.common.settings import load_settings  # noqa: PLC0415
    from services.registry.database import Database  # noqa: PLC0415
    from services.registry.settings import RegistrySettings  # noqa: PLC0415

    settings = load_settings(RegistrySettings)
    given = {"data_dir": data_dir, "database_url": database_url}
    settings = settings.model_copy(update={name: value for name, value in given.items() if value is not None})
    database = Database(settings.resolved_database_url)
    try:
        yield database
    finally:
        database.close()


@click.group()
def db() -> None:
    """Look after the registry's database."""


@db.command()
@database_options
@shows_errors
def upgrade(database_url: str | None, data_dir: Path | None) -> None:
    """Bring the database's schema up to date.

    The registry does so itself when it starts; this is for those who want it done before,
    such as with the rights of another user. It can be repeated, and run while others do.
    """
    with opened_database(database_url, data_dir) as database:
        before, after = database.upgrade()
        where = database.engine.url.set(query={}).render_as_string()
    if before == after:
        click.echo(f"{where} is up to date, at revision {after}.")
    else:
        click.echo(f"{where} went from {before or 'empty'} to revision {after}.")
