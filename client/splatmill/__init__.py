"""Splatmill's public package: photos in, a 3D Gaussian splat out.

    from splatmill import Client

    with Client("localhost:50051") as client:
        job = client.create_job(["photos/"], options={"iterations": 3000})
        for event in client.watch(job.job_id):
            ...
        client.download(job.pub_key, "scene.spz", "scene.spz")

``AsyncClient`` is the same for asyncio. What they answer are the messages of
``splatmill.v1``; what they raise is ``SplatmillError``.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from splatmill._client import Client
    from splatmill._upload import PhotoSource, UploadProgress
    from splatmill.aio import AsyncClient
    from splatmill.errors import Reason, SplatmillError
    from splatmill.states import is_final, job_error, stage_name, state_name

__all__ = [
    "AsyncClient",
    "Client",
    "PhotoSource",
    "Reason",
    "SplatmillError",
    "UploadProgress",
    "is_final",
    "job_error",
    "stage_name",
    "state_name",
]

_HOME = {
    "AsyncClient": "aio",
    "Client": "_client",
    "PhotoSource": "_upload",
    "Reason": "errors",
    "SplatmillError": "errors",
    "UploadProgress": "_upload",
    "is_final": "states",
    "job_error": "states",
    "stage_name": "states",
    "state_name": "states",
}


def __getattr__(name: str) -> Any:
    """Imports on first use: the command line answers ``--help`` without loading gRPC."""
    if name not in _HOME:
        raise AttributeError(f"module 'splatmill' has no attribute {name!r}")
    value = getattr(import_module(f"splatmill.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
