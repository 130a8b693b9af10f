"""Figures, traces and readiness of the gateway."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from contextvars import ContextVar

import grpc.aio
from aiohttp import web
from prometheus_client import Counter, Histogram

from services.common.log_context import about
from services.common.tracing import span, trace_id, valid_traceparent
from services.gateway.keys import REGISTRY
from splatmill.v1 import reconstruction_pb2 as pb

TRACE: ContextVar[str] = ContextVar("trace", default="")
"""The trace of the request being answered."""

REQUESTS = Counter("splatmill_http_requests", "HTTP requests answered.", ("method", "route", "code"))
SECONDS = Histogram(
    "splatmill_http_request_seconds", "Time that answers took, without event streams.", ("method", "route"),
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300),
)  # fmt: skip
_METHODS = ("GET", "HEAD", "POST", "DELETE", "PUT", "PATCH", "OPTIONS")
_TRACED = ("POST", "/recon/jobs")
_READY_SECONDS = 2.0


@web.middleware
async def middleware(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Counts and times requests by their route, and begins the traces of uploads."""
    resource = request.match_info.route.resource
    route = resource.canonical if resource is not None else "none"
    method = request.method if request.method in _METHODS else "other"
    begun = time.perf_counter()
    code = 500
    try:
        if (method, route) == _TRACED:
            with (
                span("POST /recon/jobs", valid_traceparent(request.headers.get("traceparent", ""))) as trace,
                about(trace_id=trace_id(trace)),
            ):
                reset = TRACE.set(trace)
                try:
                    response = await handler(request)
                finally:
                    TRACE.reset(reset)
        else:
            response = await handler(request)
        code = response.status
        return response
    except web.HTTPException as error:
        code = error.status
        raise
    finally:
        REQUESTS.labels(method, route, str(code)).inc()
        if not route.endswith("/events"):
            SECONDS.labels(method, route).observe(time.perf_counter() - begun)


async def registry_answers(app: web.Application) -> bool:
    """Whether the gateway can do its work now."""
    try:
        await app[REGISTRY].ListOptions(pb.ListOptionsRequest(), timeout=_READY_SECONDS)
    except grpc.aio.AioRpcError:
        return False
    return True
