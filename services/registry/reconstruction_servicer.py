"""ReconstructionService over the registry's core."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

from sqlmodel import Session, select

from services.common import option_codec
from services.common.log_context import about, adopt
from services.common.tracing import span, trace_id, valid_traceparent
from services.registry import artifacts, failures, jobs, presets, views, workers
from services.registry.core import Registry
from services.registry.keys import EVERYONE, Caller, Scope
from services.registry.lookups import job_by_id, job_by_key
from services.registry.models import Image
from services.registry.uploads import Upload
from splatmill.errors import Reason, SplatmillError
from splatmill.v1 import reconstruction_pb2 as pb
from splatmill.v1 import reconstruction_pb2_grpc

CHUNK = 1 << 20


class ReconstructionServicer(reconstruction_pb2_grpc.ReconstructionServiceServicer):
    """Translates between messages and the core."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._uploading: set[str] = set()

    async def CreateJob(
        self, request_iterator: AsyncIterator[pb.CreateJobRequest], context: Any
    ) -> pb.CreateJobResponse:
        """See the proto."""
        caller = await self._caller(context, Scope.SUBMIT)
        first = await anext(aiter(request_iterator), None)
        if first is None or first.WhichOneof("payload") != "spec":
            raise _protocol_error("The first message of CreateJob must be the spec.")
        with span("CreateJob", incoming_trace(context)) as trace, about(trace_id=trace_id(trace)):
            return await self._create(request_iterator, first.spec, caller, trace)

    async def _create(
        self,
        request_iterator: AsyncIterator[pb.CreateJobRequest],
        spec: pb.JobSpec,
        caller: Caller,
        trace: str,
    ) -> pb.CreateJobResponse:
        job, new = await self._registry.begin_upload(spec, caller, trace)
        if job.state == pb.JOB_STATE_UPLOADING:
            try:
                await self._receive(job.job_id, request_iterator)
                if not job.hold:
                    await self._registry.submit(pb.SubmitJobRequest(job_id=job.job_id), caller)
            except BaseException:
                if new and not job.resumable:
                    await asyncio.shield(self._registry.remove(job.job_id))
                raise
        return pb.CreateJobResponse(job=await self._job(job.job_id))

    async def UploadImages(
        self, request_iterator: AsyncIterator[pb.UploadImagesRequest], context: Any
    ) -> pb.UploadImagesResponse:
        """See the proto."""
        caller = await self._caller(context, Scope.SUBMIT)
        first = await anext(aiter(request_iterator), None)
        if first is None or first.WhichOneof("payload") != "job_id":
            raise _protocol_error("The first message of UploadImages must be the job_id.")
        job = await self._registry.transact(lambda s: job_by_id(s, first.job_id, caller=caller))
        if job.state != pb.JOB_STATE_UPLOADING:
            raise SplatmillError(
                Reason.JOB_STATE_CONFLICT,
                f"Job {job.job_id} is submitted and takes no more photos.",
                "Make a new job.",
            )
        await self._receive(job.job_id, request_iterator)
        return pb.UploadImagesResponse(images=await self._registry.transact(lambda s: _images(s, job.job_id)))

    async def _receive(self, job_id: str, requests: AsyncIterator[Any]) -> None:
        """Takes in the photos of a stream; one stream a job at a time."""
        adopt(job_id=job_id)
        if job_id in self._uploading:
            raise SplatmillError(
                Reason.UPLOAD_IN_PROGRESS,
                f"Another upload of job {job_id} is running.", "Wait for it, then resume.",
                retryable=True,
            )  # fmt: skip
        self._uploading.add(job_id)
        upload: Upload | None = None
        try:
            upload = await self._registry.open_upload(job_id)
            async for request in requests:
                if request.WhichOneof("payload") != "chunk":
                    raise _protocol_error("Only the first message may be other than a chunk.")
                await self._registry.in_thread(upload.feed, request.chunk)
            upload.end()
        finally:
            if upload is not None:
                upload.abort()
            self._uploading.discard(job_id)

    async def GetUpload(self, request: pb.GetUploadRequest, context: Any) -> pb.GetUploadResponse:
        """See the proto."""
        caller = await self._caller(context, Scope.READ)

        def find(session: Session) -> pb.GetUploadResponse:
            if request.WhichOneof("key") == "request_id":
                job = jobs.by_request_id(session, request.request_id, caller)
                if job is None:
                    raise SplatmillError(
                        Reason.JOB_NOT_FOUND, "No upload has that request_id.", "Begin a new one."
                    )
            else:
                job = job_by_id(session, request.job_id, caller=caller)
            return pb.GetUploadResponse(
                job=views.job_message(session, job), images=_images(session, job.job_id)
            )

        return await self._registry.transact(find)

    async def SubmitJob(self, request: pb.SubmitJobRequest, context: Any) -> pb.SubmitJobResponse:
        """See the proto."""
        caller = await self._check(context, Scope.SUBMIT, request.job_id)
        await self._registry.submit(request, caller)
        return pb.SubmitJobResponse(job=await self._job(request.job_id))

    async def GetJob(self, request: pb.GetJobRequest, context: Any) -> pb.GetJobResponse:
        """See the proto."""
        caller = await self._caller(context, Scope.READ)
        return pb.GetJobResponse(job=await self._job(request.job_id, caller))

    async def ListJobs(self, request: pb.ListJobsRequest, context: Any) -> pb.ListJobsResponse:
        """See the proto."""
        caller = await self._caller(context, Scope.READ)

        def find(session: Session) -> pb.ListJobsResponse:
            found, token = jobs.page(session, request.states, request.page_size, request.page_token, caller)
            outlook = views.Outlook(session, many=True)
            messages = [views.job_message(session, job, False, outlook) for job in found]
            return pb.ListJobsResponse(jobs=messages, next_page_token=token)

        return await self._registry.transact(find)

    async def WatchJob(self, request: pb.WatchJobRequest, context: Any) -> AsyncIterator[pb.WatchJobResponse]:
        """See the proto."""
        await self._check(context, Scope.READ, request.job_id)
        async for event in self._registry.watch(request.job_id, request.after_sequence):
            yield pb.WatchJobResponse(event=event)
        if self._registry.news.closed:
            raise SplatmillError(
                Reason.UNAVAILABLE, "The registry is stopping.", "Watch again.", retryable=True
            )

    async def CancelJob(self, request: pb.CancelJobRequest, context: Any) -> pb.CancelJobResponse:
        """See the proto."""
        await self._check(context, Scope.SUBMIT, request.job_id)
        await self._registry.cancel(request.job_id)
        return pb.CancelJobResponse(job=await self._job(request.job_id))

    async def RetryJob(self, request: pb.RetryJobRequest, context: Any) -> pb.RetryJobResponse:
        """See the proto."""
        await self._check(context, Scope.SUBMIT, request.job_id)
        await self._registry.retry(request)
        return pb.RetryJobResponse(job=await self._job(request.job_id))

    async def DeleteJob(self, request: pb.DeleteJobRequest, context: Any) -> pb.DeleteJobResponse:
        """See the proto."""
        await self._check(context, Scope.SUBMIT, request.job_id)
        await self._registry.remove(request.job_id)
        return pb.DeleteJobResponse()

    async def UpdateShare(self, request: pb.UpdateShareRequest, context: Any) -> pb.UpdateShareResponse:
        """See the proto."""
        await self._check(context, Scope.SUBMIT, request.job_id)
        await self._registry.transact(lambda session: jobs.update_share(session, request))
        return pb.UpdateShareResponse(job=await self._job(request.job_id))

    async def ListErrors(self, request: pb.ListErrorsRequest, context: Any) -> pb.ListErrorsResponse:
        """See the proto."""
        if request.job_id:
            await self._check(context, Scope.READ, request.job_id)
        else:
            await self._caller(context, Scope.ADMIN)
        found = await self._registry.transact(lambda s: failures.listed(s, request.job_id, request.limit))
        return pb.ListErrorsResponse(errors=found)

    async def ListWorkers(self, request: pb.ListWorkersRequest, context: Any) -> pb.ListWorkersResponse:
        """See the proto."""
        await self._caller(context, Scope.ADMIN)
        return pb.ListWorkersResponse(workers=await self._registry.transact(workers.listed))

    async def GetQueue(self, request: pb.GetQueueRequest, context: Any) -> pb.GetQueueResponse:
        """See the proto."""
        caller = await self._caller(context, Scope.READ)
        limit = self._registry.settings.max_concurrent_jobs
        return await self._registry.transact(lambda session: views.queue_message(session, limit, caller))

    async def GetScene(self, request: pb.GetSceneRequest, context: Any) -> pb.GetSceneResponse:
        """See the proto."""

        def find(session: Session) -> pb.GetSceneResponse:
            job = job_by_key(session, request.pub_key)
            files = artifacts.public_artifacts(session, job)
            return pb.GetSceneResponse(job=views.job_message(session, job, with_log=False), artifacts=files)

        return await self._registry.transact(find)

    async def ListArtifacts(self, request: pb.ListArtifactsRequest, context: Any) -> pb.ListArtifactsResponse:
        """See the proto."""
        caller = await self._caller_of_key(context, request)

        def find(session: Session) -> list[pb.Artifact]:
            if request.WhichOneof("key") == "pub_key":
                return artifacts.public_artifacts(session, job_by_key(session, request.pub_key))
            job = job_by_id(session, request.job_id, caller=caller)
            return artifacts.all_artifacts(session, self._registry.store, job)

        return pb.ListArtifactsResponse(artifacts=await self._registry.transact(find))

    async def DownloadArtifact(
        self, request: pb.DownloadArtifactRequest, context: Any
    ) -> AsyncIterator[pb.DownloadArtifactResponse]:
        """See the proto."""
        caller = await self._caller_of_key(context, request)
        artifact, key = await self._registry.transact(self._finder(request, caller))
        artifact, data = await self._registry.in_thread(
            artifacts.snapshot, self._registry.store, artifact, key
        )
        if not 0 <= request.offset <= artifact.size_bytes or request.length < 0:
            raise SplatmillError(
                Reason.BAD_OFFSET,
                f"{request.name} has {artifact.size_bytes} bytes; {request.offset} lies outside.",
                "Ask for an offset inside the file.", field="offset",
            )  # fmt: skip
        yield pb.DownloadArtifactResponse(artifact=artifact)
        left = artifact.size_bytes - request.offset
        length = min(left, request.length or left)
        if data is None:
            pieces = self._registry.store.read(key, request.offset, length, CHUNK)
        else:
            pieces = iter([data[request.offset : request.offset + length]])
        while (piece := await self._registry.in_thread(next, pieces, None)) is not None:
            yield pb.DownloadArtifactResponse(data=piece)

    def _finder(
        self, request: pb.DownloadArtifactRequest, caller: Caller
    ) -> Callable[[Session], tuple[pb.Artifact, str]]:
        def find(session: Session) -> tuple[pb.Artifact, str]:
            public = request.WhichOneof("key") == "pub_key"
            if public:
                job = job_by_key(session, request.pub_key)
            else:
                job = job_by_id(session, request.job_id, caller=caller)
            artifact = artifacts.find(session, job, request.name, public, self._registry.store)
            if artifact is None:
                raise SplatmillError(
                    Reason.ARTIFACT_NOT_FOUND, f"There is no file {request.name[:200]!r}.",
                    "Is the job done? ListArtifacts names its files.",
                )  # fmt: skip
            stored = artifacts.stored_name(session, job, request.name)
            return artifact, f"{artifacts.job_prefix(job.job_id)}/{stored}"

        return find

    async def ListOptions(self, request: pb.ListOptionsRequest, context: Any) -> pb.ListOptionsResponse:
        """See the proto."""
        settings = self._registry.settings
        limits = pb.UploadLimits(
            min_images=settings.min_images,
            max_images=settings.max_images,
            max_image_bytes=settings.max_image_bytes,
        )
        return pb.ListOptionsResponse(options=option_codec.describe(), limits=limits)

    async def ListPresets(self, request: pb.ListPresetsRequest, context: Any) -> pb.ListPresetsResponse:
        """See the proto."""
        await self._caller(context, Scope.READ)
        return pb.ListPresetsResponse(devices=await self._registry.transact(presets.listed))

    async def _job(self, job_id: str, caller: Caller = EVERYONE) -> pb.Job:
        return await self._registry.transact(
            lambda session: views.job_message(session, job_by_id(session, job_id, caller=caller))
        )

    async def _caller(self, context: Any, scope: Scope) -> Caller:
        return await self._registry.access.caller(context, scope)

    async def _check(self, context: Any, scope: Scope, job_id: str) -> Caller:
        """Lets the caller do something with a job of his."""
        caller = await self._caller(context, scope)
        await self._registry.access.check_job(caller, job_id)
        return caller

    async def _caller_of_key(self, context: Any, request: Any) -> Caller:
        """Who asks for files; behind a share key everyone may."""
        if request.WhichOneof("key") == "pub_key":
            return EVERYONE
        return await self._caller(context, Scope.READ)


def incoming_trace(context: Any) -> str:
    """The trace that a call belongs to, or a new one."""
    given = dict(context.invocation_metadata() or ()).get("traceparent", "")
    return valid_traceparent(given if isinstance(given, str) else "")


def _images(session: Session, job_id: str) -> list[pb.StoredImage]:
    rows = session.exec(select(Image).where(Image.job_id == job_id)).all()
    # Databases sort texts by the rules of different languages.
    return [views.image_message(row) for row in sorted(rows, key=lambda row: row.filename)]


def _protocol_error(text: str) -> SplatmillError:
    return SplatmillError(Reason.INVALID_REQUEST, text, "See the comments of the proto.")
