"""API keys: made, looked up, revoked. Of a key only a hash is kept."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import string
import time
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from sqlmodel import Session, col, select

from services.registry.models import ApiKey
from splatmill.errors import Reason, SplatmillError

_PREFIX = "sm"
_ID_LENGTH = 8
_ALPHABET = string.ascii_letters + string.digits
_MAX_TOKEN = 200
_MAX_NAME = 100
_USED_SECONDS = 60.0


class Scope(StrEnum):
    """What a key allows."""

    READ = "read"
    """See one's own jobs and their files."""
    SUBMIT = "submit"
    """Make jobs, and change one's own."""
    ADMIN = "admin"
    """Everything, with everyone's jobs."""


@dataclass(frozen=True)
class Caller:
    """Who makes a call."""

    key_id: str
    """Empty while the suite is open to all."""
    name: str
    scopes: frozenset[Scope]

    @property
    def sees_all(self) -> bool:
        """Whether the jobs of others are no secret."""
        return Scope.ADMIN in self.scopes


EVERYONE = Caller("", "everyone", frozenset(Scope))
"""The caller while no key has been made."""


@dataclass(frozen=True)
class Quotas:
    """What a key may use; None for no limit."""

    max_waiting_jobs: int | None = None
    max_bytes: int | None = None
    """Of photos and results together."""
    max_gpu_minutes: float | None = None
    """A day, UTC."""


def create(
    session: Session,
    name: str,
    scopes: Iterable[Scope] = (Scope.READ, Scope.SUBMIT),
    quotas: Quotas = Quotas(),  # noqa: B008  (frozen)
    valid_seconds: float | None = None,
) -> tuple[ApiKey, str]:
    """Makes a key.

    Args:
        session: An open transaction.
        name: Whose it is, for people; at most 100 characters.
        scopes: What it allows.
        quotas: What it may use.
        valid_seconds: None for ever.

    Returns:
        Its row, and the key as its owner has to send it. It cannot be had again.

    Raises:
        SplatmillError: The name or a limit cannot be used (INVALID_REQUEST).
    """
    if not name.strip() or len(name) > _MAX_NAME:
        raise SplatmillError(
            Reason.INVALID_REQUEST, "A key needs a name.", f"Give it one of at most {_MAX_NAME} characters."
        )
    granted = " ".join(sorted({Scope(scope) for scope in scopes}))
    if not granted:
        raise SplatmillError(
            Reason.INVALID_REQUEST, "A key without a scope opens nothing.", "Name one: read, submit or admin."
        )
    now = time.time()
    key_id = "".join(secrets.choice(_ALPHABET) for _ in range(_ID_LENGTH))
    secret = secrets.token_urlsafe(32)
    row = ApiKey(
        key_id=key_id,
        name=name.strip(),
        secret_hash=_hash(secret),
        scopes=granted,
        max_waiting_jobs=quotas.max_waiting_jobs,
        max_bytes=quotas.max_bytes,
        max_gpu_minutes=quotas.max_gpu_minutes,
        created_at=now,
        expires_at=None if valid_seconds is None else now + valid_seconds,
    )
    session.add(row)
    return row, f"{_PREFIX}_{key_id}_{secret}"


def revoke(session: Session, key_id: str) -> ApiKey:
    """Ends a key at once; its jobs stay.

    Raises:
        SplatmillError: There is no such key (INVALID_REQUEST).
    """
    row = session.get(ApiKey, key_id[:64])
    if row is None:
        raise SplatmillError(
            Reason.INVALID_REQUEST, f"There is no key {key_id[:64]!r}.", "`splatmill keys list` shows them."
        )
    row.revoked_at = row.revoked_at or time.time()
    session.add(row)
    return row


def all_keys(session: Session) -> list[ApiKey]:
    """Every key ever made, oldest first."""
    return list(session.exec(select(ApiKey).order_by(col(ApiKey.created_at))).all())


def any_exists(session: Session) -> bool:
    """Whether a key was ever made, which closes the suite to those without one."""
    return session.exec(select(ApiKey.key_id).limit(1)).first() is not None


def verify(session: Session, token: str) -> Caller:
    """Whose key that is.

    Raises:
        SplatmillError: Nobody's, or it is revoked or has expired (UNAUTHENTICATED).
    """
    prefix, _, rest = token[:_MAX_TOKEN].partition("_")
    key_id, _, secret = rest.partition("_")
    row = session.get(ApiKey, key_id) if prefix == _PREFIX and len(key_id) == _ID_LENGTH else None
    # The hash is made in either case, so that the time taken tells nothing of which ids exist.
    fits = hmac.compare_digest(_hash(secret), row.secret_hash if row else b"\0" * 32)
    now = time.time()
    if row is None or not fits:
        raise _refused("This API key is not known here.")
    if row.revoked_at is not None:
        raise _refused("This API key was revoked.")
    if row.expires_at is not None and row.expires_at <= now:
        raise _refused("This API key has expired.")
    if now - (row.last_used_at or 0.0) > _USED_SECONDS:
        row.last_used_at = now
        session.add(row)
    return Caller(row.key_id, row.name, frozenset(map(Scope, row.scopes.split())))


def _refused(message: str) -> SplatmillError:
    return SplatmillError(Reason.UNAUTHENTICATED, message, "Ask the operator for a key.")


def _hash(secret: str) -> bytes:
    return hashlib.sha256(secret.encode(errors="replace")).digest()
