"""What every service process reads from its environment.

Each service adds its own fields in its own ``settings.py``; all names carry the prefix
``SPLATMILL_`` in the environment.
"""

from __future__ import annotations

from pathlib import Path

from pydantic_settings import BaseSettings, SettingsConfigDict


class ServiceSettings(BaseSettings):
    """Settings that all services share."""

    model_config = SettingsConfigDict(env_prefix="SPLATMILL_", frozen=True, extra="ignore")

    data_dir: Path = Path("data")
    """Folder of the local artifact store."""
    grpc_host: str = "0.0.0.0"
    """Address that gRPC ports are opened on."""
    registry_address: str = "localhost:50051"
    """Where the registry's gRPC port is."""
    log_level: str = "INFO"
    """DEBUG, INFO, WARNING or ERROR."""
    log_format: str = "text"
    """``text`` for people, ``json`` for machines."""
