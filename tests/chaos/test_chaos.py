"""Everything dies at random, and every job ends well, once.

``CHAOS_JOBS``, ``CHAOS_KILLS`` and ``CHAOS_SEED`` make it longer (``make chaos``) or play a
failure again: the seed decides who is killed, and after which pauses.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
import secrets
import signal
from pathlib import Path

import aiohttp
import grpc.aio
import pytest
from plyfile import PlyData

from splatmill import AsyncClient
from splatmill._status import from_rpc_error
from splatmill.errors import Reason
from splatmill.sample import write_capture
from splatmill.v1 import reconstruction_pb2 as pb
from splatmill.v1 import reconstruction_pb2_grpc as rpc
from tests.chaos.trouble import Trouble, in_trouble, restart
from tests.helpers.postgres import Postgres, running

JOBS = int(os.environ.get("CHAOS_JOBS", "3"))
KILLS = int(os.environ.get("CHAOS_KILLS", "12"))
SEED = int(os.environ.get("CHAOS_SEED", "0")) or secrets.randbelow(1 << 32)
MEAN_SECONDS = float(os.environ.get("CHAOS_MEAN_SECONDS", "1.2"))
PATIENCE = 120.0
SERVICES = ("registry", "registry", "gateway", "sfm", "sfm", "trainer", "trainer", "postproc")
SETTINGS = {
    "SPLATMILL_LEASE_SECONDS": "4",
    "SPLATMILL_RETRY_SECONDS": "0.1",
    # Kills are no fault of the job.
    "SPLATMILL_MAX_ATTEMPTS": "100",
    "SPLATMILL_MAX_CONCURRENT_JOBS": "4",
    "SPLATMILL_TRAINER_DEVICE": "cpu",
}
OPTIONS = {"iterations": 200, "max_gaussians": 1000, "train_image_size": 64}

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240 + 20 * JOBS + 6 * KILLS)]


@pytest.fixture(scope="module")
def postgres():
    try:
        with running() as server:
            yield server
    except FileNotFoundError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def capture(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("tiny")
    write_capture(folder, 8, 240, 180, 0)
    return sorted(folder.glob("*.jpg"))


async def watch_raw(trouble: Trouble, job_id: str, number: int) -> list[pb.JobEvent]:
    """Every event as it comes over the wire, from whichever replica answers."""
    seen: list[pb.JobEvent] = []
    while True:
        address = trouble.registries[number % 2]
        number += 1
        async with grpc.aio.insecure_channel(address) as channel:
            after = seen[-1].sequence if seen else 0
            call = rpc.ReconstructionServiceStub(channel).WatchJob(
                pb.WatchJobRequest(job_id=job_id, after_sequence=after)
            )
            try:
                async for answer in call:
                    assert answer.event.sequence == after + 1, "a gap, or a repeat"
                    after = answer.event.sequence
                    seen.append(answer.event)
                return seen
            except grpc.aio.AioRpcError as error:
                reason = from_rpc_error(error).reason
                assert reason in (Reason.UNAVAILABLE, Reason.CANCELLED), error
                await asyncio.sleep(0.2)


async def one_job(trouble: Trouble, capture: list[Path], number: int) -> tuple[pb.Job, list[pb.JobEvent]]:
    """From photos to the scene, whatever happens meanwhile."""
    order = trouble.registries[:: 1 if number % 2 else -1]
    async with AsyncClient("ipv4:" + ",".join(order), patience=PATIENCE) as client:
        job = await client.create_job(
            capture, options=OPTIONS, title=f"job {number}", request_id=f"{SEED}-{number}"
        )
        events = await watch_raw(trouble, job.job_id, number)
        job = await client.get(job.job_id)
        assert job.state == pb.JOB_STATE_COMPLETED, job
        await check_files(client, trouble, job)
    return job, events


async def check_files(client: AsyncClient, trouble: Trouble, job: pb.Job) -> None:
    """What is published is there, whole, and nothing besides."""
    artifacts = await client.artifacts(job.job_id)
    root = trouble.folder / "data" / "jobs" / job.job_id
    for artifact in artifacts:
        if artifact.sha256:
            names = {"cloud.ply": "point_cloud_filtered.ply"}
            data = (root / names.get(artifact.name, artifact.name)).read_bytes()
            assert hashlib.sha256(data).digest() == artifact.sha256, artifact.name
    cloud = await _over_http(trouble, f"/recon/pub/{job.pub_key}/cloud.ply")
    assert PlyData.read(io.BytesIO(cloud))["vertex"].count == job.gaussian_count > 0
    splat = await client.read(job.pub_key, "scene.splat")
    assert len(splat) == 32 * job.gaussian_count


async def _over_http(trouble: Trouble, path: str) -> bytes:
    for _ in range(int(PATIENCE)):
        try:
            async with (
                aiohttp.ClientSession() as session,
                session.get(trouble.gateway_url + path, timeout=aiohttp.ClientTimeout(10)) as answer,
            ):
                data = await answer.read()
                if answer.status == 200:
                    return data
                assert answer.status >= 500, (answer.status, data)
        except (aiohttp.ClientError, TimeoutError):
            pass
        await asyncio.sleep(1)
    raise AssertionError(f"{path} was not to be had")


def check_events(events: list[pb.JobEvent]) -> None:
    """Each stage succeeded once, and in order."""
    done = [
        event.task_state_changed.stage
        for event in events
        if event.HasField("task_state_changed")
        and event.task_state_changed.new_state == pb.TASK_STATE_SUCCEEDED
    ]
    assert done == [1, 2, 3]
    last = events[-1].job_state_changed
    assert last.new_state == pb.JOB_STATE_COMPLETED


async def torment(trouble: Trouble, server: Postgres, stop: asyncio.Event) -> None:
    """Kills until there were enough; PostgreSQL goes away twice."""
    killer = asyncio.create_task(trouble.torment(SEED, MEAN_SECONDS, KILLS, stop))
    for share, number in ((1 / 3, signal.SIGINT), (2 / 3, signal.SIGQUIT)):
        while trouble.killed.total() < KILLS * share:
            await asyncio.sleep(0.2)
        await restart(server, number, 1.0)
    await killer


async def test_every_job_ends_well(postgres, capture, tmp_path):
    print(f"CHAOS_SEED={SEED}")  # noqa: T201  (shown when it fails)
    url = postgres.create_database()
    async with in_trouble(tmp_path / "suite", url, SERVICES, **SETTINGS) as trouble:
        stop = asyncio.Event()
        tormentor = asyncio.create_task(torment(trouble, postgres, stop))
        results: list[tuple[pb.Job, list[pb.JobEvent]]] = []
        try:
            while len(results) < JOBS or trouble.killed.total() < KILLS:
                batch = [one_job(trouble, capture, len(results) + k) for k in range(min(JOBS, 5))]
                results += await asyncio.gather(*batch)
        except BaseException:
            print(trouble.logs())  # noqa: T201
            raise
        finally:
            stop.set()
            await asyncio.wait({tormentor}, timeout=30)
            tormentor.cancel()
        for job, events in results:
            check_events(events)
            assert [event.sequence for event in events] == list(range(1, job.last_sequence + 1))
        assert len({job.job_id for job, _ in results}) == len(results)
        assert trouble.killed.total() == KILLS
        for path in trouble.folder.glob("*.log"):
            assert "Traceback" not in path.read_text(), path.read_text()[-3000:]
        print(f"{len(results)} jobs, killed: {dict(trouble.killed)}, PostgreSQL restarted twice")  # noqa: T201
