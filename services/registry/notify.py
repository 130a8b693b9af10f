"""Wakes those who wait for news, in this process and, through PostgreSQL, in all replicas.

A transaction collects its topics with ``announce``. With PostgreSQL they are sent as a
NOTIFY in that transaction, so that they arrive if and only if the change is there to be
read; ``services.registry.listener`` receives what other replicas sent.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Iterator

from sqlmodel import Session

TASKS = "tasks"
CHANNEL = "splatmill_news"
POLL_SECONDS = 1.0
"""Pause between looks at the database while news may be missed."""
_QUIET_SECONDS = 15.0
_MAX_PAYLOAD_TOPICS = 500  # PostgreSQL takes 8,000 bytes


def announce(session: Session, *topics: str) -> None:
    """Adds to what is told when the session's transaction is committed."""
    session.info.setdefault("topics", set()).update(topics)


def topics_of(session: Session) -> list[str]:
    """What was announced in a session."""
    return sorted(session.info.get("topics", ()))


def payloads(sender: str, topics: Iterable[str]) -> Iterator[str]:
    """Topics as the texts of notifications."""
    listed = list(topics)
    for at in range(0, len(listed), _MAX_PAYLOAD_TOPICS):
        yield " ".join((sender, *listed[at : at + _MAX_PAYLOAD_TOPICS]))


def parse_payload(payload: str) -> tuple[str, list[str]]:
    """Sender and topics of a notification."""
    sender, *topics = payload.split() or [""]
    return sender, topics


class Notifier:
    """Topics to wait on: a job's id, or TASKS.

    Args:
        hears_all: Whether all news come from this process; else ``hears_all`` says when
            the others' are received too.
    """

    def __init__(self, hears_all: bool = True) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[str, set[asyncio.Event]] = defaultdict(set)
        self.closed = False
        self.generation = 0
        """Counts what was told: what is read after it has grown holds the news."""
        self.hears_all = hears_all

    @property
    def poll_seconds(self) -> float:
        """How long to trust in being woken."""
        return _QUIET_SECONDS if self.hears_all else POLL_SECONDS

    def notify(self, *topics: str) -> None:
        """Wakes the waiting; callable from any thread."""
        self._loop.call_soon_threadsafe(self._wake, topics)

    def wake_all(self) -> None:
        """Wakes all, since news may have been missed; only from the event loop."""
        self._wake(tuple(self._waiting))

    def close(self) -> None:
        """Wakes all, so that long polls end."""
        self.closed = True
        self.wake_all()

    def subscribe(self, topic: str) -> Subscription:
        """Begins to listen; news from now on wakes ``Subscription.wait``."""
        return Subscription(self._waiting, topic)

    def _wake(self, topics: tuple[str, ...]) -> None:
        self.generation += 1
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
