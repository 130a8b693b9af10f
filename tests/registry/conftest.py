"""Registries on real ports with SQLite or PostgreSQL, and photos to send."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import io
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc.aio
import numpy as np
import pytest
from PIL import Image

from services.registry.__main__ import start
from services.registry.core import Registry
from services.registry.settings import RegistrySettings
from splatmill._status import Ending, from_rpc_error
from splatmill.errors import Reason
from splatmill.v1 import progress_pb2, task_pb2, task_pb2_grpc
from splatmill.v1 import reconstruction_pb2 as pb
from splatmill.v1 import reconstruction_pb2_grpc as rpc
from tests.helpers.postgres import Postgres, running


def photo(seed: int = 0, size: tuple[int, int] = (64, 48), kind: str = "JPEG") -> bytes:
    """An encoded picture of noise."""
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def chunks(name: str, data: bytes, size: int = 1000) -> Iterator[pb.ImageChunk]:
    """A photo's pieces."""
    for at in range(0, len(data), size):
        last = at + size >= len(data)
        digest = hashlib.sha256(data).digest() if last else b""
        yield pb.ImageChunk(filename=name, data=data[at : at + size], last=last, sha256=digest)


class Bench:
    """A running registry and its stubs."""

    def __init__(self, registry: Registry, port: int) -> None:
        self.registry = registry
        self.port = port
        self.data: Path = registry.store.root  # type: ignore[attr-defined]
        self.channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}")
        self.jobs: Any = rpc.ReconstructionServiceStub(self.channel)
        self.tasks: Any = task_pb2_grpc.TaskServiceStub(self.channel)

    async def create(self, photos: dict[str, bytes] | None = None, **spec: Any) -> pb.Job:
        """Sends a job of three photos, unless told otherwise."""
        photos = {f"{k}.jpg": photo(k) for k in range(3)} if photos is None else photos

        async def requests() -> AsyncIterator[pb.CreateJobRequest]:
            yield pb.CreateJobRequest(spec=pb.JobSpec(**spec))
            for name, data in photos.items():
                for chunk in chunks(name, data):
                    yield pb.CreateJobRequest(chunk=chunk)

        # A refusal may come while the photos are still being written.
        return (await Ending(self.jobs.CreateJob(requests())).result()).job

    async def lease(self, *stages: int, wait: float = 0.0, worker: str = "w") -> task_pb2.LeasedTask | None:
        """Asks for a task of any stage, unless told otherwise."""
        request = task_pb2.LeaseTaskRequest(worker_id=worker, stages=stages or (1, 2, 3))
        request.wait.FromMilliseconds(int(wait * 1000))
        answer = await self.tasks.LeaseTask(request)
        return answer.task if answer.HasField("task") else None

    async def finish(self, task: task_pb2.LeasedTask, **files: bytes) -> None:
        """Writes files to a task's output folder and completes it."""
        described = []
        for name, data in files.items():
            path = name.replace("__", "/").replace("_dot_", ".")
            target = self.data / task.output_prefix / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
            digest = hashlib.sha256(data).digest()
            described.append(task_pb2.OutputFile(path=path, size_bytes=len(data), sha256=digest))
        result = progress_pb2.StageResult(metrics={"gaussian_count": 7, "registered_images": 3})
        await self.tasks.CompleteTask(
            task_pb2.CompleteTaskRequest(lease_token=task.lease_token, result=result, files=described)
        )

    async def run_to_end(self, job_id: str) -> None:
        """Does all stages of the job, which must be the next."""
        outputs = (
            {"sparse__images_dot_bin": b"model"},
            {"point_cloud__iteration_30__point_cloud_dot_ply": b"raw cloud"},
            {"point_cloud_filtered_dot_ply": b"cloud", "scene_dot_splat": b"s" * 64, "scene_dot_spz": b"z"},
        )
        for files in outputs:
            task = await self.lease()
            assert task is not None
            assert task.job_id == job_id
            await self.finish(task, **files)

    async def get(self, job_id: str) -> pb.Job:
        """The job now."""
        return (await self.jobs.GetJob(pb.GetJobRequest(job_id=job_id))).job


@contextlib.contextmanager
def refused(reason: Reason, message: str = "") -> Iterator[None]:
    """Expects a call to be refused with a typed error, whose message has a text in it."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        yield
    error = from_rpc_error(caught.value)
    assert error.reason is reason, error
    assert error.message
    assert message in error.message


BOTH_DATABASES = pytest.mark.parametrize("database_url", ["sqlite", "postgresql"], indirect=True)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL server; skips where there are no programs of it."""
    with contextlib.ExitStack() as stack:
        try:
            server = stack.enter_context(running())
        except FileNotFoundError as error:
            pytest.skip(str(error))
        yield server


@pytest.fixture
def database_url(request: pytest.FixtureRequest) -> str:
    """An empty database: SQLite in the data folder, or as BOTH_DATABASES says."""
    if getattr(request, "param", "sqlite") == "sqlite":
        return ""
    url: str = request.getfixturevalue("postgres").create_database()
    return url


@pytest.fixture
async def make_bench(tmp_path: Path, database_url: str) -> AsyncIterator[Any]:
    """Starts registries, replicas of one another; settings may be given."""
    made: list[tuple[Bench, Any, asyncio.Task[None]]] = []

    async def make(**settings: Any) -> Bench:
        values = {"data_dir": tmp_path / "data", "database_url": database_url}
        values |= {"min_free_bytes": 0, "retry_seconds": 0.0, **settings}
        server, registry, port = await start(RegistrySettings(**values), "127.0.0.1", 0)
        bench = Bench(registry, port)
        made.append((bench, server, asyncio.create_task(registry.sweep_forever())))
        return bench

    yield make
    for bench, server, sweeper in made:
        sweeper.cancel()
        await bench.registry.stop_listening()
        await bench.channel.close()
        await server.stop(0)
        bench.registry.close()


@pytest.fixture
async def bench(make_bench: Any) -> Bench:
    """A registry with the usual settings."""
    made: Bench = await make_bench()
    return made
