"""Brings a database's schema to what this version of the service works with."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, Engine, inspect, text

from splatmill.errors import Reason, SplatmillError

log = logging.getLogger(__name__)

# The schema that was made before there were revisions.
_UNNUMBERED = "0001"
# Any number will do that nothing else in the database locks.
_LOCK = 0x53504C4154


def head() -> str:
    """The newest revision."""
    return ScriptDirectory.from_config(_config()).get_current_head() or ""


def revision(engine: Engine) -> str | None:
    """The revision a database has; None for an empty one."""
    with engine.connect() as connection:
        return MigrationContext.configure(connection).get_current_revision()


def upgrade(engine: Engine) -> tuple[str | None, str]:
    """Applies what is missing, all or nothing, once however many call it at the same time.

    Args:
        engine: Of the database.

    Returns:
        The revisions before and after; None before for a database without any.

    Raises:
        SplatmillError: The database is of a newer version (INVALID_REQUEST).
    """
    config, newest = _config(), head()
    present = revision(engine)
    if present == newest:
        return present, newest
    with _alone(engine) as connection:
        before = MigrationContext.configure(connection).get_current_revision()
        config.attributes["connection"] = connection
        if before is None and inspect(connection).has_table("schema_info"):
            before = _UNNUMBERED
            command.stamp(config, before)
        try:
            command.upgrade(config, "head")
        except CommandError as error:
            raise SplatmillError(
                Reason.INVALID_REQUEST,
                f"The database is at revision {before}, which this version does not know.",
                "It was upgraded by a newer version: install that one.",
            ) from error  # fmt: skip
    if before != newest:
        log.info("the database went from revision %s to %s", before, newest)
    return before, newest


@contextmanager
def _alone(engine: Engine) -> Iterator[Connection]:
    """A transaction during which nobody else upgrades."""
    with engine.connect() as connection:
        if engine.dialect.name == "sqlite":
            # Rewriting a table would be taken for deleting what others refer to; this can
            # only be set outside of a transaction, and the next one locks the whole file.
            raw = connection.connection.dbapi_connection
            assert raw is not None
            raw.execute("PRAGMA foreign_keys=OFF")
            try:
                with connection.begin():
                    yield connection
            finally:
                raw.execute("PRAGMA foreign_keys=ON")
            return
        with connection.begin():
            connection.execute(text("SET LOCAL lock_timeout = 0"))
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
            yield connection


def _config() -> Config:
    config = Config()
    folder = Path(__file__).parent / "migrations"
    config.set_main_option("script_location", str(folder).replace("%", "%%"))
    return config
