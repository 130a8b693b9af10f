"""Stages in processes of their own: results, errors, crashes, cancelling."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from contextlib import aclosing
from pathlib import Path

import pytest
from fake_registry import alive, until

from services.common import child_process
from services.common.child_process import run_in_child
from services.common.cores import usable_cores
from services.common.options import SfmOptions
from services.common.settings import ServiceSettings
from services.common.stage import Progress, StageContext, StageResult
from splatmill.errors import Reason, SplatmillError

HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    monkeypatch.setattr(child_process, "TERMINATE_SECONDS", 0.5)
    paths = [str(HERE), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))


def start(name: str, folder: Path):
    context = StageContext(scratch_dir=folder)
    return run_in_child(
        "test", f"stages_for_tests:{name}", folder, folder, SfmOptions(), context, ServiceSettings()
    )


async def test_progress_then_result(tmp_path):
    messages = [message async for message in start("good", tmp_path)]
    assert [m.log_lines for m in messages[:-1]] == [(f"step {k}",) for k in range(5)]
    assert messages[-1] == StageResult({"answer": 42.0})
    assert (tmp_path / "sub" / "answer.txt").read_text() == "42"


@pytest.mark.parametrize(
    ("name", "reason", "words", "retryable"),
    [
        ("typed_error", Reason.NO_OVERLAP, "do not overlap", False),
        ("bug", Reason.STAGE_CRASHED, "ZeroDivisionError: a bug", True),
        ("memory", Reason.OUT_OF_MEMORY, "out of memory", False),
        ("killed", Reason.STAGE_CRASHED, "SIGKILL", True),
        ("segfault", Reason.STAGE_CRASHED, "SIGSEGV", True),
        ("leaves", Reason.STAGE_CRASHED, "SystemExit: 3", True),
        ("says_nothing", Reason.STAGE_CRASHED, "AttributeError", True),
        ("broken_module", Reason.STAGE_CRASHED, "no_such_package", True),
        ("does_not_exist", Reason.STAGE_CRASHED, "AttributeError", True),
    ],
)
async def test_errors_are_typed(tmp_path, name, reason, words, retryable):
    with pytest.raises(SplatmillError) as caught:
        async for _ in start(name, tmp_path):
            pass
    assert caught.value.reason is reason
    assert words in caught.value.message
    assert caught.value.retryable is retryable
    if reason is not Reason.STAGE_CRASHED or name == "killed":
        assert caught.value.remedy


async def test_the_log_has_the_trace_and_the_crash_s_place(tmp_path, capfd):
    for name, words in (("bug", "ZeroDivisionError: a bug"), ("segfault", "stages_for_tests.py")):
        with pytest.raises(SplatmillError):
            [message async for message in start(name, tmp_path)]
        log = capfd.readouterr().err
        assert words in log
        assert "line" in log


async def test_libraries_share_the_cores(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "7")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    said, result = [message async for message in start("environment", tmp_path)]
    environment = json.loads(said.log_lines[0])
    assert environment["OMP_NUM_THREADS"] == str(usable_cores())
    assert environment["OMP_WAIT_POLICY"] == "passive"
    assert environment["NUMBA_THREADING_LAYER_PRIORITY"].split()[0] == "omp"
    assert environment["OPENBLAS_NUM_THREADS"] == "7"  # what a person has set stays
    assert type(result.metrics["scalar"]) is float


def test_a_container_s_quota_counts(tmp_path):
    limit = tmp_path / "cpu.max"
    limit.write_text("50000 100000\n")
    assert usable_cores(limit) == 1
    limit.write_text("max 100000\n")
    assert usable_cores(limit) == usable_cores(tmp_path / "none") >= 1


async def test_closing_ends_the_process_and_its_children(tmp_path):
    async with aclosing(start("endless", tmp_path)) as messages:
        first = await anext(messages)
        assert isinstance(first, Progress)
        begun = time.monotonic()
    assert time.monotonic() - begun < 5
    pids = [int(pid) for pid in first.log_lines[0].split()]
    await until(lambda: not any(map(alive, pids)))


async def test_cancelling_the_reader_ends_the_process(tmp_path):
    pids: list[int] = []

    async def read() -> None:
        async with aclosing(start("endless", tmp_path)) as messages:
            async for message in messages:
                for line in message.log_lines:
                    pids.extend(map(int, line.split()))

    task = asyncio.create_task(read())
    while not pids:
        await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(lambda: not any(map(alive, pids)))


def test_a_killed_parent_leaves_no_child(tmp_path):
    script = textwrap.dedent(f"""
        import asyncio, sys
        from pathlib import Path
        sys.path.insert(0, {str(HERE)!r})
        from test_child_process import start
        async def main():
            async for message in start("endless", Path({str(tmp_path)!r})):
                for line in message.log_lines:
                    print(line, flush=True)
        asyncio.run(main())
    """)
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child, grandchild = map(int, parent.stdout.readline().split())
    assert alive(child)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    deadline = time.monotonic() + 5
    while alive(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(grandchild, signal.SIGKILL)
    assert not alive(child)
