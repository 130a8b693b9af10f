"""POST /recon/jobs: multipart parts become an upload stream, piece by piece.

Form fields may stand before or behind the files, as curl users write them. So the stream
is opened at the first file, held, and submitted with all options when the form has ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator
from pathlib import PurePosixPath
from typing import Any

import grpc.aio
from aiohttp import BodyPartReader, MultipartReader, web

from services.common.option_codec import parse_form
from services.gateway.keys import REGISTRY
from splatmill._photo_names import photo_stem
from splatmill._status import Ending, from_rpc_error
from splatmill.errors import Reason, SplatmillError
from splatmill.v1 import reconstruction_pb2 as pb

CHUNK = 1 << 20
MAX_FIELD_BYTES = 1000
MAX_FIELDS = 100
_FILE_FIELDS = ("files", "files[]", "file")


async def create_job(request: web.Request) -> web.Response:
    """Takes photos in and queues their job."""
    if request.content_type != "multipart/form-data":
        raise SplatmillError(
            Reason.INVALID_REQUEST, "Photos are uploaded as multipart/form-data.",
            "With curl: -F files=@photo1.jpg -F files=@photo2.jpg ...",
        )  # fmt: skip
    form = _Form(request.app[REGISTRY])
    try:
        job = await form.receive(await request.multipart())
    except BaseException:
        await asyncio.shield(form.discard())
        raise
    body = {
        "job_id": job.job_id,
        "pub_key": job.pub_key,
        "original_resolution": job.options.sfm.original_resolution,
    }
    return web.json_response(body)


class _Form:
    """One form on its way to the registry."""

    def __init__(self, registry: Any) -> None:
        self._registry = registry
        self._call: Any = None
        self._job_id = ""
        self._fields: dict[str, str] = {}
        self._title = ""
        self._priority: int | None = None
        self._names: set[str] = set()

    async def receive(self, reader: MultipartReader) -> pb.Job:
        """Reads the whole form; answers the submitted job."""
        async for part in _parts(reader):
            if part.filename is not None:
                await self._send_file(part)
            elif part.name in _FILE_FIELDS:
                raise SplatmillError(
                    Reason.INVALID_REQUEST, f"The field {part.name!r} holds text, not a file.",
                    "With curl, write an @ before the path: -F files=@photo.jpg", field="files",
                )  # fmt: skip
            else:
                await self._read_field(part)
        options = parse_form(self._fields)
        if self._call is None:
            await self._open()
        await self._guarded(self._call.done_writing())
        created = await self._guarded(self._ending.result())
        self._job_id = created.job.job_id
        submit = pb.SubmitJobRequest(job_id=self._job_id, options=options, title=self._title)
        if self._priority is not None:
            submit.priority = self._priority
        submitted = await self._registry.SubmitJob(submit)
        self._job_id = ""
        job: pb.Job = submitted.job
        return job

    async def discard(self) -> None:
        """Leaves nothing of a form that did not come through."""
        if self._call is not None:
            self._call.cancel()
        if self._job_id:
            with contextlib.suppress(grpc.aio.AioRpcError):
                await self._registry.DeleteJob(pb.DeleteJobRequest(job_id=self._job_id))

    async def _read_field(self, part: BodyPartReader) -> None:
        value = await part.read_chunk(MAX_FIELD_BYTES + 1)
        name = part.name or ""
        if len(value) > MAX_FIELD_BYTES or len(self._fields) >= MAX_FIELDS:
            raise SplatmillError(
                Reason.INVALID_REQUEST,
                f"The field {name[:80]!r} is too long.",
                "Shorten it.",
                field=name[:80],
            )
        text = value.decode(errors="replace").strip()
        if name == "title":
            self._title = text
        elif name == "priority" and text:
            self._priority = _priority(text)
        elif text:
            parse_form({name: text})
            self._fields[name] = text

    async def _open(self) -> None:
        self._call = self._registry.CreateJob()
        self._ending = Ending(self._call)
        spec = pb.JobSpec(options=parse_form(self._fields), hold=True, title=self._title)
        await self._guarded(self._call.write(pb.CreateJobRequest(spec=spec)))

    async def _send_file(self, part: BodyPartReader) -> None:
        """Streams one photo, one piece behind, so that the last piece can be marked."""
        digest = hashlib.sha256()
        previous = b""
        name = ""
        async for piece in _pieces(part):
            if not name:
                name = self._unique_name(part.filename or "photo")
                if self._call is None:
                    await self._open()
            else:
                await self._send(pb.ImageChunk(filename=name, data=previous))
            digest.update(piece)
            previous = piece
        if name:
            await self._send(pb.ImageChunk(filename=name, data=previous, last=True, sha256=digest.digest()))

    async def _send(self, chunk: pb.ImageChunk) -> None:
        await self._guarded(self._call.write(pb.CreateJobRequest(chunk=chunk)))

    async def _guarded(self, awaitable: Any) -> Any:
        """Awaits a step of the stream; when the registry has ended it, raises its reason."""
        try:
            return await awaitable
        except (asyncio.InvalidStateError, grpc.aio.UsageError, grpc.aio.AioRpcError):
            try:
                await self._ending.result()
            except grpc.aio.AioRpcError as error:
                raise from_rpc_error(error) from error
            raise

    def _unique_name(self, filename: str) -> str:
        """The plain file name; a second one of the same name gets a number, a mask as its photo does."""
        plain = PurePosixPath(filename.replace("\\", "/")).name.strip() or "photo"
        stem = photo_stem(plain)
        name, number = plain, 1
        while name.casefold() in self._names:
            number += 1
            name = f"{stem}_{number}{plain[len(stem) :]}"
        self._names.add(name.casefold())
        return name


def _priority(text: str) -> int:
    digits = text.removeprefix("-")
    if not digits.isdecimal() or len(digits) > 3:
        raise SplatmillError(
            Reason.INVALID_REQUEST, f"The priority {text[:20]!r} is no whole number from -100 to 100.",
            "Leave it out.", field="priority",
        )  # fmt: skip
    return int(text)


async def _parts(reader: MultipartReader) -> AsyncIterator[BodyPartReader]:
    while True:
        try:
            part = await reader.next()
        except (ValueError, AssertionError) as error:
            raise SplatmillError(
                Reason.INVALID_REQUEST,
                f"The upload is no valid multipart form: {error}.",
                "Send it again.",
                retryable=True,
            ) from error
        if part is None:
            return
        if isinstance(part, BodyPartReader):
            yield part


async def _pieces(part: BodyPartReader) -> AsyncIterator[bytes]:
    """A part's bytes in pieces of CHUNK, the last one shorter."""
    buffer = bytearray()
    while chunk := await part.read_chunk(1 << 18):
        buffer += chunk
        while len(buffer) >= CHUNK:
            yield bytes(buffer[:CHUNK])
            del buffer[:CHUNK]
    if buffer:
        yield bytes(buffer)
