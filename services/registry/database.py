"""The database: SQLite on one machine, PostgreSQL for many, one code path."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, event
from sqlalchemy.engine import make_url
from sqlmodel import Session, SQLModel, create_engine

from services.registry.models import SCHEMA_VERSION, SchemaInfo

_BUSY_SECONDS = 30


class Database:
    """Sessions on one engine.

    Args:
        url: SQLAlchemy URL.
    """

    def __init__(self, url: str) -> None:
        parsed = make_url(url)
        self.engine: Engine
        if parsed.get_backend_name() == "sqlite":
            if parsed.database:
                Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
            self.engine = create_engine(
                url, connect_args={"timeout": _BUSY_SECONDS, "check_same_thread": False}
            )
            _set_up_sqlite(self.engine)
        else:
            self.engine = create_engine(url, pool_pre_ping=True)
        SQLModel.metadata.create_all(self.engine)
        with self.transaction() as session:
            if session.get(SchemaInfo, 1) is None:
                session.add(SchemaInfo(version=SCHEMA_VERSION))

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """A session whose work is committed at the end, or undone by an error."""
        with Session(self.engine, expire_on_commit=False) as session, session.begin():
            yield session

    def close(self) -> None:
        """Closes all connections."""
        self.engine.dispose()


def _set_up_sqlite(engine: Engine) -> None:
    """WAL, so that readers never wait, and BEGIN IMMEDIATE, so that writers queue instead of failing."""

    @event.listens_for(engine, "connect")
    def on_connect(connection: Any, _record: Any) -> None:
        connection.isolation_level = None
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=NORMAL")
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.close()

    @event.listens_for(engine, "begin")
    def on_begin(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
