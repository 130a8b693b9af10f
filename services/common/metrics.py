"""Figures for Prometheus: of gRPC servers and workers; and the HTTP port that serves them.

Names of gRPC's figures are those of the ecosystem (go-grpc-prometheus), so that its
dashboards work. No label ever holds an id.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import grpc
import grpc.aio
from prometheus_client import REGISTRY, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from services.common.stage import GpuMemory
from splatmill.errors import Reason, SplatmillError

log = logging.getLogger(__name__)

_METHOD = ("grpc_type", "grpc_service", "grpc_method")
STARTED = Counter("grpc_server_started", "RPCs begun.", _METHOD)
HANDLED = Counter("grpc_server_handled", "RPCs ended, by status.", (*_METHOD, "grpc_code"))
HANDLING = Histogram(
    "grpc_server_handling_seconds", "Time that RPCs took.", _METHOD,
    buckets=(0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
)  # fmt: skip
RECEIVED = Counter("grpc_server_msg_received", "Messages received.", _METHOD)
SENT = Counter("grpc_server_msg_sent", "Messages sent.", _METHOD)

WORKER_BUSY = Gauge("splatmill_worker_busy", "Whether the worker has a task.", ("stage",))
WORKER_TASKS = Counter("splatmill_worker_tasks", "Tasks that the worker has ended.", ("stage", "outcome"))
GPU_MEMORY = Gauge("splatmill_gpu_memory_bytes", "Memory of the GPU in use.", ("gpu",))
GPU_MEMORY_TOTAL = Gauge("splatmill_gpu_memory_total_bytes", "Memory of the GPU in all.", ("gpu",))

# Beyond these a scrape's request is none.
_MAX_HEAD = 16 << 10
_HEAD_SECONDS = 5.0
_MIB = 1 << 20


def note_gpu_memory(memory: GpuMemory) -> None:
    """Shows what a stage has said of its GPU."""
    GPU_MEMORY.labels(str(memory.index)).set(memory.used_mib * _MIB)
    GPU_MEMORY_TOTAL.labels(str(memory.index)).set(memory.total_mib * _MIB)


def note_idle(stage: str) -> None:
    """The worker has no task: what is known of its GPU was of the last one."""
    WORKER_BUSY.labels(stage).set(0)
    GPU_MEMORY.clear()
    GPU_MEMORY_TOTAL.clear()


class MetricsInterceptor(grpc.aio.ServerInterceptor):
    """Counts and times every RPC; the outermost interceptor, so that it sees the status sent."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Wraps the handler, whatever its kind."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return handler
        kind = f"{'stream' if handler.request_streaming else 'unary'}_"
        kind += "stream" if handler.response_streaming else "unary"
        _, service, method = handler_call_details.method.split("/", 2)
        labels = (_KIND[kind], service, method)
        wrap = _counted_stream if handler.response_streaming else _counted_unary
        factory = getattr(grpc, f"{kind}_rpc_method_handler")
        return factory(
            wrap(getattr(handler, kind), labels), handler.request_deserializer, handler.response_serializer
        )


_KIND = {
    "unary_unary": "unary",
    "unary_stream": "server_stream",
    "stream_unary": "client_stream",
    "stream_stream": "bidi_stream",
}


@contextlib.contextmanager
def _counted(labels: tuple[str, str, str], context: Any) -> Iterator[None]:
    STARTED.labels(*labels).inc()
    begun = time.perf_counter()
    code = "OK"
    try:
        yield
    except (asyncio.CancelledError, GeneratorExit):
        code = "CANCELLED"
        raise
    except BaseException:
        code = _code_name(context)
        raise
    finally:
        HANDLING.labels(*labels).observe(time.perf_counter() - begun)
        HANDLED.labels(*labels, code).inc()


def _code_name(context: Any) -> str:
    code = context.code()
    return code.name if isinstance(code, grpc.StatusCode) else "UNKNOWN"


async def _received(requests: AsyncIterator[Any], labels: tuple[str, str, str]) -> AsyncIterator[Any]:
    async for request in requests:
        RECEIVED.labels(*labels).inc()
        yield request


def _request(request: Any, labels: tuple[str, str, str]) -> Any:
    if labels[0] in ("client_stream", "bidi_stream"):
        return _received(request, labels)
    RECEIVED.labels(*labels).inc()
    return request


def _counted_unary(behaviour: Callable[..., Any], labels: tuple[str, str, str]) -> Callable[..., Any]:
    async def counted(request: Any, context: Any) -> Any:
        with _counted(labels, context):
            response = await behaviour(_request(request, labels), context)
            SENT.labels(*labels).inc()
            return response

    return counted


def _counted_stream(behaviour: Callable[..., Any], labels: tuple[str, str, str]) -> Callable[..., Any]:
    async def counted(request: Any, context: Any) -> AsyncIterator[Any]:
        with _counted(labels, context):
            responses = behaviour(_request(request, labels), context)
            if inspect.isawaitable(responses):  # a handler that calls context.write
                await responses
                return
            async with contextlib.aclosing(responses):
                async for response in responses:
                    SENT.labels(*labels).inc()
                    yield response

    return counted


class MetricsServer:
    """GET /metrics, /healthz and /readyz over HTTP/1.1, for scrapers and probes.

    Args:
        ready: Whether the service can do its work now.
    """

    def __init__(self, ready: Callable[[], Awaitable[bool]]) -> None:
        self._ready = ready
        self._server: asyncio.Server | None = None

    async def start(self, host: str, port: int) -> int:
        """Listens; answers the port.

        Raises:
            SplatmillError: The port is taken (INVALID_REQUEST).
        """
        try:
            self._server = await asyncio.start_server(self._serve, host, port, limit=_MAX_HEAD)
        except OSError as error:
            raise SplatmillError(
                Reason.INVALID_REQUEST, f"Port {port} on {host} cannot be opened for metrics.",
                "Set SPLATMILL_METRICS_PORT to another, or to 0 for none.",
            ) from error  # fmt: skip
        bound: int = self._server.sockets[0].getsockname()[1]
        return bound

    async def stop(self) -> None:
        """Listens no more."""
        if self._server is not None:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # EOFError: whoever only looks whether the port is open says nothing and goes.
        gone = (TimeoutError, ConnectionError, EOFError, asyncio.LimitOverrunError, ValueError)
        try:
            with contextlib.suppress(*gone):
                async with asyncio.timeout(_HEAD_SECONDS):
                    head = await reader.readuntil(b"\r\n\r\n")
                method, path, _ = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ", 2)
                status, kind, body = await self._answer(method, path.partition("?")[0])
                writer.write(
                    f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
                    "Connection: close\r\n\r\n".encode()
                )
                writer.write(b"" if method == "HEAD" else body)
                await writer.drain()
        finally:
            writer.close()

    async def _answer(self, method: str, path: str) -> tuple[str, str, bytes]:
        if method not in ("GET", "HEAD"):
            return "405 Method Not Allowed", "text/plain", b"GET only\n"
        if path == "/metrics":
            # A collector may ask a database.
            return "200 OK", CONTENT_TYPE_LATEST, await asyncio.to_thread(generate_latest, REGISTRY)
        if path == "/healthz":
            return "200 OK", "text/plain", b"ok\n"
        if path == "/readyz":
            if await self._ready():
                return "200 OK", "text/plain", b"ok\n"
            return "503 Service Unavailable", "text/plain", b"not ready\n"
        return "404 Not Found", "text/plain", b"there are /metrics, /healthz and /readyz\n"
