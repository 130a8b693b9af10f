"""The HTTP edge over a real registry: what users of curl and browsers see."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from services.gateway.app import make_app
from services.gateway.settings import GatewaySettings
from services.registry import access, keys
from splatmill.v1 import options_pb2, progress_pb2, task_pb2
from splatmill.v1 import reconstruction_pb2 as pb
from tests.conftest import free_ports
from tests.registry.conftest import Bench, bench, database_url, make_bench, photo  # noqa: F401  (fixtures)


class Edge:
    """A gateway, the registry behind it, and a browser's session."""

    def __init__(self, bench: Bench, url: str, session: aiohttp.ClientSession) -> None:  # noqa: F811
        self.bench = bench
        self.url = url
        self.session = session

    async def get(self, path: str, expect: int = 200, **options) -> dict:
        async with self.session.get(self.url + path, **options) as answer:
            assert answer.status == expect, await answer.text()
            return await answer.json()

    async def post_photos(self, photos: dict[str, bytes], expect: int = 200, before=(), after=()) -> dict:
        form = aiohttp.FormData()
        for name, value in before:
            form.add_field(name, value)
        for name, data in photos.items():
            form.add_field("files", data, filename=name, content_type="image/jpeg")
        for name, value in after:
            form.add_field(name, value)
        async with self.session.post(f"{self.url}/recon/jobs", data=form) as answer:
            assert answer.status == expect, await answer.text()
            return await answer.json()


@pytest.fixture
async def edge(bench, tmp_path):  # noqa: F811
    pages = tmp_path / "dist"
    (pages / "assets").mkdir(parents=True)
    for name in ("index", "job", "viewer", "notfound", "signin"):
        (pages / f"{name}.html").write_text(f"<title>{name}</title>")
    (pages / "assets" / "app-123.js").write_text("1")
    settings = GatewaySettings(registry_address=f"127.0.0.1:{bench.port}", web_dir=pages)
    runner = web.AppRunner(make_app(settings), shutdown_timeout=1)
    await runner.setup()
    (port,) = free_ports(1)
    await web.TCPSite(runner, "127.0.0.1", port).start()
    async with aiohttp.ClientSession() as session:
        yield Edge(bench, f"http://127.0.0.1:{port}", session)
    await runner.cleanup()


PHOTOS = {f"{k}.jpg": photo(k) for k in range(3)}


async def test_a_job_from_upload_to_files(edge):
    answer = await edge.post_photos(PHOTOS)
    assert answer["original_resolution"] is False
    pending = await edge.get(f"/recon/jobs/{answer['job_id']}/status")
    assert (pending["status"], pending["queue_position"]) == ("PENDING", 1)
    assert pending["log_tail"][-1].startswith(">> [QUEUE]")
    queue = await edge.get("/recon/queue")
    assert (queue["max_concurrent"], queue["running_count"], queue["pending_count"]) == (1, 0, 1)
    assert set(queue["pending_jobs"][0]) == {"job_id", "position", "created_at"}
    await edge.bench.run_to_end(answer["job_id"])
    done = await edge.get(f"/recon/jobs/{answer['job_id']}/status")
    assert (done["status"], done["gaussian_count"]) == ("COMPLETED", 7)
    assert done["viewer_url"] == f"{edge.url}/v/{answer['pub_key']}"
    assert done["processing_time_seconds"] >= 0
    scene = await edge.get(f"/recon/pub/{answer['pub_key']}")
    assert [f["name"] for f in scene["artifacts"]] == [
        "cloud.ply",
        "point_cloud.ply",
        "scene.splat",
        "scene.spz",
    ]
    async with edge.session.get(scene["artifacts"][0]["url"]) as file:
        assert await file.read() == b"cloud"


async def test_running_status(edge):
    answer = await edge.post_photos(PHOTOS)
    task = await edge.bench.lease()
    progress = progress_pb2.StageProgress(
        stage=2,
        step="train",
        fraction=0.5,
        log_lines=["[GPU Memory] GPU 0: 1473MB / 16380MB (9.0%)"],
        training=progress_pb2.TrainingProgress(iteration=20, iterations=40, loss=0.5),
        gpu_memory=progress_pb2.GpuMemory(index=0, used_mib=1473, total_mib=16380),
    )
    beat = task_pb2.HeartbeatTaskRequest(lease_token=task.lease_token, progress=[progress])
    await edge.bench.tasks.HeartbeatTask(beat)
    status = await edge.get(f"/recon/jobs/{answer['job_id']}/status")
    assert (status["status"], status["stage"], status["step"]) == ("PROCESSING", "sfm", "train")
    assert status["training"]["iteration"] == 20
    assert status["gpu_memory"] == {"index": 0, "used_mib": 1473, "total_mib": 16380}
    assert status["log_tail"] == ["[GPU Memory] GPU 0: 1473MB / 16380MB (9.0%)"]


@pytest.mark.parametrize("where", ["before", "after"])
async def test_options_stand_anywhere_in_the_form(edge, where):
    fields = [("original_resolution", "true"), ("iterations", "1234"), ("title", "A mill")]
    answer = await edge.post_photos(PHOTOS, **{where: fields})
    assert answer["original_resolution"] is True
    job = await edge.bench.get(answer["job_id"])
    assert job.options.sfm.original_resolution
    assert job.options.training.iterations == 1234
    assert job.title == "A mill"


@pytest.mark.parametrize(
    "fields", [[("no_such_option", "1")], [("iterations", "-1")], [("iterations", "many")]]
)
async def test_bad_options(edge, fields):
    for where in ("before", "after"):
        answer = await edge.post_photos(PHOTOS, expect=400, **{where: fields})
        assert answer["error"]["reason"] == "INVALID_OPTION"
        assert answer["error"]["remedy"]
    assert nothing_left(edge)


def nothing_left(edge: Edge) -> bool:
    return not list((edge.bench.data / "jobs").glob("*"))


@pytest.mark.parametrize(
    ("photos", "status", "reason"),
    [
        ({"0.jpg": photo(0)}, 400, "TOO_FEW_IMAGES"),
        ({**PHOTOS, "bad.jpg": b"text"}, 400, "NOT_AN_IMAGE"),
        ({**PHOTOS, "cut.jpg": photo(9, size=(400, 300))[:20_000]}, 400, "IMAGE_TRUNCATED"),
        ({f"{k}.jpg": photo(k) for k in range(201)}, 413, "TOO_MANY_IMAGES"),
    ],
)
async def test_bad_photos_leave_nothing(edge, photos, status, reason):
    answer = await edge.post_photos(photos, expect=status)
    assert answer["error"]["reason"] == reason
    assert answer["error_message"]
    assert nothing_left(edge)


async def test_names_with_folders_and_the_same_name_twice(edge):
    form = aiohttp.FormData(quote_fields=False)
    for name in ("a/IMG_1.jpg", "b/IMG_1.jpg", "C:\\c\\img_1.JPG"):
        form.add_field("files", photo(), filename=name)
    form.add_field("files", b"", filename="")
    async with edge.session.post(f"{edge.url}/recon/jobs", data=form) as answer:
        assert answer.status == 200, await answer.text()
        job_id = (await answer.json())["job_id"]
    listed = await edge.get(f"/recon/jobs/{job_id}/artifacts")
    names = {file["name"] for file in listed["artifacts"]}
    assert names == {"upload/images/IMG_1.jpg", "upload/images/IMG_1_2.jpg", "upload/images/img_1_3.JPG"}


async def test_masks_of_photos_with_the_same_name_follow_them(edge):
    form = aiohttp.FormData(quote_fields=False)
    for folder in "abc":
        for name in ("IMG.1.jpg", "IMG.1.mask.png", "IMG_2.jpg", "IMG_2.jpg.MASK.png"):
            form.add_field("files", photo(), filename=f"{folder}/{name}")
    async with edge.session.post(f"{edge.url}/recon/jobs", data=form) as answer:
        assert answer.status == 200, await answer.text()
        job_id = (await answer.json())["job_id"]
    listed = await edge.get(f"/recon/jobs/{job_id}/artifacts")
    names = {file["name"].removeprefix("upload/images/") for file in listed["artifacts"]}
    assert names == {
        *(
            "IMG.1.jpg",
            "IMG.1.mask.png",
            "IMG.1_2.jpg",
            "IMG.1_2.mask.png",
            "IMG.1_3.jpg",
            "IMG.1_3.mask.png",
        ),
        *("IMG_2.jpg", "IMG_2.jpg.MASK.png", "IMG_2_2.jpg", "IMG_2_2.jpg.MASK.png"),
        *("IMG_2_3.jpg", "IMG_2_3.jpg.MASK.png"),
    }
    assert (await edge.get(f"/recon/jobs/{job_id}/status"))["image_count"] == 6


async def test_a_client_that_goes_away_leaves_nothing(edge):
    async def body():
        head = '--x\r\nContent-Disposition: form-data; name="files"; filename="0.jpg"\r\n\r\n'
        yield head.encode() + photo(0) + b"\r\n" + head.replace("0.jpg", "1.jpg").encode() + b"\xff\xd8half"
        await asyncio.sleep(30)

    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    with pytest.raises(asyncio.TimeoutError):
        timeout = aiohttp.ClientTimeout(total=1)
        await edge.session.post(f"{edge.url}/recon/jobs", data=body(), headers=headers, timeout=timeout)
    for _ in range(50):
        await asyncio.sleep(0.1)
        if nothing_left(edge):
            break
    assert nothing_left(edge)


async def test_ranges_and_etags(edge):
    answer = await edge.post_photos(PHOTOS)
    await edge.bench.run_to_end(answer["job_id"])
    url = f"{edge.url}/recon/pub/{answer['pub_key']}/point_cloud.ply"
    async with edge.session.get(url) as whole:
        assert (whole.status, await whole.read()) == (200, b"raw cloud")
        etag = whole.headers["ETag"]
        assert etag.strip('"') == hashlib.sha256(b"raw cloud").hexdigest()
    for header, status, body in (
        ({"Range": "bytes=0-2"}, 206, b"raw"),
        ({"Range": "bytes=4-"}, 206, b"cloud"),
        ({"Range": "bytes=-5"}, 206, b"cloud"),
        ({"Range": "bytes=4-", "If-Range": etag}, 206, b"cloud"),
        ({"Range": "bytes=4-", "If-Range": '"other"'}, 200, b"raw cloud"),
        ({"If-None-Match": etag}, 304, b""),
        ({"Range": "bytes=0-1,3-4"}, 200, b"raw cloud"),
    ):
        async with edge.session.get(url, headers=header) as part:
            assert (part.status, await part.read()) == (status, body), header
    async with edge.session.get(url, headers={"Range": "bytes=99-"}) as part:
        assert part.status == 416
    async with edge.session.head(url) as head:
        assert head.headers["Content-Length"] == "9"
    assert (await edge.get(f"/recon/pub/{answer['pub_key']}/secret.txt", 404))["error"][
        "reason"
    ] == "ARTIFACT_NOT_FOUND"
    await edge.get(f"/recon/jobs/{answer['job_id']}/artifacts/..%2F..%2Fsplatmill.db", 404)


async def read_events(
    edge: Edge, job_id: str, last: str | None = None, stop: int | None = None
) -> list[tuple]:
    found, name, number = [], "", 0
    headers = {"Last-Event-ID": last} if last else {}
    async with edge.session.get(f"{edge.url}/recon/jobs/{job_id}/events", headers=headers) as answer:
        assert answer.content_type == "text/event-stream"
        async for raw in answer.content:
            key, _, value = raw.decode().strip().partition(": ")
            if key == "id":
                number = int(value)
            elif key == "event":
                name = value
            elif key == "data":
                found.append((number, name, json.loads(value)))
                if name == "end" or number == stop:
                    return found
    return found


async def test_events_resume(edge):
    job_id = (await edge.post_photos(PHOTOS))["job_id"]
    first = await read_events(edge, job_id, stop=2)
    following = asyncio.create_task(read_events(edge, job_id, last=str(first[-1][0])))
    await edge.bench.run_to_end(job_id)
    rest = await asyncio.wait_for(following, 10)
    assert rest[-1][1] == "end"
    numbers = [event[0] for event in first + rest[:-1]]
    assert numbers == list(range(1, len(numbers) + 1))
    states = [data["new_state"] for _, name, data in first + rest if name == "job"]
    assert states == ["UPLOADING", "PENDING", "PROCESSING", "COMPLETED"]


async def test_verbs(edge):
    job_id = (await edge.post_photos(PHOTOS))["job_id"]
    async with edge.session.post(f"{edge.url}/recon/jobs/{job_id}/cancel") as answer:
        assert (await answer.json())["status"] == "CANCELLED"
    body = {"from_stage": "sfm", "options": {"max_features": 2000, "original_resolution": True}}
    async with edge.session.post(f"{edge.url}/recon/jobs/{job_id}/retry", json=body) as answer:
        assert (await answer.json())["status"] == "PENDING"
    assert (await edge.bench.get(job_id)).options.sfm.max_features == 2000
    for bad in ({"from_stage": "nothing"}, {"options": 3}, {"options": {"x": 1}}, [1]):
        async with edge.session.post(f"{edge.url}/recon/jobs/{job_id}/retry", json=bad) as answer:
            assert answer.status == 400
    listed = await edge.get("/recon/jobs?status=pending&page_size=1")
    assert [job["job_id"] for job in listed["jobs"]] == [job_id]
    await edge.get("/recon/jobs?status=nonsense", 400)
    async with edge.session.delete(f"{edge.url}/recon/jobs/{job_id}") as answer:
        assert answer.status == 204
    assert (await edge.get(f"/recon/jobs/{job_id}/status", 404))["error"]["reason"] == "JOB_NOT_FOUND"
    names = [option["name"] for option in (await edge.get("/recon/options"))["options"]]
    assert {"iterations", "original_resolution", "outlier_std_threshold"} <= set(names)
    await edge.get("/nothing", 404)


async def test_pages(edge):
    answer = await edge.post_photos(PHOTOS)
    for path, status, title in (
        ("/", 200, "index"),
        (f"/jobs/{answer['job_id']}", 200, "job"),
        (f"/v/{answer['pub_key']}", 200, "viewer"),
        ("/v/nothing", 404, "notfound"),
        ("/jobs/nothing", 404, "notfound"),
    ):
        async with edge.session.get(edge.url + path) as page:
            assert (page.status, await page.text()) == (status, f"<title>{title}</title>")
            assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    async with edge.session.get(f"{edge.url}/assets/app-123.js") as asset:
        assert "immutable" in asset.headers["Cache-Control"]
    await edge.get("/readyz")


async def test_without_a_registry(tmp_path):
    runner = web.AppRunner(make_app(GatewaySettings(registry_address="127.0.0.1:1", web_dir=tmp_path)))
    await runner.setup()
    (port,) = free_ports(1)
    await web.TCPSite(runner, "127.0.0.1", port).start()
    async with aiohttp.ClientSession() as session:
        for path in ("/readyz", "/recon/queue"):
            async with session.get(f"http://127.0.0.1:{port}{path}") as answer:
                assert answer.status == 503
        async with session.get(f"http://127.0.0.1:{port}/recon/queue") as answer:
            assert (await answer.json())["error"]["retryable"] is True
            assert answer.headers["Retry-After"]
    await runner.cleanup()


async def test_curl_as_a_user_types_it(edge, tmp_path):
    if shutil.which("curl") is None:
        pytest.skip("no curl")
    for name, data in PHOTOS.items():
        (tmp_path / name).write_bytes(data)
    files = [part for name in PHOTOS for part in ("-F", f"files=@{tmp_path / name}")]
    command = ["curl", "-sS", *files, "-F", "original_resolution=true", f"{edge.url}/recon/jobs"]
    process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
    answer = json.loads((await process.communicate())[0])
    assert answer["original_resolution"] is True
    assert (await edge.bench.get(answer["job_id"])).state == pb.JOB_STATE_PENDING


async def test_memory_does_not_grow_with_the_upload(bench, tmp_path):  # noqa: F811
    """200 MB of photos through a gateway process: its memory peak moves by a few pieces only."""
    (port,) = free_ports(1)
    environment = {
        **os.environ,
        "SPLATMILL_PORT": str(port),
        "SPLATMILL_HOST": "127.0.0.1",
        "SPLATMILL_REGISTRY_ADDRESS": f"127.0.0.1:{bench.port}",
    }
    process = subprocess.Popen([sys.executable, "-m", "services.gateway"], env=environment)

    def peak_mib() -> float:
        lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024

    try:
        async with aiohttp.ClientSession() as session:
            deadline = time.monotonic() + 20
            while time.monotonic() < deadline:
                try:
                    async with session.get(f"http://127.0.0.1:{port}/readyz") as ready:
                        if ready.status == 200:
                            break
                except aiohttp.ClientError:
                    await asyncio.sleep(0.1)
            before = peak_mib()
            big = photo(1, size=(3000, 2200), kind="PNG")
            form = aiohttp.FormData()
            for k in range(200_000_000 // len(big)):
                form.add_field("files", big, filename=f"{k}.png")
            async with session.post(f"http://127.0.0.1:{port}/recon/jobs", data=form) as answer:
                assert answer.status == 200, await answer.text()
            assert peak_mib() - before < 40
    finally:
        process.terminate()
        assert process.wait(10) == 0


async def test_presets_with_what_they_come_to(edge, monkeypatch):
    monkeypatch.setattr(access, "CACHE_SECONDS", -1.0)
    assert (await edge.get("/recon/options"))["devices"] == []
    said = options_pb2.TrainingDevice(device="cpu", name="AMD EPYC, 2 cores", free_memory_bytes=8 << 30)
    said.presets.add(
        preset=options_pb2.PRESET_HIGH, iterations=7500, max_gaussians=80_000,
        strategy=options_pb2.STRATEGY_MCMC, seconds=300.04, memory_bytes=983_000_000,
    )  # fmt: skip
    request = task_pb2.LeaseTaskRequest(worker_id="t", stages=[2], device="cpu", training_device=said)
    await edge.bench.tasks.LeaseTask(request)
    preset = {
        "preset": "high", "iterations": 7500, "max_gaussians": 80_000, "train_image_size": None,
        "strategy": "mcmc", "seconds": 300.0, "memory_bytes": 983_000_000, "past_runs": 0,
    }  # fmt: skip
    device = {"device": "cpu", "name": "AMD EPYC, 2 cores", "workers": 1, "free_memory_bytes": 8 << 30}
    assert (await edge.get("/recon/options"))["devices"] == [device | {"presets": [preset]}]
    await edge.bench.registry.transact(lambda s: keys.create(s, "anna", (keys.Scope.READ,), keys.Quotas()))
    stranger = await edge.get("/recon/options")
    assert stranger["options"]
    assert stranger["devices"] == []
