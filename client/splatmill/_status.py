"""The error type on the wire: google.rpc.Status with ErrorInfo, BadRequest and RetryInfo."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from typing import Any

import grpc
import grpc.aio
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import DecodeError
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from splatmill.errors import Reason, SplatmillError
from splatmill.v1 import progress_pb2

DOMAIN = "splatmill"
RETRY_SECONDS = 2
# All of it travels in trailing metadata, which is refused above 8 KiB as a whole; the
# message three times, and percent-encoded in one of them.
_MAX_TEXT_BYTES = 768
_MAX_FIELD_BYTES = 255
_CORE_ERROR = "Internal error from Core"
_SETTLE_SECONDS = 2.0


def to_status(error: SplatmillError) -> grpc.Status:
    """What ``context.abort_with_status`` takes; long texts are cut, for they travel as metadata."""
    message, remedy = _cut(error.message, _MAX_TEXT_BYTES), _cut(error.remedy, _MAX_TEXT_BYTES)
    field = _cut(error.field, _MAX_FIELD_BYTES)
    details: list[any_pb2.Any] = []

    def add(message: object) -> None:
        packed = any_pb2.Any()
        packed.Pack(message)  # type: ignore[arg-type]
        details.append(packed)

    metadata = {"remedy": remedy, "retryable": str(error.retryable).lower(), "field": field}
    add(error_details_pb2.ErrorInfo(reason=str(error.reason), domain=DOMAIN, metadata=metadata))
    if error.code is grpc.StatusCode.INVALID_ARGUMENT:
        violation = error_details_pb2.BadRequest.FieldViolation(field=field, description=message)
        add(error_details_pb2.BadRequest(field_violations=[violation]))
    if error.retryable:
        add(error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(seconds=RETRY_SECONDS)))
    code = code_pb2.Code.Value(error.code.name)
    status = status_pb2.Status(code=code, message=message, details=details)
    return rpc_status.to_status(status)


def from_rpc_error(error: grpc.RpcError) -> SplatmillError:
    """The error that a failed call carries; one of ours unpacked, a foreign one translated."""
    code = error.code() if callable(getattr(error, "code", None)) else grpc.StatusCode.UNKNOWN
    message = (error.details() if callable(getattr(error, "details", None)) else None) or str(code)
    info = _error_info(error)
    if info is not None and info.domain == DOMAIN:
        known = Reason(info.reason) if info.reason in set(Reason) else Reason.INTERNAL
        meta = info.metadata
        return SplatmillError(
            known, message, meta.get("remedy", ""), meta.get("retryable") == "true", meta.get("field", "")
        )
    if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
        return SplatmillError(
            Reason.UNAVAILABLE, f"The service cannot be reached: {message}", "Try again in a moment.", True
        )
    if code is grpc.StatusCode.CANCELLED:
        return SplatmillError(Reason.CANCELLED, "The call was cancelled.")
    if code in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED):
        return SplatmillError(Reason.INVALID_REQUEST, message)
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return SplatmillError(
            Reason.INVALID_REQUEST,
            f"The service does not know this call: {message}",
            "Is this the address of the right service, and of the same version?",
        )
    return SplatmillError(Reason.INTERNAL, message, "Look at the service's log.")


class Ending:
    """With what the server ended a stream, even when a write crossed its refusal.

    Such a write makes grpc.aio put an internal error of its own in place of the server's
    status, sometimes before that arrives and sometimes after.

    Args:
        call: The stream, just begun.
    """

    def __init__(self, call: Any) -> None:
        self._call = call
        self._refusal: grpc.aio.AioRpcError | None = None
        call.add_done_callback(self._note)

    async def result(self) -> Any:
        """The call's answer; raises what the server ended it with."""
        try:
            return await self._call
        except grpc.aio.AioRpcError as error:
            deadline = time.monotonic() + _SETTLE_SECONDS
            while _is_local(error.code(), error.details()) and time.monotonic() < deadline:
                if self._refusal is not None:
                    raise self._refusal from None
                await asyncio.sleep(0.01)
            raise

    def _note(self, call: Any) -> None:
        code, details = _at_once(call.code()), _at_once(call.details())
        if code not in (None, grpc.StatusCode.OK) and not _is_local(code, details):
            trailing = _at_once(call.trailing_metadata()) or grpc.aio.Metadata()
            self._refusal = grpc.aio.AioRpcError(code, grpc.aio.Metadata(), trailing, details)


def _is_local(code: grpc.StatusCode | None, details: str | None) -> bool:
    return code is grpc.StatusCode.INTERNAL and details == _CORE_ERROR


def _at_once(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """The result of a coroutine that need not wait, as those of an ended call; None if it would."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    coroutine.close()
    return None


def error_detail(error: SplatmillError) -> progress_pb2.ErrorDetail:
    """The error as events and jobs carry it."""
    return progress_pb2.ErrorDetail(
        reason=str(error.reason), message=error.message, remedy=error.remedy, retryable=error.retryable
    )


def _error_info(error: grpc.RpcError) -> error_details_pb2.ErrorInfo | None:
    call: Any = error
    trailing = call.trailing_metadata() if callable(getattr(error, "trailing_metadata", None)) else None
    for key, value in trailing or ():
        if key != "grpc-status-details-bin":
            continue
        try:
            for detail in status_pb2.Status.FromString(value).details:
                info = error_details_pb2.ErrorInfo()
                if detail.Unpack(info):
                    return info
        except DecodeError:  # not from one of ours
            return None
    return None


def _cut(text: str, size: int) -> str:
    """The beginning of a text, at most ``size`` bytes of UTF-8; characters without any are replaced."""
    data = text.encode(errors="replace")
    return data.decode() if len(data) <= size else data[: size - 3].decode(errors="ignore") + "…"
