"""What all tests share: where the real photos are, and free ports."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from services.common.cores import thread_environment

# As the stages' processes have it, and before a test imports torch, which reads it once: waiting
# threads that spin slow small trainings down by half, and by far more when other tests run beside them.
os.environ.update(thread_environment())

REPOSITORY = Path(__file__).resolve().parent.parent
PHOTOS = Path(os.environ.get("SPLATMILL_TEST_PHOTOS", REPOSITORY.parent / "shared" / "photos"))


@pytest.fixture(scope="session")
def real_photos() -> Path:
    """Folder of real photos, with ``sceaux`` and ``fox`` in it; skips where there is none."""
    if not (PHOTOS / "sceaux").is_dir():
        pytest.skip("no real photos beside the checkout; set SPLATMILL_TEST_PHOTOS to a folder of them")
    return PHOTOS


def free_ports(count: int) -> list[int]:
    """Ports that nothing listens on now, all different."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()
