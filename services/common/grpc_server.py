"""How every service builds its gRPC server: limits, health, reflection, one error interceptor."""

from __future__ import annotations

import inspect
import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from services.common.log_context import adopt_request
from services.common.metrics import MetricsInterceptor
from splatmill._status import to_status
from splatmill.errors import Reason, SplatmillError

log = logging.getLogger(__name__)

OPTIONS: Sequence[tuple[str, Any]] = (
    ("grpc.max_receive_message_length", 4 << 20),
    ("grpc.max_send_message_length", 4 << 20),
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    # round_robin clients look for new replicas only when a connection ends. There is no
    # max_connection_age_grace: it would cut a long training or a slow upload in the middle.
    ("grpc.max_connection_age_ms", 300_000),
    ("grpc.so_reuseport", 0),
)


class ErrorInterceptor(grpc.aio.ServerInterceptor):
    """Turns a raised SplatmillError into its status, and anything else into INTERNAL."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Wraps the handler, whatever its kind."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return handler
        method = handler_call_details.method
        if handler.response_streaming:
            name = "stream_stream" if handler.request_streaming else "unary_stream"
            wrapped: Any = _guard_stream(getattr(handler, name), method)
        else:
            name = "stream_unary" if handler.request_streaming else "unary_unary"
            wrapped = _guard_unary(getattr(handler, name), method)
        factory = getattr(grpc, f"{name}_rpc_method_handler")
        return factory(wrapped, handler.request_deserializer, handler.response_serializer)


def _guard_unary(behaviour: Callable[..., Any], method: str) -> Callable[..., Any]:
    async def guarded(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        adopt_request(request)
        try:
            return await behaviour(request, context)
        except Exception as error:
            await _abort(error, context, method)

    return guarded


def _guard_stream(behaviour: Callable[..., Any], method: str) -> Callable[..., Any]:
    async def guarded(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[Any]:
        adopt_request(request)
        responses = behaviour(request, context)
        try:
            if inspect.isawaitable(responses):  # a handler that calls context.write, as health's Watch
                await responses
                return
            async for response in responses:
                yield response
        except Exception as error:
            await _abort(error, context, method)
        finally:
            if inspect.isasyncgen(responses):
                await responses.aclose()

    return guarded


async def _abort(error: Exception, context: grpc.aio.ServicerContext[Any, Any], method: str) -> None:
    if isinstance(error, grpc.aio.AbortError):
        raise error
    if not isinstance(error, SplatmillError):
        number = secrets.token_hex(4)
        log.exception("unexpected error %s in %s", number, method, exc_info=error)
        error = SplatmillError(
            Reason.INTERNAL, f"Something went wrong inside the service (error {number}).",
            "Look for that number in the service's log.", retryable=True,
        )  # fmt: skip
    status = to_status(error)
    await context.abort(status.code, status.details, status.trailing_metadata)


class Server:
    """A gRPC server with health and reflection.

    Args:
        credentials: For TLS; None for a plain port.
    """

    def __init__(self, credentials: grpc.ServerCredentials | None = None) -> None:
        self._credentials = credentials
        self.grpc = grpc.aio.server(interceptors=[MetricsInterceptor(), ErrorInterceptor()], options=OPTIONS)
        self._health = health.aio.HealthServicer()
        self._names: list[str] = []
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self.grpc)

    def add(self, service_name: str, register: Callable[[grpc.aio.Server], None]) -> None:
        """Adds a service.

        Args:
            service_name: Full name, such as ``splatmill.v1.SfmService``.
            register: Calls the generated ``add_..._to_server``.
        """
        register(self.grpc)
        self._names.append(service_name)

    async def start(self, host: str, port: int) -> int:
        """Listens; answers the port, which is a free one for ``port`` 0.

        Raises:
            SplatmillError: The port is taken (INVALID_REQUEST).
        """
        health_name = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
        reflection.enable_server_reflection([*self._names, health_name, reflection.SERVICE_NAME], self.grpc)
        try:
            if self._credentials is None:
                bound = self.grpc.add_insecure_port(f"{host}:{port}")
            else:
                bound = self.grpc.add_secure_port(f"{host}:{port}", self._credentials)
        except RuntimeError as error:
            raise SplatmillError(
                Reason.INVALID_REQUEST,
                f"Port {port} on {host} cannot be opened.",
                "Is it in use? Set another port.",
            ) from error
        await self.grpc.start()
        for name in ("", *self._names):
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        return bound

    async def stop(self, grace: float) -> None:
        """Answers NOT_SERVING, then ends calls after ``grace`` seconds."""
        await self._health.enter_graceful_shutdown()
        await self.grpc.stop(grace)
