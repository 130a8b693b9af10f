"""Finding rows, with the errors of not finding them."""

from __future__ import annotations

import time

from sqlalchemy import func
from sqlmodel import Session, col, select

from services.registry.keys import EVERYONE, Caller
from services.registry.models import Image, Job, Line, Task
from splatmill._photo_names import MASK_SUFFIX
from splatmill.errors import Reason, SplatmillError
from splatmill.v1 import reconstruction_pb2 as pb

ENDED = (pb.JOB_STATE_COMPLETED, pb.JOB_STATE_FAILED, pb.JOB_STATE_CANCELLED)

OF_MASK = col(Image.folded_name).endswith(MASK_SUFFIX)
"""Whether an ``Image`` is a mask, and so no photo; as ``is_mask`` decides."""


def job_by_id(session: Session, job_id: str, lock: bool = False, caller: Caller = EVERYONE) -> Job:
    """A job; ``lock`` holds its row until the transaction ends.

    Raises:
        SplatmillError: JOB_NOT_FOUND, also for a caller who may not know of it.
    """
    job = session.get(Job, job_id[:64], with_for_update=lock or None)
    if job is None or not (caller.sees_all or job.owner == caller.key_id):
        raise SplatmillError(
            Reason.JOB_NOT_FOUND,
            f"There is no job {job_id[:64]!r}.",
            "Check the id; deleted jobs are gone for good.",
        )
    return job


def lock_line(session: Session) -> Line:
    """Holds the line of waiting jobs until the transaction ends.

    Whoever is going to change who waits calls this before it locks any job, on whatever
    replica: so changes come one after another, and none waits for another in a circle.
    """
    return session.get_one(Line, 1, with_for_update=True)


def job_by_key(session: Session, pub_key: str) -> Job:
    """The job of a share key.

    Raises:
        SplatmillError: SCENE_NOT_FOUND.
    """
    job = session.exec(select(Job).where(Job.pub_key == pub_key[:64])).first()
    if job is None or not is_shared(job):
        raise SplatmillError(
            Reason.SCENE_NOT_FOUND,
            "There is no scene behind this link.",
            "Check the link; it may have ended, or the scene may have been deleted.",
        )
    return job


def is_shared(job: Job) -> bool:
    """Whether its share key opens the scene now."""
    return job.shared and (job.share_expires_at is None or job.share_expires_at > time.time())


def count_photos(session: Session, job_id: str) -> int:
    """A job's photos that are stored whole, masks not counted."""
    return session.exec(select(func.count()).where(Image.job_id == job_id, ~OF_MASK)).one()


def tasks_of(session: Session, job_id: str) -> list[Task]:
    """A job's tasks in the order of stages."""
    return list(session.exec(select(Task).where(Task.job_id == job_id).order_by(col(Task.stage))).all())
