"""What every service process reads from its environment.

Each service adds its own fields in its own ``settings.py``; all names carry the prefix
``SPLATMILL_`` in the environment.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, TypeVar

from pydantic import ValidationError, field_validator
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
        name = f"SPLATMILL_{'_'.join(map(str, first['loc']))}".upper()
        raise SplatmillError(
            Reason.INVALID_OPTION, f"{name} = {first['input']!r} cannot be used: {first['msg']}.",
            f"Change {name}, or unset it.", field=name,
        ) from error  # fmt: skip
