"""Certificates of a gRPC port; new ones are taken up without a restart."""

from __future__ import annotations

import logging
from pathlib import Path

import grpc

from services.common.settings import ServiceSettings
from splatmill._transport import Tls, own_certificate, read_pem
from splatmill.errors import Reason, SplatmillError

log = logging.getLogger(__name__)


def tls_of(settings: ServiceSettings) -> Tls:
    """The files that the settings name."""
    return Tls(settings.tls_ca, settings.tls_cert, settings.tls_key, settings.tls_server_name)


def server_credentials(settings: ServiceSettings) -> grpc.ServerCredentials | None:
    """What a port needs for TLS; None where it is plain.

    Raises:
        SplatmillError: The settings do not fit together, or a file cannot be read (INVALID_OPTION).
    """
    tls = tls_of(settings)
    if settings.tls_require_client_cert and (tls.cert is None or tls.ca is None):
        raise SplatmillError(
            Reason.INVALID_OPTION, "Client certificates cannot be asked for without TLS.",
            "Set SPLATMILL_TLS_CERT, SPLATMILL_TLS_KEY and SPLATMILL_TLS_CA too.",
            field="SPLATMILL_TLS_REQUIRE_CLIENT_CERT",
        )  # fmt: skip
    if tls.cert is None and tls.key is None:
        return None
    source = _Certificates(tls, settings.tls_require_client_cert)
    return grpc.dynamic_ssl_server_credentials(
        source.current,
        source.fetch,  # type: ignore[arg-type]  # the stubs do not know that None keeps the old ones
        require_client_authentication=settings.tls_require_client_cert,
    )


class _Certificates:
    """The files as they are now."""

    def __init__(self, tls: Tls, ask_clients: bool) -> None:
        self._tls = tls
        self._ask_clients = ask_clients
        self._paths = [path for path in (tls.ca, tls.cert, tls.key) if path is not None]
        self.current = self._read()
        self._changed = _changes(self._paths)

    def fetch(self) -> grpc.ServerCertificateConfiguration | None:
        """New certificates, or None while they are the old ones; gRPC asks at every connection."""
        try:
            changed = _changes(self._paths)
            if changed == self._changed:
                return None
            fresh = self._read()
        except (OSError, SplatmillError) as error:
            log.warning("the new certificates cannot be used; the old ones stay: %s", error)
            return None
        self._changed = changed
        log.info("new certificates are in use")
        return fresh

    def _read(self) -> grpc.ServerCertificateConfiguration:
        cert, key = own_certificate(self._tls)
        assert cert is not None and key is not None
        roots = read_pem(self._tls.ca) if self._ask_clients and self._tls.ca is not None else None
        return grpc.ssl_server_certificate_configuration([(key, cert)], root_certificates=roots)


def _changes(paths: list[Path]) -> list[int]:
    return [path.stat().st_mtime_ns for path in paths]
