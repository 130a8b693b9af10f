"""A worker that was away too long and wakes up: it cannot change anything."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from splatmill import AsyncClient
from splatmill.sample import write_capture
from splatmill.v1 import reconstruction_pb2 as pb
from tests.chaos.test_chaos import check_events, check_files
from tests.chaos.trouble import Part, Trouble, in_trouble
from tests.helpers.processes import stage_processes

pytestmark = pytest.mark.e2e

SERVICES = ("registry", "gateway", "sfm", "trainer", "trainer", "postproc")
LEASE_SECONDS = 3.0


def signal_tree(part: Part, number: signal.Signals) -> None:
    """Signals a service and the child that runs its stage."""
    assert part.process is not None
    for pid in (*stage_processes(part.process.pid), part.process.pid):
        os.kill(pid, number)


async def trainer_at_work(trouble: Trouble, client: AsyncClient, job_id: str) -> Part:
    """The trainer that has the job, once it has said something of its training."""
    while True:
        job = await client.get(job_id)
        assert job.state in (pb.JOB_STATE_PENDING, pb.JOB_STATE_PROCESSING), job
        training = next((t for t in job.tasks if t.stage == 2 and t.state == pb.TASK_STATE_LEASED), None)
        if training is not None and training.progress.training.iteration > 0:
            (part,) = [
                part
                for part in trouble.parts
                if part.process is not None and f"-{part.process.pid}-" in training.worker_id
            ]
            return part
        await asyncio.sleep(0.05)


async def until_log_has(path: Path, words: str) -> None:
    async with asyncio.timeout(60):
        while words not in path.read_text():
            await asyncio.sleep(0.1)


async def test_a_sleeper_changes_nothing(tmp_path):
    capture = tmp_path / "photos"
    write_capture(capture, 8, 240, 180, 0)
    settings = {"SPLATMILL_LEASE_SECONDS": str(LEASE_SECONDS), "SPLATMILL_RETRY_SECONDS": "0.1"}
    options = {"iterations": 6000, "max_gaussians": 1000, "train_image_size": 64}
    async with (
        in_trouble(tmp_path / "suite", "", SERVICES, **settings) as trouble,
        AsyncClient(trouble.registries[0], patience=60) as client,
        asyncio.timeout(240),
    ):
        job = await client.create_job(sorted(capture.glob("*.jpg")), options=options)
        sleeper = await trainer_at_work(trouble, client, job.job_id)
        before = next(t for t in (await client.get(job.job_id)).tasks if t.stage == 2)
        signal_tree(sleeper, signal.SIGSTOP)
        await asyncio.sleep(LEASE_SECONDS + 1)
        taken_over = await trainer_at_work(trouble, client, job.job_id)
        assert taken_over is not sleeper
        signal_tree(sleeper, signal.SIGCONT)
        await until_log_has(trouble.folder / f"trainer-{sleeper.port}.log", "the lease is lost")
        job = await client.wait(job.job_id)
        assert job.state == pb.JOB_STATE_COMPLETED
        after = next(t for t in job.tasks if t.stage == 2)
        assert (before.attempt, after.attempt) == (1, 2)
        assert after.worker_id != before.worker_id
        check_events([event async for event in client.watch(job.job_id)])
        await check_files(client, trouble, job)
        assert not (trouble.folder / "data" / "jobs" / job.job_id / "work").exists()
        (failed,) = await client.errors(job.job_id)
        assert (failed.attempt, failed.error.reason) == (1, "STAGE_CRASHED")
