"""Whose call it is: the API key of a header, or of the cookie that signing in sets."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextvars import ContextVar

from aiohttp import web

from services.gateway.jobs import json_body
from services.gateway.keys import REGISTRY
from services.gateway.pages import page_of_file
from splatmill._transport import parse_bearer
from splatmill.errors import Reason, SplatmillError
from splatmill.v1 import reconstruction_pb2 as pb

TOKEN: ContextVar[str] = ContextVar("token", default="")
"""The API key of the request being answered; the registry decides what it is good for."""

_COOKIE = "splatmill_key"
_MAX_KEY = 200
_COOKIE_SECONDS = 30 * 24 * 3600


@web.middleware
async def middleware(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Notes the key that calls to the registry carry."""
    reset = TOKEN.set(_token(request))
    try:
        return await handler(request)
    finally:
        TOKEN.reset(reset)


def _token(request: web.Request) -> str:
    header = request.headers.get("X-API-Key") or parse_bearer(request.headers.get("Authorization", ""))
    token = header or request.cookies.get(_COOKIE, "")
    # What is no key at all must not end as an illegal header of the call to the registry.
    return token if len(token) <= _MAX_KEY and token.isascii() and token.isprintable() else "?"


async def page(request: web.Request) -> web.StreamResponse:
    """GET /signin."""
    return page_of_file(request, "signin.html")


async def sign_in(request: web.Request) -> web.Response:
    """POST /recon/session {"api_key": ...}: a cookie for browsers, which scripts cannot read."""
    key = (await json_body(request)).get("api_key")
    if not isinstance(key, str) or not key.strip() or len(key) > _MAX_KEY or not key.isascii():
        raise SplatmillError(
            Reason.INVALID_REQUEST, "This is no API key.", "Paste the key as it was given.", field="api_key"
        )
    TOKEN.set(key.strip())
    await request.app[REGISTRY].ListJobs(pb.ListJobsRequest(page_size=1))
    answer = web.Response(status=204)
    # Strict: no other site can make the browser send it, so that forms there do nothing here.
    answer.set_cookie(
        _COOKIE, key.strip(), max_age=_COOKIE_SECONDS, httponly=True, samesite="Strict",
        secure=request.secure or request.headers.get("X-Forwarded-Proto") == "https",
    )  # fmt: skip
    return answer


async def sign_out(request: web.Request) -> web.Response:
    """DELETE /recon/session."""
    answer = web.Response(status=204)
    answer.del_cookie(_COOKIE)
    return answer
