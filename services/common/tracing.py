"""Traces: one for each job, from the upload to the splat, across services and leases.

Every job has a trace id, which log lines carry. Spans are sent only where an endpoint is set
in OpenTelemetry's own environment variables; without one its packages are not even imported.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import secrets
import threading
import time
from collections.abc import Iterator
from typing import Any

log = logging.getLogger(__name__)

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
# A receiver that is away is tried again for up to 10 s: longer than a service has to stop.
_END_SECONDS = 2.0
# https://www.w3.org/TR/trace-context/#traceparent-header
_PARENT = re.compile(r"00-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-[0-9a-f]{2}")

_tracer: Any = None
_provider: Any = None


def set_up_tracing(service: str) -> None:
    """Sends this process's spans to the endpoint of the environment, if there is one."""
    global _tracer, _provider  # noqa: PLW0603  (once a process, before anything else)
    if not any(os.environ.get(name) for name in _ENDPOINTS):
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
    except ImportError:
        log.warning("an OTLP endpoint is set, but OpenTelemetry is missing: pip install 'splatmill[otel]'")
        return
    resource = Resource.create({"service.name": f"splatmill-{service}"})
    _provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    _provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    _tracer = _provider.get_tracer("splatmill")


def end_tracing() -> None:
    """Sends what has not been sent, as far as that takes no long wait."""
    if _provider is not None:
        ending = threading.Thread(target=_provider.shutdown, name="end of tracing", daemon=True)
        ending.start()
        ending.join(_END_SECONDS)


def new_traceparent() -> str:
    """The beginning of a trace."""
    return f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"


def valid_traceparent(text: str) -> str:
    """What a caller gave as its trace, or a new one when that is none."""
    return text if _PARENT.fullmatch(text) else new_traceparent()


def trace_id(traceparent: str) -> str:
    """32 hexadecimal digits, or nothing."""
    match = _PARENT.fullmatch(traceparent)
    return match[1] if match else ""


@contextlib.contextmanager
def span(name: str, traceparent: str, begun: float | None = None, **attributes: Any) -> Iterator[str]:
    """A piece of work within a trace.

    Args:
        name: What it is, the same for all of its kind.
        traceparent: What it belongs to.
        begun: Seconds since the epoch; None for now.
        attributes: Ids and figures.

    Yields:
        The traceparent of what belongs to this piece.
    """
    made = _begin(name, traceparent, begun, attributes)
    if made is None:
        yield traceparent
        return
    own = made.get_span_context()
    try:
        yield f"00-{own.trace_id:032x}-{own.span_id:016x}-01"
    except BaseException as error:
        _end(made, error)
        raise
    _end(made)


def _begin(name: str, traceparent: str, begun: float | None, attributes: dict[str, Any]) -> Any:
    """A span; None where none are sent."""
    match = _PARENT.fullmatch(traceparent)
    if _tracer is None or match is None:
        return None
    from opentelemetry import trace  # noqa: PLC0415

    parent = trace.SpanContext(
        int(match[1], 16), int(match[2], 16), is_remote=True, trace_flags=trace.TraceFlags(1)
    )
    context = trace.set_span_in_context(trace.NonRecordingSpan(parent))
    start = None if begun is None else int(begun * 1e9)
    return _tracer.start_span(name, context=context, start_time=start, attributes=attributes)


def _end(made: Any, error: BaseException | None = None) -> None:
    if error is not None:
        from opentelemetry.trace import StatusCode  # noqa: PLC0415

        made.set_status(StatusCode.ERROR, f"{type(error).__name__}: {error}"[:200])
    made.end()


class Steps:
    """Spans of the steps that a stage goes through, one after another; a context manager.

    Args:
        traceparent: What they belong to.
    """

    def __init__(self, traceparent: str) -> None:
        self._traceparent = traceparent
        self._step = ""
        self._begun = 0.0

    def __enter__(self) -> Steps:
        """Begins with no step."""
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        """The last step is over, or has failed."""
        self._end(error)

    def note(self, step: str) -> None:
        """A step goes on, or another begins."""
        if step != self._step:
            self._end()
            self._step, self._begun = step, time.time()

    def _end(self, error: BaseException | None = None) -> None:
        step, self._step = self._step, ""
        made = _begin(step, self._traceparent, self._begun, {}) if step else None
        if made is not None:
            _end(made, error)
