"""What the presets come to on the devices that are there: said by trainers, mended by what was."""

from __future__ import annotations

import asyncio
import json
import math
import time

import pytest
from click.testing import CliRunner
from sqlmodel import select

from services.registry import access, keys
from services.registry.history import variant_of
from services.registry.keys import Quotas, Scope
from services.registry.models import StageTime, Worker
from splatmill._transport import Authorized
from splatmill.cli import main
from splatmill.errors import Reason
from splatmill.v1 import options_pb2, progress_pb2, task_pb2
from splatmill.v1 import reconstruction_pb2 as pb
from tests.registry.conftest import BOTH_DATABASES, Bench, refused

TRAIN = progress_pb2.STAGE_TRAIN
DRAFT, STANDARD, HIGH = options_pb2.PRESET_DRAFT, options_pb2.PRESET_STANDARD, options_pb2.PRESET_HIGH


@pytest.fixture(autouse=True)
def access_is_not_cached(monkeypatch: pytest.MonkeyPatch) -> None:
    """New keys are noticed at once."""
    monkeypatch.setattr(access, "CACHE_SECONDS", -1.0)


def speed(device: str, *seconds: float, **more) -> options_pb2.TrainingDevice:
    """A device that takes so many seconds for draft, standard and high."""
    found = options_pb2.TrainingDevice(device=device, name=f"{device}, 2 cores", **more)
    for preset, each in zip((DRAFT, STANDARD, HIGH), seconds, strict=True):
        found.presets.add(
            preset=preset, iterations=1000, max_gaussians=20_000, train_image_size=480,
            strategy=options_pb2.STRATEGY_DEFAULT, seconds=each, memory_bytes=600_000_000,
        )  # fmt: skip
    return found


async def asks(
    bench: Bench, worker: str, device: str, said: options_pb2.TrainingDevice | None = None
) -> None:
    """A trainer asks for work, and says what it knows."""
    stages = [TRAIN]
    request = task_pb2.LeaseTaskRequest(worker_id=worker, stages=stages, device=device, training_device=said)
    await bench.tasks.LeaseTask(request)


async def devices(bench: Bench) -> list[options_pb2.TrainingDevice]:
    return list((await bench.jobs.ListPresets(pb.ListPresetsRequest())).devices)


async def trained(bench: Bench, device: str, *runs: tuple[str, float]) -> None:
    """Trainings done before: which, and how long each took."""
    rows = [
        StageTime(
            stage=TRAIN, device=device, photos=30, megapixels=60.0, iterations=0.0, variant=variant,
            seconds=seconds, finished_at=0.0,
        )
        for variant, seconds in runs
    ]  # fmt: skip
    await bench.registry.transact(lambda s: s.add_all(rows))


@BOTH_DATABASES
async def test_what_a_trainer_says_is_shown(bench):
    assert await devices(bench) == []
    await asks(bench, "t", "cpu")
    assert await devices(bench) == []  # nothing is known, so nothing is made up
    said = speed("cpu", 15.0, 60.0, 300.0, free_memory_bytes=8 * 2**30)
    await asks(bench, "t", "cpu", said)
    said.workers = 1
    assert await devices(bench) == [said]


async def test_kinds_of_devices_are_told_apart(bench):
    await asks(bench, "a", "cpu", speed("cpu", 15.0, 60.0, 300.0))
    await asks(bench, "b", "cpu", speed("cpu", 30.0, 120.0, 600.0))
    await asks(bench, "c", "NVIDIA H100", speed("NVIDIA H100", 8.0, 20.0, 60.0))
    found = await devices(bench)
    assert [(each.device, each.workers) for each in found] == [("NVIDIA H100", 1), ("cpu", 2)]
    assert [each.seconds for each in found[1].presets] == [30.0, 120.0, 600.0]  # of the slowest


async def test_a_trainer_that_is_gone_is_no_promise(bench):
    await asks(bench, "t", "cpu", speed("cpu", 15.0, 60.0, 300.0))

    def age(session) -> None:
        worker = session.exec(select(Worker)).one()
        worker.last_seen_at = time.time() - 600
        session.add(worker)

    await bench.registry.transact(age)
    assert await devices(bench) == []


async def test_trainers_at_work_count_and_others_do_not(bench):
    await bench.create()
    await bench.finish(await bench.lease(progress_pb2.STAGE_SFM), x=b"x")
    await asks(bench, "t", "cpu", speed("cpu", 15.0, 60.0, 300.0))  # it gets the task
    await bench.registry.transact(lambda s: setattr(s.get(Worker, "t"), "last_seen_at", time.time() - 600))
    assert [each.workers for each in await devices(bench)] == [1]


async def test_what_was_measured_wins(bench):
    await trained(bench, "cpu", ("", 90.0), ("", 92.0), ("", 91.0), ("preset 3", 700.0))
    await trained(bench, "NVIDIA H100", ("preset 1", 3.0))
    await asks(bench, "t", "cpu", speed("cpu", 15.0, 60.0, 300.0))
    draft, standard, high = (await devices(bench))[0].presets
    assert (standard.seconds, standard.past_runs) == (91.0, 3)
    assert (high.seconds, high.past_runs) == (700.0, 1)
    # Never done on this kind of device: what is expected, times by how much the others were off.
    assert (draft.seconds, draft.past_runs) == (pytest.approx(15.0 * (91 / 60 + 700 / 300) / 2), 0)


async def test_other_options_are_not_the_preset(bench):
    training = options_pb2.TrainingOptions
    assert variant_of(training()) == variant_of(training(preset=STANDARD)) == ""
    assert variant_of(training(preset=DRAFT, seed=4)) == "preset 1"
    odd = variant_of(training(preset=DRAFT, max_gaussians=500))
    assert odd not in ("", "preset 1")
    await trained(bench, "cpu", (odd, 1.0), (variant_of(training(train_image_size=64)), 1.0))
    await asks(bench, "t", "cpu", speed("cpu", 15.0, 60.0, 300.0))
    assert [each.past_runs for each in (await devices(bench))[0].presets] == [0, 0, 0]


async def test_who_may_see_them(bench):
    await asks(bench, "t", "cpu", speed("cpu", 15.0, 60.0, 300.0))
    _, key = await bench.registry.transact(lambda s: keys.create(s, "anna", (Scope.READ,), Quotas()))
    with refused(Reason.UNAUTHENTICATED):
        await devices(bench)
    stub = Authorized(bench.jobs, lambda: key)
    assert (await stub.ListPresets(pb.ListPresetsRequest())).devices
    assert (await bench.jobs.ListOptions(pb.ListOptionsRequest())).options  # for everyone, as before


@pytest.mark.parametrize("what", ["name", "presets", "seconds", "infinite", "preset", "strategy", "memory"])
async def test_nonsense_is_refused(bench, what):
    said = speed("cpu", 15.0, 60.0, 300.0)
    first = said.presets[0]
    if what == "name":
        said.name = "x" * 101
    elif what == "presets":
        said.presets.extend([first] * 20)
    elif what == "seconds":
        first.seconds = -1.0
    elif what == "infinite":
        first.seconds = math.nan
    elif what == "preset":
        first.preset = 77
    elif what == "strategy":
        first.strategy = 77
    else:
        first.memory_bytes = -1
    with refused(Reason.INVALID_REQUEST):
        await asks(bench, "t", "cpu", said)
    assert await devices(bench) == []


async def test_the_command_line_shows_them(bench):
    async def printed(*arguments: str) -> str:
        command = ["--server", f"127.0.0.1:{bench.port}", "options", *arguments]
        result = await asyncio.to_thread(CliRunner().invoke, main, command)
        assert result.exit_code == 0, result.output
        return result.output

    assert "Training of" not in await printed()
    await trained(bench, "cpu", ("", 91.0))
    await asks(bench, "t", "cpu", speed("cpu", 15.0, 60.0, 300.0))
    lines = (await printed()).splitlines()
    assert "Training of about 40 photos on cpu, 2 cores (1 trainer):" in lines
    words = [line.split() for line in lines]
    assert ["standard", "1,000", "up", "to", "20,000", "480", "px", "about", "1", "min", "31", "s",
            "0.6", "GB", "1", "training"] in words  # fmt: skip
    assert json.loads(await printed("--json"))["devices"][0]["presets"][1]["seconds"] == 91.0
    await bench.registry.transact(lambda s: keys.create(s, "anna", (Scope.READ,), Quotas()))
    assert "Training of" not in await printed()  # a stranger sees the options alone
