"""All five services on one machine: started together, logged together, stopped together."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import os
import signal
import socket
import sys
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from splatmill._transport import Tls, open_channel

STOP_SECONDS = 26.0  # a worker ends its stage (child_process.TERMINATE_SECONDS), then gives the task back
REGISTRY_STOP_SECONDS = 5.0
START_SECONDS = 60.0
MAX_BACKOFF_SECONDS = 30.0
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Service:
    """A service of the suite."""

    name: str
    """Its folder below ``services``."""
    port_variable: str
    """Environment variable of its port."""
    default_port: int
    color: int
    """ANSI colour of its log prefix."""

    @property
    def port(self) -> int:
        """The port in force."""
        return _port_setting(self.port_variable, self.default_port)

    @property
    def metrics_port(self) -> int:
        """The one of its figures, 0 for none: from the one that is set on, each service has its own."""
        first = _port_setting("SPLATMILL_METRICS_PORT", 0, last=65536 - len(SERVICES))
        return first + SERVICES.index(self) if first else 0


SERVICES = (
    Service("registry", "SPLATMILL_REGISTRY_PORT", 50051, 33),
    Service("sfm", "SPLATMILL_SFM_PORT", 50052, 32),
    Service("trainer", "SPLATMILL_TRAINER_PORT", 50053, 35),
    Service("postproc", "SPLATMILL_POSTPROC_PORT", 50054, 36),
    Service("gateway", "SPLATMILL_PORT", 8000, 34),
)


class PortInUse(Exception):
    """A port that a service needs is taken, or is none; the text says which setting changes it."""


def _port_setting(variable: str, default: int, last: int = 65535) -> int:
    text = os.environ.get(variable) or str(default)
    if not (text.isdecimal() and int(text[:9]) <= last):
        raise PortInUse(f"{variable} = {text!r} is no port: set a number up to {last}, or unset it.")
    return int(text[:9])


def main(argv: list[str] | None = None) -> int:
    """Runs the suite until Ctrl-C.

    Args:
        argv: Arguments without the program's name; those of the process when None.

    Returns:
        Exit status: 0 after a clean stop, 1 when the suite could not start.
    """
    parser = argparse.ArgumentParser(prog="splatmill up", description="Start all services on this machine.")
    parser.add_argument("--data-dir", type=Path, help="folder of jobs and database (default: data)")
    parser.add_argument("--port", type=int, help="HTTP port of the gateway (default: 8000)")
    arguments = parser.parse_args(argv)
    if arguments.data_dir is not None:
        os.environ["SPLATMILL_DATA_DIR"] = str(arguments.data_dir)
    if arguments.port is not None:
        os.environ["SPLATMILL_PORT"] = str(arguments.port)
    try:
        return asyncio.run(Supervisor().run())
    except PortInUse as error:
        sys.stderr.write(f"{error}\n")
        return 1


def base_url() -> str:
    """Where a browser on this machine finds the suite."""
    return os.environ.get("SPLATMILL_BASE_URL") or f"http://localhost:{SERVICES[-1].port}"


@dataclass
class _Child:
    service: Service
    process: asyncio.subprocess.Process | None = None
    restarts: int = 0
    started: float = 0.0
    tasks: list[asyncio.Task[None]] = field(default_factory=list)


async def _end(children: list[_Child], seconds: float) -> bool:
    """Tells services to end; answers whether all have within the time."""
    _signal(children, signal.SIGTERM)
    waits = [child.process.wait() for child in children if child.process is not None]
    try:
        await asyncio.wait_for(asyncio.gather(*waits), seconds)
    except TimeoutError:
        return False
    return True


def _signal(children: list[_Child], number: int) -> None:
    """Signals services; SIGKILL goes to their whole process groups."""
    for child in children:
        if child.process is None:
            continue
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if number == signal.SIGKILL:
                os.killpg(child.process.pid, number)
            elif child.process.returncode is None:
                child.process.send_signal(number)


class Supervisor:
    """Starts, watches and stops the services."""

    def __init__(self) -> None:
        self._children = [_Child(service) for service in SERVICES]
        self._stopping = asyncio.Event()
        self._interrupts = 0
        self._color = sys.stdout.isatty() and "NO_COLOR" not in os.environ

    async def run(self) -> int:
        """Runs until SIGINT or SIGTERM.

        Raises:
            PortInUse: Before anything is started.
        """
        check_ports()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._interrupt)
        watchers = [asyncio.create_task(self._keep_running(child)) for child in self._children]
        announcer = asyncio.create_task(self._announce())
        try:
            await self._stopping.wait()
        finally:
            announcer.cancel()
            await self._stop()
            for watcher in watchers:
                watcher.cancel()
            await asyncio.gather(announcer, *watchers, return_exceptions=True)
        self._say("stopped")
        return 0

    def _interrupt(self) -> None:
        self._interrupts += 1
        if self._interrupts == 1:
            self._say("stopping (Ctrl-C again to kill)")
            self._stopping.set()
        else:
            _signal(self._children, signal.SIGKILL)

    async def _keep_running(self, child: _Child) -> None:
        """Starts a service, and again whenever it ends without being told to."""
        while not self._stopping.is_set():
            child.started = time.monotonic()
            child.process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", f"services.{child.service.name}",
                stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
                env=_environment(child.service), start_new_session=True, preexec_fn=_die_with_parent,
            )  # fmt: skip
            await self._forward_log(child)
            status = await child.process.wait()
            if self._stopping.is_set():
                return
            if time.monotonic() - child.started > 60:
                child.restarts = 0
            child.restarts += 1
            pause = min(MAX_BACKOFF_SECONDS, 0.5 * 2**child.restarts)
            self._say(f"{child.service.name} ended with status {status}; starting it again in {pause:.0f} s")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause)

    async def _forward_log(self, child: _Child) -> None:
        assert child.process is not None and child.process.stdout is not None
        while True:
            try:
                line = await child.process.stdout.readline()
            except ValueError:  # a line longer than the buffer
                continue
            if not line:
                return
            self._line(child.service.name, line.decode(errors="replace").rstrip(), child.service.color)

    async def _announce(self) -> None:
        """Says where the suite is once every service answers."""
        deadline = time.monotonic() + START_SECONDS
        for service in SERVICES:
            while not await _healthy(service):
                if time.monotonic() > deadline:
                    self._say(f"{service.name} does not answer on port {service.port}; see its lines above")
                    return
                await asyncio.sleep(0.2)
        self._say(f"ready: open {base_url()}")

    async def _stop(self) -> None:
        """Ends the registry last: until then workers give their tasks back."""
        registry, *others = self._children
        in_time = [await _end(others, STOP_SECONDS), await _end([registry], REGISTRY_STOP_SECONDS)]
        if not all(in_time):
            self._say("some services did not stop in time and are killed")
        _signal(self._children, signal.SIGKILL)
        await asyncio.gather(*(child.process.wait() for child in self._children if child.process is not None))

    def _say(self, text: str) -> None:
        self._line("splatmill", text, 1)

    def _line(self, name: str, text: str, color: int) -> None:
        prefix = f"{name:<9} |"
        if self._color:
            prefix = f"\033[{color}m{prefix}\033[0m"
        sys.stdout.write(f"{prefix} {text}\n")
        sys.stdout.flush()


def check_ports() -> None:
    """Raises PortInUse when a port of the suite is taken."""
    for service in SERVICES:
        _check_port(service.name, service.port, service.port_variable)
        if service.metrics_port:
            _check_port(f"metrics of {service.name}", service.metrics_port, "SPLATMILL_METRICS_PORT")


def _check_port(name: str, port: int, variable: str) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            raise PortInUse(
                f"Port {port} ({name}) is in use: is Splatmill running already? "
                f"Stop what uses it, or set {variable} to another port."
            ) from None


def _environment(service: Service) -> dict[str, str]:
    """A service's environment: gRPC on this machine only, unless told otherwise."""
    registry = SERVICES[0]
    return {
        "SPLATMILL_GRPC_HOST": "127.0.0.1",
        "SPLATMILL_REGISTRY_ADDRESS": f"127.0.0.1:{registry.port}",
        "PYTHONUNBUFFERED": "1",
        **os.environ,
        "SPLATMILL_METRICS_PORT": str(service.metrics_port),
    }


def _die_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


async def _healthy(service: Service) -> bool:
    if service.name == "gateway":
        return await asyncio.to_thread(_ready_over_http, service.port)
    async with open_channel(f"127.0.0.1:{service.port}", (), Tls.from_environment()) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        try:
            answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=2)
        except grpc.aio.AioRpcError:
            return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def _ready_over_http(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=2):
            return True
    except OSError:
        return False


if __name__ == "__main__":
    raise SystemExit(main())
