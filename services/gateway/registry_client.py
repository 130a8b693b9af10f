"""The channel to the registry."""

from __future__ import annotations

import json

import grpc.aio

from splatmill._transport import Tls
from splatmill._transport import open_channel as _open

# Calls that change nothing, or nothing when repeated, are tried again while the registry restarts.
_RETRIED = (
    "GetUpload", "GetJob", "ListJobs", "GetQueue", "GetScene", "ListArtifacts", "ListOptions",
    "ListPresets",     "SubmitJob", "CancelJob",
)  # fmt: skip
_SERVICE = "splatmill.v1.ReconstructionService"


def open_channel(address: str, tls: Tls) -> grpc.aio.Channel:
    """A channel that retries, balances over replicas and keeps itself alive."""
    policy = {
        "maxAttempts": 4,
        "initialBackoff": "0.2s",
        "maxBackoff": "2s",
        "backoffMultiplier": 2,
        "retryableStatusCodes": ["UNAVAILABLE"],
    }
    names = [{"service": _SERVICE, "method": method} for method in _RETRIED]
    config = {
        "loadBalancingConfig": [{"round_robin": {}}],
        "methodConfig": [{"name": names, "retryPolicy": policy}],
    }
    options = [
        ("grpc.service_config", json.dumps(config)),
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.max_reconnect_backoff_ms", 2_000),
        ("grpc.initial_reconnect_backoff_ms", 200),
    ]
    return _open(address, options, tls)
