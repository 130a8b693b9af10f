"""What is done now and then by itself: old files go, lost ones are swept up."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

from sqlmodel import Session, select

from services.common.store import ArtifactStore
from services.registry import artifacts, history, orphans, retention, workers
from services.registry.models import Job, Kind
from services.registry.settings import RegistrySettings
from splatmill.errors import Reason, SplatmillError

log = logging.getLogger(__name__)

EXPIRY_SECONDS = 10.0
ORPHAN_SECONDS = 3600.0


class Caretaker:
    """Keeps the store tidy. Any number of replicas may do so at once.

    Args:
        settings: What is kept how long.
        transact: Runs work in a transaction, in a thread.
        store: The files.
    """

    def __init__(
        self,
        settings: RegistrySettings,
        transact: Callable[[Callable[[Session], Any]], Awaitable[Any]],
        store: ArtifactStore,
    ) -> None:
        self._settings = settings
        self._transact = transact
        self._store = store
        self._next_expiry = self._next_orphans = 0.0

    async def look_after(self) -> None:
        """Does what is due; called about every second."""
        now = time.monotonic()
        if now >= self._next_expiry:
            self._next_expiry = now + EXPIRY_SECONDS
            await self.expire()
            await self.make_room()
            await self._transact(workers.forget_old)
        if now >= self._next_orphans:
            self._next_orphans = now + ORPHAN_SECONDS
            await self._transact(history.forget_old)
            await self.sweep_orphans()

    async def expire(self) -> None:
        """Removes files that have outlived their time."""
        for kind, seconds in retention.time_to_live(self._settings).items():
            for job_id in await self._transact(lambda s, k=kind, t=seconds: retention.due(s, k, t)):  # type: ignore[misc]
                await self._expire(job_id, kind, "for their age")

    async def make_room(self) -> None:
        """Removes intermediate files of jobs that have ended while the disk is too full."""
        while await asyncio.to_thread(self._store.free_bytes) < self._settings.keep_free_bytes:
            job_id = await self._transact(lambda s: retention.longest_ended(s, Kind.INTERMEDIATES))
            if job_id is None or not await self._expire(job_id, Kind.INTERMEDIATES, "for want of room"):
                return

    async def sweep_orphans(self) -> None:
        """Removes files that nothing refers to."""
        if not await self._transact(lambda session: orphans.belong_together(session, self._store)):
            log.error(
                "the artifact store belongs to another database; nothing that is unknown is removed from it. "
                "Check SPLATMILL_DATABASE_URL and SPLATMILL_DATA_DIR."
            )
            return
        age = self._settings.orphan_ttl_seconds
        for job_id in await self._transact(lambda s: orphans.unknown_jobs(s, self._store, age)):
            log.warning("the database knows no job %s; its files are removed", job_id)
            await asyncio.to_thread(self._store.delete_prefix, artifacts.job_prefix(job_id))
        there = await asyncio.to_thread(self._store.folders, "jobs")
        known = set(await self._transact(lambda s: list(s.exec(select(Job.job_id)).all())))
        for job_id in sorted(known & set(there)):
            await self._transact(lambda s, j=job_id: orphans.sweep_job(s, self._store, j))  # type: ignore[misc]

    async def _expire(self, job_id: str, kind: Kind, why: str) -> bool:
        try:
            done: bool = await self._transact(lambda s: retention.expire(s, self._store, job_id, kind))
        except SplatmillError as error:
            if error.reason is Reason.JOB_NOT_FOUND:  # it was deleted meanwhile
                return True
            raise
        if done:
            log.info("job %s: its %s were removed %s", job_id, str(kind.name).lower(), why)
        return done
