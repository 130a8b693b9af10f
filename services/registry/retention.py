"""What is removed for its age, or for want of room, and what cannot be done without it."""

from __future__ import annotations

import time

from sqlmodel import Session, col, select

from services.common.store import ArtifactStore
from services.registry import artifacts, events
from services.registry.lookups import ENDED, job_by_id
from services.registry.models import Artifact, Job, Kind
from services.registry.settings import RegistrySettings
from splatmill.errors import Reason, SplatmillError
from splatmill.v1 import progress_pb2

_BATCH = 50
_DAY = 86_400.0


_INPUT = {
    progress_pb2.STAGE_SFM: Kind.PHOTOS,
    progress_pb2.STAGE_TRAIN: Kind.INTERMEDIATES,
    progress_pb2.STAGE_POSTPROC: Kind.RESULTS,
}
# What a stage and those behind it make anew.
_MADE = {
    progress_pb2.STAGE_SFM: Kind.INTERMEDIATES | Kind.RESULTS | Kind.LOGS,
    progress_pb2.STAGE_TRAIN: Kind.RESULTS | Kind.LOGS,
    progress_pb2.STAGE_POSTPROC: Kind.LOGS,
}


def time_to_live(settings: RegistrySettings) -> dict[Kind, float]:
    """Seconds after a job's end that files of each kind are kept; those kept for ever are left out."""
    days = {
        Kind.PHOTOS: settings.retain_photos_days,
        Kind.INTERMEDIATES: settings.retain_intermediates_days,
        Kind.RESULTS: settings.retain_results_days,
        Kind.LOGS: settings.retain_logs_days,
    }
    return {kind: _DAY * value for kind, value in days.items() if value > 0}


def due(session: Session, kind: Kind, seconds: float) -> list[str]:
    """Jobs whose files of a kind have outlived it, longest ended first."""
    query = select(Job.job_id).where(
        col(Job.state).in_(ENDED),
        col(Job.finished_at) < time.time() - seconds,
        col(Job.expired).op("&")(int(kind)) == 0,
    )
    return list(session.exec(query.order_by(col(Job.finished_at)).limit(_BATCH)).all())


def expire(session: Session, store: ArtifactStore, job_id: str, kind: Kind) -> bool:
    """Removes a job's files of a kind, unless it runs again by now; answers whether it did.

    The job's row is locked meanwhile, so that no retry makes new files that would be taken for old.
    """
    job = job_by_id(session, job_id, lock=True)
    session.refresh(job)
    if job.state not in ENDED:
        return False
    job.expired |= int(kind)
    session.add(job)
    for row in session.exec(select(Artifact).where(Artifact.job_id == job_id)).all():
        if kind_of(row.name) == kind:
            session.delete(row)
            store.delete_prefix(f"{artifacts.job_prefix(job_id)}/{row.name}")
    if kind is Kind.LOGS:
        events.trim_log(session, job_id, keep=0)
    for prefix, of_kind in _FOLDERS.items():
        if of_kind == kind:
            _delete_but_reports(store, f"{artifacts.job_prefix(job_id)}/{prefix}")
    return True


_FOLDERS = {
    "upload": Kind.PHOTOS,
    "colmap": Kind.INTERMEDIATES,
    "checkpoints": Kind.INTERMEDIATES,
    "work": Kind.INTERMEDIATES,
    "output": Kind.RESULTS,
    "logs": Kind.LOGS,
}


def kind_of(name: str) -> Kind | None:
    """The kind of a published file, by its path below the job's folder; None for reports, which stay."""
    if _is_report(name):
        return None
    return _FOLDERS.get(name.partition("/")[0], Kind.RESULTS)


def _is_report(name: str) -> bool:
    return name.endswith(".json")


def _delete_but_reports(store: ArtifactStore, prefix: str) -> None:
    names = [name for name, _ in store.list(prefix)]
    if not any(map(_is_report, names)):
        store.delete_prefix(prefix)
        return
    for name in names:
        if not _is_report(name):
            store.delete_prefix(f"{prefix}/{name}")


def check_retry(job: Job, stage: int) -> None:
    """Refuses to begin where the input is gone; else notes what will be made anew.

    Raises:
        SplatmillError: JOB_STATE_CONFLICT.
    """
    named = progress_pb2.Stage.ValueType(stage)
    if job.expired & _INPUT[named]:
        earlier = "Retry from an earlier stage." if stage > progress_pb2.STAGE_SFM else "Upload them again."
        what = {Kind.PHOTOS: "photos", Kind.INTERMEDIATES: "COLMAP model", Kind.RESULTS: "trained scene"}
        raise SplatmillError(
            Reason.JOB_STATE_CONFLICT,
            f"The {what[_INPUT[named]]} of job {job.job_id} were removed for their age or for want of room.",
            earlier, field="from_stage",
        )  # fmt: skip
    job.expired &= ~int(_MADE[named])


def longest_ended(session: Session, kind: Kind) -> str | None:
    """The job that has ended first of those that still have files of a kind."""
    found = due(session, kind, 0.0)
    return found[0] if found else None
