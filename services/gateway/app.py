"""The gateway as an aiohttp application."""

from __future__ import annotations

import asyncio
import logging

from aiohttp import web

from services.common.metrics import MetricsServer
from services.common.tls import tls_of
from services.gateway import events, jobs, observe, operations, pages, scenes, signin, upload
from services.gateway.errors import error_middleware
from services.gateway.keys import CHANNEL, METRICS, REGISTRY, SETTINGS, STOPPING
from services.gateway.registry_client import open_channel
from services.gateway.settings import GatewaySettings
from splatmill._transport import Authorized
from splatmill.v1 import reconstruction_pb2_grpc

log = logging.getLogger(__name__)


def make_app(settings: GatewaySettings) -> web.Application:
    """Builds the application; it connects when it starts."""
    app = web.Application(middlewares=[observe.middleware, error_middleware, signin.middleware])
    app[SETTINGS] = settings
    app.on_startup.append(_start)
    app.on_shutdown.append(_stop_streams)
    app.on_cleanup.append(_close)
    app.on_response_prepare.append(pages.asset_headers)
    app.add_routes(
        [
            web.get("/", pages.upload_page),
            web.get("/jobs/{job_id}", pages.job_page),
            web.get("/v/{pub_key}", pages.viewer_page),
            web.get("/healthz", healthz),
            web.get("/readyz", readyz),
            web.get("/recon/queue", jobs.queue),
            web.get("/recon/options", jobs.options),
            web.post("/recon/jobs", upload.create_job),
            web.get("/recon/jobs", jobs.list_jobs),
            web.get("/recon/jobs/{job_id}/status", jobs.status),
            web.get("/recon/jobs/{job_id}/events", events.job_events),
            web.post("/recon/jobs/{job_id}/cancel", jobs.cancel),
            web.post("/recon/jobs/{job_id}/retry", jobs.retry),
            web.delete("/recon/jobs/{job_id}", jobs.delete),
            web.post("/recon/jobs/{job_id}/share", operations.share),
            web.get("/recon/jobs/{job_id}/errors", operations.errors),
            web.get("/recon/errors", operations.errors),
            web.get("/recon/workers", operations.workers),
            web.get("/signin", signin.page),
            web.post("/recon/session", signin.sign_in),
            web.delete("/recon/session", signin.sign_out),
            web.get("/recon/jobs/{job_id}/artifacts", scenes.job_artifacts),
            web.get("/recon/jobs/{job_id}/artifacts/{name:.+}", scenes.job_file),
            web.get("/recon/pub/{pub_key}", scenes.scene),
            web.get("/recon/pub/{pub_key}/{name}", scenes.public_file),
        ]
    )
    pages.add_assets(app)
    return app


async def healthz(request: web.Request) -> web.Response:
    """GET /healthz: the process lives."""
    return web.json_response({"status": "ok"})


async def readyz(request: web.Request) -> web.Response:
    """GET /readyz: the registry answers."""
    if not await observe.registry_answers(request.app):
        return web.json_response({"status": "the registry does not answer"}, status=503)
    return web.json_response({"status": "ok"})


async def _start(app: web.Application) -> None:
    app[STOPPING] = asyncio.Event()
    app[METRICS] = MetricsServer(lambda: observe.registry_answers(app))
    if app[SETTINGS].metrics_port:
        await app[METRICS].start(app[SETTINGS].host, app[SETTINGS].metrics_port)
    app[CHANNEL] = open_channel(app[SETTINGS].registry_address, tls_of(app[SETTINGS]))
    stub = reconstruction_pb2_grpc.ReconstructionServiceStub(app[CHANNEL])
    app[REGISTRY] = Authorized(stub, signin.TOKEN.get, observe.TRACE.get)


async def _stop_streams(app: web.Application) -> None:
    app[STOPPING].set()


async def _close(app: web.Application) -> None:
    await app[METRICS].stop()
    await app[CHANNEL].close()
