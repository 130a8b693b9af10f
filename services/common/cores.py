"""How many cores a process may really use."""

from __future__ import annotations

import os
from pathlib import Path

_CGROUP_LIMIT = Path("/sys/fs/cgroup/cpu.max")
_THREAD_COUNTS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
_WAITING = {"OMP_WAIT_POLICY": "passive", "NUMBA_THREADING_LAYER_PRIORITY": "omp tbb workqueue"}


def usable_cores(cgroup_limit: Path = _CGROUP_LIMIT) -> int:
    """Cores that the scheduler gives to this process.

    A container sees every core of its host, and is stopped for the rest of each period
    when it uses more than its quota; so the quota counts as well as the affinity.

    Args:
        cgroup_limit: File with "quota period" in microseconds, or "max period".

    Returns:
        At least 1.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = cgroup_limit.read_text(encoding="ascii").split()
        if quota != "max":
            cores = min(cores, -(-int(quota) // int(period)))
    except (OSError, ValueError):
        pass  # no cgroup v2 here, so no quota
    return max(1, cores)


def thread_environment() -> dict[str, str]:
    """Environment that keeps numeric libraries to the usable cores; what is set already wins.

    Waiting threads must sleep: spinning ones would take the cores from the other libraries of
    the same stage, and from other stages. OpenMP's can be told so, TBB's, numba's own choice, not:
    with a second process beside it a training of small pictures took 2.7 times as long.
    """
    threads = str(usable_cores())
    wanted = {name: threads for name in _THREAD_COUNTS} | _WAITING
    return {name: os.environ.get(name, value) for name, value in wanted.items()}
