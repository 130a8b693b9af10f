"""API keys: who gets in, and what they see there."""

from __future__ import annotations

import time

import pytest
from click.testing import CliRunner

from services.registry import access, keys, quotas
from services.registry.keys import Quotas, Scope
from services.registry.models import ApiKey
from splatmill._transport import Authorized
from splatmill.cli import main
from splatmill.errors import Reason, SplatmillError
from splatmill.v1 import progress_pb2, task_pb2
from splatmill.v1 import reconstruction_pb2 as pb
from tests.registry.conftest import BOTH_DATABASES, Bench, photo, refused

pytestmark = BOTH_DATABASES


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    """New keys are noticed at once."""
    monkeypatch.setattr(access, "CACHE_SECONDS", -1.0)


async def make_key(bench: Bench, name: str, *scopes: Scope, quotas: Quotas = Quotas(), **more) -> str:  # noqa: B008
    scopes = scopes or (Scope.READ, Scope.SUBMIT)
    _, key = await bench.registry.transact(lambda s: keys.create(s, name, scopes, quotas, **more))
    return key


def as_owner(bench: Bench, key: str) -> Bench:
    """The same bench for a caller with a key."""
    other = Bench(bench.registry, bench.port)
    other.jobs = Authorized(other.jobs, lambda: key)
    return other


async def test_open_until_there_is_a_key(bench):
    job = await bench.create()
    await bench.get(job.job_id)
    await make_key(bench, "anna")
    for call in (
        lambda: bench.get(job.job_id),
        lambda: bench.jobs.GetQueue(pb.GetQueueRequest()),
        lambda: bench.jobs.ListJobs(pb.ListJobsRequest()),
        bench.create,
        lambda: bench.jobs.ListArtifacts(pb.ListArtifactsRequest(job_id=job.job_id)),
    ):
        with refused(Reason.UNAUTHENTICATED):
            await call()
    assert (await bench.jobs.ListOptions(pb.ListOptionsRequest())).options
    scene = await bench.jobs.GetScene(pb.GetSceneRequest(pub_key=job.pub_key))
    assert scene.job.pub_key == job.pub_key


@pytest.mark.parametrize("wrong", ["nonsense", "sm_abcdefgh_secret", "sm__", "sm_a_b", "x" * 300])
async def test_wrong_keys(bench, wrong):
    key = await make_key(bench, "anna")
    assert await as_owner(bench, key).create()
    with refused(Reason.UNAUTHENTICATED):
        await as_owner(bench, wrong).create()
    with refused(Reason.UNAUTHENTICATED):
        await as_owner(bench, key[:-1] + ("a" if key[-1] != "a" else "b")).create()


async def test_no_key_is_kept_in_the_open(bench):
    key = await make_key(bench, "anna")
    row = await bench.registry.transact(lambda s: keys.all_keys(s)[0])
    secret = key.split("_", 2)[2]
    assert secret not in str(row.model_dump())
    assert secret.encode() not in row.secret_hash


async def test_revoked_and_expired(bench):
    revoked, short = await make_key(bench, "anna"), await make_key(bench, "ben", valid_seconds=1.5)
    assert await as_owner(bench, short).create()
    await bench.registry.transact(lambda s: keys.revoke(s, revoked.split("_")[1]))
    with refused(Reason.UNAUTHENTICATED):
        await as_owner(bench, revoked).create()
    time.sleep(1.5)
    with refused(Reason.UNAUTHENTICATED):
        await as_owner(bench, short).create()


async def test_everyone_sees_their_own(bench):
    anna, ben = [as_owner(bench, await make_key(bench, name)) for name in ("anna", "ben")]
    admin = as_owner(bench, await make_key(bench, "root", Scope.ADMIN))
    hers, his = await anna.create(request_id="same"), await ben.create(request_id="same")
    assert hers.job_id != his.job_id, "a request_id is one's own"
    assert (await anna.create(request_id="same")).job_id == hers.job_id
    theirs = pb.GetJobRequest(job_id=hers.job_id)
    for call in (
        lambda: ben.jobs.GetJob(theirs),
        lambda: ben.jobs.CancelJob(pb.CancelJobRequest(job_id=hers.job_id)),
        lambda: ben.jobs.DeleteJob(pb.DeleteJobRequest(job_id=hers.job_id)),
        lambda: ben.jobs.RetryJob(pb.RetryJobRequest(job_id=hers.job_id)),
        lambda: ben.jobs.SubmitJob(pb.SubmitJobRequest(job_id=hers.job_id)),
        lambda: ben.jobs.UpdateShare(pb.UpdateShareRequest(job_id=hers.job_id, action=pb.SHARE_ACTION_RENEW)),
        lambda: ben.jobs.ListErrors(pb.ListErrorsRequest(job_id=hers.job_id)),
        lambda: ben.jobs.ListArtifacts(pb.ListArtifactsRequest(job_id=hers.job_id)),
        lambda: ben.jobs.GetUpload(pb.GetUploadRequest(job_id=hers.job_id)),
        lambda: anext(aiter(ben.jobs.WatchJob(pb.WatchJobRequest(job_id=hers.job_id)))),
        lambda: anext(
            aiter(ben.jobs.DownloadArtifact(pb.DownloadArtifactRequest(job_id=hers.job_id, name="scene.spz")))
        ),
    ):
        with refused(Reason.JOB_NOT_FOUND):
            await call()
    assert [job.job_id for job in (await ben.jobs.ListJobs(pb.ListJobsRequest())).jobs] == [his.job_id]
    assert len((await admin.jobs.ListJobs(pb.ListJobsRequest())).jobs) == 2
    queue = (await ben.jobs.GetQueue(pb.GetQueueRequest())).pending_jobs
    assert [(job.job_id, job.position) for job in queue] == [("", 1), (his.job_id, 2)]
    await admin.jobs.CancelJob(pb.CancelJobRequest(job_id=hers.job_id))


async def test_scopes(bench):
    reader = as_owner(bench, await make_key(bench, "reader", Scope.READ))
    sender = as_owner(bench, await make_key(bench, "sender", Scope.SUBMIT))
    with refused(Reason.PERMISSION_DENIED):
        await reader.create()
    with refused(Reason.PERMISSION_DENIED):
        await sender.jobs.ListJobs(pb.ListJobsRequest())
    with refused(Reason.PERMISSION_DENIED):
        await reader.jobs.ListWorkers(pb.ListWorkersRequest())
    with refused(Reason.PERMISSION_DENIED):
        await reader.jobs.ListErrors(pb.ListErrorsRequest())
    with refused(Reason.PERMISSION_DENIED):
        await sender.create(priority=1)
    assert (await sender.create(priority=-1)).priority == -1


async def test_waiting_jobs_have_a_limit(bench):
    anna = as_owner(bench, await make_key(bench, "anna", quotas=Quotas(max_waiting_jobs=1)))
    first = await anna.create()
    with refused(Reason.QUOTA_EXCEEDED):
        await anna.create()
    assert len((await anna.jobs.ListJobs(pb.ListJobsRequest())).jobs) == 1, (
        "nothing of the refused one is left"
    )
    assert (await bench.lease()).job_id == first.job_id
    await anna.create()


async def test_bytes_have_a_limit(bench):
    photos = {f"{k}.jpg": photo(k) for k in range(3)}
    total = sum(map(len, photos.values()))
    anna = as_owner(bench, await make_key(bench, "anna", quotas=Quotas(max_bytes=total + 1)))
    first = await anna.create(photos)
    with refused(Reason.QUOTA_EXCEEDED):
        await anna.create(photos)
    await anna.jobs.DeleteJob(pb.DeleteJobRequest(job_id=first.job_id))
    await anna.create(photos)


async def test_gpu_time_has_a_limit(bench):
    anna = as_owner(bench, await make_key(bench, "anna", quotas=Quotas(max_gpu_minutes=0.001)))
    job = await anna.create()
    request = task_pb2.LeaseTaskRequest(worker_id="w", stages=[1], device="NVIDIA H100")
    task = (await bench.tasks.LeaseTask(request)).task
    time.sleep(0.1)
    error = progress_pb2.ErrorDetail(reason="NO_OVERLAP", message="No.", retryable=False)
    await bench.tasks.FailTask(task_pb2.FailTaskRequest(lease_token=task.lease_token, error=error))
    owner = await bench.registry.transact(lambda s: s.get(ApiKey, keys.all_keys(s)[0].key_id))
    used = await bench.registry.transact(lambda s: quotas.gpu_seconds(s, owner.key_id))
    assert 0.1 <= used < 5
    with refused(Reason.QUOTA_EXCEEDED):
        await anna.create()
    with refused(Reason.QUOTA_EXCEEDED):
        await anna.jobs.RetryJob(pb.RetryJobRequest(job_id=job.job_id))


async def test_workers_have_a_token_of_their_own(make_bench):
    bench = await make_bench(worker_token="correct horse")
    job = await bench.create()
    with refused(Reason.UNAUTHENTICATED):
        await bench.lease()
    bench.tasks = Authorized(bench.tasks, lambda: "correct horse")
    task = await bench.lease()
    assert task.job_id == job.job_id
    key = await make_key(bench, "anna", Scope.ADMIN)
    bench.tasks = Authorized(Bench(bench.registry, bench.port).tasks, lambda: key)
    for call in (
        lambda: bench.tasks.HeartbeatTask(task_pb2.HeartbeatTaskRequest(lease_token=task.lease_token)),
        lambda: bench.tasks.CompleteTask(task_pb2.CompleteTaskRequest(lease_token=task.lease_token)),
        lambda: bench.tasks.FailTask(task_pb2.FailTaskRequest(lease_token=task.lease_token)),
        lambda: bench.tasks.ReleaseTask(task_pb2.ReleaseTaskRequest(lease_token=task.lease_token)),
    ):
        with refused(Reason.UNAUTHENTICATED):
            await call()


@pytest.mark.parametrize("name", ["", "  ", "x" * 101])
async def test_a_key_needs_a_name(bench, name):
    with pytest.raises(SplatmillError) as caught:
        await make_key(bench, name)
    assert caught.value.reason is Reason.INVALID_REQUEST


async def test_the_commands(bench):
    url = bench.registry.settings.resolved_database_url

    def run(*arguments: str) -> str:
        done = CliRunner().invoke(main, ["keys", *arguments, "--database-url", url])
        assert done.exit_code == 0, done.output
        return done.output.strip()

    assert "open to everyone" in run("list")
    key = run("create", "anna", "--max-waiting", "2", "--max-gib", "1.5", "--days", "7")
    assert await as_owner(bench, key).create()
    listed = run("list")
    key_id = key.split("_")[1]
    for text in (key_id, "anna", "read submit", "2 waiting, 1.5 GiB", "until 20"):
        assert text in listed
    assert key not in listed
    assert "anna" in run("revoke", key_id)
    assert "revoked" in run("list")
    with refused(Reason.UNAUTHENTICATED):
        await as_owner(bench, key).create()
    done = CliRunner().invoke(main, ["keys", "revoke", "nobody", "--database-url", url])
    assert done.exit_code == 1
    assert "no key 'nobody'" in done.output
