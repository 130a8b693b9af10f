"""The one error type as HTTP answers."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Awaitable, Callable

import grpc.aio
from aiohttp import web

from splatmill._status import RETRY_SECONDS, from_rpc_error
from splatmill.errors import Reason, SplatmillError

log = logging.getLogger(__name__)

_STATUS_BY_CODE = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.OUT_OF_RANGE: 416,
    grpc.StatusCode.FAILED_PRECONDITION: 409,
    grpc.StatusCode.ABORTED: 409,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.CANCELLED: 499,
}
_STATUS_BY_REASON = {
    Reason.IMAGE_TOO_LARGE: 413,
    Reason.TOO_MANY_IMAGES: 413,
    Reason.STORAGE_FULL: 507,
}


def error_json(error: SplatmillError) -> dict[str, object]:
    """The body of an error answer."""
    detail = {
        "reason": str(error.reason),
        "message": error.message,
        "remedy": error.remedy,
        "retryable": error.retryable,
    }
    if error.field:
        detail["field"] = error.field
    return {"error": detail, "error_message": str(error)}


def error_response(error: SplatmillError) -> web.Response:
    """The answer for an error."""
    status = _STATUS_BY_REASON.get(error.reason, _STATUS_BY_CODE.get(error.code, 500))
    headers = {"Retry-After": str(RETRY_SECONDS)} if error.retryable else {}
    return web.json_response(error_json(error), status=status, headers=headers)


@web.middleware
async def error_middleware(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Answers every failure in the same form; a bug keeps its details to the log."""
    try:
        return await handler(request)
    except SplatmillError as error:
        return error_response(error)
    except grpc.aio.AioRpcError as error:
        return error_response(from_rpc_error(error))
    except web.HTTPException as error:
        if error.status < 400:
            raise
        return error_response_for_http(error)
    except ConnectionResetError:
        raise
    except Exception:
        number = secrets.token_hex(4)
        log.exception("unexpected error %s at %s", number, request.path)
        return error_response(
            SplatmillError(
                Reason.INTERNAL,
                f"Something went wrong inside the gateway (error {number}).",
                "Look for that number in its log.",
                retryable=True,
            )  # fmt: skip
        )


def error_response_for_http(error: web.HTTPException) -> web.Response:
    """aiohttp's own refusals (no such path, wrong method, bad multipart) in the same form."""
    body = error_json(
        SplatmillError(Reason.INVALID_REQUEST, f"{error.status} {error.reason}.", "Look at the API's paths.")
    )
    headers = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}
    return web.json_response(body, status=error.status, headers=headers)
