"""Traces: ids that are valid, and spans that a real receiver reads."""

from __future__ import annotations

import gzip
import http.server
import socket
import subprocess
import sys
import threading
import time

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from services.common import tracing
from services.common.tracing import Steps, new_traceparent, set_up_tracing, span, trace_id, valid_traceparent

PARENT = "00-" + "ab" * 16 + "-" + "cd" * 8 + "-01"


class Receiver(http.server.BaseHTTPRequestHandler):
    """An OTLP endpoint that keeps what it gets."""

    spans: list = []  # noqa: RUF012

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            name = {a.key: a.value.string_value for a in resource.resource.attributes}["service.name"]
            for scope in resource.scope_spans:
                Receiver.spans += [(name, made) for made in scope.spans]
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def receiver(monkeypatch):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    Receiver.spans = []
    # Set now, so that what the test sets is taken back.
    monkeypatch.setattr(tracing, "_tracer", None)
    monkeypatch.setattr(tracing, "_provider", None)
    yield Receiver
    server.shutdown()


def test_ids():
    assert len({new_traceparent() for _ in range(100)}) == 100
    assert valid_traceparent(PARENT) == PARENT
    for wrong in ("", "00-" + "0" * 32 + "-" + "cd" * 8 + "-01", PARENT + "-x", PARENT.upper()):
        made = valid_traceparent(wrong)
        assert made != wrong
        assert len(trace_id(made)) == 32
    assert trace_id("nonsense") == ""


def test_without_an_endpoint_nothing_is_loaded():
    code = (
        "import sys; from services.common.tracing import *; set_up_tracing('x')\n"
        f"with span('a', '{PARENT}') as inner: assert inner == '{PARENT}'\n"
        "assert not [name for name in sys.modules if name.startswith('opentelemetry')]"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_spans_arrive_in_one_trace(receiver):
    set_up_tracing("trainer")
    with span("stage train", PARENT, job_id="abcd1234", attempt=1) as inner, Steps(inner) as steps:
        for step in ("load", "load", "train", "train", "evaluate"):
            steps.note(step)
    with pytest.raises(ValueError, match="broken"), span("stage sfm", PARENT) as inner, Steps(inner) as steps:
        steps.note("find features")
        steps.note("match")
        raise ValueError("broken")
    tracing.end_tracing()
    found = {made.name: made for _, made in receiver.spans}
    assert {name for name, _ in receiver.spans} == {"splatmill-trainer"}
    assert set(found) == {
        "stage train", "load", "train", "evaluate", "stage sfm", "find features", "match"
    }  # fmt: skip
    assert {made.trace_id.hex() for made in found.values()} == {"ab" * 16}
    assert found["stage train"].parent_span_id.hex() == "cd" * 8
    assert found["load"].parent_span_id == found["stage train"].span_id
    assert found["load"].end_time_unix_nano <= found["train"].start_time_unix_nano + 1_000_000
    assert found["stage sfm"].status.message == "ValueError: broken"
    assert found["match"].status.message == "ValueError: broken"
    assert not found["find features"].status.message
    values = {a.key: a.value.string_value or a.value.int_value for a in found["stage train"].attributes}
    assert values == {"job_id": "abcd1234", "attempt": 1}


@pytest.mark.parametrize("listens", [True, False])
def test_a_receiver_that_does_not_answer_holds_nobody_up(monkeypatch, listens):
    """A service that is told to stop has a few seconds, for more than its spans."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        if listens:
            silent.listen()
        code = (
            "import time; from services.common.tracing import *; set_up_tracing('x')\n"
            f"with span('a', '{PARENT}'): pass\n"
            "begun = time.monotonic(); end_tracing(); assert time.monotonic() - begun < 3"
        )
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
        begun = time.monotonic()
        subprocess.run([sys.executable, "-c", code], check=True)
        assert time.monotonic() - begun < 9
