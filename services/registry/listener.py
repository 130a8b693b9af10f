"""Hears through PostgreSQL's LISTEN what other replicas have changed."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from services.registry.notify import CHANNEL, Notifier, parse_payload

if TYPE_CHECKING:
    import psycopg

log = logging.getLogger(__name__)

_CHECK_SECONDS = 10.0
_ANSWER_SECONDS = 5.0
_FIRST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 2.0


class Listener:
    """Holds one connection that listens, and opens another whenever it is lost.

    Args:
        arguments: How the driver is called to connect.
        own_name: The sender of this replica's news, which need not be heard of again.
        news: Is told what arrives.
    """

    def __init__(self, arguments: dict[str, Any], own_name: str, news: Notifier) -> None:
        self._arguments = arguments
        self._own_name = own_name
        self._news = news
        self._listening = asyncio.Event()
        self._task = asyncio.create_task(self._run())

    async def ready(self, seconds: float) -> bool:
        """Waits for the first connection; whether it is there in time."""
        try:
            await asyncio.wait_for(self._listening.wait(), seconds)
        except TimeoutError:
            return False
        return True

    async def close(self) -> None:
        """Listens no more."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        # Only PostgreSQL needs the driver.
        import psycopg  # noqa: PLC0415

        pause = _FIRST_PAUSE_SECONDS
        while True:
            try:
                async with await psycopg.AsyncConnection.connect(
                    **self._arguments, autocommit=True
                ) as connection:
                    await connection.execute(f"LISTEN {CHANNEL}")
                    pause = _FIRST_PAUSE_SECONDS
                    self._begin()
                    await self._listen(connection)
            except Exception as error:  # whatever it was, without listening all would wait longer
                log.warning("news of other replicas are late: %s", str(error).strip() or type(error).__name__)
            finally:
                self._listening.clear()
                self._news.hears_all = False
                # Who trusts in being woken looks for himself now, and from now on often.
                self._news.wake_all()
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)

    def _begin(self) -> None:
        self._listening.set()
        self._news.hears_all = True
        self._news.wake_all()

    async def _listen(self, connection: psycopg.AsyncConnection[tuple[object, ...]]) -> None:
        """Passes news on until the connection is lost."""
        while True:
            async for notification in connection.notifies(timeout=_CHECK_SECONDS):
                sender, topics = parse_payload(notification.payload)
                if sender != self._own_name:
                    self._news.notify(*topics)
            # A connection may be dead without anyone saying so.
            await asyncio.wait_for(connection.execute("SELECT 1"), _ANSWER_SECONDS)
