"""A suite of real processes that are killed at random and started again."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.conftest import REPOSITORY, free_ports
from tests.helpers.postgres import Postgres

RESTART_SECONDS = 0.3
_PORTS = {
    "registry": "SPLATMILL_REGISTRY_PORT",
    "sfm": "SPLATMILL_SFM_PORT",
    "trainer": "SPLATMILL_TRAINER_PORT",
    "postproc": "SPLATMILL_POSTPROC_PORT",
    "gateway": "SPLATMILL_PORT",
}


@dataclass
class Part:
    """A process of the suite."""

    service: str
    port: int
    process: subprocess.Popen[bytes] | None = None
    starts: int = 0
    ended_at: float = 0.0


@dataclass
class Trouble:
    """Processes, their folder, and what has been done to them."""

    folder: Path
    database_url: str
    settings: dict[str, str]
    services: tuple[str, ...]
    metrics_ports: dict[str, int] = field(default_factory=dict)
    parts: list[Part] = field(default_factory=list)
    killed: Counter[str] = field(default_factory=Counter)
    _keeper: asyncio.Task[None] | None = None

    def __post_init__(self) -> None:
        ports = free_ports(len(self.services))
        self.parts = [Part(service, port) for service, port in zip(self.services, ports, strict=True)]

    @property
    def registries(self) -> list[str]:
        """Addresses of the replicas."""
        return [f"127.0.0.1:{part.port}" for part in self.parts if part.service == "registry"]

    @property
    def gateway_url(self) -> str:
        """Where the gateway is."""
        (port,) = [part.port for part in self.parts if part.service == "gateway"]
        return f"http://127.0.0.1:{port}"

    def start(self, part: Part) -> None:
        """Starts a process."""
        environment = {
            **os.environ,
            "SPLATMILL_HOST": "127.0.0.1",
            "SPLATMILL_GRPC_HOST": "127.0.0.1",
            "SPLATMILL_DATA_DIR": str(self.folder / "data"),
            "SPLATMILL_DATABASE_URL": self.database_url,
            "SPLATMILL_REGISTRY_ADDRESS": "ipv4:" + ",".join(self.registries),
            "SPLATMILL_MIN_FREE_BYTES": "0",
            "SPLATMILL_KEEP_FREE_BYTES": "0",
            **self.settings,
            "SPLATMILL_METRICS_PORT": str(self.metrics_ports.get(part.service, 0)),
            _PORTS[part.service]: str(part.port),
        }
        part.starts += 1
        with (self.folder / f"{part.service}-{part.port}.log").open("ab") as log:
            part.process = subprocess.Popen(
                [sys.executable, "-m", f"services.{part.service}"],
                cwd=REPOSITORY, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip

    async def keep(self) -> None:
        """Starts whatever has ended, after a pause."""
        while True:
            for part in self.parts:
                if part.process is not None and part.process.poll() is not None:
                    part.process, part.ended_at = None, time.monotonic()
                if part.process is None and time.monotonic() - part.ended_at > RESTART_SECONDS:
                    self.start(part)
            await asyncio.sleep(0.05)

    def kill(self, part: Part) -> bool:
        """SIGKILL; whether there was something to kill."""
        if part.process is None or part.process.poll() is not None:
            return False
        part.process.kill()
        part.process.wait()
        self.killed[part.service] += 1
        return True

    async def torment(self, seed: int, mean_seconds: float, kills: int, stop: asyncio.Event) -> None:
        """Kills one after another, in an order and at times that the seed decides."""
        dice = random.Random(seed)
        while self.killed.total() < kills:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), dice.expovariate(1 / mean_seconds))
                return
            self.kill(dice.choice(self.parts))

    def end(self) -> None:
        """Kills all, with their children."""
        for part in self.parts:
            if part.process is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(part.process.pid, signal.SIGKILL)
                part.process.wait()

    def logs(self) -> str:
        """The ends of all logs, for a failure's report."""
        texts = [f"== {path.name}\n{path.read_text()[-3000:]}" for path in sorted(self.folder.glob("*.log"))]
        return "\n".join(texts)


@contextlib.asynccontextmanager
async def in_trouble(
    folder: Path,
    database_url: str,
    services: tuple[str, ...],
    metrics_ports: dict[str, int] | None = None,
    **settings: str,
) -> AsyncIterator[Trouble]:
    """A suite whose processes are started again whenever they end."""
    folder.mkdir(exist_ok=True)
    trouble = Trouble(folder, database_url, settings, services, metrics_ports or {})
    for part in trouble.parts:
        trouble.start(part)
    keeper = asyncio.create_task(trouble.keep())
    try:
        yield trouble
    finally:
        keeper.cancel()
        await asyncio.gather(keeper, return_exceptions=True)
        trouble.end()


async def restart(server: Postgres, number: signal.Signals, pause: float) -> None:
    """PostgreSQL goes away and comes back."""
    await asyncio.to_thread(server.stop, number)
    await asyncio.sleep(pause)
    await asyncio.to_thread(server.start)
