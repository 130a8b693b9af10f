"""Who may do what: API keys for people, one token for workers.

While no key was ever made everyone may do everything, as on one's own machine.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from sqlmodel import Session

from services.common.worker_token import check_worker_token
from services.registry import keys
from services.registry.keys import EVERYONE, Caller, Scope
from services.registry.lookups import job_by_id
from splatmill._transport import bearer_token
from splatmill.errors import Reason, SplatmillError

# How long a key that was just made, or revoked, may not be noticed.
CACHE_SECONDS = 2.0
_MAX_CACHED = 10_000

ResultT = TypeVar("ResultT")
Transact = Callable[[Callable[[Session], ResultT]], Awaitable[ResultT]]


class Access:
    """Answers who calls, and refuses what they may not.

    Args:
        transact: Runs work in a transaction.
        worker_token: What workers have to show; empty for nothing.
    """

    def __init__(self, transact: Transact[Any], worker_token: str = "") -> None:
        self._transact = transact
        self._worker_token = worker_token
        self._closed: tuple[bool, float] = (False, 0.0)
        self._known: dict[bytes, tuple[Caller, float]] = {}

    async def is_closed(self) -> bool:
        """Whether callers need a key."""
        closed, until = self._closed
        if time.monotonic() > until:
            closed = await self._transact(keys.any_exists)
            self._closed = (closed, time.monotonic() + CACHE_SECONDS)
        return closed

    async def caller(self, context: Any, scope: Scope) -> Caller:
        """Who makes a call that needs a scope.

        Raises:
            SplatmillError: UNAUTHENTICATED or PERMISSION_DENIED.
        """
        if not await self.is_closed():
            return EVERYONE
        token = bearer_token(context)
        if not token:
            raise SplatmillError(
                Reason.UNAUTHENTICATED, "This needs an API key.",
                "Send it as `authorization: Bearer KEY`; `splatmill keys create` makes one.",
            )  # fmt: skip
        caller = await self._verified(token)
        if scope not in caller.scopes and not caller.sees_all:
            raise SplatmillError(
                Reason.PERMISSION_DENIED, f"The key {caller.name!r} has not the scope {scope}.",
                "Ask the operator for one that has.",
            )  # fmt: skip
        return caller

    async def check_job(self, caller: Caller, job_id: str) -> None:
        """Lets owners and administrators pass.

        Raises:
            SplatmillError: JOB_NOT_FOUND: to others the job does not exist.
        """
        if not caller.sees_all:
            await self._transact(lambda session: job_by_id(session, job_id, caller=caller))

    def check_worker(self, context: Any) -> None:
        """Lets workers pass.

        Raises:
            SplatmillError: UNAUTHENTICATED: the token is not the one of this suite.
        """
        check_worker_token(context, self._worker_token)

    async def _verified(self, token: str) -> Caller:
        digest = hashlib.sha256(token.encode(errors="replace")).digest()
        caller, until = self._known.get(digest, (EVERYONE, 0.0))
        if time.monotonic() > until:
            self._known.pop(digest, None)
            caller = await self._transact(lambda session: keys.verify(session, token))
            if len(self._known) >= _MAX_CACHED:
                self._known.clear()
            self._known[digest] = (caller, time.monotonic() + CACHE_SECONDS)
        return caller
