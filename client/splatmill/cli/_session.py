"""What the commands share: a connected client, errors for people, the viewer's address."""

from __future__ import annotations

import contextlib
import functools
import json
import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

if TYPE_CHECKING:
    from splatmill import Client
    from splatmill.errors import SplatmillError

CONNECT_SECONDS = 3.0

_F = TypeVar("_F", bound=Callable[..., Any])


class Failure(click.ClickException):
    """Ends the command with status 1: what happened, and what to do."""

    def __init__(self, message: str, remedy: str = "", reason: str = "") -> None:
        super().__init__(message)
        self.remedy = remedy
        self.reason = reason

    def show(self, file: Any = None) -> None:
        """Writes to stderr."""
        heading = f"Error {self.reason}:" if self.reason else "Error:"
        click.echo(f"{click.style(heading, fg='red', bold=True)} {self.message}", err=True)
        if self.remedy:
            click.echo(f"{click.style('What to do:', bold=True)} {self.remedy}", err=True)


def failure_of(error: SplatmillError) -> Failure:
    """The error in the command line's form."""
    return Failure(error.message, error.remedy, str(error.reason))


def shows_errors(command: _F) -> _F:
    """Turns the client's errors into the command line's."""

    @functools.wraps(command)
    def wrapper(*arguments: Any, **named: Any) -> Any:
        from splatmill.errors import SplatmillError  # noqa: PLC0415

        try:
            return command(*arguments, **named)
        except SplatmillError as error:
            raise failure_of(error) from None

    return cast("_F", wrapper)


@contextlib.contextmanager
def connected(server: str) -> Iterator[Client]:
    """A client of a server that answers."""
    from splatmill import Client  # noqa: PLC0415

    with Client(server) as client:
        if not client.ready(CONNECT_SECONDS):
            raise Failure(
                f"Nothing answers at {server}.",
                "Start the suite with: splatmill up  (or name another server with --server).",
                "UNAVAILABLE",
            )
        yield client


def default_server() -> str:
    """The registry's address: from the environment, or where `splatmill up` has it."""
    port = os.environ.get("SPLATMILL_REGISTRY_PORT") or "50051"
    return os.environ.get("SPLATMILL_REGISTRY_ADDRESS") or f"localhost:{port}"


def base_url() -> str:
    """Where a browser finds the gateway."""
    port = os.environ.get("SPLATMILL_PORT") or "8000"
    return (os.environ.get("SPLATMILL_BASE_URL") or f"http://localhost:{port}").rstrip("/")


def viewer_url(pub_key: str) -> str:
    """The viewer of a scene."""
    return f"{base_url()}/v/{pub_key}"


def parse_options(pairs: tuple[str, ...]) -> dict[str, str]:
    """``("iterations=3000",)`` as a mapping."""
    parsed = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name.strip():
            raise click.BadParameter(f"{pair!r} is not NAME=VALUE", param_hint="--option")
        parsed[name.strip()] = value.strip()
    return parsed


def print_json(*messages: Any) -> None:
    """Protobuf messages as one JSON object, with the protos' names."""
    from google.protobuf.json_format import MessageToDict  # noqa: PLC0415

    merged: dict[str, Any] = {}
    for message in messages:
        merged |= MessageToDict(message, preserving_proto_field_name=True)
    click.echo(json.dumps(merged, indent=2))


def duration(seconds: float) -> str:
    """``2 min 05 s``."""
    whole = max(0, round(seconds))
    minutes, seconds = divmod(whole, 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"
