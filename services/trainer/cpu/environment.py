"""What must be set before numba is imported: where compiled kernels are kept, how threads wait.

Import this module first in every module that imports numba.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path


def usable_cores() -> int:
    """Cores that this process may use: its affinity, less where a container's quota is smaller."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        return cores
    return cores if quota == "max" else max(1, min(cores, round(int(quota) / int(period))))


def _cache_dir() -> Path:
    """A writable folder for compiled kernels, one for each version of these sources.

    numba notices changes of a kernel's own file only, not of the helpers it uses: so the
    folder's name is a hash of all of them.
    """
    digest = hashlib.sha256()
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.read_bytes())
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    for base in (home / "splatmill", Path(tempfile.gettempdir()) / f"splatmill-{os.getuid()}"):
        folder = base / "numba" / digest.hexdigest()[:16]
        try:
            folder.mkdir(parents=True, exist_ok=True)
            probe = folder / f".probe-{os.getpid()}"
            probe.touch()
            probe.unlink()
        except OSError:
            continue
        return folder
    return Path(tempfile.mkdtemp(prefix="splatmill-numba-"))


if "NUMBA_CACHE_DIR" not in os.environ:
    os.environ["NUMBA_CACHE_DIR"] = str(_cache_dir())
# Waiting threads that spin would take the cores from torch and from COLMAP.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("NUMBA_NUM_THREADS", str(usable_cores()))
CACHE_DIR = Path(os.environ["NUMBA_CACHE_DIR"])
