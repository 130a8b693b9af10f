"""Figures over HTTP, and lines for machines."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import urllib.error
import urllib.request

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client.parser import text_string_to_metric_families

from services.common.grpc_server import Server
from services.common.log_context import about, current
from services.common.logging import set_up_logging
from services.common.metrics import MetricsServer, note_gpu_memory, note_idle
from services.common.stage import GpuMemory
from splatmill.errors import Reason, SplatmillError


async def fetch(port: int, path: str, method: str = "GET") -> tuple[int, str]:
    def get() -> tuple[int, str]:
        request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", method=method)
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    return await asyncio.to_thread(get)


async def samples(port: int) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    _, text = await fetch(port, "/metrics")
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@pytest.fixture
async def metrics():
    state = {"ready": True}

    async def ready() -> bool:
        return state["ready"]

    server = MetricsServer(ready)
    port = await server.start("127.0.0.1", 0)
    yield port, state
    await server.stop()


async def test_probes(metrics):
    port, state = metrics
    assert await fetch(port, "/healthz") == (200, "ok\n")
    assert (await fetch(port, "/readyz"))[0] == 200
    state["ready"] = False
    assert (await fetch(port, "/readyz"))[0] == 503
    assert (await fetch(port, "/healthz"))[0] == 200
    assert (await fetch(port, "/nothing"))[0] == 404
    assert (await fetch(port, "/metrics", "POST"))[0] == 405


async def test_rubbish_does_not_hurt(metrics):
    port, _ = metrics
    for rubbish in (b"\r\n\r\n", b"GET\r\n\r\n", b"x" * 40_000, b"\xff\xfe\r\n\r\n"):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(rubbish)
        writer.write_eof()
        await reader.read()
        writer.close()
    assert (await fetch(port, "/healthz"))[0] == 200


async def test_who_only_looks_whether_the_port_is_open_is_no_error(metrics, caplog):
    port, _ = metrics
    for said in (b"", b"GET /metr"):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(said)
        writer.close()
        await writer.wait_closed()
    assert (await fetch(port, "/healthz"))[0] == 200
    await asyncio.sleep(0.1)
    assert not caplog.records


async def test_a_port_that_is_taken(metrics):
    port, _ = metrics
    with pytest.raises(SplatmillError, match="METRICS_PORT") as caught:
        await MetricsServer(lambda: asyncio.sleep(0, True)).start("127.0.0.1", port)
    assert caught.value.reason is Reason.INVALID_REQUEST


async def test_rpcs_are_counted_by_status(metrics):
    port, _ = metrics
    server = Server()
    grpc_port = await server.start("127.0.0.1", 0)
    before = await samples(port)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{grpc_port}") as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        await stub.Check(health_pb2.HealthCheckRequest())
        with pytest.raises(grpc.aio.AioRpcError):
            await stub.Check(health_pb2.HealthCheckRequest(service="nobody"))
        watch = stub.Watch(health_pb2.HealthCheckRequest())
        await watch.read()
        watch.cancel()
        await asyncio.sleep(0.2)
    after = await samples(port)

    def grown(name: str, method: str, kind: str, **more: str) -> float:
        labels = {"grpc_type": kind, "grpc_service": "grpc.health.v1.Health", "grpc_method": method, **more}
        key = (name, tuple(sorted(labels.items())))
        return after.get(key, 0.0) - before.get(key, 0.0)

    assert grown("grpc_server_started_total", "Check", "unary") == 2
    assert grown("grpc_server_handled_total", "Check", "unary", grpc_code="OK") == 1
    assert grown("grpc_server_handled_total", "Check", "unary", grpc_code="NOT_FOUND") == 1
    assert grown("grpc_server_handling_seconds_count", "Check", "unary") == 2
    assert grown("grpc_server_msg_received_total", "Check", "unary") == 2
    assert grown("grpc_server_msg_sent_total", "Check", "unary") == 1
    assert grown("grpc_server_handled_total", "Watch", "server_stream", grpc_code="CANCELLED") == 1
    await server.stop(0)


async def test_the_worker_s_figures_are_there_from_the_start_and_not_of_a_task_gone_by(metrics):
    port, _ = metrics
    note_gpu_memory(GpuMemory(0, 1473, 16380))
    note_idle("sfm")
    found = await samples(port)
    assert found["splatmill_worker_busy", (("stage", "sfm"),)] == 0
    assert not [name for name, _ in found if name.startswith("splatmill_gpu_memory")]


async def test_gpu_memory(metrics):
    port, _ = metrics
    note_gpu_memory(GpuMemory(0, 1473, 16380))
    found = await samples(port)
    assert found["splatmill_gpu_memory_bytes", (("gpu", "0"),)] == 1473 << 20
    assert found["splatmill_gpu_memory_total_bytes", (("gpu", "0"),)] == 16380 << 20


def test_json_lines_say_what_they_are_about(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    set_up_logging("trainer", "INFO", "json")
    log = logging.getLogger("here")
    with about(job_id="abcd1234", attempt=2, trace_id=""):
        with about(stage="train"):
            log.info("inside")
        inherited = current()
        log.info("explicit", extra={"job_id": "other123"})
    log.info("outside")
    monkeypatch.undo()
    set_up_logging("tests")
    inside, explicit, outside = map(json.loads, stream.getvalue().splitlines())
    assert (inside["job_id"], inside["attempt"], inside["stage"]) == ("abcd1234", 2, "train")
    assert "trace_id" not in inside
    assert (explicit["job_id"], "stage" in explicit) == ("other123", False)
    assert "job_id" not in outside
    assert inherited == {"job_id": "abcd1234", "attempt": 2}
