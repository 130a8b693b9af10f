"""Photos on their way in: pieces to a file, checked, then part of the job."""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Set as AbstractSet

from sqlmodel import select

from services.common.store import ArtifactStore, ArtifactWriter
from services.registry import artifacts, quotas
from services.registry.database import Database
from services.registry.lookups import job_by_id
from services.registry.models import Image
from services.registry.photo_check import check_name, check_photo
from services.registry.settings import RegistrySettings
from splatmill._photo_names import is_mask
from splatmill.errors import Reason, SplatmillError
from splatmill.v1 import reconstruction_pb2 as pb


class Upload:
    """Takes the pieces of one stream. Its methods block; call them one at a time.

    Args:
        database: Where photos are noted once they are whole.
        store: Where they lie.
        settings: The limits.
        job_id: Whose photos.
    """

    def __init__(
        self, database: Database, store: ArtifactStore, settings: RegistrySettings, job_id: str
    ) -> None:
        self._database = database
        self._store = store
        self._settings = settings
        self._job_id = job_id
        self._name = ""
        # Another replica may receive photos of the same job.
        self._folder = f"{artifacts.incoming_prefix(job_id)}/{secrets.token_hex(4)}"
        self._writer: ArtifactWriter | None = None
        self._digest = hashlib.sha256()
        self._size = 0
        with database.transaction() as session:
            rows = session.exec(select(Image).where(Image.job_id == job_id)).all()
        self._names = {row.folded_name: row.filename for row in rows}

    def feed(self, chunk: pb.ImageChunk) -> None:
        """Takes the next piece.

        Raises:
            SplatmillError: What is wrong with the photo; nothing of it is kept.
        """
        if self._writer is None:
            self._begin(chunk.filename)
        elif chunk.filename != self._name:
            raise SplatmillError(
                Reason.INVALID_REQUEST,
                f"{chunk.filename[:80]!r} begins before {self._name!r} has ended.",
                "Send the pieces of one photo after another and mark the last.", field="chunk.filename",
            )  # fmt: skip
        assert self._writer is not None
        self._size += len(chunk.data)
        if self._size > self._settings.max_image_bytes:
            raise SplatmillError(
                Reason.IMAGE_TOO_LARGE,
                f"{self._name} is larger than {self._settings.max_image_bytes // (1 << 20)} MiB.",
                "Shrink it before the upload.", field=self._name,
            )  # fmt: skip
        self._writer.write(chunk.data)
        self._digest.update(chunk.data)
        if chunk.last:
            self._finish(chunk.sha256)

    def end(self) -> None:
        """Raises UPLOAD_INTERRUPTED when a photo is not whole."""
        if self._writer is not None:
            raise SplatmillError(
                Reason.UPLOAD_INTERRUPTED,
                f"The upload ended in the middle of {self._name}.", "Send that photo again.",
                retryable=True, field=self._name,
            )  # fmt: skip

    def abort(self) -> None:
        """Drops a photo that is not whole."""
        if self._writer is not None:
            self._writer.abort()
            self._writer = None

    def _begin(self, name: str) -> None:
        check_name(name)
        if self._names.get(name.casefold(), name) != name:
            raise _differs_by_case(name, self._names[name.casefold()])
        self._check_count(self._names.keys(), name)
        if self._store.free_bytes() < self._settings.min_free_bytes:
            raise SplatmillError(
                Reason.STORAGE_FULL, "The server has no room for more photos.",
                "Delete old jobs, or ask the operator for room.", retryable=True,
            )  # fmt: skip
        self._name, self._size, self._digest = name, 0, hashlib.sha256()
        self._writer = self._store.create(self._incoming_key)

    def _check_count(self, folded_names: AbstractSet[str], name: str) -> None:
        """Accepts a name beside others, as stored before or new."""
        most = self._settings.max_images
        masks = is_mask(name)
        if sum(is_mask(other) == masks for other in folded_names | {name.casefold()}) <= most:
            return
        if masks:
            raise SplatmillError(
                Reason.TOO_MANY_IMAGES, f"A job takes at most {most} masks, one for each photo.",
                "Send only the masks of the photos that you send.", field="files",
            )  # fmt: skip
        raise SplatmillError(
            Reason.TOO_MANY_IMAGES, f"A job takes at most {most} photos.",
            "Choose the sharpest ones that together show everything.", field="files",
        )  # fmt: skip

    @property
    def _incoming_key(self) -> str:
        return f"{self._folder}/{self._name}"

    def _finish(self, sha256: bytes) -> None:
        assert self._writer is not None
        digest = self._digest.digest()
        if sha256 != digest:
            raise SplatmillError(
                Reason.IMAGE_HASH_MISMATCH,
                f"{self._name} was changed on its way: its SHA-256 does not fit.",
                "Send that photo again.", retryable=True, field=self._name,
            )  # fmt: skip
        self._writer.commit()
        self._writer = None
        key = self._incoming_key
        try:
            width, height = check_photo(
                self._name, b"".join(self._store.read(key)), self._settings.max_image_pixels
            )
            self._take_in(key, digest, width, height)
        finally:
            self._store.delete_prefix(key)
        self._names[self._name.casefold()] = self._name

    def _take_in(self, key: str, digest: bytes, width: int, height: int) -> None:
        with self._database.transaction() as session:
            job = job_by_id(session, self._job_id, lock=True)
            if job.state != pb.JOB_STATE_UPLOADING:
                raise SplatmillError(
                    Reason.JOB_STATE_CONFLICT, f"Job {self._job_id} takes no more photos.", "Make a new job."
                )
            names = set(session.exec(select(Image.folded_name).where(Image.job_id == self._job_id)).all())
            folded = self._name.casefold()
            same = select(Image).where(Image.job_id == self._job_id, Image.folded_name == folded)
            known = session.exec(same).first()
            if known is not None and known.filename != self._name:
                raise _differs_by_case(self._name, known.filename)
            self._check_count(names, self._name)
            quotas.check_room(session, job.owner, self._size - (known.size_bytes if known else 0))
            job.touched_at = time.time()
            session.add(job)
            session.merge(Image(
                job_id=self._job_id, filename=self._name, folded_name=folded,
                size_bytes=self._size, sha256=digest, width=width, height=height,
            ))  # fmt: skip
            self._store.move(key, artifacts.image_key(self._job_id, self._name))


def _differs_by_case(name: str, other: str) -> SplatmillError:
    return SplatmillError(
        Reason.BAD_FILENAME, f"{name} and {other} differ by case alone.", "Rename one of them.", field=name
    )
