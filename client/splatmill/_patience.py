"""When a broken call is made again, and when it is given up."""

from __future__ import annotations

import asyncio
import random
import time

import grpc
import grpc.aio

from splatmill._status import from_rpc_error
from splatmill.errors import Reason, SplatmillError

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 2.0
_BREAK_CODES = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.DEADLINE_EXCEEDED)
# How gRPC and proxies word a connection that was lost in the middle of a call.
_BREAK_WORDS = ("rst_stream", "stream removed", "connection reset", "goaway")


class Patience:
    """Counts the time without a sign of life from the server.

    Args:
        seconds: How long to go on without one.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._since: float | None = None
        self._pause = _FIRST_PAUSE
        self.breaks = 0
        """Calls that broke off so far."""

    def renew(self) -> None:
        """The server has done something for us."""
        self._since = None
        self._pause = _FIRST_PAUSE

    async def pause(self, error: SplatmillError) -> None:
        """Waits before the next try; raises the error when it is time to give up."""
        self.breaks += 1
        now = time.monotonic()
        self._since = self._since or now
        if now - self._since + self._pause > self._seconds:
            raise error from None
        # Not all clients of a registry that restarts shall come back at the same moment.
        await asyncio.sleep(self._pause * random.uniform(0.5, 1.0))
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)

    async def after(self, broken: grpc.RpcError, address: str) -> None:
        """Waits after a break; raises at once what the server has decided."""
        error = from_rpc_error(broken)
        if not is_break(broken, error):
            raise error from None
        if error.reason == Reason.CANCELLED or not error.remedy:
            error = SplatmillError(Reason.UNAVAILABLE, error.message, "Try again in a moment.", True)
        error.message = f"{error.message.rstrip('.')} ({address})."
        await self.pause(error)


def is_break(broken: grpc.RpcError, error: SplatmillError) -> bool:
    """Whether the call was lost on its way, rather than refused."""
    code = broken.code() if isinstance(broken, grpc.aio.AioRpcError) else None
    if error.reason in (Reason.UNAVAILABLE, Reason.CANCELLED):
        return True
    if code in _BREAK_CODES:
        return error.retryable
    if code in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN):
        return any(word in error.message.lower() for word in _BREAK_WORDS)
    return False
