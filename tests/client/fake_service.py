"""A ReconstructionService in memory that breaks off when a test says so."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio

from splatmill._status import to_status
from splatmill.errors import Reason, SplatmillError
from splatmill.v1 import reconstruction_pb2 as pb
from splatmill.v1 import reconstruction_pb2_grpc as rpc

PIECE = 1000


@dataclass
class FakeService(rpc.ReconstructionServiceServicer):
    """One job, one watch log, any number of files; breaks are taken from the lists in order."""

    breaks: list[int] = field(default_factory=list)
    """After how many chunks, events or pieces each further stream breaks off."""
    refuse: SplatmillError | None = None
    """What the next upload stream ends with."""
    files: dict[str, bytes] = field(default_factory=dict)
    events: list[pb.JobEvent] = field(default_factory=list)
    job: pb.Job | None = None
    request_id: str = ""
    images: dict[str, bytes] = field(default_factory=dict)
    streams: list[list[str]] = field(default_factory=list)
    """Names of the photos each upload stream has brought, begun or whole."""
    calls: list[str] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)

    async def _count(self, context: Any, left: list[int]) -> None:
        if left and left[0] == 0:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "injected break")
        if left:
            left[0] -= 1

    def _next_break(self) -> list[int]:
        return [self.breaks.pop(0)] if self.breaks else []

    async def _fail(self, context: Any, error: SplatmillError) -> None:
        status = to_status(error)
        await context.abort(status.code, status.details, status.trailing_metadata)

    async def _receive(self, requests: AsyncIterator[Any], context: Any) -> None:
        left, names, parts = self._next_break(), [], []
        self.streams.append(names)
        async for request in requests:
            await self._count(context, left)
            chunk = request.chunk
            if not parts:
                names.append(chunk.filename)
            parts.append(chunk.data)
            if chunk.last:
                data = b"".join(parts)
                assert hashlib.sha256(data).digest() == chunk.sha256
                self.images[chunk.filename] = data
                parts.clear()
        if self.refuse is not None:
            error, self.refuse = self.refuse, None
            await self._fail(context, error)
        if left:  # the break comes after the last photo, before the answer
            await context.abort(grpc.StatusCode.UNAVAILABLE, "injected break")

    async def CreateJob(self, request_iterator, context):
        self.calls.append("CreateJob")
        spec = (await anext(aiter(request_iterator))).spec
        left = self._next_break()
        if left == [-1]:  # before the job exists
            await context.abort(grpc.StatusCode.UNAVAILABLE, "injected break")
        self.breaks = left + self.breaks
        self.request_id = spec.request_id
        state = pb.JOB_STATE_UPLOADING
        self.job = pb.Job(job_id="abcd1234", title=spec.title, options=spec.options, state=state)
        await self._receive(request_iterator, context)
        if not spec.hold:
            self.job.state = pb.JOB_STATE_PENDING
        return pb.CreateJobResponse(job=self.job)

    async def UploadImages(self, request_iterator, context):
        self.calls.append("UploadImages")
        assert (await anext(aiter(request_iterator))).job_id == "abcd1234"
        await self._receive(request_iterator, context)
        return pb.UploadImagesResponse()

    async def GetUpload(self, request, context):
        self.calls.append("GetUpload")
        if self.job is None or request.request_id != self.request_id:
            await self._fail(context, SplatmillError(Reason.JOB_NOT_FOUND, "No such upload."))
        stored = [
            pb.StoredImage(filename=name, size_bytes=len(data), sha256=hashlib.sha256(data).digest())
            for name, data in self.images.items()
        ]
        return pb.GetUploadResponse(job=self.job, images=stored)

    async def SubmitJob(self, request, context):
        self.calls.append("SubmitJob")
        self.job.state = pb.JOB_STATE_PENDING
        return pb.SubmitJobResponse(job=self.job)

    async def DeleteJob(self, request, context):
        self.calls.append("DeleteJob")
        if self.job is None:
            await self._fail(context, SplatmillError(Reason.JOB_NOT_FOUND, "No such job."))
        self.job = None
        if self._next_break():
            await context.abort(grpc.StatusCode.UNAVAILABLE, "injected break")
        return pb.DeleteJobResponse()

    async def GetJob(self, request, context):
        self.calls.append("GetJob")
        await self._count(context, self._next_break())
        if self.job is None or request.job_id != self.job.job_id:
            await self._fail(context, SplatmillError(Reason.JOB_NOT_FOUND, "No such job.", "Check the id."))
        return pb.GetJobResponse(job=self.job)

    async def RetryJob(self, request, context):
        self.calls.append("RetryJob")
        if self.job.state == pb.JOB_STATE_PENDING:
            await self._fail(context, SplatmillError(Reason.JOB_STATE_CONFLICT, "It has not ended."))
        self.job.state = pb.JOB_STATE_PENDING
        if self._next_break():
            await context.abort(grpc.StatusCode.UNAVAILABLE, "injected break")
        return pb.RetryJobResponse(job=self.job)

    async def ListJobs(self, request, context):
        self.calls.append("ListJobs")
        start = int(request.page_token or 0)
        jobs = [pb.Job(job_id=f"{number:08d}") for number in range(start, min(start + 200, 450))]
        token = str(start + 200) if start + 200 < 450 else ""
        return pb.ListJobsResponse(jobs=jobs, next_page_token=token)

    async def WatchJob(self, request, context):
        self.calls.append(f"WatchJob {request.after_sequence}")
        left = self._next_break()
        for event in self.events:
            if event.sequence > request.after_sequence:
                await self._count(context, left)
                yield pb.WatchJobResponse(event=event)
        self.job.state = pb.JOB_STATE_COMPLETED

    async def DownloadArtifact(self, request, context):
        self.offsets.append(request.offset)
        data = self.files.get(request.name)
        if data is None:
            await self._fail(
                context, SplatmillError(Reason.ARTIFACT_NOT_FOUND, "No such file.", "List them.")
            )
        if request.offset > len(data):
            await self._fail(context, SplatmillError(Reason.BAD_OFFSET, "It lies outside."))
        left = self._next_break()
        sha256 = b"" if request.name.endswith(".log") else hashlib.sha256(data).digest()
        artifact = pb.Artifact(name=request.name, size_bytes=len(data), sha256=sha256)
        yield pb.DownloadArtifactResponse(artifact=artifact)
        for at in range(request.offset, len(data), PIECE):
            await self._count(context, left)
            yield pb.DownloadArtifactResponse(data=data[at : at + PIECE])
