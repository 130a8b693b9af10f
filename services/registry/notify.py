"""Wakes those who wait for news in this process; a poll finds what other replicas did."""

from __future__ import annotations

import asyncio
from collections import defaultdict

TASKS = "tasks"


class Notifier:
    """Topics to wait on: a job's id, or TASKS."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[str, set[asyncio.Event]] = defaultdict(set)
        self.closed = False

    def notify(self, *topics: str) -> None:
        """Wakes the waiting; callable from any thread."""
        self._loop.call_soon_threadsafe(self._wake, topics)

    def close(self) -> None:
        """Wakes all, so that long polls end."""
        self.closed = True
        self._wake(tuple(self._waiting))

    def subscribe(self, topic: str) -> Subscription:
        """Begins to listen; news from now on wakes ``Subscription.wait``."""
        return Subscription(self._waiting, topic)

    def _wake(self, topics: tuple[str, ...]) -> None:
        for topic in topics:
            for waiting in tuple(self._waiting.get(topic, ())):
                waiting.set()


class Subscription:
    """A listener; a context manager."""

    def __init__(self, waiting: dict[str, set[asyncio.Event]], topic: str) -> None:
        self._waiting = waiting
        self._topic = topic
        self._event = asyncio.Event()

    def __enter__(self) -> Subscription:
        """Listens."""
        self._waiting[self._topic].add(self._event)
        return self

    def __exit__(self, *_: object) -> None:
        """Listens no more."""
        listeners = self._waiting[self._topic]
        listeners.discard(self._event)
        if not listeners:
            del self._waiting[self._topic]

    async def wait(self, seconds: float) -> None:
        """Returns at news, or after a while without."""
        try:
            await asyncio.wait_for(self._event.wait(), seconds)
        except TimeoutError:
            return
        self._event.clear()
