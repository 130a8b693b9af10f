"""The process of a stage service: its gRPC server and the worker loop side by side."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from typing import Any

from services.common.grpc_server import Server
from services.common.logging import set_up_logging
from services.common.metrics import MetricsServer
from services.common.settings import ServiceSettings, load_settings
from services.common.stage_rpc import StageServicer
from services.common.stage_spec import StageServiceSpec
from services.common.store import LocalStore
from services.common.tls import server_credentials
from services.common.tracing import end_tracing, set_up_tracing
from services.common.worker import Worker
from splatmill.errors import SplatmillError

log = logging.getLogger(__name__)


def main(spec: StageServiceSpec) -> None:
    """Serves until SIGTERM or SIGINT; exits with 1 when it cannot start."""
    set_up_logging(spec.name)
    try:
        settings = load_settings(spec.settings)
        set_up_logging(spec.name, settings.log_level, settings.log_format)
        set_up_tracing(spec.name)
        asyncio.run(serve(spec, settings))
    except SplatmillError as error:
        log.error("%s", error)
        raise SystemExit(1) from None


async def serve(spec: StageServiceSpec, settings: ServiceSettings) -> None:
    """Runs server and worker until the process is told to stop.

    Stopping asks for no new task, ends the one at hand and gives it back.

    Raises:
        SplatmillError: The port cannot be opened, or the data folder not be used.
    """
    store = LocalStore(settings.data_dir)
    busy = asyncio.Lock()
    server = Server(server_credentials(settings))
    servicer = StageServicer(spec, settings, store, busy)
    server.add(spec.service_name, lambda grpc_server: spec.register(servicer, grpc_server))
    worker = Worker(spec, settings, store, busy)
    metrics = MetricsServer(worker.reaches_registry)
    if settings.metrics_port:
        await metrics.start(settings.grpc_host, settings.metrics_port)
    port = await server.start(settings.grpc_host, getattr(settings, spec.port_setting))
    log.info("serving %s on port %d", spec.service_name, port)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    waits: list[asyncio.Task[Any]] = [asyncio.create_task(stop.wait())]
    if os.environ.get("SPLATMILL_WORKER", "1") != "0":
        waits.append(asyncio.create_task(worker.run()))
    done, pending = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    for task in pending:
        with contextlib.suppress(asyncio.CancelledError):
            await task
    await metrics.stop()
    await server.stop(grace=1.0)
    end_tracing()
    for task in done:
        task.result()
    log.info("stopped")
