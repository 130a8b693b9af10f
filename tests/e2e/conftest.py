"""The whole suite as a person starts it: five processes, SQLite, a local folder."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import REPOSITORY, free_ports

START_SECONDS = 60
STOP_SECONDS = 20


@dataclass
class Suite:
    """A running suite and how to reach it."""

    base_url: str
    registry_address: str
    data_dir: Path
    process: subprocess.Popen[str]
    ports: list[int]

    def get(self, path: str) -> Any:
        """JSON of a GET; a 4xx or 5xx answer is an answer too."""
        try:
            with urllib.request.urlopen(self.base_url + path, timeout=30) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            return json.load(error)

    def wait(self, job_id: str, seconds: float = 240) -> dict[str, Any]:
        """The status of a job once it has ended."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            status = self.get(f"/recon/jobs/{job_id}/status")
            if status["status"] in ("COMPLETED", "FAILED", "CANCELLED"):
                return status
            time.sleep(0.5)
        raise AssertionError(f"job {job_id} did not end within {seconds} s: {status}")


def start_suite(data_dir: Path, log: Path, **settings: str) -> Suite:
    """Starts all five services on free ports and waits until they answer."""
    gateway, registry, sfm, trainer, postproc = ports = free_ports(5)
    environment = {
        **os.environ,
        "SPLATMILL_HOST": "127.0.0.1",
        "SPLATMILL_PORT": str(gateway),
        "SPLATMILL_REGISTRY_PORT": str(registry),
        "SPLATMILL_SFM_PORT": str(sfm),
        "SPLATMILL_TRAINER_PORT": str(trainer),
        "SPLATMILL_POSTPROC_PORT": str(postproc),
        "SPLATMILL_DATA_DIR": str(data_dir),
        **settings,
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "services.common.supervisor"],
        cwd=REPOSITORY,
        env=environment,
        stdout=log.open("w"),
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    suite = Suite(f"http://127.0.0.1:{gateway}", f"127.0.0.1:{registry}", data_dir, process, ports)
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{suite.base_url}/readyz", timeout=5):
                return suite
        except OSError:
            time.sleep(0.2)
    stop_suite(suite)
    raise AssertionError(f"the suite did not start:\n{log.read_text()[-4000:]}")


def stop_suite(suite: Suite) -> int:
    """Ctrl-C, and the exit status."""
    suite.process.send_signal(signal.SIGINT)
    try:
        return suite.process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(suite.process.pid, signal.SIGKILL)
        raise


def listening(port: int) -> bool:
    """Whether something accepts connections on a port of this machine."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="session")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Suite]:
    """One suite for all end-to-end tests; its log is shown when a test fails."""
    folder = tmp_path_factory.mktemp("suite")
    # Quick to save and to try again, for the tests that kill.
    quick = {"SPLATMILL_CHECKPOINT_SECONDS": "0.5", "SPLATMILL_RETRY_SECONDS": "0.2"}
    quick["SPLATMILL_PREVIEW_SECONDS"] = "0.2"
    running = start_suite(folder / "data", folder / "suite.log", **quick)
    yield running
    stop_suite(running)


@pytest.fixture(scope="session")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sample photos, with the true cameras beside them."""
    from splatmill.sample import write_capture  # noqa: PLC0415

    folder = tmp_path_factory.mktemp("capture")
    write_capture(folder, photos=30, width=640, height=480)
    return folder
