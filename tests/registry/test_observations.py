"""The queue's figures, and a job's trace through its leases."""

from __future__ import annotations

import asyncio
import time

import grpc.aio
import pytest
from prometheus_client import REGISTRY
from sqlmodel import select

from services.common.log_context import current
from services.registry import jobs, leases
from services.registry.models import Job, Task
from services.registry.observations import QueueCollector
from splatmill.errors import Reason, SplatmillError
from splatmill.v1 import progress_pb2, task_pb2
from splatmill.v1 import reconstruction_pb2 as pb
from tests.registry.conftest import BOTH_DATABASES, Bench, chunks, photo

pytestmark = BOTH_DATABASES


def figures(bench: Bench) -> dict[tuple[str, ...], float]:
    found = {}
    for family in QueueCollector(bench.registry.database.run).collect():
        for sample in family.samples:
            found[sample.name.removeprefix("splatmill_"), *sample.labels.values()] = sample.value
    return found


def counted(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


async def test_the_queue(bench):
    empty = figures(bench)
    assert empty["queue_tasks", "sfm", "queued"] == 0
    assert empty["queue_oldest_age_seconds", "sfm"] == 0
    await bench.create()
    await bench.create()
    time.sleep(0.1)
    waiting = figures(bench)
    assert waiting["queue_tasks", "sfm", "queued"] == 2
    assert waiting["queue_tasks", "train", "blocked"] == 2
    assert 0.1 <= waiting["queue_oldest_age_seconds", "sfm"] < 10
    assert (waiting["jobs", "pending"], waiting["jobs", "completed"]) == (2, 0)
    task = await bench.lease()
    busy = figures(bench)
    assert (busy["queue_tasks", "sfm", "queued"], busy["queue_tasks", "sfm", "leased"]) == (1, 1)
    assert busy["workers", "sfm"] == 1
    await bench.finish(task, sparse__images_dot_bin=b"model")
    later = figures(bench)
    assert later["queue_tasks", "train", "queued"] == 1
    assert 0 < later["queue_oldest_age_seconds", "train"] < 5


async def test_a_task_that_waits_again_has_not_waited_since_its_first_time(bench):
    """Retried after a week, or given back after as long."""
    job = await bench.create()
    await bench.run_to_end(job.job_id)

    def week_ago(session):
        for row in (*session.exec(select(Task)).all(), *session.exec(select(Job)).all()):
            for name in ("submitted_at", "started_at", "finished_at"):
                if getattr(row, name, None) is not None:
                    setattr(row, name, getattr(row, name) - 7 * 86_400)
            session.add(row)

    await bench.registry.transact(week_ago)
    await bench.jobs.RetryJob(pb.RetryJobRequest(job_id=job.job_id, from_stage=2))
    assert figures(bench)["queue_oldest_age_seconds", "train"] < 10
    task = await bench.lease()
    await bench.registry.transact(week_ago)
    await bench.tasks.ReleaseTask(task_pb2.ReleaseTaskRequest(lease_token=task.lease_token))
    assert figures(bench)["queue_oldest_age_seconds", "train"] < 10
    assert await bench.lease() is not None


async def test_lines_of_the_registry_say_which_job(bench, monkeypatch):
    """Also those of its threads."""
    said = []

    def broken(*_):
        said.append(current())
        raise ValueError("broken")

    job = await bench.create()
    task = await bench.lease(worker="w-1")
    monkeypatch.setattr(jobs, "retry", broken)
    with pytest.raises(grpc.aio.AioRpcError):
        await bench.jobs.RetryJob(pb.RetryJobRequest(job_id=job.job_id))
    monkeypatch.setattr(leases, "complete", broken)
    with pytest.raises(grpc.aio.AioRpcError):
        await bench.tasks.CompleteTask(task_pb2.CompleteTaskRequest(lease_token=task.lease_token))
    assert said == [{"job_id": job.job_id}, {"task_id": task.lease_token.partition("-")[0]}]


async def expire(bench: Bench) -> None:
    """Ends all leases: short ones would also end where this test is slow."""

    def age(session):
        for task in session.exec(select(Task).where(Task.state == pb.TASK_STATE_LEASED)).all():
            task.lease_expires_at = 0.0
            session.add(task)

    await bench.registry.transact(age)


async def test_ends_are_counted_once_they_are_true(bench):
    names = {
        outcome: ("splatmill_task_duration_seconds_count", {"stage": "sfm", "outcome": outcome})
        for outcome in ("succeeded", "failed", "expired", "released", "cancelled")
    }
    before = {outcome: counted(name, **labels) for outcome, (name, labels) in names.items()}
    expired_before = counted("splatmill_lease_expired_total", stage="sfm")
    await bench.create()
    job = await bench.lease()
    await bench.tasks.ReleaseTask(task_pb2.ReleaseTaskRequest(lease_token=job.lease_token))
    await bench.lease()
    await expire(bench)
    async with asyncio.timeout(20):
        while counted("splatmill_lease_expired_total", stage="sfm") == expired_before:
            await asyncio.sleep(0.05)
    task = await bench.lease(wait=2)
    error = progress_pb2.ErrorDetail(reason="STAGE_CRASHED", message="x", retryable=True)
    await bench.tasks.FailTask(task_pb2.FailTaskRequest(lease_token=task.lease_token, error=error))
    task = await bench.lease(wait=2)
    await bench.jobs.CancelJob(pb.CancelJobRequest(job_id=task.job_id))
    await bench.create()
    await bench.finish(await bench.lease(), sparse__images_dot_bin=b"model")
    grown = {o: counted(n, **labels) - before[o] for o, (n, labels) in names.items()}
    assert grown == dict.fromkeys(names, 1.0)


async def test_while_the_database_is_away_there_are_no_figures(bench):
    def away(_work):
        raise SplatmillError(Reason.UNAVAILABLE, "away")

    assert list(QueueCollector(away).collect()) == []


async def create_traced(bench: Bench, trace: str) -> None:
    async def requests():
        yield pb.CreateJobRequest(spec=pb.JobSpec())
        for number in range(3):
            for chunk in chunks(f"{number}.jpg", photo(number)):
                yield pb.CreateJobRequest(chunk=chunk)

    await bench.jobs.CreateJob(requests(), metadata=(("traceparent", trace),))


async def test_a_job_keeps_the_trace_of_its_upload(bench):
    parent = "00-" + "ab" * 16 + "-" + "cd" * 8 + "-01"
    await create_traced(bench, parent)
    task = await bench.lease()
    assert task.traceparent == parent
    await bench.finish(task, sparse__images_dot_bin=b"model")
    assert (await bench.lease()).traceparent == parent


@pytest.mark.parametrize("wrong", ["nonsense", "00-" + "0" * 32 + "-" + "0" * 16 + "-01"])
async def test_a_trace_that_is_none_is_replaced(bench, wrong):
    await create_traced(bench, wrong)
    trace = (await bench.lease()).traceparent
    assert trace != wrong
    assert len(trace) == 55
