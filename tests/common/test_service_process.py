"""A service's process: what it imports, and what it says when it cannot start."""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import sys

import pytest

from services.common.logging import set_up_logging
from services.common.progress_codec import Coalescer, progress_to_proto
from services.common.settings import ServiceSettings, load_settings
from services.common.stage import GpuMemory, Progress, TrainingFigures
from services.common.supervisor import SERVICES
from splatmill.errors import SplatmillError
from splatmill.v1 import progress_pb2
from tests.conftest import free_ports

HEAVY = ("torch", "pycolmap", "numba", "scipy", "sklearn", "sqlmodel", "aiohttp", "PIL")
MAY_IMPORT = {
    "gateway": {"aiohttp"},
    "registry": {"sqlmodel", "PIL"},
    "sfm": set(),
    "trainer": set(),
    "postproc": set(),
}


def run_python(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("service", sorted(MAY_IMPORT))
def test_a_service_imports_only_what_it_needs(service):
    """Its process stays small: the stage's libraries are loaded by the stage's process alone."""
    done = run_python(
        "-c", f"import json, sys, services.{service}.__main__; print(json.dumps(sorted(sys.modules)))"
    )
    assert done.returncode == 0, done.stderr
    imported = set(json.loads(done.stdout)) & set(HEAVY)
    assert imported <= MAY_IMPORT[service]


@pytest.mark.parametrize(("service", "module", "not_needed"), [
    ("sfm", "services.sfm.stage", "torch"),
    ("trainer", "services.trainer.stage", "pycolmap"),
    ("postproc", "services.postproc.stage", "torch"),
])  # fmt: skip
def test_a_stage_does_without_the_other_stages_libraries(service, module, not_needed):
    """Each image installs only its own extra."""
    done = run_python("-c", f"import sys, {module}; print('{not_needed}' in sys.modules)")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("SPLATMILL_SFM_PORT", "many"),
        ("SPLATMILL_LOG_FORMAT", "xml"),
        ("SPLATMILL_DATA_DIR", "/dev/null/data"),
    ],
)
def test_a_bad_setting_is_named_without_a_trace(tmp_path, variable, value):
    done = run_python("-m", "services.sfm", **{"SPLATMILL_DATA_DIR": str(tmp_path), variable: value})
    check_named(done, variable)


def check_named(done: subprocess.CompletedProcess[str], variable: str) -> None:
    assert done.returncode == 1
    assert variable in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("module", ["gateway", "registry", "sfm", "common.supervisor"])
def test_a_metrics_port_that_cannot_be_had_is_named_without_a_trace(tmp_path, module):
    free = [str(port) for port in free_ports(len(SERVICES))]
    environment = {service.port_variable: port for service, port in zip(SERVICES, free, strict=True)}
    environment |= {"SPLATMILL_DATA_DIR": str(tmp_path), "SPLATMILL_GRPC_HOST": "127.0.0.1"}
    environment["SPLATMILL_HOST"] = "127.0.0.1"
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        for port in ("many", str(taken.getsockname()[1])):
            done = run_python("-m", f"services.{module}", **environment, SPLATMILL_METRICS_PORT=port)
            check_named(done, "SPLATMILL_METRICS_PORT")


def test_settings_read_their_variables(monkeypatch, tmp_path):
    monkeypatch.setenv("SPLATMILL_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("SPLATMILL_LOG_LEVEL", "debug")
    settings = load_settings(ServiceSettings)
    assert settings.data_dir == tmp_path
    assert settings.log_level == "DEBUG"
    monkeypatch.setenv("SPLATMILL_LOG_LEVEL", "loud")
    with pytest.raises(SplatmillError, match="SPLATMILL_LOG_LEVEL"):
        load_settings(ServiceSettings)


def test_json_logs_are_one_object_a_line(capsys):
    root = logging.getLogger()
    before = (root.level, root.handlers[:])
    try:
        set_up_logging("sfm", "INFO", "json")
        try:
            raise ValueError("two\nlines")
        except ValueError:
            logging.getLogger("there").exception("it %s", "broke")
        logging.getLogger("there").debug("not shown")
    finally:
        root.setLevel(before[0])
        root.handlers[:] = before[1]
    (line,) = capsys.readouterr().err.splitlines()
    entry = json.loads(line)
    assert (entry["service"], entry["level"], entry["message"]) == ("sfm", "ERROR", "it broke")
    assert "ValueError" in entry["exception"]


def test_progress_as_a_message_holds_only_what_json_can_carry():
    nan = float("nan")
    figures = TrainingFigures(7, 10, nan, 1.0, 5)
    message = progress_to_proto(
        progress_pb2.STAGE_TRAIN, Progress("train", nan, float("inf"), ("two\nlines", "\udc80"), figures)
    )
    assert message.fraction == 0.0
    assert not message.HasField("eta_seconds")
    assert not message.HasField("training")
    assert list(message.log_lines) == ["two lines", "?"]


def test_coalescing_keeps_the_newest_numbers_and_every_line():
    coalescer = Coalescer()
    assert not coalescer
    assert coalescer.take() == []
    figures = TrainingFigures(1, 10, 0.5, 2.0, 5)
    for progress in (
        Progress("train", 0.1, 9.0, ("a",), figures, GpuMemory(0, 1, 2)),
        Progress("train", 0.2, 8.0, ("b", "c")),
    ):
        coalescer.add(progress_to_proto(progress_pb2.STAGE_TRAIN, progress))
    (message,) = coalescer.take()
    assert list(message.log_lines) == ["a", "b", "c"]
    assert (message.fraction, message.eta_seconds) == (0.2, 8.0)
    assert message.training.iteration == 1
    assert message.gpu_memory.total_mib == 2
    assert not coalescer
