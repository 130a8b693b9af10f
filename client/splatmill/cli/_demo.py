"""The whole main job on this machine, from nothing to the viewer."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from splatmill import Client
from splatmill.cli._display import Display, make_display
from splatmill.cli._session import Failure
from splatmill.cli.jobs import conclude, follow
from splatmill.cli.suite import require_services
from splatmill.sample import CAMERAS_FILE, write_capture

_START_SECONDS = 90.0
_STOP_SECONDS = 35.0
_LOG_NAME = "suite.log"


def run_demo(server: str, photos_dir: Path | None, leave: bool, base_url: str) -> None:
    """Starts the suite if nothing answers, submits photos, shows progress, keeps serving.

    Args:
        server: The registry's address.
        photos_dir: The photos; None to make a sample.
        leave: End when the splat is done.
        base_url: Of the gateway.
    """
    data_dir = Path(os.environ.get("SPLATMILL_DATA_DIR") or "data")
    with contextlib.ExitStack() as stack:
        stack.enter_context(_terminable())
        client = stack.enter_context(Client(server))
        suite = None if client.ready(1.0) else stack.enter_context(_Suite.started(data_dir, base_url))
        try:
            with make_display() as display:
                photos = photos_dir or _sample(data_dir / "sample", display)
                if suite is not None:
                    suite.wait_ready(client, display)
                job = client.create_job(
                    photos, title=f"Demo: {photos.name}", on_upload_progress=display.upload
                )
                job = follow(client, job.job_id, 0, display)
            conclude(job)
            if suite is not None and not leave:
                click.echo("Serving until Ctrl-C.")
                suite.wait()
        except KeyboardInterrupt:
            click.echo("Stopping.")


def _sample(folder: Path, display: Display) -> Path:
    """The sample photos; those of an earlier demo are used again."""
    if (folder / CAMERAS_FILE).is_file():
        display.say(f"sample photos are in {folder}")
        return folder

    def tell(done: int, total: int) -> None:
        display.bar("sample", done / total, f"{done}/{total}, in {folder}")

    write_capture(folder, on_progress=tell)
    return folder


class _Suite:
    """The five services under their supervisor, their log in a file."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path, base_url: str) -> None:
        self._process = process
        self._log = log
        self._base_url = base_url

    @classmethod
    @contextlib.contextmanager
    def started(cls, data_dir: Path, base_url: str) -> Iterator[_Suite]:
        """Starts the services and stops them at the end."""
        require_services()
        data_dir.mkdir(parents=True, exist_ok=True)
        log = data_dir / _LOG_NAME
        click.echo(f"Starting the suite; its log is {log}")
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "splatmill.cli._suite_process"],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is ours to pass on
            )
        try:
            yield cls(process, log, base_url)
        finally:
            _stop(process)

    def wait_ready(self, client: Client, display: Display) -> None:
        """Returns when gateway and registry answer."""
        deadline = time.monotonic() + _START_SECONDS
        while not (_answers(f"{self._base_url}/readyz") and client.ready(1.0)):
            if self._process.poll() is not None:
                raise Failure("The suite could not start.", f"Its last words: {self._last_words()}")
            if time.monotonic() > deadline:
                raise Failure(
                    f"The suite does not answer at {self._base_url}.", f"Its log {self._log} says why."
                )
            time.sleep(0.2)
        display.say(f"the suite is ready at {self._base_url}")

    def wait(self) -> None:
        """Returns never, unless the suite ends by itself."""
        status = self._process.wait()
        raise Failure(f"The suite ended with status {status}.", f"Its last words: {self._last_words()}")

    def _last_words(self) -> str:
        lines = self._log.read_text(errors="replace").strip().splitlines()
        return " / ".join(lines[-3:]) or f"none; see {self._log}"


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Ctrl-C for the supervisor, which stops its services."""
    if process.poll() is not None:
        return
    process.send_signal(signal.SIGINT)
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()  # the services die with it
        process.wait()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2):
            return True
    except (OSError, urllib.error.HTTPError):
        return False


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Treats SIGTERM as Ctrl-C, so that the suite is stopped either way."""

    def interrupt(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
