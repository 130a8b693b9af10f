"""Commands for API keys, run where the registry's database can be reached."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from splatmill.cli._session import shows_errors
from splatmill.cli.database import database_options, opened_database

_DAY = 86_400.0


@click.group()
def keys() -> None:
    """Look after API keys.

    As soon as there is one, nobody gets in without.
    """


@keys.command()
@click.argument("name")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    type=click.Choice(["read", "submit", "admin"]),
    default=("read", "submit"),
    show_default=True,
    help="May be given several times.",
)
@click.option(
    "--days", type=click.FloatRange(min=0, min_open=True), help="How long it works; default: for ever."
)
@click.option("--max-waiting", type=click.IntRange(min=0), help="Most jobs of it that wait at once.")
@click.option("--max-gib", type=click.FloatRange(min=0), help="Most GiB of photos and results.")
@click.option("--max-gpu-minutes", type=click.FloatRange(min=0), help="Most GPU minutes a day, UTC.")
@database_options
@shows_errors
def create(
    name: str,
    scopes: tuple[str, ...],
    days: float | None,
    max_waiting: int | None,
    max_gib: float | None,
    max_gpu_minutes: float | None,
    database_url: str | None,
    data_dir: Path | None,
) -> None:
    """Make a key for NAME and print it: it is shown this once."""

    def work(session: Any) -> str:
        from services.registry import keys as store  # noqa: PLC0415

        quotas = store.Quotas(max_waiting, None if max_gib is None else int(max_gib * 2**30), max_gpu_minutes)
        valid = None if days is None else days * _DAY
        return store.create(session, name, map(store.Scope, scopes), quotas, valid)[1]

    click.echo(_in_database(database_url, data_dir, work))


@keys.command(name="list")
@database_options
@shows_errors
def list_keys(database_url: str | None, data_dir: Path | None) -> None:
    """List the keys, without their secrets."""

    def work(session: Any) -> list[list[str]]:
        from services.registry import keys as store  # noqa: PLC0415

        return [
            [row.key_id, row.name, row.scopes, _state(row), _limits(row), _time(row.last_used_at)]
            for row in store.all_keys(session)
        ]

    rows = _in_database(database_url, data_dir, work)
    if not rows:
        click.echo("There is no key: the suite is open to everyone.")
        return
    from splatmill.cli._tables import print_rows  # noqa: PLC0415

    print_rows(["key", "name", "scopes", "state", "limits", "last used"], rows)


@keys.command()
@click.argument("key_id")
@database_options
@shows_errors
def revoke(key_id: str, database_url: str | None, data_dir: Path | None) -> None:
    """End the key KEY_ID; its jobs stay."""

    def work(session: Any) -> str:
        from services.registry import keys as store  # noqa: PLC0415

        return store.revoke(session, key_id).name

    click.echo(f"The key of {_in_database(database_url, data_dir, work)} opens nothing any more.")


def _in_database(database_url: str | None, data_dir: Path | None, work: Callable[[Any], Any]) -> Any:
    with opened_database(database_url, data_dir) as database:
        database.upgrade()
        return database.run(work)


def _state(row: Any) -> str:
    if row.revoked_at is not None:
        return "revoked"
    if row.expires_at is None:
        return "valid"
    return f"until {_time(row.expires_at)}" if row.expires_at > time.time() else "expired"


def _limits(row: Any) -> str:
    parts = []
    if row.max_waiting_jobs is not None:
        parts.append(f"{row.max_waiting_jobs} waiting")
    if row.max_bytes is not None:
        parts.append(f"{row.max_bytes / 2**30:g} GiB")
    if row.max_gpu_minutes is not None:
        parts.append(f"{row.max_gpu_minutes:g} GPU min a day")
    return ", ".join(parts) or "none"


def _time(seconds: float | None) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M") if seconds is not None else "never"
