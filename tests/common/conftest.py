"""What the tests of the runtime share."""

from __future__ import annotations

import os

import pytest
from fake_registry import HERE, Bench

from services.common import child_process, lease


@pytest.fixture
async def bench(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setattr(child_process, "TERMINATE_SECONDS", 0.5)
    monkeypatch.setattr(lease, "REPORT_SECONDS", 0.1)
    made = Bench(tmp_path)
    await made.open()
    yield made
    await made.server.stop(0)
