"""The database: SQLite on one machine, PostgreSQL for many, one code path."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import URL, Engine, event, func, select
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError
from sqlmodel import Session, create_engine

from services.registry import schema
from services.registry.database_errors import is_conflict, translated
from services.registry.notify import CHANNEL, payloads, topics_of
from services.registry.observations import observe_all
from splatmill.errors import Reason, SplatmillError

_BUSY_SECONDS = 30
_POOL_SECONDS = 10.0
_CONFLICT_ATTEMPTS = 5

ResultT = TypeVar("ResultT")

# A silent server is given up within about 15 s, in libpq's own words. A replica that stops
# in the middle of a transaction must not hold its locks for long.
_POSTGRESQL_DEFAULTS = {
    "application_name": "splatmill-registry",
    "connect_timeout": "5",
    "keepalives_idle": "10",
    "keepalives_interval": "3",
    "keepalives_count": "2",
    "tcp_user_timeout": "15000",
    "options": "-c lock_timeout=20s -c idle_in_transaction_session_timeout=60s",
}


class Database:
    """Sessions on one engine.

    Args:
        url: SQLAlchemy URL of SQLite or PostgreSQL.
        pool_size: Most connections to PostgreSQL at once.

    Raises:
        SplatmillError: The URL cannot be used (INVALID_OPTION).
    """

    def __init__(self, url: str, pool_size: int = 16) -> None:
        parsed = parse_url(url)
        self.name = secrets.token_hex(4)
        """Tells this replica's news from others'."""
        self.on_news: Callable[..., None] = lambda *topics: None
        """Is called with the topics of each transaction after its commit."""
        self.engine: Engine
        if parsed.get_backend_name() == "sqlite":
            if parsed.database:
                _make_folder(Path(parsed.database).parent)
            self.engine = create_engine(
                parsed, connect_args={"timeout": _BUSY_SECONDS, "check_same_thread": False}
            )
            _set_up_sqlite(self.engine)
        else:
            # Asking before use costs a round trip, and spares callers the error after each
            # restart of the server.
            self.engine = create_engine(
                parsed, pool_pre_ping=True, pool_size=pool_size, max_overflow=0,
                pool_timeout=_POOL_SECONDS, pool_use_lifo=True,
            )  # fmt: skip

    @property
    def is_shared(self) -> bool:
        """Whether other replicas may work on it: PostgreSQL."""
        return self.engine.dialect.name == "postgresql"

    def upgrade(self) -> tuple[str | None, str]:
        """Brings the schema up to date; answers the revisions before and after.

        Raises:
            SplatmillError: UNAVAILABLE, or INVALID_REQUEST for a database that is of a newer
                version, or may not be changed.
        """
        try:
            with translated():
                return schema.upgrade(self.engine)
        except DBAPIError as error:
            cause = str(error.orig).strip().partition("\n")[0]
            raise SplatmillError(
                Reason.INVALID_REQUEST, f"The database cannot be used: {cause}.",
                "Check SPLATMILL_DATABASE_URL, and the rights of its user.",
            ) from error  # fmt: skip

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """A session whose work is committed at the end, or undone by an error.

        Raises:
            SplatmillError: The database cannot be reached or is busy (UNAVAILABLE, retryable).
        """
        with translated():
            with Session(self.engine, expire_on_commit=False) as session, session.begin():
                yield session
                topics = topics_of(session)
                if self.is_shared:
                    for payload in payloads(self.name, topics):
                        session.execute(select(func.pg_notify(CHANNEL, payload)))
            if topics:
                self.on_news(*topics)
            observe_all(session)

    def run(self, work: Callable[[Session], ResultT]) -> ResultT:
        """Runs work in a transaction, again where another transaction was in its way.

        Args:
            work: Must bear being begun again after it was undone.

        Returns:
            What the work answers.
        """
        for _ in range(_CONFLICT_ATTEMPTS - 1):
            try:
                with self.transaction() as session:
                    return work(session)
            except Exception as error:
                if not is_conflict(error):
                    raise
        with self.transaction() as session:
            return work(session)

    def connect_arguments(self) -> dict[str, Any]:
        """How the driver itself is called to connect."""
        _, named = self.engine.dialect.create_connect_args(self.engine.url)
        return dict(named)

    def close(self) -> None:
        """Closes all connections."""
        self.engine.dispose()


def parse_url(url: str) -> URL:
    """The URL with the one driver we use, and with defaults where it says nothing itself.

    Raises:
        SplatmillError: It is none of SQLite or PostgreSQL (INVALID_OPTION).
    """
    try:
        parsed = make_url(url.replace("postgres://", "postgresql://", 1))
        backend = parsed.get_backend_name()
        if backend == "postgresql":
            parsed = parsed.set(drivername="postgresql+psycopg")
            parsed = parsed.set(query={**_POSTGRESQL_DEFAULTS, **parsed.query})
        parsed.get_dialect()
    except (ArgumentError, NoSuchModuleError, ValueError):
        backend = ""
    if backend not in ("sqlite", "postgresql"):
        # The URL itself is not repeated: it may hold a password.
        raise SplatmillError(
            Reason.INVALID_OPTION, "SPLATMILL_DATABASE_URL is no URL of SQLite or PostgreSQL.",
            "Set it to one like postgresql://user:password@host:5432/database, or unset it.",
            field="SPLATMILL_DATABASE_URL",
        )  # fmt: skip
    return parsed


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SplatmillError(
            Reason.INVALID_OPTION, f"The database's folder {folder} cannot be made: {error.strerror}.",
            "Choose another with SPLATMILL_DATABASE_URL or SPLATMILL_DATA_DIR.",
        ) from error  # fmt: skip


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
