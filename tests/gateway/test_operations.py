"""Keys, share links, errors and workers over HTTP."""

from __future__ import annotations

import time

import pytest

from services.registry import access, keys
from services.registry.keys import Scope
from splatmill.v1 import progress_pb2, task_pb2
from tests.gateway.test_gateway import PHOTOS, bench, database_url, edge, make_bench  # noqa: F401  (fixtures)


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(access, "CACHE_SECONDS", -1.0)


async def make_key(edge, *scopes: Scope) -> str:  # noqa: F811
    return (await edge.bench.registry.transact(lambda s: keys.create(s, "anna", scopes)))[1]


async def test_a_key_in_each_place(edge):  # noqa: F811
    await edge.post_photos(PHOTOS)
    key = await make_key(edge, Scope.READ, Scope.SUBMIT)
    refused = await edge.get("/recon/jobs", expect=401)
    assert refused["error"]["reason"] == "UNAUTHENTICATED"
    assert await edge.get("/recon/jobs", headers={"Authorization": f"Bearer {key}"}) == {
        "jobs": [],
        "next_page_token": "",
    }
    await edge.get("/recon/jobs", headers={"X-API-Key": key})
    await edge.get("/recon/jobs", expect=401, headers={"X-API-Key": "sm_wrong"})
    await edge.get("/recon/jobs", expect=401, headers={"X-API-Key": "\u00e9" * 30})
    await edge.get("/recon/workers", expect=403, headers={"X-API-Key": key})
    await edge.get("/recon/options")
    await edge.get("/readyz")


async def test_signing_in_and_out(edge):  # noqa: F811
    key = await make_key(edge, Scope.READ, Scope.SUBMIT)
    for path in ("/", "/jobs/abcdefgh"):
        async with edge.session.get(edge.url + path, allow_redirects=False) as answer:
            assert (answer.status, answer.headers["Location"]) == (303, f"/signin?next={path}")
    async with edge.session.get(f"{edge.url}/signin") as answer:
        assert "signin" in await answer.text()
    session = f"{edge.url}/recon/session"
    for body in ({"api_key": "sm_wrong"}, {"api_key": 7}, {}):
        async with edge.session.post(session, json=body) as answer:
            assert answer.status in (400, 401), body
    async with edge.session.post(session, json={"api_key": f" {key} "}) as answer:
        assert answer.status == 204
        cookie = answer.headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    edge.session.cookie_jar.clear()
    browser = {"Cookie": f"splatmill_key={key}"}
    await edge.get("/recon/jobs", headers=browser)
    async with edge.session.get(f"{edge.url}/", headers=browser) as answer:
        assert "index" in await answer.text()
    async with edge.session.delete(session) as answer:
        assert 'splatmill_key=""' in answer.headers["Set-Cookie"]


async def test_share_links(edge):  # noqa: F811
    job = await edge.post_photos(PHOTOS)
    await edge.bench.run_to_end(job["job_id"])
    path = f"{edge.url}/recon/jobs/{job['job_id']}/share"
    scene = f"/recon/pub/{job['pub_key']}"
    await edge.get(scene)
    async with edge.session.post(path, json={"action": "close"}) as answer:
        assert (await answer.json())["shared"] is False
    await edge.get(scene, expect=404)
    await edge.get(f"{scene}/scene.spz", expect=404)
    async with edge.session.post(path, json={"action": "renew", "valid_for_seconds": 0.5}) as answer:
        renewed = await answer.json()
    assert renewed["share_expires_at"] > renewed["finished_at"]
    await edge.get(scene, expect=404)
    await edge.get(f"/recon/pub/{renewed['pub_key']}")
    time.sleep(0.5)
    await edge.get(f"/recon/pub/{renewed['pub_key']}", expect=404)
    for body in ({}, {"action": "destroy"}, {"action": "open", "valid_for_seconds": "long"}):
        async with edge.session.post(path, json=body) as answer:
            assert answer.status == 400, body


async def test_priority_is_a_field(edge):  # noqa: F811
    usual = await edge.post_photos(PHOTOS)
    urgent = await edge.post_photos(PHOTOS, after=[("priority", "5")])
    queue = await edge.get("/recon/queue")
    assert [job["job_id"] for job in queue["pending_jobs"]] == [urgent["job_id"], usual["job_id"]]
    assert (await edge.get(f"/recon/jobs/{urgent['job_id']}/status"))["priority"] == 5
    for wrong in ("high", "1e3", "1000", "101"):
        await edge.post_photos(PHOTOS, expect=400, before=[("priority", wrong)])


async def test_errors_and_workers(edge):  # noqa: F811
    job = await edge.post_photos(PHOTOS)
    task = await edge.bench.lease()
    error = progress_pb2.ErrorDetail(reason="NO_OVERLAP", message="No.", remedy="More.", retryable=False)
    await edge.bench.tasks.FailTask(task_pb2.FailTaskRequest(lease_token=task.lease_token, error=error))
    for path in (f"/recon/jobs/{job['job_id']}/errors", "/recon/errors"):
        (found,) = (await edge.get(path))["errors"]
        assert (found["stage"], found["attempt"], found["error"]["reason"]) == ("sfm", 1, "NO_OVERLAP")
    (worker,) = (await edge.get("/recon/workers"))["workers"]
    assert (worker["worker_id"], worker["stages"], worker["job_id"]) == (
        "w",
        ["sfm", "train", "postproc"],
        None,
    )
