"""What must be set before numba is imported: where compiled kernels are kept, how threads wait.

Import this module first in every module that imports numba.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

from services.common.cores import thread_environment


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
os.environ.update(thread_environment())
CACHE_DIR = Path(os.environ["NUMBA_CACHE_DIR"])
