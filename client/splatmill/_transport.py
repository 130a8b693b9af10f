"""How channels are opened: plain or TLS; and what is shown with each call."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from splatmill.errors import Reason, SplatmillError

_ENVIRONMENT = {
    "ca": "SPLATMILL_TLS_CA",
    "cert": "SPLATMILL_TLS_CERT",
    "key": "SPLATMILL_TLS_KEY",
    "server_name": "SPLATMILL_TLS_SERVER_NAME",
}


@dataclass(frozen=True)
class Tls:
    """PEM files for TLS; without any the connection is plain."""

    ca: Path | None = None
    """Certificates of the authorities that vouch for the other side."""
    cert: Path | None = None
    """One's own certificate, with those between it and the authority."""
    key: Path | None = None
    """Its private key."""
    server_name: str = ""
    """The name in the server's certificate, where it is not the address's."""

    @staticmethod
    def from_environment() -> Tls:
        """``SPLATMILL_TLS_CA``, ``_CERT``, ``_KEY`` and ``_SERVER_NAME``."""
        given = {field: os.environ.get(name, "") for field, name in _ENVIRONMENT.items()}
        name = given.pop("server_name")
        return Tls(**{field: Path(text) if text else None for field, text in given.items()}, server_name=name)

    @property
    def is_used(self) -> bool:
        """Whether connections are to be encrypted."""
        return self.ca is not None or self.cert is not None


def open_channel(address: str, options: Sequence[tuple[str, Any]], tls: Tls) -> grpc.aio.Channel:
    """A channel, which connects when it is used.

    Raises:
        SplatmillError: A file cannot be read, or a certificate has no key (INVALID_OPTION).
    """
    if not tls.is_used:
        return grpc.aio.insecure_channel(address, options=options)
    if tls.server_name:
        options = [*options, ("grpc.ssl_target_name_override", tls.server_name)]
    return grpc.aio.secure_channel(address, channel_credentials(tls), options=options)


def channel_credentials(tls: Tls) -> grpc.ChannelCredentials:
    """What a client of TLS needs."""
    cert, key = own_certificate(tls)
    return grpc.ssl_channel_credentials(
        root_certificates=None if tls.ca is None else read_pem(tls.ca),
        private_key=key,
        certificate_chain=cert,
    )


def own_certificate(tls: Tls) -> tuple[bytes | None, bytes | None]:
    """Certificate and key, or neither."""
    if (tls.cert is None) != (tls.key is None):
        raise SplatmillError(
            Reason.INVALID_OPTION, "A certificate needs its key, and a key its certificate.",
            "Set both SPLATMILL_TLS_CERT and SPLATMILL_TLS_KEY, or neither.", field="SPLATMILL_TLS_CERT",
        )  # fmt: skip
    if tls.cert is None or tls.key is None:
        return None, None
    return read_pem(tls.cert), read_pem(tls.key)


def read_pem(path: Path) -> bytes:
    """A file's bytes."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SplatmillError(
            Reason.INVALID_OPTION, f"{path} cannot be read: {error.strerror}.",
            "Name a PEM file that this user may read.", field="SPLATMILL_TLS",
        ) from error  # fmt: skip
    if b"-----BEGIN" not in data:
        raise SplatmillError(
            Reason.INVALID_OPTION, f"{path} is no PEM file.",
            "It has to begin with -----BEGIN.", field="SPLATMILL_TLS",
        )  # fmt: skip
    return data


class Authorized:
    """A stub whose calls carry a token.

    A wrapper, not an interceptor: intercepted streams of grpc.aio lose the status of a call
    that the server ends while the client writes.

    Args:
        stub: The generated stub.
        token: Answers the token of the moment; empty for none.
        trace: Answers the traceparent of the moment; empty for none.
    """

    def __init__(self, stub: Any, token: Callable[[], str], trace: Callable[[], str] = str) -> None:
        self._stub = stub
        self._token = token
        self._trace = trace

    def __getattr__(self, name: str) -> Callable[..., Any]:
        """The stub's method of that name."""
        method = getattr(self._stub, name)

        def call(*arguments: Any, **named: Any) -> Any:
            metadata = [*named.get("metadata", ())]
            if token := self._token():
                metadata.append(("authorization", f"Bearer {token}"))
            if trace := self._trace():
                metadata.append(("traceparent", trace))
            if metadata:
                named["metadata"] = tuple(metadata)
            return method(*arguments, **named)

        return call


def bearer_token(context: Any) -> str:
    """What a call that came in holds as ``authorization: Bearer ...``; empty without one."""
    for key, value in context.invocation_metadata() or ():
        if key == "authorization" and isinstance(value, str):
            return parse_bearer(value)
    return ""


def parse_bearer(value: str) -> str:
    """The token of an authorization header; empty when it is none of that kind."""
    scheme, _, token = value.partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""
