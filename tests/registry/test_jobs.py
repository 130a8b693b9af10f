"""A job's life as clients and workers see it."""

from __future__ import annotations

import asyncio
import hashlib

import pytest

from services.registry import leases
from splatmill.errors import Reason
from splatmill.v1 import options_pb2, progress_pb2, task_pb2
from splatmill.v1 import reconstruction_pb2 as pb
from tests.registry.conftest import BOTH_DATABASES, Bench, refused

pytestmark = BOTH_DATABASES


async def watch(bench: Bench, job_id: str, after: int = 0) -> list[pb.JobEvent]:
    request = pb.WatchJobRequest(job_id=job_id, after_sequence=after)
    return [answer.event async for answer in bench.jobs.WatchJob(request)]


async def test_photos_to_scene(bench):
    job = await bench.create(title="a castle")
    assert (len(job.job_id), len(job.pub_key)) == (8, 10)
    assert (job.state, job.queue_position, job.image_count) == (pb.JOB_STATE_PENDING, 1, 3)
    assert job.log_tail[-1].startswith(">> [QUEUE] position 1 of 1")
    task = await bench.lease()
    assert task.input_prefix == f"jobs/{job.job_id}/upload"
    assert sorted(p.name for p in (bench.data / task.input_prefix / "images").iterdir()) == [
        "0.jpg",
        "1.jpg",
        "2.jpg",
    ]
    progress = progress_pb2.StageProgress(
        stage=1, step="match", fraction=0.5, eta_seconds=10, log_lines=["matching"]
    )
    await bench.tasks.HeartbeatTask(
        task_pb2.HeartbeatTaskRequest(lease_token=task.lease_token, progress=[progress])
    )
    now = await bench.get(job.job_id)
    assert now.state == pb.JOB_STATE_PROCESSING
    assert now.tasks[0].progress.step == "match"
    assert 0.1 < now.fraction < 0.3
    assert now.eta_seconds > 10
    assert list(now.log_tail) == ["matching"]
    await bench.finish(task, sparse__images_dot_bin=b"model")
    assert (bench.data / f"jobs/{job.job_id}/colmap/sparse/images.bin").read_bytes() == b"model"
    for files in (
        {"point_cloud__iteration_30__point_cloud_dot_ply": b"raw"},
        {"point_cloud_filtered_dot_ply": b"cloud", "scene_dot_splat": b"s"},
    ):
        await bench.finish(await bench.lease(), **files)
    done = await bench.get(job.job_id)
    assert (done.state, done.gaussian_count, done.fraction) == (pb.JOB_STATE_COMPLETED, 7, 1.0)
    assert not (bench.data / f"jobs/{job.job_id}/work").exists()
    assert "matching" in (bench.data / f"jobs/{job.job_id}/logs/process.log").read_text()
    events = await watch(bench, job.job_id)
    assert [event.sequence for event in events] == list(range(1, done.last_sequence + 1))
    assert await watch(bench, job.job_id, after=events[4].sequence) == events[5:]


async def test_artifacts(bench):
    job = await bench.create()
    await bench.run_to_end(job.job_id)
    scene = await bench.jobs.GetScene(pb.GetSceneRequest(pub_key=job.pub_key))
    assert [a.name for a in scene.artifacts] == ["cloud.ply", "point_cloud.ply", "scene.splat", "scene.spz"]

    async def download(**request) -> bytes:
        answers = [a async for a in bench.jobs.DownloadArtifact(pb.DownloadArtifactRequest(**request))]
        assert answers[0].HasField("artifact")
        return b"".join(a.data for a in answers[1:])

    assert await download(pub_key=job.pub_key, name="cloud.ply") == b"cloud"
    assert await download(pub_key=job.pub_key, name="cloud.ply", offset=1, length=3) == b"lou"
    assert await download(job_id=job.job_id, name="point_cloud.ply") == b"raw cloud"
    assert await download(job_id=job.job_id, name="colmap/sparse/images.bin") == b"model"
    assert len(await download(job_id=job.job_id, name="upload/images/0.jpg")) > 100
    with refused(Reason.ARTIFACT_NOT_FOUND):
        await download(pub_key=job.pub_key, name="colmap/sparse/images.bin")
    with refused(Reason.ARTIFACT_NOT_FOUND):
        await download(job_id=job.job_id, name="../../splatmill.db")
    with refused(Reason.BAD_OFFSET):
        await download(pub_key=job.pub_key, name="cloud.ply", offset=6)
    with refused(Reason.SCENE_NOT_FOUND):
        await download(pub_key="nothing", name="cloud.ply")
    files = await bench.jobs.ListArtifacts(pb.ListArtifactsRequest(job_id=job.job_id))
    assert {"upload/images/0.jpg", "scene.splat", "colmap/sparse/images.bin"} <= {
        a.name for a in files.artifacts
    }
    by_name = {a.name: a for a in files.artifacts}
    assert by_name["scene.splat"].sha256 == hashlib.sha256(b"s" * 64).digest()


async def test_the_queue_is_first_in_first_out(bench):
    first, second, third = [await bench.create() for _ in range(3)]
    await bench.registry.transact(leases.tell_queue)
    task = await bench.lease()
    assert task.job_id == first.job_id
    await bench.registry.transact(leases.tell_queue)
    await bench.registry.transact(leases.tell_queue)
    assert await bench.lease() is None, "one job at a time"
    assert (await bench.get(third.job_id)).queue_position == 2
    queue = await bench.jobs.GetQueue(pb.GetQueueRequest())
    assert [job.job_id for job in queue.running_jobs] == [first.job_id]
    assert [(job.job_id, job.position) for job in queue.pending_jobs] == [
        (second.job_id, 1),
        (third.job_id, 2),
    ]
    await bench.jobs.CancelJob(pb.CancelJobRequest(job_id=second.job_id))
    assert (await bench.get(third.job_id)).queue_position == 1
    await bench.registry.transact(leases.tell_queue)
    await bench.finish(task)
    await bench.finish(await bench.lease())
    await bench.finish(await bench.lease())
    assert (await bench.lease()).job_id == third.job_id
    moves = [e.queue_position_changed.position for e in await events_so_far(bench, third.job_id)]
    assert [m for m in moves if m] == [3, 2, 1]


async def events_so_far(bench: Bench, job_id: str) -> list[pb.JobEvent]:
    found = []
    call = bench.jobs.WatchJob(pb.WatchJobRequest(job_id=job_id))
    last = (await bench.get(job_id)).last_sequence
    async for answer in call:
        found.append(answer.event)
        if answer.event.sequence == last:
            call.cancel()
            return found
    return found


async def test_many_workers_get_distinct_tasks(make_bench):
    bench = await make_bench(max_concurrent_jobs=0)
    jobs = {(await bench.create()).job_id for _ in range(12)}
    leased = await asyncio.gather(*(bench.lease(worker=f"w{k}", wait=1) for k in range(12)))
    assert {task.job_id for task in leased} == jobs


async def test_a_waiting_worker_wakes_at_once(bench):
    waiting = asyncio.create_task(bench.lease(wait=20))
    await asyncio.sleep(0.2)
    job = await bench.create()
    assert (await asyncio.wait_for(waiting, 5)).job_id == job.job_id


async def test_an_expired_lease_fences(make_bench):
    bench = await make_bench(lease_seconds=0.3)
    job = await bench.create()
    old = await bench.lease()
    (bench.data / old.output_prefix).mkdir(parents=True)
    (bench.data / old.output_prefix / "zombie.txt").write_text("late")
    new = await bench.lease(wait=5)
    assert (new.job_id, new.attempt) == (job.job_id, 2)
    assert new.output_prefix != old.output_prefix
    token = {"lease_token": old.lease_token}
    for call in (
        lambda: bench.tasks.HeartbeatTask(task_pb2.HeartbeatTaskRequest(**token)),
        lambda: bench.tasks.CompleteTask(task_pb2.CompleteTaskRequest(**token)),
        lambda: bench.tasks.FailTask(task_pb2.FailTaskRequest(**token)),
        lambda: bench.tasks.ReleaseTask(task_pb2.ReleaseTaskRequest(**token)),
    ):
        with refused(Reason.LEASE_LOST):
            await call()
    with refused(Reason.LEASE_LOST):
        await bench.tasks.HeartbeatTask(task_pb2.HeartbeatTaskRequest(lease_token=""))


async def fail(bench: Bench, task: task_pb2.LeasedTask, retryable: bool) -> bool:
    error = progress_pb2.ErrorDetail(
        reason="NO_OVERLAP", message="No overlap.", remedy="More.", retryable=retryable
    )
    answer = await bench.tasks.FailTask(task_pb2.FailTaskRequest(lease_token=task.lease_token, error=error))
    return answer.will_retry


async def test_errors_that_a_retry_cannot_mend_end_the_job(bench):
    job = await bench.create()
    assert not await fail(bench, await bench.lease(), retryable=False)
    failed = await bench.get(job.job_id)
    assert (failed.state, failed.error.reason, failed.error.remedy) == (
        pb.JOB_STATE_FAILED,
        "NO_OVERLAP",
        "More.",
    )
    assert any("NO_OVERLAP" in line for line in failed.log_tail)
    assert (await watch(bench, job.job_id))[-1].job_state_changed.error.reason == "NO_OVERLAP"


async def test_three_attempts_and_no_more(bench):
    poison, other = await bench.create(), await bench.create()
    for attempt, again in ((1, True), (2, True), (3, False)):
        task = await bench.lease(wait=2)
        assert (task.job_id, task.attempt) == (poison.job_id, attempt)
        assert await fail(bench, task, retryable=True) is again
    assert (await bench.get(poison.job_id)).state == pb.JOB_STATE_FAILED
    assert (await bench.lease(wait=2)).job_id == other.job_id


async def test_a_released_task_costs_no_attempt(bench):
    await bench.create()
    for _ in range(5):
        task = await bench.lease()
        assert task.attempt == 1
        await bench.tasks.ReleaseTask(task_pb2.ReleaseTaskRequest(lease_token=task.lease_token))


async def test_completing_twice_changes_nothing(bench):
    job = await bench.create()
    task = await bench.lease()
    await bench.finish(task, a_dot_txt=b"a")
    before = await bench.get(job.job_id)
    await bench.tasks.CompleteTask(task_pb2.CompleteTaskRequest(lease_token=task.lease_token))
    assert await bench.get(job.job_id) == before


@pytest.mark.parametrize("path", ["missing.txt", "../../other", "/etc/passwd"])
async def test_output_that_is_not_there_is_refused(bench, path):
    job = await bench.create()
    task = await bench.lease()
    files = [task_pb2.OutputFile(path=path, size_bytes=1, sha256=b"0" * 32)]
    with refused(Reason.INVALID_REQUEST):
        await bench.tasks.CompleteTask(
            task_pb2.CompleteTaskRequest(lease_token=task.lease_token, files=files)
        )
    assert (await bench.get(job.job_id)).tasks[0].state == pb.TASK_STATE_LEASED


async def test_cancelling_a_running_job(bench):
    job = await bench.create()
    task = await bench.lease()
    cancelled = (await bench.jobs.CancelJob(pb.CancelJobRequest(job_id=job.job_id))).job
    assert cancelled.state == pb.JOB_STATE_CANCELLED
    beat = await bench.tasks.HeartbeatTask(task_pb2.HeartbeatTaskRequest(lease_token=task.lease_token))
    assert beat.cancelled
    with refused(Reason.LEASE_LOST):
        await bench.finish(task)
    assert (await bench.get(job.job_id)).state == pb.JOB_STATE_CANCELLED


async def test_retrying_from_a_stage_keeps_what_came_before(bench):
    job = await bench.create()
    await bench.run_to_end(job.job_id)
    options = options_pb2.JobOptions(postproc=options_pb2.PostprocOptions(outlier_std_threshold=3))
    request = pb.RetryJobRequest(job_id=job.job_id, from_stage=progress_pb2.STAGE_POSTPROC, options=options)
    again = (await bench.jobs.RetryJob(request)).job
    assert again.state == pb.JOB_STATE_PENDING
    assert again.has_scene
    assert (bench.data / f"jobs/{job.job_id}/scene.splat").read_bytes() != b"new"
    assert (bench.data / f"jobs/{job.job_id}/output/point_cloud/iteration_30/point_cloud.ply").exists()
    task = await bench.lease()
    assert task.stage == progress_pb2.STAGE_POSTPROC
    assert task.options.postproc.outlier_std_threshold == 3
    await bench.finish(task, scene_dot_splat=b"new")
    assert (await bench.get(job.job_id)).state == pb.JOB_STATE_COMPLETED
    events = await watch(bench, job.job_id)
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))


async def test_a_retry_that_fails_loses_no_scene(bench):
    job = await bench.create()
    assert not (await bench.get(job.job_id)).has_scene
    await bench.run_to_end(job.job_id)
    before = (await bench.jobs.GetScene(pb.GetSceneRequest(pub_key=job.pub_key))).artifacts
    request = pb.RetryJobRequest(job_id=job.job_id, from_stage=progress_pb2.STAGE_TRAIN)
    await bench.jobs.RetryJob(request)
    assert not await fail(bench, await bench.lease(), retryable=False)
    scene = await bench.jobs.GetScene(pb.GetSceneRequest(pub_key=job.pub_key))
    assert (scene.job.state, scene.job.has_scene) == (pb.JOB_STATE_FAILED, True)
    assert scene.artifacts == before
    data = b"".join([part.data async for part in bench.jobs.DownloadArtifact(
        pb.DownloadArtifactRequest(pub_key=job.pub_key, name="scene.spz")
    )])  # fmt: skip
    assert data == b"z"


async def test_retrying_too_early(bench):
    job = await bench.create()
    with refused(Reason.JOB_STATE_CONFLICT):
        await bench.jobs.RetryJob(pb.RetryJobRequest(job_id=job.job_id))
    await bench.jobs.CancelJob(pb.CancelJobRequest(job_id=job.job_id))
    with refused(Reason.JOB_STATE_CONFLICT):
        await bench.jobs.RetryJob(
            pb.RetryJobRequest(job_id=job.job_id, from_stage=progress_pb2.STAGE_POSTPROC)
        )
    assert (
        await bench.jobs.RetryJob(pb.RetryJobRequest(job_id=job.job_id))
    ).job.state == pb.JOB_STATE_PENDING


async def test_deleting_leaves_nothing(bench):
    job = await bench.create()
    task = await bench.lease()
    await bench.jobs.DeleteJob(pb.DeleteJobRequest(job_id=job.job_id))
    assert not (bench.data / f"jobs/{job.job_id}").exists()
    with refused(Reason.JOB_NOT_FOUND):
        await bench.get(job.job_id)
    with refused(Reason.LEASE_LOST):
        await bench.finish(task)


async def test_pages(bench):
    made = [(await bench.create()).job_id for _ in range(5)]
    seen, token = [], ""
    while True:
        answer = await bench.jobs.ListJobs(pb.ListJobsRequest(page_size=2, page_token=token))
        seen += [job.job_id for job in answer.jobs]
        if not (token := answer.next_page_token):
            break
    assert seen == made[::-1]
    only = await bench.jobs.ListJobs(pb.ListJobsRequest(states=[pb.JOB_STATE_COMPLETED]))
    assert not only.jobs
    with refused(Reason.INVALID_REQUEST):
        await bench.jobs.ListJobs(pb.ListJobsRequest(page_token="nonsense"))
    with refused(Reason.INVALID_REQUEST):
        await bench.jobs.ListJobs(pb.ListJobsRequest(page_size=-1))


async def test_options_are_checked_and_listed(bench):
    options = options_pb2.JobOptions(training=options_pb2.TrainingOptions(iterations=0))
    with refused(Reason.INVALID_OPTION):
        await bench.create(options=options)
    assert not list((bench.data / "jobs").glob("*")) if (bench.data / "jobs").exists() else True
    listed = {
        option.name: option for option in (await bench.jobs.ListOptions(pb.ListOptionsRequest())).options
    }
    assert (listed["iterations"].type, listed["iterations"].minimum) == ("int", 1)
    assert list(listed["matcher"].choices) == ["exhaustive", "sequential"]
    assert all(option.help for option in listed.values())
