"""Trainings in processes of their own that are killed for real, and end as if nothing had happened."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import torch

from services.common.child_process import run_in_child
from services.common.options import TrainingOptions
from services.common.stage import Progress, StageContext, StageResult
from services.trainer.settings import TrainerSettings
from splatmill.errors import Reason, SplatmillError
from tests.helpers.processes import stage_processes
from tests.helpers.true_scene import write_true_scene

STEPS = {"cpu": 600, "cuda": 6000}  # some seconds
CUDA = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    return write_true_scene(tmp_path_factory.mktemp("true") / "sfm")


@pytest.fixture(scope="module", params=["cpu", pytest.param("cuda", marks=CUDA)])
def device(request):
    return request.param


@pytest.fixture(autouse=True)
def settings(monkeypatch, device):
    monkeypatch.setenv("SPLATMILL_TRAINER_DEVICE", device)
    monkeypatch.setenv("SPLATMILL_CHECKPOINT_SECONDS", "0.2")


@pytest.fixture(scope="module")
def straight(scene, device, tmp_path_factory) -> Path:
    """The output of a run that nothing happens to."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPLATMILL_TRAINER_DEVICE", device)
        target = tmp_path_factory.mktemp(device)
        asyncio.run(to_the_end(scene, target, None, STEPS[device]))
    return target


def training(
    scene: Path, target: Path, kept: Path | None, steps: int
) -> AsyncIterator[Progress | StageResult]:
    target.mkdir(exist_ok=True)
    return run_in_child(
        "trainer", "services.trainer.stage:run", scene, target,
        TrainingOptions(iterations=steps, max_gaussians=3000, coarse_to_fine=False),
        StageContext(target, checkpoint_dir=kept), TrainerSettings(),
    )  # fmt: skip


async def to_the_end(scene: Path, target: Path, kept: Path | None, steps: int) -> dict:
    async with contextlib.aclosing(training(scene, target, kept, steps)) as run:
        async for message in run:
            last = message
    assert isinstance(last, StageResult)
    return report_of(target)


async def until(step: int, run: AsyncIterator[Progress | StageResult], kept: Path | None = None) -> int:
    """Reads on until that step is done, and a checkpoint lies in ``kept``; answers which step it is."""
    async for message in run:
        assert not isinstance(message, StageResult), "it ended before it was broken off"
        if (
            message.training
            and message.training.iteration >= step
            and (not kept or (kept / "checkpoint.pt").exists())
        ):
            return message.training.iteration
    raise AssertionError("it ended before it was broken off")


def report_of(target: Path) -> dict:
    return json.loads((target / "training_report.json").read_text())


def same_scene(first: Path, second: Path, device: str) -> None:
    """Within 0.3 dB; on a CPU, where every sum has its order, to the bit."""
    before, after = report_of(first), report_of(second)
    assert before["test_psnr"] > 24, "something was learned"
    assert after["test_psnr"] == pytest.approx(before["test_psnr"], abs=0.3)
    assert after["test_ssim"] == pytest.approx(before["test_ssim"], abs=0.01)
    if device == "cpu":
        name = f"point_cloud/iteration_{STEPS[device]}/point_cloud.ply"
        assert (first / name).read_bytes() == (second / name).read_bytes()


async def test_killed_in_the_middle(scene, straight, tmp_path, device):
    kept, steps = tmp_path / "kept", STEPS[device]
    async with contextlib.aclosing(training(scene, tmp_path / "first", kept, steps)) as run:
        await until(steps // 4, run, kept)
        (child,) = stage_processes(os.getpid())
        os.kill(child, signal.SIGKILL)
        with pytest.raises(SplatmillError) as caught:
            async for _ in run:
                pass
    assert (caught.value.reason, caught.value.retryable) == (Reason.STAGE_CRASHED, True)
    report = await to_the_end(scene, tmp_path / "second", kept, steps)  # as a replica does
    assert 0 < report["resumed_at"] < steps
    assert report["iterations"] == steps
    same_scene(straight, tmp_path / "second", device)


@pytest.mark.parametrize("share", [0.25, 0.9])
async def test_told_to_end_in_the_middle(scene, straight, tmp_path, device, monkeypatch, share):
    """SIGTERM: not a step is lost, though the last checkpoint is old."""
    monkeypatch.setenv("SPLATMILL_CHECKPOINT_SECONDS", "1e9")
    kept, steps = tmp_path / "kept", STEPS[device]
    run = training(scene, tmp_path / "first", kept, steps)
    seen = await until(int(share * steps), run)
    await run.aclose()  # what a worker does that is to end: SIGTERM, and time to save
    assert not stage_processes(os.getpid())
    report = await to_the_end(scene, tmp_path / "second", kept, steps)
    assert report["resumed_at"] >= seen
    same_scene(straight, tmp_path / "second", device)


async def test_a_finished_training_is_extended(scene, tmp_path, device):
    kept, steps = tmp_path / "kept", STEPS[device]
    short = await to_the_end(scene, tmp_path / "short", kept, steps)
    longer = await to_the_end(scene, tmp_path / "long", kept, steps + steps // 2)
    assert longer["resumed_at"] == steps
    assert longer["iterations"] == steps + steps // 2
    assert longer["test_psnr"] > short["test_psnr"] - 0.1
