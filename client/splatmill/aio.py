"""The client for asyncio: jobs over gRPC, with the breaks of a network mended."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any, Self, TypeVar, cast

import grpc
import grpc.aio

from splatmill._download import Download, is_job_id
from splatmill._options import job_options
from splatmill._patience import Patience
from splatmill._transport import Authorized, Tls, open_channel
from splatmill._upload import PhotoSource, Upload, UploadProgress, collect
from splatmill.errors import Reason, SplatmillError
from splatmill.states import is_final
from splatmill.v1 import options_pb2, progress_pb2
from splatmill.v1 import reconstruction_pb2 as pb
from splatmill.v1 import reconstruction_pb2_grpc as rpc

DEFAULT_ADDRESS = "localhost:50051"

_CHANNEL_OPTIONS: Sequence[tuple[str, Any]] = (
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    # gRPC's own pause between attempts to connect grows to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2_000),
)

_ResponseT = TypeVar("_ResponseT")

Options = Mapping[str, object] | options_pb2.JobOptions


def default_address() -> str:
    """``SPLATMILL_REGISTRY_ADDRESS``, or ``localhost:50051``."""
    return os.environ.get("SPLATMILL_REGISTRY_ADDRESS") or DEFAULT_ADDRESS


class AsyncClient:
    """Jobs of one registry. Use it in one event loop, as an async context manager.

    A call that breaks off is made again, and an upload, a watch or a download goes on where
    it was, as long as the server shows a sign of life every ``patience`` seconds.

    Args:
        address: ``host:port`` of the registry's gRPC port; None for
            ``SPLATMILL_REGISTRY_ADDRESS``, and ``localhost:50051`` without that.
        api_key: Shown with every call; None for ``SPLATMILL_API_KEY``.
        credentials: For TLS; None for the files that ``SPLATMILL_TLS_CA``, ``_CERT`` and ``_KEY``
            name, and a plain connection without those.
        patience: Seconds without a sign of life after which a call is given up.
        timeout: Seconds that a single short call may take.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        api_key: str | None = None,
        credentials: grpc.ChannelCredentials | None = None,
        patience: float = 30.0,
        timeout: float = 30.0,
    ) -> None:
        self.address = address or default_address()
        self._patience_seconds = patience
        self._timeout = timeout
        if credentials is None:
            self._channel = open_channel(self.address, _CHANNEL_OPTIONS, Tls.from_environment())
        else:
            self._channel = grpc.aio.secure_channel(self.address, credentials, options=_CHANNEL_OPTIONS)
        key = (os.environ.get("SPLATMILL_API_KEY", "") if api_key is None else api_key).strip()
        stub = Authorized(rpc.ReconstructionServiceStub(self._channel), lambda: key)
        self._stub = cast("rpc.ReconstructionServiceAsyncStub", stub)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends the connection."""
        await self._channel.close()

    async def ready(self, timeout: float = 3.0) -> bool:
        """Whether the server can be reached within ``timeout`` seconds."""
        try:
            await asyncio.wait_for(self._channel.channel_ready(), timeout)
        except TimeoutError:
            return False
        return True

    async def create_job(
        self,
        photos: Iterable[PhotoSource] | str | os.PathLike[str],
        *,
        options: Options | None = None,
        title: str = "",
        request_id: str = "",
        priority: int = 0,
        on_upload_progress: Callable[[UploadProgress], None] | None = None,
    ) -> pb.Job:
        """Sends photos and queues a job.

        Args:
            photos: Paths of photos or of folders of photos, or pairs of a name and bytes.
            options: By their flat names, such as ``{"iterations": 3000}``, or the message.
            title: For people.
            request_id: Idempotency key. A second call with it, even from another process,
                goes on with the first one's upload and answers the same job.
            priority: Higher ones come first, -100 to 100; above 0 is for administrators.
            on_upload_progress: Told after every chunk.

        Returns:
            The queued job.

        Raises:
            SplatmillError: Bad photos or options, and nothing is left on the server.
        """
        spec = pb.JobSpec(
            request_id=request_id or secrets.token_hex(16),
            options=job_options(options),
            resumable=True,
            hold=True,
            title=title,
            priority=priority,
        )
        found = await asyncio.to_thread(collect, photos)
        patience = self._patience()
        upload = Upload(self._stub, self.address, found, spec, bool(request_id), patience, on_upload_progress)
        return await upload.run()

    async def get(self, job_id: str) -> pb.Job:
        """A job as it stands."""
        return (await self._call(self._stub.GetJob, pb.GetJobRequest(job_id=job_id))).job

    async def list_jobs(
        self, states: Iterable[pb.JobState.ValueType] = (), limit: int | None = None
    ) -> list[pb.Job]:
        """Jobs, newest first.

        Args:
            states: Only those in one of these states; all when empty.
            limit: At most so many; None for all.
        """
        jobs: list[pb.Job] = []
        request = pb.ListJobsRequest(states=list(states), page_size=200)
        while limit is None or len(jobs) < limit:
            page = await self._call(self._stub.ListJobs, request)
            jobs.extend(page.jobs)
            if not page.next_page_token:
                break
            request.page_token = page.next_page_token
        return jobs[:limit]

    async def watch(self, job_id: str, after_sequence: int = 0) -> AsyncGenerator[pb.JobEvent, None]:
        """A job's events, those in the past first, until it ends; none lost, none twice.

        Args:
            job_id: The job.
            after_sequence: The newest sequence already seen.
        """
        patience = self._patience()
        while True:
            request = pb.WatchJobRequest(job_id=job_id, after_sequence=after_sequence)
            call = self._stub.WatchJob(request)
            try:
                async for response in call:
                    patience.renew()
                    if response.event.sequence > after_sequence:
                        after_sequence = response.event.sequence
                        yield response.event
                return
            except grpc.aio.AioRpcError as broken:
                await patience.after(broken, self.address)
            finally:
                call.cancel()

    async def wait(self, job_id: str, timeout: float | None = None) -> pb.Job:
        """Waits until a job has ended, and answers it; see ``job_error`` for why it failed.

        Raises:
            TimeoutError: It has not ended within ``timeout`` seconds.
        """
        async with asyncio.timeout(timeout):
            job = await self.get(job_id)
            while not is_final(job.state):
                async with contextlib.aclosing(self.watch(job_id, job.last_sequence)) as events:
                    async for _ in events:
                        pass
                job = await self.get(job_id)
        return job

    async def cancel(self, job_id: str) -> pb.Job:
        """Cancels a job; one that has ended stays as it is."""
        return (await self._call(self._stub.CancelJob, pb.CancelJobRequest(job_id=job_id))).job

    async def retry(
        self,
        job_id: str,
        from_stage: progress_pb2.Stage.ValueType = progress_pb2.STAGE_UNSPECIFIED,
        options: Options | None = None,
    ) -> pb.Job:
        """Runs an ended job again.

        Args:
            job_id: The job.
            from_stage: The first stage to run; unspecified for the first that did not succeed.
            options: Replace those of the stages that run again, where set.
        """
        request = pb.RetryJobRequest(job_id=job_id, from_stage=from_stage, options=job_options(options))
        patience = self._patience()
        try:
            return (await self._call(self._stub.RetryJob, request, patience)).job
        except SplatmillError as error:
            if error.reason == Reason.JOB_STATE_CONFLICT and patience.breaks:
                return await self.get(job_id)  # it was queued before its answer was lost
            raise

    async def delete(self, job_id: str) -> None:
        """Deletes a job and all its files."""
        patience = self._patience()
        try:
            await self._call(self._stub.DeleteJob, pb.DeleteJobRequest(job_id=job_id), patience)
        except SplatmillError as error:
            if error.reason != Reason.JOB_NOT_FOUND or not patience.breaks:
                raise

    async def share(
        self, job_id: str, action: pb.ShareAction.ValueType, valid_for: float | None = None
    ) -> pb.Job:
        """Opens, closes or renews a job's share link.

        Args:
            job_id: The job.
            action: Such as ``SHARE_ACTION_RENEW``.
            valid_for: Seconds that the link works from now on; None for ever.
        """
        request = pb.UpdateShareRequest(job_id=job_id, action=action)
        if valid_for is not None:
            request.valid_for.FromMilliseconds(int(1000 * valid_for))
        answer: pb.UpdateShareResponse = await self._call(self._stub.UpdateShare, request)
        return answer.job

    async def errors(self, job_id: str = "") -> list[pb.FailedAttempt]:
        """Failed attempts, newest first: of a job, or for administrators of all."""
        return list((await self._call(self._stub.ListErrors, pb.ListErrorsRequest(job_id=job_id))).errors)

    async def workers(self) -> list[pb.WorkerInfo]:
        """The workers heard of lately, for administrators."""
        return list((await self._call(self._stub.ListWorkers, pb.ListWorkersRequest())).workers)

    async def queue(self) -> pb.GetQueueResponse:
        """What runs and what waits."""
        return await self._call(self._stub.GetQueue, pb.GetQueueRequest())

    async def scene(self, pub_key: str) -> pb.GetSceneResponse:
        """A scene and its public files, by its share key."""
        return await self._call(self._stub.GetScene, pb.GetSceneRequest(pub_key=pub_key))

    async def artifacts(self, key: str) -> list[pb.Artifact]:
        """Files of a job by its job_id, or its public ones by its pub_key."""
        request = (
            pb.ListArtifactsRequest(job_id=key) if is_job_id(key) else pb.ListArtifactsRequest(pub_key=key)
        )
        return list((await self._call(self._stub.ListArtifacts, request)).artifacts)

    async def options(self) -> list[pb.OptionInfo]:
        """The options a job may have."""
        return list((await self._call(self._stub.ListOptions, pb.ListOptionsRequest())).options)

    async def presets(self) -> list[options_pb2.TrainingDevice]:
        """What the presets come to on the devices that train, kind by kind."""
        return list((await self._call(self._stub.ListPresets, pb.ListPresetsRequest())).devices)

    async def download(self, key: str, name: str, path: str | os.PathLike[str] | None = None) -> Path:
        """Fetches a file; goes on with a ``.part`` that an earlier call left.

        Args:
            key: The job_id, or the pub_key for a public file.
            name: The file's name, such as ``scene.spz``.
            path: Where to; None for the name's last part in the working folder.

        Returns:
            Where it lies, whole and with the right SHA-256.
        """
        target = Path(path) if path is not None else Path(PurePosixPath(name).name)
        part = target.with_name(target.name + ".part")
        part.parent.mkdir(parents=True, exist_ok=True)
        try:
            with part.open("r+b" if part.exists() else "w+b") as sink:
                await Download(self._stub, self.address, key, name, sink, self._patience()).run()
        finally:
            if part.exists() and part.stat().st_size == 0:
                part.unlink()
        if not part.exists():  # the file is empty
            part.touch()
        part.replace(target)
        return target

    async def read(self, key: str, name: str) -> bytes:
        """A file's bytes; arguments as of ``download``."""
        sink = io.BytesIO()
        await Download(self._stub, self.address, key, name, sink, self._patience()).run()
        return sink.getvalue()

    def _patience(self) -> Patience:
        return Patience(self._patience_seconds)

    async def _call(
        self, method: Callable[..., Awaitable[_ResponseT]], request: Any, patience: Patience | None = None
    ) -> _ResponseT:
        """A short call, made again when it breaks."""
        patience = patience or self._patience()
        while True:
            try:
                return await method(request, timeout=self._timeout)
            except grpc.aio.AioRpcError as broken:
                await patience.after(broken, self.address)
