"""A job's files: where stages read and write, and how an attempt's output becomes the job's."""

from __future__ import annotations

import hashlib
import mimetypes
import re
import time
from collections.abc import Iterable
from pathlib import PurePosixPath

from sqlmodel import Session, col, delete, select

from services.common.store import ArtifactStore
from services.registry.models import Artifact, Image, Job, Kind, Task
from splatmill.errors import Reason, SplatmillError
from splatmill.v1 import progress_pb2, task_pb2
from splatmill.v1 import reconstruction_pb2 as pb

LOG_NAME = "logs/process.log"
SCENE = "scene.spz"
PUBLIC = ("cloud.ply", "point_cloud.ply", "scene.splat", "scene.splat44", SCENE)

_STAGE_NAME = {
    progress_pb2.STAGE_SFM: "sfm",
    progress_pb2.STAGE_TRAIN: "train",
    progress_pb2.STAGE_POSTPROC: "postproc",
}
_INPUT = {
    progress_pb2.STAGE_SFM: "upload",
    progress_pb2.STAGE_TRAIN: "colmap",
    progress_pb2.STAGE_POSTPROC: "output",
}
# Where a stage's files come to lie below the job's folder.
_PUBLISHED = {
    progress_pb2.STAGE_SFM: "colmap/",
    progress_pb2.STAGE_TRAIN: "output/",
    progress_pb2.STAGE_POSTPROC: "",
}
# Files that change while the job runs: their names, and where they lie below the job's folder.
# The log grows; each preview is replaced by a newer one, and goes when the training has ended.
_PREVIEWS = {name: f"checkpoints/train/{name}" for name in ("preview.jpg", "preview.spz")}
_LIVE = {LOG_NAME: LOG_NAME, **_PREVIEWS}
_RAW_CLOUD = re.compile(r"output/point_cloud/iteration_(\d+)/point_cloud\.ply")


def job_prefix(job_id: str) -> str:
    """Folder of a job in the store."""
    return f"jobs/{job_id}"


def input_prefix(job_id: str, stage: int) -> str:
    """Folder that a stage reads."""
    return f"{job_prefix(job_id)}/{_INPUT[progress_pb2.Stage.ValueType(stage)]}"


def output_prefix(job_id: str, stage: int, start: int) -> str:
    """Folder that one start of a stage writes to."""
    return f"{work_prefix(job_id)}/{_STAGE_NAME[progress_pb2.Stage.ValueType(stage)]}-{start}"


def checkpoint_prefix(job_id: str, stage: int) -> str:
    """Folder that all starts of a stage share, and that goes with the job only."""
    return f"{job_prefix(job_id)}/checkpoints/{_STAGE_NAME[progress_pb2.Stage.ValueType(stage)]}"


def work_prefix(job_id: str) -> str:
    """Folder of all unpublished output of a job."""
    return f"{job_prefix(job_id)}/work"


def incoming_prefix(job_id: str) -> str:
    """Folder of photos that are not yet whole."""
    return f"{job_prefix(job_id)}/upload/incoming"


def image_key(job_id: str, filename: str) -> str:
    """Where a photo lies."""
    return f"{job_prefix(job_id)}/upload/images/{filename}"


def publish(
    session: Session, store: ArtifactStore, job: Job, task: Task, files: Iterable[task_pb2.OutputFile]
) -> None:
    """Moves an attempt's files to their place and replaces the stage's rows.

    It happens inside the transaction that ends the task: when that fails, the task is not
    done and no later stage has begun. The same call made again finds the files in their
    place by their hashes; another attempt overwrites them.

    Raises:
        SplatmillError: A file is missing or of another size (INVALID_REQUEST).
    """
    source = output_prefix(job.job_id, task.stage, task.starts)
    folder = _PUBLISHED[progress_pb2.Stage.ValueType(task.stage)]
    described = list(files)
    for file in described:
        _check_path(file.path)
        key = f"{source}/{file.path}"
        here = store.exists(key) and store.size(key) == file.size_bytes
        if not here and not _was_moved(store, f"{job_prefix(job.job_id)}/{folder}{file.path}", file):
            raise SplatmillError(
                Reason.INVALID_REQUEST, f"The output file {file.path!r} is not there as described.",
                "Complete a task only after its output is stored whole.", retryable=True,
            )  # fmt: skip
    old = session.exec(
        select(Artifact).where(Artifact.job_id == job.job_id, Artifact.stage == task.stage)
    ).all()
    new_names = {folder + file.path for file in described}
    for artifact in old:
        session.delete(artifact)
        if artifact.name not in new_names:
            store.delete_prefix(f"{job_prefix(job.job_id)}/{artifact.name}")
    session.flush()
    now = time.time()
    for file in described:
        if store.exists(f"{source}/{file.path}"):
            store.move(f"{source}/{file.path}", f"{job_prefix(job.job_id)}/{folder}{file.path}")
        session.add(Artifact(
            job_id=job.job_id, name=folder + file.path, stage=task.stage,
            size_bytes=file.size_bytes, sha256=file.sha256, created_at=now,
        ))  # fmt: skip


def _was_moved(store: ArtifactStore, key: str, file: task_pb2.OutputFile) -> bool:
    """Whether a publication that was undone has left this very file in its place."""
    if not store.exists(key) or store.size(key) != file.size_bytes:
        return False
    digest = hashlib.sha256()
    for piece in store.read(key):
        digest.update(piece)
    return digest.digest() == file.sha256


def delete_rows(session: Session, job_id: str) -> None:
    """Removes the rows of a job's files."""
    session.exec(delete(Artifact).where(col(Artifact.job_id) == job_id))
    session.exec(delete(Image).where(col(Image.job_id) == job_id))


def has_scene(session: Session, job_id: str) -> bool:
    """Whether a scene is published, of this run or of one before."""
    return session.get(Artifact, (job_id, SCENE)) is not None


def public_artifacts(session: Session, job: Job) -> list[pb.Artifact]:
    """Files that the share key alone opens."""
    return [
        artifact for name in PUBLIC if (artifact := find(session, job, name, public_only=True)) is not None
    ]


def all_artifacts(session: Session, store: ArtifactStore, job: Job) -> list[pb.Artifact]:
    """Every file of a job, by name."""
    rows = session.exec(select(Artifact).where(Artifact.job_id == job.job_id)).all()
    found = [_described(row.name, row) for row in rows]
    if not job.expired & Kind.PHOTOS:
        images = session.exec(select(Image).where(Image.job_id == job.job_id)).all()
        found += [_described_image(image) for image in images]
    found += [live for name in _LIVE if (live := _live_artifact(store, job, name)) is not None]
    return sorted(found, key=lambda artifact: artifact.name)


def find(
    session: Session, job: Job, name: str, public_only: bool, store: ArtifactStore | None = None
) -> pb.Artifact | None:
    """A file by its name or alias, or None."""
    if public_only and name not in PUBLIC:
        return None
    if store is not None and name in _LIVE:
        return _live_artifact(store, job, name)
    real = stored_name(session, job, name)
    row = session.get(Artifact, (job.job_id, real))
    if row is not None:
        return _described(name, row)
    if job.expired & Kind.PHOTOS or not name.startswith("upload/images/"):
        return None
    image = session.get(Image, (job.job_id, name.removeprefix("upload/images/")))
    return _described_image(image) if image is not None else None


def stored_name(session: Session, job: Job, name: str) -> str:
    """The path behind an alias; any other name as it is."""
    if name in _LIVE:
        return _LIVE[name]
    if name == "cloud.ply":
        return "point_cloud_filtered.ply"
    if name == "point_cloud.ply":
        query = select(Artifact.name).where(
            Artifact.job_id == job.job_id, Artifact.stage == progress_pb2.STAGE_TRAIN
        )
        clouds = [match for row in session.exec(query).all() if (match := _RAW_CLOUD.fullmatch(row))]
        return max(clouds, key=lambda match: int(match[1]))[0] if clouds else name
    return name


def _described(name: str, row: Artifact) -> pb.Artifact:
    artifact = pb.Artifact(
        name=name,
        size_bytes=row.size_bytes,
        sha256=row.sha256,
        content_type=_content_type(name),
        public=name in PUBLIC,
        stage=progress_pb2.Stage.ValueType(row.stage),
    )
    artifact.created_at.FromNanoseconds(int(row.created_at * 1e9))
    return artifact


def _described_image(image: Image) -> pb.Artifact:
    name = f"upload/images/{image.filename}"
    return pb.Artifact(
        name=name, size_bytes=image.size_bytes, sha256=image.sha256, content_type=_content_type(name)
    )


def snapshot(
    store: ArtifactStore, artifact: pb.Artifact, key: str
) -> tuple[pb.Artifact, bytes] | tuple[pb.Artifact, None]:
    """A preview's bytes and their description, since a newer one may take its place at any time.

    Returns:
        Other files' description as it is, and None.

    Raises:
        SplatmillError: The preview has gone meanwhile (ARTIFACT_NOT_FOUND).
    """
    if artifact.name not in _PREVIEWS:
        return artifact, None
    data = b"".join(store.read(key))
    newest = pb.Artifact(
        name=artifact.name, size_bytes=len(data), sha256=hashlib.sha256(data).digest(),
        content_type=artifact.content_type, stage=progress_pb2.STAGE_TRAIN,
    )  # fmt: skip
    return newest, data


def _live_artifact(store: ArtifactStore, job: Job, name: str) -> pb.Artifact | None:
    key = f"{job_prefix(job.job_id)}/{_LIVE[name]}"
    try:
        found = pb.Artifact(name=name, size_bytes=store.size(key), content_type=_content_type(name))
        return snapshot(store, found, key)[0]
    except SplatmillError as error:
        if error.reason is Reason.ARTIFACT_NOT_FOUND:
            return None
        raise


def _content_type(name: str) -> str:
    if name.endswith(".log"):
        return "text/plain; charset=utf-8"
    return mimetypes.guess_type(name)[0] or "application/octet-stream"


def _check_path(path: str) -> None:
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts or "\\" in path or "\0" in path:
        raise SplatmillError(
            Reason.INVALID_REQUEST, f"{path!r} is no path below the output folder.", "Use relative paths."
        )
