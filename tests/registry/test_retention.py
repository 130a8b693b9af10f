"""What goes with time, what goes when the disk fills, what a crash leaves; and share links."""

from __future__ import annotations

import os
import time

import pytest
from sqlmodel import select

from services.registry import orphans, retention
from services.registry.events import LOG_TAIL
from services.registry.lookups import job_by_id
from services.registry.models import Kind, Line, LogLine
from splatmill.errors import Reason
from splatmill.v1 import progress_pb2, task_pb2
from splatmill.v1 import reconstruction_pb2 as pb
from tests.registry.conftest import BOTH_DATABASES, Bench, refused

pytestmark = BOTH_DATABASES

_DAY = 86_400.0


async def finished(bench: Bench) -> pb.Job:
    """A completed job with a file of every kind."""
    job = await bench.create()
    for files in (
        {"sparse__images_dot_bin": b"model", "sfm_report_dot_json": b"{}"},
        {"point_cloud__iteration_30__point_cloud_dot_ply": b"raw", "training_report_dot_json": b"{}"},
        {"point_cloud_filtered_dot_ply": b"cloud", "scene_dot_spz": b"z"},
    ):
        task = await bench.lease()
        (bench.data / task.checkpoint_prefix).mkdir(parents=True)
        (bench.data / task.checkpoint_prefix / "state").write_bytes(b"checkpoint")
        await bench.registry.write_log(job.job_id, ["a line"])
        await bench.finish(task, **files)
    return await bench.get(job.job_id)


def files(bench: Bench, job_id: str) -> set[str]:
    root = bench.data / "jobs" / job_id
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}


async def names(bench: Bench, job_id: str) -> set[str]:
    answer = await bench.jobs.ListArtifacts(pb.ListArtifactsRequest(job_id=job_id))
    return {artifact.name for artifact in answer.artifacts}


_GONE = {
    Kind.PHOTOS: {"upload/images/0.jpg", "upload/images/1.jpg", "upload/images/2.jpg"},
    Kind.INTERMEDIATES: {
        "colmap/sparse/images.bin", "checkpoints/sfm/state", "checkpoints/train/state",
        "checkpoints/postproc/state",
    },
    Kind.RESULTS: {
        "output/point_cloud/iteration_30/point_cloud.ply", "point_cloud_filtered.ply", "scene.spz",
    },
    Kind.LOGS: {"logs/process.log"},
}  # fmt: skip


@pytest.mark.parametrize("kind", list(Kind))
async def test_each_kind_has_its_time(make_bench, kind):
    days = {
        Kind.PHOTOS: "retain_photos_days", Kind.INTERMEDIATES: "retain_intermediates_days",
        Kind.RESULTS: "retain_results_days", Kind.LOGS: "retain_logs_days",
    }  # fmt: skip
    bench = await make_bench(keep_free_bytes=0, **{days[kind]: 1.0})
    job = await finished(bench)
    waiting = await bench.create()
    before, listed = files(bench, job.job_id), await names(bench, job.job_id)
    await bench.registry.caretaker.expire()
    assert files(bench, job.job_id) == before, "it is not old enough"

    def age(session):
        row = job_by_id(session, job.job_id)
        row.finished_at -= 1.1 * _DAY
        session.add(row)

    await bench.registry.transact(age)
    await bench.registry.caretaker.expire()
    assert before - files(bench, job.job_id) == _GONE[kind]
    assert listed - await names(bench, job.job_id) == {
        name for name in _GONE[kind] if not name.startswith("checkpoints/")
    }
    assert len(files(bench, waiting.job_id)) == 3, "what is not done keeps its files"
    await bench.registry.caretaker.expire()


async def test_without_settings_all_is_kept(make_bench):
    bench = await make_bench(keep_free_bytes=0)
    job = await finished(bench)
    before = files(bench, job.job_id)
    await bench.registry.caretaker.expire()
    await bench.registry.caretaker.make_room()
    assert files(bench, job.job_id) == before


async def test_retries_know_what_is_gone(make_bench):
    bench = await make_bench(keep_free_bytes=0)
    job = await finished(bench)
    for kind, stage in ((Kind.RESULTS, 3), (Kind.INTERMEDIATES, 2)):
        await bench.registry.transact(
            lambda s, k=kind: retention.expire(s, bench.registry.store, job.job_id, k)
        )
        with refused(Reason.JOB_STATE_CONFLICT):
            await bench.jobs.RetryJob(pb.RetryJobRequest(job_id=job.job_id, from_stage=stage))
    await bench.jobs.RetryJob(pb.RetryJobRequest(job_id=job.job_id, from_stage=1))
    await bench.run_to_end(job.job_id)
    await bench.jobs.RetryJob(pb.RetryJobRequest(job_id=job.job_id, from_stage=2))
    await bench.jobs.CancelJob(pb.CancelJobRequest(job_id=job.job_id))
    await bench.registry.transact(
        lambda s: retention.expire(s, bench.registry.store, job.job_id, Kind.PHOTOS)
    )
    with refused(Reason.JOB_STATE_CONFLICT):
        await bench.jobs.RetryJob(pb.RetryJobRequest(job_id=job.job_id, from_stage=1))


async def test_intermediates_go_first_when_the_disk_fills(make_bench, monkeypatch):
    bench = await make_bench(keep_free_bytes=1000)
    old, new = await finished(bench), await finished(bench)
    free = iter([900, 950, 1100])
    monkeypatch.setattr(bench.registry.store, "free_bytes", lambda: next(free))
    await bench.registry.caretaker.make_room()
    assert not files(bench, old.job_id) & _GONE[Kind.INTERMEDIATES]
    assert files(bench, old.job_id) >= _GONE[Kind.PHOTOS] | _GONE[Kind.RESULTS]
    assert not files(bench, new.job_id) & _GONE[Kind.INTERMEDIATES]
    monkeypatch.setattr(bench.registry.store, "free_bytes", lambda: 0)
    await bench.registry.caretaker.make_room()
    assert files(bench, old.job_id) >= _GONE[Kind.PHOTOS] | _GONE[Kind.RESULTS], "nothing else goes"


async def test_uploads_are_refused_before_the_disk_is_full(make_bench):
    bench = await make_bench(min_free_bytes=1 << 60)
    with refused(Reason.STORAGE_FULL):
        await bench.create()
    assert not list((bench.data / "jobs").glob("*/upload/**/*.jpg"))


def age(path, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(path, (then, then))


async def test_orphans_are_swept(make_bench):
    bench = await make_bench(keep_free_bytes=0, orphan_ttl_seconds=100.0)
    job, running = await finished(bench), await bench.create()
    before = files(bench, job.job_id)
    root = bench.data / "jobs"
    for name in ("lostold1", "lostnew1"):
        (root / name / "upload").mkdir(parents=True)
        (root / name / "upload" / "photo.jpg").write_bytes(b"x")
    age(root / "lostold1", 200)
    for stray in (
        "colmap/sparse/stray.bin",
        "work/sfm-1/x",
        "output/stray.ply",
        "stray.splat",
        "upload/incoming/a/b",
    ):
        (root / job.job_id / stray).parent.mkdir(parents=True, exist_ok=True)
        (root / job.job_id / stray).write_bytes(b"x")
    first = await bench.lease()
    await bench.tasks.ReleaseTask(task_pb2.ReleaseTaskRequest(lease_token=first.lease_token))
    second = await bench.lease()
    assert (first.job_id, second.job_id) == (running.job_id, running.job_id)
    for task in (first, second):
        (bench.data / task.output_prefix).mkdir(parents=True, exist_ok=True)
        (bench.data / task.output_prefix / "file").write_bytes(b"x")
    await bench.registry.caretaker.sweep_orphans()
    assert files(bench, job.job_id) == before
    assert not (root / "lostold1").exists()
    assert (root / "lostnew1").exists()
    assert not (bench.data / first.output_prefix).exists()
    assert (bench.data / second.output_prefix / "file").exists()


async def test_a_strange_store_is_left_alone(make_bench, caplog):
    """A wrong DATABASE_URL must not cost everybody's scenes."""
    bench = await make_bench(keep_free_bytes=0, orphan_ttl_seconds=0.0)
    job = await finished(bench)
    await bench.registry.caretaker.sweep_orphans()
    assert (bench.data / "database_id").is_file()

    def another(session):
        session.get_one(Line, 1).database_id = "another"

    await bench.registry.transact(another)
    before = files(bench, job.job_id)
    (bench.data / "jobs" / "lost0001").mkdir()
    await bench.registry.caretaker.sweep_orphans()
    assert (bench.data / "jobs" / "lost0001").exists()
    assert files(bench, job.job_id) == before
    assert "belongs to another database" in caplog.text


async def test_a_store_without_an_id_is_adopted_only_with_a_known_job(bench):
    (bench.data / "jobs" / "lost0001").mkdir(parents=True)
    store = bench.registry.store
    assert not await bench.registry.transact(lambda s: orphans.belong_together(s, store))
    await bench.create()
    assert await bench.registry.transact(lambda s: orphans.belong_together(s, store))


async def test_share_links(bench):
    job = await bench.create()
    await bench.run_to_end(job.job_id)

    async def update(action: pb.ShareAction, seconds: float | None = None) -> pb.Job:
        request = pb.UpdateShareRequest(job_id=job.job_id, action=action)
        if seconds is not None:
            request.valid_for.FromMilliseconds(int(1000 * seconds))
        return (await bench.jobs.UpdateShare(request)).job

    async def opens(key: str) -> bool:
        try:
            await bench.jobs.GetScene(pb.GetSceneRequest(pub_key=key))
        except Exception:
            with refused(Reason.SCENE_NOT_FOUND):
                call = bench.jobs.DownloadArtifact(pb.DownloadArtifactRequest(pub_key=key, name="scene.spz"))
                await anext(aiter(call))
            return False
        return True

    assert await opens(job.pub_key)
    assert not (await update(pb.SHARE_ACTION_CLOSE)).shared
    assert not await opens(job.pub_key)
    assert (await update(pb.SHARE_ACTION_OPEN)).shared
    assert await opens(job.pub_key)
    renewed = await update(pb.SHARE_ACTION_RENEW, 2.0)
    assert renewed.pub_key != job.pub_key
    assert await opens(renewed.pub_key)
    assert not await opens(job.pub_key)
    time.sleep(2.05)
    assert not await opens(renewed.pub_key)
    assert not (await bench.get(job.job_id)).shared
    for wrong in (
        (pb.SHARE_ACTION_UNSPECIFIED, None),
        (pb.SHARE_ACTION_OPEN, -1.0),
        (pb.SHARE_ACTION_OPEN, 1e11),
    ):
        with refused(Reason.INVALID_REQUEST):
            await update(*wrong)


async def test_a_log_that_ended_keeps_its_tail_only(bench):
    job = await bench.create()
    task = await bench.lease()
    lines = [f"line {k}" for k in range(120)]
    progress = progress_pb2.StageProgress(stage=1, step="x", fraction=0.5, log_lines=lines)
    await bench.tasks.HeartbeatTask(
        task_pb2.HeartbeatTaskRequest(lease_token=task.lease_token, progress=[progress])
    )
    await bench.jobs.CancelJob(pb.CancelJobRequest(job_id=job.job_id))
    kept = await bench.registry.transact(lambda s: [row.text for row in s.exec(select(LogLine)).all()])
    assert kept == lines[-LOG_TAIL:]
    assert list((await bench.get(job.job_id)).log_tail) == lines[-LOG_TAIL:]


async def test_a_log_does_not_grow_without_end(make_bench):
    bench = await make_bench(max_log_bytes=2048)
    job = await bench.create()
    for number in range(300):
        await bench.registry.write_log(job.job_id, [f"line {number} with some words in it"])
    text = (bench.data / "jobs" / job.job_id / "logs" / "process.log").read_text()
    assert len(text) <= 2048
    lines = text.splitlines()
    assert lines[0].startswith("... older lines")
    numbers = [int(line.split()[2]) for line in lines[1:]]
    assert numbers == list(range(numbers[0], 300))
