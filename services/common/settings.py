"""What every service process reads from its environment.

Each service adds its own fields in its own ``settings.py``; all names carry the prefix
``SPLATMILL_`` in the environment.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, TypeVar

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from splatmill.errors import Reason, SplatmillError

SettingsT = TypeVar("SettingsT", bound="ServiceSettings")


class ServiceSettings(BaseSettings):
    """Settings that all services share."""

    model_config = SettingsConfigDict(env_prefix="SPLATMILL_", frozen=True, extra="ignore")

    data_dir: Path = Path("data")
    """Folder of the local artifact store."""
    grpc_host: str = "0.0.0.0"
    """Address that gRPC ports are opened on."""
    registry_address: str = "localhost:50051"
    """Where the registry's gRPC port is."""
    worker_token: str = ""
    """What workers show to the registry, and callers to a stage's own RPC; empty for nothing."""
    tls_cert: Path | None = None
    """This service's certificate, PEM: its gRPC port speaks TLS, and it shows it as a client."""
    tls_key: Path | None = None
    """The certificate's private key, PEM."""
    tls_ca: Path | None = None
    """Authorities that vouch for the other services, PEM."""
    tls_server_name: str = ""
    """Name in the registry's certificate, where it is not that of its address."""
    tls_require_client_cert: bool = False
    """Whether callers of the gRPC port must show a certificate of ``tls_ca`` (mutual TLS)."""
    metrics_port: int = Field(default=0, ge=0, le=65535)
    """HTTP port of /metrics, /healthz and /readyz; 0 for none."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """DEBUG, INFO, WARNING or ERROR."""
    log_format: Literal["text", "json"] = "text"
    """``text`` for people, ``json`` for machines."""

    @field_validator("log_level", mode="before")
    @classmethod
    def _upper(cls, value: object) -> object:
        return value.upper() if isinstance(value, str) else value


def load_settings(model: type[SettingsT]) -> SettingsT:
    """Reads settings from the environment.

    Raises:
        SplatmillError: A value is not usable (INVALID_OPTION); it names the variable.
    """
    try:
        return model()
    except ValidationError as error:
        first = error.errors()[0]
        why = first["msg"].removeprefix("Value error, ")
        name = f"SPLATMILL_{'_'.join(map(str, first['loc']))}".upper()
        raise SplatmillError(
            Reason.INVALID_OPTION, f"{name} = {first['input']!r} cannot be used: {why}.",
            f"Change {name}, or unset it.", field=name,
        ) from error  # fmt: skip
