"""``python -m services.registry``: the registry service."""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from functools import partial

import prometheus_client

from externalscaler import externalscaler_pb2_grpc
from services.common.grpc_server import Server
from services.common.logging import set_up_logging
from services.common.metrics import MetricsServer
from services.common.settings import load_settings
from services.common.store import LocalStore
from services.common.tls import server_credentials
from services.common.tracing import end_tracing, set_up_tracing
from services.registry import keys
from services.registry.core import Registry
from services.registry.database import Database
from services.registry.observations import QueueCollector
from services.registry.reconstruction_servicer import ReconstructionServicer
from services.registry.scaler_servicer import ScalerServicer
from services.registry.settings import RegistrySettings
from services.registry.task_servicer import TaskServicer
from splatmill.errors import SplatmillError
from splatmill.v1 import reconstruction_pb2_grpc, task_pb2_grpc

log = logging.getLogger(__name__)

_DATABASE_SECONDS = 60.0
_DATABASE_PAUSE_SECONDS = 1.0


async def start(settings: RegistrySettings, host: str, port: int) -> tuple[Server, Registry, int]:
    """Opens database and store, upgrades the schema and listens; answers the port.

    Raises:
        SplatmillError: The port or the database cannot be opened.
    """
    store = LocalStore(settings.data_dir)
    database = Database(settings.resolved_database_url, settings.database_connections)
    await _upgrade(database)
    registry = Registry(settings, database, store)
    await registry.listen()
    server = Server(server_credentials(settings))
    jobs, tasks = ReconstructionServicer(registry), TaskServicer(registry)
    server.add(
        "splatmill.v1.ReconstructionService",
        lambda grpc: reconstruction_pb2_grpc.add_ReconstructionServiceServicer_to_server(jobs, grpc),
    )
    server.add(
        "splatmill.v1.TaskService", lambda grpc: task_pb2_grpc.add_TaskServiceServicer_to_server(tasks, grpc)
    )
    scaler = ScalerServicer(registry)
    server.add(
        "externalscaler.ExternalScaler",
        lambda grpc: externalscaler_pb2_grpc.add_ExternalScalerServicer_to_server(scaler, grpc),
    )
    return server, registry, await server.start(host, port)


async def _upgrade(database: Database) -> None:
    """Brings the schema up to date; a server that only just starts is waited for."""
    deadline = time.monotonic() + _DATABASE_SECONDS
    while True:
        try:
            await asyncio.to_thread(database.upgrade)
            return
        except SplatmillError as error:
            if not error.retryable or time.monotonic() > deadline:
                raise
        await asyncio.sleep(_DATABASE_PAUSE_SECONDS)


async def serve(settings: RegistrySettings) -> None:
    """Runs until SIGTERM or SIGINT; long polls end first, so that stopping takes no wait."""
    server, registry, port = await start(settings, settings.grpc_host, settings.registry_port)
    log.info("serving on port %d, database %s", port, registry.database.engine.url.render_as_string())
    metrics = MetricsServer(partial(_is_ready, registry))
    try:
        await _say_who_may(registry, settings)
        if settings.metrics_port:
            prometheus_client.REGISTRY.register(QueueCollector(registry.database.run))
            await metrics.start(settings.grpc_host, settings.metrics_port)
        sweeper = asyncio.create_task(registry.sweep_forever())
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        await stop.wait()
        sweeper.cancel()
    finally:
        await registry.stop_listening()
        await metrics.stop()
        await server.stop(grace=2.0)
        registry.close()
        end_tracing()
    log.info("stopped")


async def _is_ready(registry: Registry) -> bool:
    """Whether the database answers."""
    try:
        await registry.transact(keys.any_exists)
    except SplatmillError:
        return False
    return True


async def _say_who_may(registry: Registry, settings: RegistrySettings) -> None:
    """An operator shall know when a door is open."""
    if not await registry.access.is_closed():
        log.warning("no API key has been made: everyone who reaches this port may do everything")
    elif not settings.worker_token and not settings.tls_require_client_cert:
        log.warning(
            "callers need API keys, but anyone may lease tasks: set SPLATMILL_WORKER_TOKEN, "
            "or SPLATMILL_TLS_REQUIRE_CLIENT_CERT"
        )


def main() -> None:
    """Serves until told to stop; exits with 1 when it cannot start."""
    set_up_logging("registry")
    try:
        settings = load_settings(RegistrySettings)
        set_up_logging("registry", settings.log_level, settings.log_format)
        set_up_tracing("registry")
        asyncio.run(serve(settings))
    except SplatmillError as error:
        log.error("%s", error)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
