"""What the database's own errors mean to a caller."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import exc

from splatmill.errors import Reason, SplatmillError

log = logging.getLogger(__name__)

# PostgreSQL's codes, https://www.postgresql.org/docs/current/errcodes-appendix.html:
# serialisation failure, deadlock, and a row that another transaction has just made too.
_CONFLICTS = ("40001", "40P01", "23505")
# Read-only (a standby after a failover), idle in a transaction for too long.
_PASSING = ("25006", "25P03")
_DISK_FULL = "53100"


def is_conflict(error: BaseException) -> bool:
    """Whether two transactions collided, so that doing the same again will do."""
    cause = error if isinstance(error, exc.DBAPIError) else error.__cause__
    return isinstance(cause, exc.DBAPIError) and _sqlstate(cause) in _CONFLICTS


@contextmanager
def translated() -> Iterator[None]:
    """Raises SplatmillError in place of errors that are no bug of ours."""
    try:
        yield
    except exc.TimeoutError as error:  # of the pool
        raise _unavailable("The database is busy.") from error
    except exc.DBAPIError as error:
        found = _meaning(error)
        if found is None:
            raise
        raise found from error


def _meaning(error: exc.DBAPIError) -> SplatmillError | None:
    text, state = str(error.orig).strip(), _sqlstate(error)
    full = state == _DISK_FULL or "database or disk is full" in text
    if full:
        log.error("the database's disk is full: %s", text)
        return SplatmillError(
            Reason.STORAGE_FULL,
            "The database has no room left.",
            "Ask the operator for room.",
            retryable=True,
        )
    if isinstance(error, exc.DataError):
        return SplatmillError(
            Reason.INVALID_REQUEST, "A text holds a NUL character, or a number is too large.",
            "Such values cannot be stored.",
        )  # fmt: skip
    if error.connection_invalidated or state in _PASSING or _passes(error, text):
        log.warning("the database does not answer: %s", text.partition("\n")[0])
        return _unavailable("The database does not answer.")
    return None


def _passes(error: exc.DBAPIError, text: str) -> bool:
    if type(error.orig).__module__.startswith("sqlite3"):
        return isinstance(error, exc.OperationalError) and ("locked" in text or "busy" in text)
    # psycopg: no connection, a lost one, a server that starts or stops, locks that take too long.
    return isinstance(error, (exc.OperationalError, exc.InterfaceError))


def _sqlstate(error: exc.DBAPIError) -> str:
    return getattr(error.orig, "sqlstate", None) or ""


def _unavailable(message: str) -> SplatmillError:
    return SplatmillError(Reason.UNAVAILABLE, message, "Try again in a moment.", retryable=True)
