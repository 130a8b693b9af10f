"""Finds processes of a running suite."""

from __future__ import annotations

from pathlib import Path


def stage_processes(pid: int) -> list[int]:
    """Processes that run a stage, among the children of a process and of theirs."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in map(int, (task / "children").read_text().split()):
            if b"services.common.child" in Path(f"/proc/{child}/cmdline").read_bytes():
                found.append(child)
            found += stage_processes(child)
    return found
