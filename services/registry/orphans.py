"""Files that no row knows: what a crash between writing and committing has left.

Files are removed only where store and database belong together for certain: each holds the
same id. A registry that was started with a wrong DATABASE_URL must not take everybody's
scenes for rubbish.
"""

from __future__ import annotations

import logging
import secrets
import time

from sqlmodel import Session, col, select

from services.common.store import ArtifactStore
from services.registry import artifacts
from services.registry.lookups import ENDED, job_by_id, lock_line, tasks_of
from services.registry.models import Artifact, Job
from splatmill.errors import Reason, SplatmillError

log = logging.getLogger(__name__)

_ID_KEY = "database_id"
_KEPT = ("upload/images/", "logs/", "checkpoints/")


def belong_together(session: Session, store: ArtifactStore) -> bool:
    """Whether the store's files are those that the database tells of.

    A store without an id gets the database's, if it is empty or the database knows a job of it.
    """
    line = lock_line(session)
    if not line.database_id:
        line.database_id = secrets.token_hex(8)
        session.add(line)
    if store.exists(_ID_KEY):
        return b"".join(store.read(_ID_KEY)).decode(errors="replace") == line.database_id
    there = list(store.folders("jobs"))
    known = select(Job.job_id).where(col(Job.job_id).in_(there[:1000])).limit(1)
    if there and session.exec(known).first() is None:
        return False
    writer = store.create(_ID_KEY)
    writer.write(line.database_id.encode())
    writer.commit()
    return True


def unknown_jobs(session: Session, store: ArtifactStore, older_than: float) -> list[str]:
    """Folders of jobs that the database does not know, untouched for so many seconds."""
    limit = time.time() - older_than
    old = [name for name, changed in store.folders("jobs").items() if changed < limit]
    known = set(session.exec(select(Job.job_id).where(col(Job.job_id).in_(old))).all())
    return [name for name in old if name not in known]


def sweep_job(session: Session, store: ArtifactStore, job_id: str) -> int:
    """Removes files of a job that nothing refers to; answers how many.

    The job's row is locked meanwhile, so that nothing begins or is published.
    """
    try:
        job = job_by_id(session, job_id, lock=True)
    except SplatmillError as error:
        if error.reason is Reason.JOB_NOT_FOUND:
            return 0
        raise
    session.refresh(job)
    prefix = artifacts.job_prefix(job_id)
    if job.state not in ENDED:
        return _sweep_attempts(session, store, job_id)
    rows = set(session.exec(select(Artifact.name).where(Artifact.job_id == job_id)).all())
    stray = [
        name for name, _ in store.list(prefix) if name not in rows and not name.startswith(_KEPT)
    ]  # fmt: skip
    for name in stray:
        log.info("job %s: nothing refers to %s; it is removed", job_id, name)
        store.delete_prefix(f"{prefix}/{name}")
    store.delete_prefix(artifacts.work_prefix(job_id))
    return len(stray)


def _sweep_attempts(session: Session, store: ArtifactStore, job_id: str) -> int:
    """Removes what attempts have left that are over."""
    current = {artifacts.output_prefix(job_id, task.stage, task.starts) for task in tasks_of(session, job_id)}
    removed = 0
    for name in store.folders(artifacts.work_prefix(job_id)):
        prefix = f"{artifacts.work_prefix(job_id)}/{name}"
        if prefix not in current:
            removed += len(store.list(prefix))
            store.delete_prefix(prefix)
    return removed
