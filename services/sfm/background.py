"""Runs COLMAP's long calls in a thread, so that a stage can report while they work."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from typing import TypeVar

import pycolmap

from splatmill.errors import Reason, SplatmillError

T = TypeVar("T")

_POLL_SECONDS = 0.4


def watch(
    what: str, work: Callable[[pycolmap.CancellationToken], T], count: Callable[[], int]
) -> Generator[int, None, T]:
    """Runs ``work`` and yields how far it is.

    When the generator is closed before its end, the work is cancelled and waited for.

    Args:
        what: The work in words, for errors: "COLMAP failed to ...".
        work: Called in a thread with a token that COLMAP watches.
        count: Units done so far; called about twice a second.

    Yields:
        The count, whenever it has changed.

    Returns:
        What ``work`` returned.

    Raises:
        SplatmillError: COLMAP raised; memory errors are passed on as they are.
    """
    token = pycolmap.CancellationToken()
    results: list[T] = []
    failures: list[BaseException] = []

    def body() -> None:
        try:
            results.append(work(token))
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=body, name="colmap", daemon=True)
    thread.start()
    last = -1
    try:
        while thread.is_alive():
            thread.join(_POLL_SECONDS)
            now = count()
            if now != last:
                last = now
                yield now
    finally:
        if thread.is_alive():
            token.cancel()
            thread.join()
    if failures:
        raise _as_error(what, failures[0])
    return results[0]


def _as_error(what: str, error: BaseException) -> BaseException:
    if isinstance(error, (MemoryError, SplatmillError)):
        return error
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return SplatmillError(
        Reason.INTERNAL, f"COLMAP failed to {what}: {lines[0]}", "The service's log has the details."
    )
