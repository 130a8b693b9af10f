"""A fake registry on a real port, and clients of it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import grpc.aio
import pytest
from fake_service import FakeService

from splatmill import AsyncClient
from splatmill.v1 import reconstruction_pb2_grpc as rpc


@pytest.fixture
async def service() -> AsyncIterator[FakeService]:
    """The fake; its ``address`` is where it listens."""
    fake = FakeService()
    server = grpc.aio.server()
    rpc.add_ReconstructionServiceServicer_to_server(fake, server)
    fake.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    yield fake
    await server.stop(0)


@pytest.fixture
async def client(service: FakeService) -> AsyncIterator[AsyncClient]:
    """A client that gives up soon."""
    async with AsyncClient(service.address, patience=3.0) as connected:
        yield connected


@pytest.fixture
def photos() -> list[tuple[str, bytes]]:
    """Three photos: of no byte, of half a chunk, and of two chunks and a bit."""
    return [
        ("a.jpg", b""),
        ("b.jpg", bytes(range(256)) * 2048),
        ("c.jpg", b"0123456789abcdef" * 131_073),
    ]
