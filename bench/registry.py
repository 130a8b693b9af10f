"""What the registry bears: leases a second, watchers, a long queue. Prints tables.

    python -m bench.registry

PostgreSQL is started in a temporary folder when its programs are found. Where procrastinate
is installed (pip install procrastinate) the same work goes through it in the same run.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import os
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc.aio
from sqlalchemy import text

from services.registry.database import Database
from services.registry.models import Image, Job, Line, Task
from splatmill.v1 import progress_pb2, task_pb2, task_pb2_grpc
from splatmill.v1 import reconstruction_pb2 as pb
from splatmill.v1 import reconstruction_pb2_grpc as rpc
from tests.conftest import free_ports
from tests.helpers.postgres import running
from tests.registry.conftest import chunks, photo

STAGES = (1, 2, 3)


class Server:
    """A registry in a process of its own."""

    def __init__(self, folder: Path, url: str) -> None:
        (self.port,) = free_ports(1)
        environment = {
            **os.environ,
            "SPLATMILL_DATA_DIR": str(folder / "data"),
            "SPLATMILL_DATABASE_URL": url,
            "SPLATMILL_REGISTRY_PORT": str(self.port),
            "SPLATMILL_GRPC_HOST": "127.0.0.1",
            "SPLATMILL_MAX_CONCURRENT_JOBS": "0",
            "SPLATMILL_LEASE_SECONDS": "600",
            "SPLATMILL_LOG_LEVEL": "ERROR",
            "SPLATMILL_KEEP_FREE_BYTES": "0",
        }
        self.process = subprocess.Popen([sys.executable, "-m", "services.registry"], env=environment)

    def rss_mib(self) -> float:
        """Resident memory."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) / 1024


@contextlib.asynccontextmanager
async def server_on(url: str, folder: Path) -> AsyncIterator[tuple[Server, grpc.aio.Channel]]:
    """A registry, and a channel to it."""
    server = Server(folder, url)
    channel = grpc.aio.insecure_channel(f"127.0.0.1:{server.port}")
    try:
        await asyncio.wait_for(channel.channel_ready(), 30)
        yield server, channel
    finally:
        await channel.close()
        server.process.terminate()
        server.process.wait()


def fill(url: str, jobs: int) -> list[str]:
    """Puts jobs into the queue, as an upload would leave them; answers their ids."""
    database = Database(url)
    database.upgrade()
    now = time.time()
    ids = [secrets.token_hex(4) for _ in range(jobs)]
    with database.transaction() as session:
        line = session.get_one(Line, 1)
        for job_id in ids:
            line.last_number += 1
            session.add(Job(
                job_id=job_id, pub_key=secrets.token_hex(5), state=pb.JOB_STATE_PENDING, created_at=now,
                touched_at=now, submitted_at=now, queue_number=line.last_number, turn=line.last_number,
            ))  # fmt: skip
        session.flush()
        for job_id in ids:
            states = (pb.TASK_STATE_QUEUED, pb.TASK_STATE_BLOCKED, pb.TASK_STATE_BLOCKED)
            for stage, state in zip(STAGES, states, strict=True):
                session.add(Task(job_id=job_id, stage=stage, state=state))
            session.add(Image(
                job_id=job_id, filename="0.jpg", folded_name="0.jpg", size_bytes=1,
                sha256=hashlib.sha256(b"0").digest(), width=64, height=48,
            ))  # fmt: skip
    with database.transaction() as session:
        session.execute(text("ANALYZE"))  # in earnest the server does so itself within a minute
    database.close()
    return ids


async def leases_a_second(url: str, folder: Path, tasks: int, workers: int) -> float:
    """Tasks leased and completed a second by so many workers."""
    await asyncio.to_thread(fill, url, tasks // len(STAGES))
    done = 0

    async def work(channel: grpc.aio.Channel, number: int) -> None:
        nonlocal done
        stub: Any = task_pb2_grpc.TaskServiceStub(channel)
        while done < tasks:
            request = task_pb2.LeaseTaskRequest(worker_id=f"worker-{number}", stages=STAGES)
            request.wait.FromMilliseconds(200)
            task = (await stub.LeaseTask(request)).task
            if not task.lease_token:
                continue
            result = progress_pb2.StageResult(metrics={"gaussian_count": 1})
            await stub.CompleteTask(task_pb2.CompleteTaskRequest(lease_token=task.lease_token, result=result))
            done += 1

    async with server_on(url, folder) as (_, channel):
        begun = time.perf_counter()
        await asyncio.gather(*(work(channel, number) for number in range(workers)))
        return done / (time.perf_counter() - begun)


async def wake_ms(url: str, folder: Path, replicas: int) -> tuple[float, float]:
    """Median and longest time in ms from a task's arrival to its lease by a waiting worker.

    With two replicas the worker waits at one and the task arrives at the other.
    """
    await asyncio.to_thread(fill, url, 0)
    async with contextlib.AsyncExitStack() as stack:
        channels = [(await stack.enter_async_context(server_on(url, folder)))[1] for _ in range(replicas)]
        jobs: Any = rpc.ReconstructionServiceStub(channels[-1])
        tasks: Any = task_pb2_grpc.TaskServiceStub(channels[0])
        request = task_pb2.LeaseTaskRequest(worker_id="w", stages=[1])
        request.wait.FromSeconds(20)
        taken = []
        for _ in range(20):
            job_id = await held_job(jobs)
            waiting = asyncio.ensure_future(tasks.LeaseTask(request))
            await asyncio.sleep(0.3)
            submitting = asyncio.ensure_future(jobs.SubmitJob(pb.SubmitJobRequest(job_id=job_id)))
            begun = time.perf_counter()
            await waiting
            taken.append(1e3 * (time.perf_counter() - begun))
            await submitting
            await jobs.CancelJob(pb.CancelJobRequest(job_id=job_id))
        return statistics.median(taken), max(taken)


async def held_job(jobs: Any) -> str:
    """A job whose photos are there and that is not submitted."""

    async def requests() -> AsyncIterator[pb.CreateJobRequest]:
        yield pb.CreateJobRequest(spec=pb.JobSpec(hold=True))
        for number in range(3):
            for chunk in chunks(f"{number}.jpg", photo(number)):
                yield pb.CreateJobRequest(chunk=chunk)

    job_id: str = (await jobs.CreateJob(requests())).job.job_id
    return job_id


async def watchers(url: str, folder: Path, count: int) -> tuple[float, float, float]:
    """Median and 99th percentile of an event's way to all watchers in ms, and KiB a stream."""
    (job_id,) = await asyncio.to_thread(fill, url, 1)
    async with server_on(url, folder) as (server, channel):
        tasks: Any = task_pb2_grpc.TaskServiceStub(channel)
        leased = (await tasks.LeaseTask(task_pb2.LeaseTaskRequest(worker_id="w", stages=[1]))).task
        stub: Any = rpc.ReconstructionServiceStub(channel)
        last = (await stub.GetJob(pb.GetJobRequest(job_id=job_id))).job.last_sequence
        before = server.rss_mib()
        arrived: asyncio.Queue[float] = asyncio.Queue()
        ready = 0

        async def watch() -> None:
            nonlocal ready
            call = stub.WatchJob(pb.WatchJobRequest(job_id=job_id, after_sequence=last - 1))
            async for _ in call:
                ready += 1  # the first is one that was there
                arrived.put_nowait(time.perf_counter())

        streams = [asyncio.create_task(watch()) for _ in range(count)]
        while ready < count:
            await asyncio.sleep(0.05)
        memory = (server.rss_mib() - before) * 1024 / count
        latencies: list[float] = []
        for step in range(10):
            while not arrived.empty():
                arrived.get_nowait()
            progress = progress_pb2.StageProgress(stage=1, step=f"step {step}", fraction=step / 10)
            sent = time.perf_counter()
            await tasks.HeartbeatTask(
                task_pb2.HeartbeatTaskRequest(lease_token=leased.lease_token, progress=[progress])
            )
            latencies += [await arrived.get() - sent for _ in range(count)]
        for stream in streams:
            stream.cancel()
        await asyncio.gather(*streams, return_exceptions=True)
    latencies.sort()
    return 1e3 * statistics.median(latencies), 1e3 * latencies[int(0.99 * len(latencies))], memory


async def median_ms(call: Callable[[], Awaitable[Any]], times: int = 20) -> float:
    """Median time of a call in ms."""
    taken = []
    for _ in range(times):
        begun = time.perf_counter()
        await call()
        taken.append(time.perf_counter() - begun)
    return 1e3 * statistics.median(taken)


async def long_queue(url: str, folder: Path, jobs: int) -> dict[str, float]:
    """Medians in ms with so many jobs waiting."""
    ids = await asyncio.to_thread(fill, url, jobs)
    async with server_on(url, folder) as (_, channel):
        stub: Any = rpc.ReconstructionServiceStub(channel)
        tasks: Any = task_pb2_grpc.TaskServiceStub(channel)
        lease = task_pb2.LeaseTaskRequest(worker_id="w", stages=[1])
        return {
            "GetQueue": await median_ms(lambda: stub.GetQueue(pb.GetQueueRequest())),
            "ListJobs (50)": await median_ms(lambda: stub.ListJobs(pb.ListJobsRequest())),
            "GetJob": await median_ms(lambda: stub.GetJob(pb.GetJobRequest(job_id=ids[jobs // 2]))),
            "LeaseTask": await median_ms(lambda: tasks.LeaseTask(lease)),
        }


async def measure(arguments: argparse.Namespace) -> None:
    """All tables."""
    with contextlib.ExitStack() as stack:
        databases: dict[str, Callable[[], str]] = {
            "SQLite": lambda: f"sqlite:///{tempfile.mkdtemp(dir=root)}/splatmill.db"
        }
        root = stack.enter_context(tempfile.TemporaryDirectory())
        try:
            postgres = stack.enter_context(running(safe=True))
            databases["PostgreSQL"] = postgres.create_database
        except FileNotFoundError as error:
            print(error)
        print(f"\n| leased and completed, {arguments.workers} workers | tasks a second |\n|---|---|")
        for name, new in databases.items():
            rate = await leases_a_second(
                new(), Path(tempfile.mkdtemp(dir=root)), arguments.tasks, arguments.workers
            )
            print(f"| Splatmill, {name} | {rate:.0f} |", flush=True)
        if "PostgreSQL" in databases:
            with contextlib.suppress(ImportError):
                from bench.peers.procrastinate_queue import tasks_a_second  # noqa: PLC0415

                rate = await tasks_a_second(databases["PostgreSQL"](), arguments.tasks, arguments.workers)
                print(f"| procrastinate, PostgreSQL | {rate:.0f} |", flush=True)
        print(
            "\n| from submission to the lease of a waiting worker | median | longest of 20 |\n|---|---|---|"
        )
        for name, new in databases.items():
            replicas = 1 if name == "SQLite" else 2
            median, slow = await wake_ms(new(), Path(tempfile.mkdtemp(dir=root)), replicas)
            print(f"| {name}, {replicas} registries | {median:.0f} ms | {slow:.0f} ms |", flush=True)
        print(f"\n| {arguments.watchers} WatchJob streams | event, median | 99 % | memory a stream |")
        print("|---|---|---|---|")
        for name, new in databases.items():
            median, slow, memory = await watchers(new(), Path(tempfile.mkdtemp(dir=root)), arguments.watchers)
            print(f"| {name} | {median:.0f} ms | {slow:.0f} ms | {memory:.0f} KiB |", flush=True)
        print(f"\n| {arguments.jobs} jobs waiting | call | median |\n|---|---|---|")
        for name, new in databases.items():
            found = await long_queue(new(), Path(tempfile.mkdtemp(dir=root)), arguments.jobs)
            for call, milliseconds in found.items():
                print(f"| {name} | {call} | {milliseconds:.1f} ms |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", type=int, default=900)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--watchers", type=int, default=1000)
    parser.add_argument("--jobs", type=int, default=10_000)
    asyncio.run(measure(parser.parse_args()))


if __name__ == "__main__":
    main()
