"""The web app's pages and their assets."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import grpc
import grpc.aio
from aiohttp import web

from services.gateway.keys import REGISTRY, SETTINGS
from splatmill.v1 import reconstruction_pb2 as pb

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; worker-src blob:; "
    "connect-src 'self' data: blob:; img-src 'self' data: blob:; font-src 'self'; "
    "style-src 'self' 'unsafe-inline'; base-uri 'none'; form-action 'self'"
)
_HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "Cache-Control": "no-cache",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
_NOT_BUILT = "The web pages are not built. Run `make web` and reload."


async def upload_page(request: web.Request) -> web.StreamResponse:
    """GET /."""
    return await _page_of(request, request.app[REGISTRY].GetQueue(pb.GetQueueRequest()), "index.html")


async def job_page(request: web.Request) -> web.StreamResponse:
    """GET /jobs/{job_id}."""
    call = request.app[REGISTRY].GetJob(pb.GetJobRequest(job_id=request.match_info["job_id"]))
    return await _page_of(request, call, "job.html")


async def viewer_page(request: web.Request) -> web.StreamResponse:
    """GET /v/{pub_key}."""
    call = request.app[REGISTRY].GetScene(pb.GetSceneRequest(pub_key=request.match_info["pub_key"]))
    return await _page_of(request, call, "viewer.html")


async def _page_of(
    request: web.Request, call: grpc.aio.UnaryUnaryCall[Any, Any], name: str
) -> web.StreamResponse:
    """The page, or the page that says that there is no such thing."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        if error.code() is grpc.StatusCode.NOT_FOUND:
            return page_of_file(request, "notfound.html", status=404)
        if error.code() is grpc.StatusCode.UNAUTHENTICATED:
            raise web.HTTPSeeOther(f"/signin?next={quote(request.path)}") from None
        if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.PERMISSION_DENIED):
            raise
        # The page itself says that the service is away, and tries again.
    return page_of_file(request, name)


def page_of_file(request: web.Request, name: str, status: int = 200) -> web.StreamResponse:
    """A built page; 503 with a hint while there is none."""
    path = request.app[SETTINGS].web_dir / name
    if not path.is_file():
        return web.Response(status=503, text=_NOT_BUILT)
    if status == 200:
        return web.FileResponse(path, headers=_HEADERS)
    return web.Response(status=status, body=path.read_bytes(), content_type="text/html", headers=_HEADERS)


def add_assets(app: web.Application) -> None:
    """Serves /assets, whose names change with their content, and the files beside the pages."""
    folder = app[SETTINGS].web_dir
    if (folder / "assets").is_dir():
        app.router.add_static("/assets", folder / "assets")


async def asset_headers(request: web.Request, response: web.StreamResponse) -> None:
    """Lets browsers keep assets for good."""
    if request.path.startswith("/assets/") and response.status in (200, 206):
        response.headers["Cache-Control"] = "public, max-age=31536000, immutable"
