"""The worker loop against a task service that speaks the real protocol over a real connection."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from fake_registry import HERE, alive, spec, until

from services.common.calibrating import Calibrating
from services.common.settings import ServiceSettings
from splatmill.errors import Reason, SplatmillError
from splatmill.v1 import options_pb2


async def stop(task: asyncio.Task[None]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_completes_with_files_and_every_log_line(bench):
    bench.offer()
    task = bench.work("good")
    request = await bench.tasks.until("complete")
    assert [(f.path, f.size_bytes, len(f.sha256)) for f in request.files] == [("sub/answer.txt", 2, 32)]
    assert dict(request.result.metrics) == {"answer": 42.0}
    assert bench.tasks.lines == [f"step {k}" for k in range(5)]
    await stop(task)


async def test_fails_with_the_stage_s_reason(bench):
    bench.offer()
    task = bench.work("typed_error")
    request = await bench.tasks.until("fail")
    assert request.error.reason == "NO_OVERLAP"
    assert request.error.remedy
    assert not request.error.retryable
    assert not bench.output.exists()
    assert bench.tasks.lines == ["the last words"]
    await stop(task)


async def test_failing_waits_for_words_on_their_way(bench):
    bench.offer()
    bench.tasks.slow = 2.0
    task = bench.work("late_error")
    await bench.tasks.until("heartbeat")
    await bench.tasks.until("fail")
    assert bench.tasks.lines == ["the last words"]
    await stop(task)


@pytest.mark.parametrize("how", ["lost", "cancelled"])
async def test_drops_the_work(bench, how):
    bench.offer()
    task = bench.work("endless")
    await bench.tasks.until("heartbeat")
    setattr(bench.tasks, how, True)
    for _ in range(100):
        await asyncio.sleep(0.05)
        if not bench.output.exists():
            break
    assert not bench.output.exists()
    assert {name for name, _ in bench.tasks.calls} == {"heartbeat"}
    await stop(task)


async def test_stopping_gives_the_task_back(bench):
    bench.offer()
    task = bench.work("endless")
    await bench.tasks.until("heartbeat")
    await stop(task)
    assert bench.tasks.calls[-1][0] == "release"
    assert not bench.output.exists()


async def test_a_registry_that_restarts_in_the_middle(bench):
    bench.offer()
    task = bench.work("slow")
    await bench.tasks.until("heartbeat")
    await bench.server.stop(0)
    await asyncio.sleep(0.5)
    await bench.open(bench.port)
    await bench.tasks.until("complete")
    assert (bench.output / "done.txt").exists()
    await stop(task)


async def test_a_registry_that_comes_later(bench):
    await bench.server.stop(0)
    bench.offer()
    task = bench.work("good")
    await asyncio.sleep(0.5)
    await bench.open(bench.port)
    await bench.tasks.until("complete")
    await stop(task)


async def test_a_registry_that_stays_away_ends_the_work(bench):
    bench.offer(seconds=1)
    task = bench.work("endless")
    await bench.tasks.until("heartbeat")
    await bench.server.stop(0)
    await until(lambda: not bench.output.exists(), 10)
    bench.tasks.calls.clear()
    bench.offer()
    await bench.open(bench.port)
    await bench.tasks.until("heartbeat")  # it has gone on with the next task
    await stop(task)


@pytest.mark.parametrize("name", ["heartbeat", "complete", "fail"])
async def test_passing_errors_of_the_registry_are_sat_out(bench, name):
    busy = SplatmillError(Reason.UNAVAILABLE, "The database is away.")
    bench.tasks.errors[name] = [busy, KeyError("a bug"), busy]
    bench.offer()
    task = bench.work("typed_error" if name == "fail" else "good")
    request = await bench.tasks.until("fail" if name == "fail" else "completed")
    assert getattr(request, "error", None) is None or request.error.reason == "NO_OVERLAP"
    assert not bench.tasks.errors[name]
    await stop(task)


async def test_a_complete_that_is_refused_fails_the_attempt(bench):
    bench.tasks.errors["complete"] = [SplatmillError(Reason.INVALID_REQUEST, "Not as described.", "", True)]
    bench.offer()
    task = bench.work("good")
    request = await bench.tasks.until("fail")
    assert request.error.reason == "INVALID_REQUEST"
    assert request.error.retryable
    assert not bench.output.exists()
    await stop(task)


async def test_an_unexpected_error_of_the_worker_is_a_failure_not_its_end(bench, monkeypatch):
    def full(prefix: str, scratch: Path) -> Path:
        raise PermissionError(13, "Permission denied")

    bench.offer()
    with monkeypatch.context() as broken:
        broken.setattr(bench.store, "prepare_output", full)
        task = bench.work("good")
        request = await bench.tasks.until("fail")
    assert request.error.reason == "INTERNAL"
    assert "PermissionError" in request.error.message
    bench.offer()
    await bench.tasks.until("complete")
    await stop(task)


async def test_a_missing_input_names_the_setting(bench):
    shutil.rmtree(bench.store.root / "jobs/j/upload")
    bench.offer()
    task = bench.work("good")
    request = await bench.tasks.until("fail")
    assert request.error.reason == "INPUT_NOT_FOUND"
    assert "SPLATMILL_DATA_DIR" in request.error.remedy
    await stop(task)


async def test_the_lease_is_kept_while_files_are_stored(bench, monkeypatch):
    """A remote store may take longer than a lease."""
    heartbeats = []

    def slow_checkin(folder: Path, prefix: str) -> None:
        before = len(bench.tasks.calls)
        time.sleep(1.5)
        heartbeats.append(len(bench.tasks.calls) - before)

    monkeypatch.setattr(bench.store, "checkin", slow_checkin)
    bench.offer(seconds=1)
    task = bench.work("good")
    await bench.tasks.until("complete")
    assert heartbeats[0] >= 3
    await stop(task)


async def test_log_lines_keep_their_order_when_the_registry_is_slow(bench):
    bench.tasks.slow = 0.4
    bench.offer()
    task = bench.work("slow")
    await bench.tasks.until("complete")
    assert bench.tasks.lines == [f"line {k}" for k in range(40)]
    await stop(task)


async def test_a_flood_of_log_lines_arrives_in_pieces(bench):
    bench.offer()
    task = bench.work("talkative")
    await bench.tasks.until("complete")
    assert [int(line.split()[0]) for line in bench.tasks.lines] == list(range(6000))
    sizes = [request.ByteSize() for name, request in bench.tasks.calls if name == "heartbeat"]
    assert max(sizes) < 1 << 20
    await stop(task)


async def test_stopping_lets_the_registry_finish_publishing(bench):
    """Nobody may take files away that the registry is moving."""
    bench.tasks.slow = 1.0
    bench.offer()
    task = bench.work("good")
    await bench.tasks.until("complete")
    await stop(task)
    assert [name for name, _ in bench.tasks.calls if name != "heartbeat"] == [
        "complete",
        "completed",
        "release",
    ]


async def test_files_stay_when_nobody_knows_whether_they_are_published(bench):
    bench.tasks.slow = 30.0
    bench.offer()
    task = bench.work("quiet")
    await bench.tasks.until("complete")
    await bench.server.stop(0)
    await stop(task)
    assert (bench.output / "done.txt").exists()


async def test_sigterm_gives_the_task_back_and_ends_the_stage(bench):
    """The whole process, as Kubernetes stops it."""
    bench.offer()
    script = f"""
import sys
sys.path.insert(0, {str(HERE)!r})
from services.common import child_process
from services.common.stage_service import main
from fake_registry import service_spec
child_process.TERMINATE_SECONDS = 0.5  # the stage of this test ignores SIGTERM
main(service_spec("endless"))
"""
    environment = {
        **os.environ,
        "SPLATMILL_DATA_DIR": str(bench.store.root),
        "SPLATMILL_REGISTRY_ADDRESS": f"127.0.0.1:{bench.port}",
        "SPLATMILL_GRPC_HOST": "127.0.0.1",
        "SPLATMILL_SFM_PORT": "0",
    }
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", script, env=environment)
    while not bench.tasks.lines:
        await bench.tasks.until("heartbeat")
        await asyncio.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert await asyncio.wait_for(process.wait(), 20) == 0
    assert bench.tasks.calls[-1][0] == "release"
    assert not bench.output.exists()
    pids = [int(pid) for pid in bench.tasks.lines[0].split()]
    await until(lambda: not any(map(alive, pids)))


def described(settings, metrics) -> options_pb2.TrainingDevice:
    device = options_pb2.TrainingDevice(device="cpu", name="a test")
    device.presets.add(preset=options_pb2.PRESET_DRAFT, seconds=metrics["seconds"])
    return device


def calibrated(function: str) -> dict[str, object]:
    return {"calibration": f"stages_for_tests:{function}", "training_device": described}


async def test_the_speed_of_an_idle_device_is_measured_and_told(bench):
    task = bench.work("good", **calibrated("calibration"))
    await until(lambda: bench.tasks.leases[-1:] and bench.tasks.leases[-1].HasField("training_device"), 20)
    assert not bench.tasks.leases[0].HasField("training_device")  # work comes first
    assert bench.tasks.leases[-1].training_device.presets[0].seconds == 7.0
    waits = [request.wait.seconds for request in bench.tasks.leases]
    assert waits[0] < waits[-1]  # what is measured is told soon
    await stop(task)


async def test_a_task_ends_the_measuring(bench, tmp_path, monkeypatch):
    note = tmp_path / "pid"
    monkeypatch.setenv("CALIBRATION_PID", str(note))
    task = bench.work("good", **calibrated("slow_calibration"))
    await until(lambda: note.exists() and note.read_text() != "", 20)
    process = int(note.read_text())
    bench.offer()
    await bench.tasks.until("complete")
    assert not alive(process)
    note.unlink()
    await until(lambda: note.exists() and note.read_text() != "", 20)  # with nothing to do, again
    process = int(note.read_text())
    await stop(task)
    assert not alive(process)


async def test_what_is_measured_beside_other_work_does_not_count(bench, monkeypatch):
    async with bench.busy:
        calibrating = Calibrating(
            replace(spec("good"), **calibrated("calibration")), ServiceSettings(), bench.busy
        )
        calibrating.begin()
        await until(calibrating._task.done, 20)
        assert calibrating.result is None
        assert calibrating.pending
    calibrating.begin()
    await until(lambda: calibrating.result is not None, 20)
    assert not calibrating.pending


async def test_a_device_that_cannot_be_measured_is_left_alone(bench):
    calibrating = Calibrating(
        replace(spec("good"), **calibrated("typed_error")), ServiceSettings(), bench.busy
    )
    for _ in range(3):
        assert calibrating.pending
        calibrating.begin()
        await until(calibrating._task.done, 20)
    assert calibrating.result is None
    assert not calibrating.pending
