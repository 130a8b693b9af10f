"""Settings of the gateway."""

from __future__ import annotations

from pathlib import Path

from services.common.settings import ServiceSettings


class GatewaySettings(ServiceSettings):
    """What the gateway reads from its environment."""

    host: str = "0.0.0.0"
    """Address that the HTTP port is opened on."""
    port: int = 8000
    """HTTP port."""
    base_url: str = ""
    """Where people reach the gateway, such as ``https://splats.example.org``; empty: as each request says."""
    web_dir: Path = Path(__file__).parent / "web" / "dist"
    """The built front end."""
