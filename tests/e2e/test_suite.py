"""Photos in, splat out, through real processes, as users do it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from plyfile import PlyData

from splatmill import Client
from splatmill.v1 import reconstruction_pb2 as pb
from tests.e2e.conftest import Suite, listening, start_suite, stop_suite
from tests.helpers.processes import stage_processes

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

# A scene that a software-rendered browser can still draw.
SMALL = ["-F", "max_gaussians=20000", "-F", "iterations=1500"]


def curl(*arguments: str) -> str:
    """What a user would type."""
    if shutil.which("curl") is None:
        pytest.skip("no curl")
    done = subprocess.run(
        ["curl", "-sS", *arguments], capture_output=True, text=True, check=True, timeout=120
    )
    return done.stdout


def submit(suite: Suite, photos: list[Path], *arguments: str) -> dict[str, str]:
    files = [part for photo in photos for part in ("-F", f"files=@{photo}")]
    return json.loads(curl(*files, *arguments, f"{suite.base_url}/recon/jobs"))


@pytest.fixture(scope="module")
def finished(suite: Suite, capture: Path) -> dict[str, str]:
    """The sample photos over HTTP, turned into a splat."""
    answer = submit(suite, sorted(capture.glob("*.jpg")), *SMALL, "-F", "original_resolution=false")
    assert set(answer) == {"job_id", "pub_key", "original_resolution"}
    assert (len(answer["job_id"]), len(answer["pub_key"])) == (8, 10)
    status = suite.wait(answer["job_id"])
    assert status["status"] == "COMPLETED", status
    return {**answer, **status}


def test_completed_status(finished):
    assert finished["gaussian_count"] > 1000
    assert finished["viewer_url"].endswith(f"/v/{finished['pub_key']}")
    assert finished["processing_time_seconds"] > 1


def test_files_hold_the_scene(suite, finished, tmp_path):
    base = f"{suite.base_url}/recon/pub/{finished['pub_key']}"
    curl(
        "-o",
        str(tmp_path / "cloud.ply"),
        "-o",
        str(tmp_path / "scene.splat"),
        f"{base}/cloud.ply",
        f"{base}/scene.splat",
    )
    vertices = PlyData.read(tmp_path / "cloud.ply")["vertex"]
    assert vertices.count == finished["gaussian_count"]
    names = {prop.name for prop in vertices.properties}
    assert {"x", "nx", "f_dc_0", "f_rest_44", "opacity", "scale_2", "rot_3"} <= names
    rows = np.frombuffer((tmp_path / "scene.splat").read_bytes(), np.uint8).reshape(-1, 32)
    assert len(rows) == finished["gaussian_count"]
    positions = rows[:, :12].copy().view(np.float32)
    cloud = np.stack([vertices[axis] for axis in "xyz"], -1)
    assert np.allclose(np.sort(positions, 0), np.sort(cloud, 0))


def test_a_part_of_a_file(suite, finished):
    url = f"{suite.base_url}/recon/pub/{finished['pub_key']}/cloud.ply"
    assert curl("-r", "0-2", url) == "ply"
    headers = curl("-I", url).lower()
    assert "etag:" in headers
    assert "content-length:" in headers


def test_held_out_quality(suite, finished):
    report = suite.get(f"/recon/jobs/{finished['job_id']}/artifacts/output/training_report.json")
    assert report["test_psnr"] >= 25, report["test_psnr"]


def test_cameras_match_the_truth(suite, finished, capture, tmp_path):
    from tests.helpers.poses import pose_errors, read_true_poses, recovered_poses  # noqa: PLC0415

    base = f"{suite.base_url}/recon/jobs/{finished['job_id']}/artifacts/colmap/sparse"
    for name in ("cameras.bin", "images.bin", "points3D.bin"):
        curl("-o", str(tmp_path / name), f"{base}/{name}")
    truth = read_true_poses(capture / "cameras.json")
    position, degrees = pose_errors(recovered_poses(tmp_path), truth)
    assert position.max() < 0.01, "positions, as a fraction of the scene's size"
    assert degrees.max() < 1.0


def test_a_killed_training_goes_on(suite, capture, tmp_path):
    """SIGKILL in mid-training costs an attempt and some seconds, no more."""
    answer = submit(
        suite, sorted(capture.glob("*.jpg"))[:10], "-F", "max_gaussians=10000", "-F", "iterations=1500"
    )
    job = f"/recon/jobs/{answer['job_id']}"
    deadline = time.monotonic() + 200
    while ((suite.get(f"{job}/status")["training"] or {}).get("iteration") or 0) < 300:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    picture = tmp_path / "preview.jpg"
    curl("-f", "-o", str(picture), f"{suite.base_url}{job}/artifacts/preview.jpg")
    assert 630 <= Image.open(picture).width <= 640
    (training,) = stage_processes(suite.process.pid)
    os.kill(training, signal.SIGKILL)
    status = suite.wait(answer["job_id"])
    assert status["status"] == "COMPLETED", status
    assert [task["attempt"] for task in status["tasks"]] == [1, 2, 1]
    report = suite.get(f"{job}/artifacts/output/training_report.json")
    assert report["resumed_at"] > 0
    assert report["iterations"] == 1500


def test_grpc_client_loses_no_event(suite, capture):
    """Two jobs at once over gRPC; the second waits, and its watcher breaks off in the middle."""
    photos = sorted(capture.glob("*.jpg"))[:12]
    options = {"iterations": 200, "max_gaussians": 5000}
    with Client(suite.registry_address) as client:
        first = client.create_job(photos, options=options)
        second = client.create_job(photos, options=options)
        waiting = suite.get(f"/recon/jobs/{second.job_id}/status")
        assert waiting["status"] == "PENDING"
        assert waiting["queue_position"] == 1
        assert any(line.startswith(">> [QUEUE]") for line in waiting["log_tail"])
        queue = suite.get("/recon/queue")
        assert queue["running_count"] == 1
        assert [job["job_id"] for job in queue["pending_jobs"]] == [second.job_id]
        events = []
        for event in client.watch(second.job_id):
            events.append(event)
            if len(events) == 6:
                break
    with Client(suite.registry_address) as client:
        events += client.watch(second.job_id, after_sequence=events[-1].sequence)
        assert [event.sequence for event in events] == list(range(1, len(events) + 1))
        assert events[-1].job_state_changed.new_state == pb.JOB_STATE_COMPLETED
        assert client.get(first.job_id).state == pb.JOB_STATE_COMPLETED


def test_photos_that_do_not_overlap(suite, tmp_path):
    from PIL import Image  # noqa: PLC0415

    random = np.random.default_rng(0)
    for number in range(4):
        pixels = random.integers(0, 255, (30, 40, 3), np.uint8)
        Image.fromarray(pixels).resize((640, 480), Image.Resampling.BICUBIC).save(tmp_path / f"{number}.jpg")
    answer = submit(suite, sorted(tmp_path.glob("*.jpg")))
    status = suite.wait(answer["job_id"], 120)
    assert status["status"] == "FAILED"
    assert status["error"]["reason"] == "NO_OVERLAP"
    assert status["error"]["retryable"] is False
    assert status["error"]["remedy"]
    assert status["error_message"]


def test_bad_uploads_leave_nothing(suite, capture, tmp_path):
    photos = sorted(capture.glob("*.jpg"))
    text = tmp_path / "notes.jpg"
    text.write_text("no photo")
    cut = tmp_path / "cut.jpg"
    cut.write_bytes(photos[0].read_bytes()[:20_000])
    before = {job["job_id"] for job in suite.get("/recon/jobs")["jobs"]}
    folders = set((suite.data_dir / "jobs").iterdir())
    for files, reason in (
        (photos[:2], "TOO_FEW_IMAGES"),
        ([*photos[:3], text], "NOT_AN_IMAGE"),
        ([*photos[:3], cut], "IMAGE_TRUNCATED"),
    ):
        answer = submit(suite, files)
        assert answer["error"]["reason"] == reason
        assert answer["error"]["remedy"]
    assert {job["job_id"] for job in suite.get("/recon/jobs")["jobs"]} == before
    assert set((suite.data_dir / "jobs").iterdir()) == folders


def test_cancelling_frees_the_queue(suite, capture):
    photos = sorted(capture.glob("*.jpg"))
    answer = submit(suite, photos)
    deadline = time.monotonic() + 30
    while suite.get(f"/recon/jobs/{answer['job_id']}/status")["status"] != "PROCESSING":
        assert time.monotonic() < deadline
        time.sleep(0.2)
    work = suite.data_dir / "jobs" / answer["job_id"] / "work"
    while not (stage_processes(suite.process.pid) and work.exists()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    curl("-X", "POST", f"{suite.base_url}/recon/jobs/{answer['job_id']}/cancel")
    deadline = time.monotonic() + 5
    while stage_processes(suite.process.pid) or any(work.rglob("*")):
        assert time.monotonic() < deadline, "the child and its output are gone within 5 s"
        time.sleep(0.1)
    assert suite.wait(answer["job_id"], 10)["status"] == "CANCELLED"
    assert suite.get("/recon/queue")["running_count"] == 0


def test_sceaux_as_the_readme_says(suite, real_photos):
    answer = submit(suite, sorted((real_photos / "sceaux").glob("*.JPG")), "-F", "iterations=300")
    status = suite.wait(answer["job_id"])
    assert status["status"] == "COMPLETED", status
    sfm = next(task for task in status["tasks"] if task["stage"] == "sfm")
    assert sfm["metrics"]["registered_images"] == 11


def test_ctrl_c_leaves_nothing_and_a_job_goes_on_at_the_next_start(tmp_path, capture):
    with started(tmp_path / "data", tmp_path / "first.log") as suite:
        children = Path(f"/proc/{suite.process.pid}/task/{suite.process.pid}/children").read_text().split()
        assert len(children) >= 5
        job = submit(suite, sorted(capture.glob("*.jpg")), *SMALL)["job_id"]
        begins(suite, job)
        assert stop_suite(suite) == 0
    assert not any(listening(port) for port in suite.ports)
    assert not any(Path(f"/proc/{child}").exists() for child in children)
    with started(tmp_path / "data", tmp_path / "second.log") as suite:
        begins(suite, job)  # long before the lease would have run out
        assert suite.get(f"/recon/jobs/{job}/status")["tasks"][0]["attempt"] == 1


@contextlib.contextmanager
def started(data_dir: Path, log: Path) -> Iterator[Suite]:
    """A suite of one's own, which ends with the block at the latest."""
    suite = start_suite(data_dir, log)
    try:
        yield suite
    finally:
        if suite.process.poll() is None:
            stop_suite(suite)


def begins(suite: Suite, job: str) -> None:
    """Waits until a stage of the job runs."""
    deadline = time.monotonic() + 20
    while not (
        stage_processes(suite.process.pid)
        and suite.get(f"/recon/jobs/{job}/status")["tasks"][0]["state"] == "LEASED"
    ):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_two_suites_cannot_share_a_port(suite):
    done = []

    def second() -> None:
        import os  # noqa: PLC0415
        import sys  # noqa: PLC0415

        environment = {**os.environ, "SPLATMILL_PORT": str(suite.ports[0])}
        command = [sys.executable, "-m", "services.common.supervisor"]
        done.append(
            subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
        )

    thread = threading.Thread(target=second)
    thread.start()
    thread.join(60)
    assert done[0].returncode != 0
    assert str(suite.ports[0]) in done[0].stdout + done[0].stderr
