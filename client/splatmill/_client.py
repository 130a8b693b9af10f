"""The client for ordinary code: ``AsyncClient`` on an event loop in a thread of its own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable, Coroutine, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc

from splatmill._upload import PhotoSource, UploadProgress
from splatmill.aio import AsyncClient, Options
from splatmill.v1 import options_pb2, progress_pb2
from splatmill.v1 import reconstruction_pb2 as pb

_T = TypeVar("_T")
_CLOSE_SECONDS = 6.0


class Client:
    """Jobs of one registry; the same as ``AsyncClient``, method by method.

    Works in a notebook, where a loop runs already, and from several threads at once.
    Arguments are those of ``AsyncClient``.
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
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="splatmill-client", daemon=True)
        self._thread.start()

        async def connect() -> AsyncClient:
            return AsyncClient(
                address, api_key=api_key, credentials=credentials, patience=patience, timeout=timeout
            )

        self._async = self._run(connect())
        self.address = self._async.address

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends calls under way, the connection and the thread."""
        if self._loop.is_closed():
            return
        with contextlib.suppress(TimeoutError):
            self._run(self._finish(), _CLOSE_SECONDS)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_CLOSE_SECONDS)
        if not self._thread.is_alive():
            self._loop.close()

    def ready(self, timeout: float = 3.0) -> bool:
        """See ``AsyncClient.ready``."""
        return self._run(self._async.ready(timeout))

    def create_job(
        self,
        photos: Iterable[PhotoSource] | str | os.PathLike[str],
        *,
        options: Options | None = None,
        title: str = "",
        request_id: str = "",
        priority: int = 0,
        on_upload_progress: Callable[[UploadProgress], None] | None = None,
    ) -> pb.Job:
        """See ``AsyncClient.create_job``; ``on_upload_progress`` is called in the client's thread."""
        return self._run(
            self._async.create_job(
                photos,
                options=options,
                title=title,
                request_id=request_id,
                priority=priority,
                on_upload_progress=on_upload_progress,
            )
        )

    def get(self, job_id: str) -> pb.Job:
        """See ``AsyncClient.get``."""
        return self._run(self._async.get(job_id))

    def list_jobs(
        self, states: Iterable[pb.JobState.ValueType] = (), limit: int | None = None
    ) -> list[pb.Job]:
        """See ``AsyncClient.list_jobs``."""
        return self._run(self._async.list_jobs(states, limit))

    def watch(self, job_id: str, after_sequence: int = 0) -> Iterator[pb.JobEvent]:
        """See ``AsyncClient.watch``."""
        events = self._async.watch(job_id, after_sequence)

        async def following() -> pb.JobEvent | None:
            return await anext(events, None)

        async def end() -> None:
            await events.aclose()

        try:
            while (event := self._run(following())) is not None:
                yield event
        finally:
            if not self._loop.is_closed():
                self._run(end())

    def wait(self, job_id: str, timeout: float | None = None) -> pb.Job:
        """See ``AsyncClient.wait``."""
        return self._run(self._async.wait(job_id, timeout))

    def cancel(self, job_id: str) -> pb.Job:
        """See ``AsyncClient.cancel``."""
        return self._run(self._async.cancel(job_id))

    def retry(
        self,
        job_id: str,
        from_stage: progress_pb2.Stage.ValueType = progress_pb2.STAGE_UNSPECIFIED,
        options: Options | None = None,
    ) -> pb.Job:
        """See ``AsyncClient.retry``."""
        return self._run(self._async.retry(job_id, from_stage, options))

    def delete(self, job_id: str) -> None:
        """See ``AsyncClient.delete``."""
        self._run(self._async.delete(job_id))

    def share(self, job_id: str, action: pb.ShareAction.ValueType, valid_for: float | None = None) -> pb.Job:
        """See ``AsyncClient.share``."""
        return self._run(self._async.share(job_id, action, valid_for))

    def errors(self, job_id: str = "") -> list[pb.FailedAttempt]:
        """See ``AsyncClient.errors``."""
        return self._run(self._async.errors(job_id))

    def workers(self) -> list[pb.WorkerInfo]:
        """See ``AsyncClient.workers``."""
        return self._run(self._async.workers())

    def queue(self) -> pb.GetQueueResponse:
        """See ``AsyncClient.queue``."""
        return self._run(self._async.queue())

    def scene(self, pub_key: str) -> pb.GetSceneResponse:
        """See ``AsyncClient.scene``."""
        return self._run(self._async.scene(pub_key))

    def artifacts(self, key: str) -> list[pb.Artifact]:
        """See ``AsyncClient.artifacts``."""
        return self._run(self._async.artifacts(key))

    def options(self) -> list[pb.OptionInfo]:
        """See ``AsyncClient.options``."""
        return self._run(self._async.options())

    def presets(self) -> list[options_pb2.TrainingDevice]:
        """See ``AsyncClient.presets``."""
        return self._run(self._async.presets())

    def download(self, key: str, name: str, path: str | os.PathLike[str] | None = None) -> Path:
        """See ``AsyncClient.download``."""
        return self._run(self._async.download(key, name, path))

    def read(self, key: str, name: str) -> bytes:
        """See ``AsyncClient.read``."""
        return self._run(self._async.read(key, name))

    def _run(self, work: Coroutine[Any, Any, _T], timeout: float | None = None) -> _T:
        """Runs a coroutine in the client's loop; Ctrl-C here cancels it there."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result(timeout)
        except BaseException:
            future.cancel()
            raise

    async def _finish(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self._async.close()
