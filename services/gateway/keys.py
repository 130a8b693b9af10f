"""What handlers find on the application."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc.aio
from aiohttp import web

from services.common.metrics import MetricsServer
from services.gateway.settings import GatewaySettings

SETTINGS = web.AppKey("settings", GatewaySettings)
CHANNEL = web.AppKey("channel", grpc.aio.Channel)
REGISTRY: web.AppKey[Any] = web.AppKey("registry", object)
"""The ReconstructionService stub."""
METRICS = web.AppKey("metrics", MetricsServer)
STOPPING = web.AppKey("stopping", asyncio.Event)
"""Set when the gateway stops: endless answers end then."""
