"""Whose turn it is: priorities, owners in turn, and how long it will take."""

from __future__ import annotations

import pytest

from services.registry.history import Estimator, Workload
from services.registry.keys import Caller, Scope
from services.registry.models import StageTime, Task
from splatmill.errors import Reason
from splatmill.v1 import options_pb2, progress_pb2, task_pb2
from splatmill.v1 import reconstruction_pb2 as pb
from tests.registry.conftest import BOTH_DATABASES, Bench, refused

pytestmark = BOTH_DATABASES

SFM, TRAIN, POSTPROC = 1, 2, 3


@pytest.fixture
async def roomy(make_bench):
    return await make_bench(max_concurrent_jobs=0)


async def create_as(bench: Bench, owner: str, **spec) -> str:
    """A job of an owner, without the keys."""
    caller = Caller(owner, owner, frozenset(Scope))
    original = bench.registry.begin_upload
    bench.registry.begin_upload = lambda spec, _caller, trace: original(spec, caller, trace)
    try:
        return (await bench.create(**spec)).job_id
    finally:
        bench.registry.begin_upload = original


async def order(bench: Bench) -> list[str]:
    found = []
    while (task := await bench.lease(SFM)) is not None:
        found.append(task.job_id)
    return found


async def listed(bench: Bench) -> list[str]:
    return [job.job_id for job in (await bench.jobs.GetQueue(pb.GetQueueRequest())).pending_jobs]


async def test_owners_take_turns(roomy):
    anna = [await create_as(roomy, "anna") for _ in range(4)]
    ben = [await create_as(roomy, "ben") for _ in range(2)]
    expected = [anna[0], ben[0], anna[1], ben[1], anna[2], anna[3]]
    assert await listed(roomy) == expected
    positions = {job_id: (await roomy.get(job_id)).queue_position for job_id in anna + ben}
    assert sorted(positions, key=positions.__getitem__) == expected
    assert await order(roomy) == expected


async def test_whoever_was_away_gains_nothing_by_it(roomy):
    anna = [await create_as(roomy, "anna") for _ in range(3)]
    assert (await roomy.lease(SFM)).job_id == anna[0]
    assert (await roomy.lease(SFM)).job_id == anna[1]
    ben = [await create_as(roomy, "ben") for _ in range(2)]
    carol = await create_as(roomy, "carol")
    assert await order(roomy) == [anna[2], ben[0], carol, ben[1]]


async def test_without_keys_the_first_is_first(roomy):
    jobs = [(await roomy.create()).job_id for _ in range(4)]
    assert await order(roomy) == jobs


async def test_priorities(roomy):
    low = (await roomy.create(priority=-5)).job_id
    usual = [(await roomy.create()).job_id for _ in range(2)]
    high = (await roomy.create(priority=7)).job_id
    assert await listed(roomy) == [high, *usual, low]
    assert (await roomy.get(high)).queue_position == 1
    assert await order(roomy) == [high, *usual, low]
    for wrong in (101, -101):
        with refused(Reason.INVALID_REQUEST):
            await roomy.create(priority=wrong)


async def test_workers_are_known(roomy):
    job = await roomy.create()
    request = task_pb2.LeaseTaskRequest(worker_id="sfm-1", stages=[1], device="cpu")
    await roomy.tasks.LeaseTask(request)
    await roomy.tasks.LeaseTask(
        task_pb2.LeaseTaskRequest(worker_id="train-1", stages=[2], device="NVIDIA H100")
    )
    found = (await roomy.jobs.ListWorkers(pb.ListWorkersRequest())).workers
    assert [(w.worker_id, w.device, list(w.stages), w.job_id) for w in found] == [
        ("sfm-1", "cpu", [1], job.job_id),
        ("train-1", "NVIDIA H100", [2], ""),
    ]


async def test_failed_attempts_are_remembered(roomy):
    job = await roomy.create()
    for message in ("first", "second"):
        task = await roomy.lease(SFM)
        error = progress_pb2.ErrorDetail(reason="STAGE_CRASHED", message=message, retryable=True)
        await roomy.tasks.FailTask(task_pb2.FailTaskRequest(lease_token=task.lease_token, error=error))
    errors = (await roomy.jobs.ListErrors(pb.ListErrorsRequest(job_id=job.job_id))).errors
    assert [(e.attempt, e.error.message, e.worker_id) for e in errors] == [
        (2, "second", "w"),
        (1, "first", "w"),
    ]
    assert len((await roomy.jobs.ListErrors(pb.ListErrorsRequest(limit=1))).errors) == 1
    with refused(Reason.INVALID_REQUEST):
        await roomy.jobs.ListErrors(pb.ListErrorsRequest(limit=-1))


def done(stage: int, seconds: float, **more) -> StageTime:
    values = {"photos": 30, "megapixels": 60.0, "iterations": 0.0, "variant": "", "device": "cpu"}
    return StageTime(stage=stage, seconds=seconds, finished_at=0.0, **(values | more))


async def estimates(bench: Bench, *rows: StageTime) -> Estimator:
    await bench.registry.transact(lambda s: s.add_all(rows))
    return await bench.registry.transact(Estimator)


async def test_estimates_follow_the_work(bench):
    load = Workload(30, 60.0)
    nothing = await estimates(bench)
    assert nothing.job_seconds(load) is None
    rows = [done(SFM, 20.0), done(TRAIN, 40.0), done(POSTPROC, 2.0)]
    known = await estimates(bench, *rows)
    assert known.job_seconds(load) == pytest.approx(62.0)
    assert known.job_seconds(load, [TRAIN, POSTPROC]) == pytest.approx(42.0)
    # Twice the photos: between twice and four times the pairs and features.
    assert 2 * 20 <= known.stage_seconds(SFM, Workload(60, 120.0)) <= 4 * 20
    assert known.stage_seconds(TRAIN, Workload(60, 120.0)) == pytest.approx(40.0)


async def test_estimates_keep_devices_and_presets_apart(bench):
    rows = [
        done(TRAIN, 40.0),
        done(TRAIN, 10.0, device="NVIDIA H100"),
        done(TRAIN, 8.0, variant="preset 1"),
        done(TRAIN, 30.0, variant="iterations", iterations=1000.0),
    ]
    known = await estimates(bench, *rows)
    assert known.stage_seconds(TRAIN, Workload(30, 60.0), "NVIDIA H100") == pytest.approx(10.0)
    assert known.stage_seconds(TRAIN, Workload(30, 60.0, 0.0, "preset 1"), "cpu") == pytest.approx(8.0)
    twice = Workload(30, 60.0, 2000.0, "iterations")
    assert known.stage_seconds(TRAIN, twice, "cpu") == pytest.approx(60.0)


async def test_one_odd_run_does_not_spoil_estimates(bench):
    known = await estimates(bench, *[done(SFM, s) for s in (20.0, 21.0, 19.0, 500.0, 20.5)])
    assert known.stage_seconds(SFM, Workload(30, 60.0)) == pytest.approx(20.5, abs=1.0)


async def test_a_job_is_told_how_long_it_will_take(bench):
    rows = [done(SFM, 20.0), done(TRAIN, 40.0), done(POSTPROC, 2.0)]
    await estimates(bench, *[row for row in rows])
    first, second = await bench.create(), await bench.create()
    assert first.expected_seconds > 0
    expected = first.expected_seconds
    assert (await bench.get(first.job_id)).eta_seconds == pytest.approx(expected)
    assert (await bench.get(second.job_id)).eta_seconds == pytest.approx(2 * expected)
    await bench.lease(SFM)
    assert (await bench.get(second.job_id)).eta_seconds == pytest.approx(2 * expected, abs=2.0)


async def test_what_stages_took_is_noted(bench):
    options = options_pb2.JobOptions()
    options.training.iterations = 700
    job = await bench.create(options=options)
    await bench.run_to_end(job.job_id)
    rows = await bench.registry.transact(lambda s: list(Estimator(s)._rows[TRAIN]))
    assert [(row.variant, row.iterations, row.photos) for row in rows] == [("iterations", 700.0, 3)]
    tasks = await bench.registry.transact(lambda s: [s.get(Task, k) for k in (1, 2, 3)])
    assert rows[0].seconds == pytest.approx(tasks[1].finished_at - tasks[1].started_at)
