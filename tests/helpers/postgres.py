"""A real PostgreSQL for tests: a server of its own in a temporary folder."""

from __future__ import annotations

import contextlib
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg

from tests.conftest import free_ports

_USER = "splatmill"
_DIE_WITH_PARENT = ("setpriv", "--pdeathsig", "QUIT")
_START_SECONDS = 30.0
# In tests nothing must survive a power cut. Commits are synchronous all the same: a server that
# is killed would otherwise forget what it has confirmed.
_UNSAFE = {"fsync": "off", "full_page_writes": "off"}
_SETTINGS = {
    "shared_buffers": "32MB",
    "max_connections": "200",
    "listen_addresses": "127.0.0.1",
}


def find_binaries() -> Path | None:
    """Folder of ``initdb`` and ``postgres``, the newest there is."""
    named = os.environ.get("SPLATMILL_TEST_POSTGRES")
    candidates = [Path(named)] if named else []
    candidates += sorted(
        Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name), reverse=True
    )
    in_path = shutil.which("initdb")
    candidates += [Path(in_path).resolve().parent] if in_path else []
    return next((path for path in candidates if (path / "initdb").exists()), None)


def _owner() -> str | None:
    """Whom the server runs as when we are root, which it refuses to be."""
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"


class Postgres:
    """A server that can be stopped and started again on the same port.

    Args:
        binaries: Folder of PostgreSQL's programs.
        safe: Whether commits wait for the disk, as they do in earnest.
    """

    def __init__(self, binaries: Path, safe: bool = False) -> None:
        self._binaries = binaries
        self._settings = _SETTINGS if safe else {**_SETTINGS, **_UNSAFE}
        self._owner = _owner()
        self.folder = Path(tempfile.mkdtemp(prefix="splatmill-postgres-"))
        (self.port,) = free_ports(1)
        self._process: subprocess.Popen[bytes] | None = None
        if self._owner:
            shutil.chown(self.folder, self._owner)
        command = ["initdb", "--pgdata", str(self.folder / "data"), "--username", _USER, "--auth", "trust"]
        self._run([*command, "--encoding", "UTF8", "--no-locale", "--no-sync", "--no-instructions"])
        self.start()

    def url(self, database: str = "postgres") -> str:
        """A database's URL, as an operator would write it."""
        return f"postgresql://{_USER}@127.0.0.1:{self.port}/{database}"

    def create_database(self) -> str:
        """Makes an empty database; answers its URL."""
        name = f"test_{secrets.token_hex(4)}"
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return self.url(name)

    def start(self) -> None:
        """Starts the server and waits until it answers."""
        options = [part for key, value in self._settings.items() for part in ("-c", f"{key}={value}")]
        options += ["-c", f"unix_socket_directories={self.folder}", "-p", str(self.port)]
        with (self.folder / "log").open("ab") as output:
            self._process = subprocess.Popen(
                [*_DIE_WITH_PARENT, self._binaries / "postgres", "-D", self.folder / "data", *options],
                user=self._owner, group=self._group, extra_groups=None if self._owner is None else [],
                stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=self.folder,
            )  # fmt: skip
        deadline = time.monotonic() + _START_SECONDS
        while True:
            with contextlib.suppress(psycopg.OperationalError), psycopg.connect(self.url()):
                return
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"PostgreSQL did not start:\n{(self.folder / 'log').read_text()[-2000:]}")
            time.sleep(0.05)

    def stop(self, number: signal.Signals = signal.SIGINT) -> None:
        """Stops the server: SIGINT ends sessions, SIGQUIT is like a crash."""
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(30)
            self._process = None

    def close(self) -> None:
        """Stops the server and removes its folder."""
        self.stop(signal.SIGQUIT)
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def _group(self) -> int | None:
        return pwd.getpwnam(self._owner).pw_gid if self._owner else None

    def _run(self, command: list[str]) -> None:
        done = subprocess.run(
            [self._binaries / command[0], *command[1:]],
            user=self._owner, group=self._group, extra_groups=None if self._owner is None else [],
            cwd=self.folder, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"{command[0]} failed: {done.stderr}")


@contextlib.contextmanager
def running(safe: bool = False) -> Iterator[Postgres]:
    """A server for as long as the context lasts.

    Args:
        safe: Whether commits wait for the disk.

    Raises:
        FileNotFoundError: There is no PostgreSQL on this machine.
    """
    binaries = find_binaries()
    if binaries is None:
        raise FileNotFoundError(
            "no PostgreSQL on this machine; install it (Debian: apt-get install postgresql), "
            "or set SPLATMILL_TEST_POSTGRES to the folder of initdb"
        )
    server = Postgres(binaries, safe)
    try:
        yield server
    finally:
        server.close()
