"""TLS on gRPC ports: encrypted, mutual, renewed; and the token of the suite."""

from __future__ import annotations

import os
import time

import grpc
import grpc.aio
import pytest
import trustme

from services.common.grpc_server import Server
from services.common.settings import ServiceSettings
from services.common.tls import server_credentials
from splatmill import AsyncClient
from splatmill._transport import Tls, open_channel
from splatmill.errors import Reason, SplatmillError

_SERVICE = "grpc.health.v1.Health"


@pytest.fixture
def authority(tmp_path):
    made = trustme.CA()
    made.cert_pem.write_to_path(tmp_path / "ca.pem")
    return made


def issue(authority: trustme.CA, folder, name: str) -> Tls:
    """A certificate for this machine and its key, in files."""
    folder.mkdir(exist_ok=True)
    made = authority.issue_cert("localhost", "127.0.0.1", common_name=name)
    made.cert_chain_pems[0].write_to_path(folder / "cert.pem")
    made.private_key_pem.write_to_path(folder / "key.pem")
    ca = folder / "ca.pem"
    authority.cert_pem.write_to_path(ca)
    return Tls(ca, folder / "cert.pem", folder / "key.pem")


def settings_of(tls: Tls, **more) -> ServiceSettings:
    return ServiceSettings(tls_ca=tls.ca, tls_cert=tls.cert, tls_key=tls.key, **more)


async def serve(settings: ServiceSettings) -> tuple[Server, int]:
    server = Server(server_credentials(settings))
    return server, await server.start("127.0.0.1", 0)


async def reaches(port: int, tls: Tls) -> bool:
    from grpc_health.v1 import health_pb2, health_pb2_grpc  # noqa: PLC0415

    async with open_channel(f"127.0.0.1:{port}", (), tls) as channel:
        try:
            await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=2)
        except grpc.aio.AioRpcError:
            return False
        return True


async def test_encrypted(authority, tmp_path):
    own = issue(authority, tmp_path / "server", "server")
    server, port = await serve(settings_of(own))
    assert await reaches(port, Tls(ca=own.ca))
    assert not await reaches(port, Tls())
    strange = issue(trustme.CA(), tmp_path / "strange", "other")
    assert not await reaches(port, Tls(ca=strange.ca))
    await server.stop(0)


async def test_mutual(authority, tmp_path):
    own = issue(authority, tmp_path / "server", "server")
    worker = issue(authority, tmp_path / "worker", "worker")
    server, port = await serve(settings_of(own, tls_require_client_cert=True))
    assert await reaches(port, worker)
    assert not await reaches(port, Tls(ca=own.ca)), "a caller without a certificate"
    strange = issue(trustme.CA(), tmp_path / "strange", "other")
    assert not await reaches(port, Tls(own.ca, strange.cert, strange.key))
    await server.stop(0)


async def test_renewed_without_a_restart(authority, tmp_path):
    own = issue(authority, tmp_path / "server", "server")
    server, port = await serve(settings_of(own))
    new_authority = trustme.CA()
    time.sleep(0.01)
    renewed = issue(new_authority, tmp_path / "server", "server")
    assert await reaches(port, Tls(ca=renewed.ca))
    (tmp_path / "server" / "cert.pem").write_text("rubbish")
    assert await reaches(port, Tls(ca=renewed.ca)), "an unusable file changes nothing"
    await server.stop(0)


async def test_another_name(authority, tmp_path):
    made = authority.issue_cert("registry.splatmill.svc")
    folder = tmp_path
    made.cert_chain_pems[0].write_to_path(folder / "cert.pem")
    made.private_key_pem.write_to_path(folder / "key.pem")
    server, port = await serve(
        ServiceSettings(tls_cert=folder / "cert.pem", tls_key=folder / "key.pem", tls_ca=folder / "ca.pem")
    )
    assert not await reaches(port, Tls(ca=folder / "ca.pem"))
    assert await reaches(port, Tls(ca=folder / "ca.pem", server_name="registry.splatmill.svc"))
    await server.stop(0)


async def test_the_client_finds_its_files_in_the_environment(authority, tmp_path, monkeypatch):
    own = issue(authority, tmp_path / "server", "server")
    server, port = await serve(settings_of(own))
    monkeypatch.setenv("SPLATMILL_TLS_CA", str(own.ca))
    async with AsyncClient(f"127.0.0.1:{port}") as client:
        assert await client.ready()
    monkeypatch.setenv("SPLATMILL_TLS_CA", str(tmp_path / "nowhere.pem"))
    with pytest.raises(SplatmillError, match="cannot be read"):
        AsyncClient(f"127.0.0.1:{port}")
    await server.stop(0)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"tls_cert": "cert"}, "needs its key"),
        ({"tls_cert": "nothing", "tls_key": "key"}, "cannot be read"),
        ({"tls_cert": "text", "tls_key": "key"}, "no PEM"),
        ({"tls_require_client_cert": True}, "without TLS"),
    ],
)
def test_settings_that_do_not_fit(authority, tmp_path, given, words):
    own = issue(authority, tmp_path / "own", "server")
    text = tmp_path / "text"
    text.write_text("hello")
    paths = {"cert": own.cert, "key": own.key, "text": text, "nothing": tmp_path / "nothing"}
    values = {name: paths.get(value, value) for name, value in given.items()}
    with pytest.raises(SplatmillError, match=words) as caught:
        server_credentials(ServiceSettings(**values))
    assert caught.value.reason is Reason.INVALID_OPTION
    assert not os.environ.get("SPLATMILL_TLS_CERT")
