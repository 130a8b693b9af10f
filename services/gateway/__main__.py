"""``python -m services.gateway``: the gateway service."""

from __future__ import annotations

import logging

from aiohttp import web

from services.common.logging import set_up_logging
from services.common.settings import load_settings
from services.common.tracing import end_tracing, set_up_tracing
from services.gateway.app import make_app
from services.gateway.settings import GatewaySettings
from splatmill.errors import SplatmillError

log = logging.getLogger(__name__)

_STOP_SECONDS = 3.0


def main() -> None:
    """Serves until SIGTERM or SIGINT; exits with 1 when it cannot start."""
    set_up_logging("gateway")
    try:
        settings = load_settings(GatewaySettings)
        set_up_logging("gateway", settings.log_level, settings.log_format)
        set_up_tracing("gateway")
        _serve(settings)
    except SplatmillError as error:
        log.error("%s", error)
        raise SystemExit(1) from None
    finally:
        end_tracing()


def _serve(settings: GatewaySettings) -> None:
    log.info("serving on %s:%d, registry at %s", settings.host, settings.port, settings.registry_address)
    try:
        web.run_app(
            make_app(settings),
            host=settings.host,
            port=settings.port,
            shutdown_timeout=_STOP_SECONDS,
            access_log=logging.getLogger("services.gateway.access"),
            access_log_format='%a "%r" %s %b %Tfs',
            print=None,
        )
    except OSError as error:
        log.error("port %d cannot be opened: %s; set SPLATMILL_PORT to another", settings.port, error)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
