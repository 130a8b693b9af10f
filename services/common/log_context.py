"""What log lines are about: a job, a task, an attempt, a worker, a trace."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from contextvars import ContextVar

FIELDS = ("job_id", "task_id", "stage", "attempt", "worker_id", "trace_id")
"""What JSON lines have besides the message, where it is known."""

_MAX_ID = 128  # callers may write anything

_CONTEXT: ContextVar[Mapping[str, object]] = ContextVar("log_context", default={})  # noqa: B039  (never changed)


@contextlib.contextmanager
def about(**fields: object) -> Iterator[None]:
    """Lines that are logged inside are about these, besides what they are about already."""
    reset = _CONTEXT.set({**_CONTEXT.get(), **{name: value for name, value in fields.items() if value}})
    try:
        yield
    finally:
        _CONTEXT.reset(reset)


def adopt(**fields: object) -> None:
    """Lines that this asyncio task logs from now on are about these; for one that ends with its subject."""
    _CONTEXT.set({**_CONTEXT.get(), **{name: value for name, value in fields.items() if value}})


def adopt_request(request: object) -> None:
    """Lines of an RPC are about what its request names."""
    found = {name: getattr(request, name, "") for name in ("job_id", "worker_id", "lease_token")}
    texts = {name: value[:_MAX_ID] for name, value in found.items() if isinstance(value, str)}
    # A lease token begins with its task's id; the rest of it is a secret.
    adopt(task_id=texts.pop("lease_token", "").partition("-")[0], **texts)


def current() -> dict[str, object]:
    """What lines are about now; for another process to go on with."""
    return dict(_CONTEXT.get())
