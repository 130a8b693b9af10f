"""Photos to the registry: in chunks, with hashes, going on where a break left off."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import grpc
import grpc.aio

from splatmill._patience import Patience, is_break
from splatmill._photo_names import PHOTO_SUFFIXES, is_mask
from splatmill._status import Ending, from_rpc_error
from splatmill.errors import Reason, SplatmillError
from splatmill.v1 import reconstruction_pb2 as pb

if TYPE_CHECKING:
    from splatmill.v1.reconstruction_pb2_grpc import ReconstructionServiceAsyncStub

PhotoSource = str | os.PathLike[str] | tuple[str, bytes]
"""A photo's path, a folder of photos, or a name with the file's bytes."""

CHUNK_BYTES = 1 << 20
_DISCARD_SECONDS = 5.0
_TRIES_AFTER_LOCAL_END = 4
# The server's own wishes to be asked again, besides a lost connection.
_ASK_AGAIN = (Reason.UPLOAD_IN_PROGRESS, Reason.UPLOAD_INTERRUPTED, Reason.IMAGE_HASH_MISMATCH, Reason.BUSY)


@dataclass(frozen=True)
class UploadProgress:
    """How far an upload is."""

    bytes_sent: int
    """Of all photos and masks; falls when a break costs a photo that was under way."""
    bytes_total: int
    photos_sent: int
    """Photos sent to their end, masks not counted."""
    photos_total: int
    """All photos, masks not counted."""


@dataclass(frozen=True)
class Photo:
    """A photo, or a photo's mask, to send."""

    name: str
    source: Path | bytes
    size: int

    @property
    def counts(self) -> int:
        """Photos that it is: a mask is none."""
        return 0 if is_mask(self.name) else 1

    async def chunks(self) -> AsyncIterator[pb.ImageChunk]:
        """Its pieces; the last one carries the hash."""
        digest = hashlib.sha256()
        with contextlib.ExitStack() as stack:
            read = _reader(self.source, stack)
            data = await read(CHUNK_BYTES)
            while True:
                following = await read(CHUNK_BYTES)
                digest.update(data)
                if not following:
                    yield pb.ImageChunk(filename=self.name, data=data, last=True, sha256=digest.digest())
                    return
                yield pb.ImageChunk(filename=self.name, data=data)
                data = following

    def sha256(self) -> bytes:
        """SHA-256 of the whole file."""
        if isinstance(self.source, bytes):
            return hashlib.sha256(self.source).digest()
        with self.source.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()


def collect(photos: Iterable[PhotoSource] | str | os.PathLike[str]) -> list[Photo]:
    """Looks at every source; folders stand for the photos in them, by name.

    Raises:
        SplatmillError: INPUT_NOT_FOUND for a path that is not there, BAD_FILENAME for two
            photos of one name, TOO_FEW_IMAGES for none at all.
    """
    if isinstance(photos, str | os.PathLike):
        photos = [photos]
    found: dict[str, Photo] = {}
    for photo in _each(photos):
        if photo.name in found:
            raise SplatmillError(
                Reason.BAD_FILENAME,
                f"Two photos have the name {photo.name}.",
                "Rename one of them.",
                field=photo.name,
            )
        found[photo.name] = photo
    if not found:
        raise SplatmillError(
            Reason.TOO_FEW_IMAGES,
            "There are no photos to send.",
            f"Name photos, or folders with files ending in {', '.join(PHOTO_SUFFIXES)}.",
        )
    return list(found.values())


def _each(photos: Iterable[PhotoSource]) -> Iterator[Photo]:
    for source in photos:
        if isinstance(source, tuple):
            yield Photo(source[0], bytes(source[1]), len(source[1]))
            continue
        path = Path(source)
        try:
            if path.is_dir():
                names = sorted(each for each in path.iterdir() if each.suffix.lower() in PHOTO_SUFFIXES)
                yield from (Photo(each.name, each, each.stat().st_size) for each in names if each.is_file())
            else:
                yield Photo(path.name, path, path.stat().st_size)
        except OSError as error:
            raise _unreadable(path, error) from None


def _unreadable(path: Path, error: OSError) -> SplatmillError:
    return SplatmillError(
        Reason.INPUT_NOT_FOUND,
        f"{path} cannot be read: {error.strerror or error}.",
        "Check the path.",
        field=str(path),
    )


def _reader(source: Path | bytes, stack: contextlib.ExitStack) -> Callable[[int], Awaitable[bytes]]:
    """A function that answers the next bytes, without blocking the loop on a slow disk."""
    if isinstance(source, bytes):
        pieces = iter(range(0, len(source), CHUNK_BYTES))

        async def read_memory(size: int) -> bytes:
            start = next(pieces, len(source))
            return source[start : start + size]

        return read_memory
    file: BinaryIO = stack.enter_context(source.open("rb"))

    async def read_file(size: int) -> bytes:
        return await asyncio.to_thread(file.read, size)

    return read_file


class Upload:
    """One job on its way to the registry.

    Args:
        stub: The service.
        address: Of the service, for messages.
        photos: What to send.
        spec: The job's spec, with its request_id, resumable and on hold.
        resume: Whether an earlier call may have begun this upload.
        patience: When to give up.
        on_progress: Told after every chunk.
    """

    def __init__(
        self,
        stub: ReconstructionServiceAsyncStub,
        address: str,
        photos: list[Photo],
        spec: pb.JobSpec,
        resume: bool,
        patience: Patience,
        on_progress: Callable[[UploadProgress], None] | None,
    ) -> None:
        self._stub = stub
        self._address = address
        self._photos = photos
        self._spec = spec
        self._resume = self._began_earlier = resume
        self._patience = patience
        self._on_progress = on_progress
        self._total = sum(photo.size for photo in photos)
        self._count = sum(photo.counts for photo in photos)
        self._stored = -1

    async def run(self) -> pb.Job:
        """Sends until the job is submitted.

        Raises:
            SplatmillError: The server refused the job, and has nothing left of it; or it
                stayed away, and the same request_id goes on from there later.
        """
        try:
            while True:
                try:
                    return await (self._rest() if self._resume else self._whole())
                except grpc.aio.AioRpcError as broken:
                    await self._after(broken)
        except OSError as error:
            await self._discard(_TRIES_AFTER_LOCAL_END)
            raise _unreadable(Path(str(error.filename)), error) from None
        except SplatmillError as error:
            if error.reason not in (Reason.UNAVAILABLE, Reason.UPLOAD_IN_PROGRESS):
                await self._discard()
            raise
        except asyncio.CancelledError:
            if not self._began_earlier:
                await asyncio.shield(self._discard(_TRIES_AFTER_LOCAL_END))
            raise

    async def _after(self, broken: grpc.aio.AioRpcError) -> None:
        """Decides how to go on after a call that failed."""
        error = from_rpc_error(broken)
        if error.reason == Reason.JOB_NOT_FOUND and self._resume:
            self._resume = False  # the break came before the server knew of the job
            self._patience.breaks += 1
            return
        self._resume = True
        if error.reason in _ASK_AGAIN and not is_break(broken, error):
            await self._patience.pause(error)
        else:
            await self._patience.after(broken, self._address)

    async def _whole(self) -> pb.Job:
        """The whole job in one call."""
        first = pb.CreateJobRequest(spec=self._spec)
        answer = await self._send(
            self._stub.CreateJob(), first, lambda chunk: pb.CreateJobRequest(chunk=chunk), {}
        )
        return await self._submit(answer.job)

    async def _rest(self) -> pb.Job:
        """What the server lacks of a job that was begun."""
        upload = await self._stub.GetUpload(pb.GetUploadRequest(request_id=self._spec.request_id))
        job_id = upload.job.job_id
        if upload.job.state != pb.JOB_STATE_UPLOADING:
            job: pb.Job = upload.job
            return job
        if len(upload.images) > self._stored:
            self._stored = len(upload.images)
            self._patience.renew()
        first = pb.UploadImagesRequest(job_id=job_id)
        stored = {image.filename: image.sha256 for image in upload.images}
        await self._send(
            self._stub.UploadImages(), first, lambda chunk: pb.UploadImagesRequest(chunk=chunk), stored
        )
        return await self._submit(upload.job)

    async def _submit(self, job: pb.Job) -> pb.Job:
        """Queues the job, in a call of its own: to a server a stream that is cut between two photos
        looks like one that has ended."""
        if job.state != pb.JOB_STATE_UPLOADING:
            return job
        return (await self._stub.SubmitJob(pb.SubmitJobRequest(job_id=job.job_id))).job

    async def _send(
        self, call: Any, first: Any, wrap: Callable[[pb.ImageChunk], Any], stored: dict[str, bytes]
    ) -> Any:
        """Streams a first message and all photos that are not stored; answers the call's answer."""
        ending = Ending(call)
        try:
            # A write fails once the server has answered or refused, with whatever gRPC knows at
            # that moment; what the call itself ends with is the truth.
            with contextlib.suppress(asyncio.InvalidStateError, grpc.aio.AioRpcError):
                await call.write(first)
                await self._write_photos(call, wrap, stored)
                await call.done_writing()
            return await ending.result()
        finally:
            if not call.done():
                call.cancel()

    async def _write_photos(
        self, call: Any, wrap: Callable[[pb.ImageChunk], Any], stored: dict[str, bytes]
    ) -> None:
        sent = photos = 0
        for photo in self._photos:
            known = stored.get(photo.name)
            if known is not None and known == await asyncio.to_thread(photo.sha256):
                sent, photos = sent + photo.size, photos + photo.counts
                self._tell(sent, photos)
                continue
            async for chunk in photo.chunks():
                await call.write(wrap(chunk))
                sent, photos = sent + len(chunk.data), photos + chunk.last * photo.counts
                self._tell(sent, photos)

    def _tell(self, sent: int, photos: int) -> None:
        if self._on_progress is not None:
            self._on_progress(UploadProgress(sent, self._total, photos, self._count))

    async def _discard(self, tries: int = 1) -> None:
        """Leaves no unfinished upload behind, if the server can be reached.

        Args:
            tries: More than one when the upload was ended here, because then the server
                may be about to make the job.
        """
        with contextlib.suppress(grpc.aio.AioRpcError, TimeoutError):
            async with asyncio.timeout(_DISCARD_SECONDS):
                upload = await self._find(tries)
                if upload is not None and upload.job.state == pb.JOB_STATE_UPLOADING:
                    await self._stub.DeleteJob(pb.DeleteJobRequest(job_id=upload.job.job_id))

    async def _find(self, tries: int) -> pb.GetUploadResponse | None:
        for _ in range(tries):
            try:
                return await self._stub.GetUpload(pb.GetUploadRequest(request_id=self._spec.request_id))
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.NOT_FOUND:
                    raise
            await asyncio.sleep(0.2)
        return None
