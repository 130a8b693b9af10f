"""The supervisor as the demo's child: ends when the demo does, however that ends."""

from __future__ import annotations

import ctypes
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> int:
    """Runs the supervisor; on Linux the kernel stops it when its parent dies."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    from services.common import supervisor  # noqa: PLC0415

    return supervisor.main([])


if __name__ == "__main__":
    sys.exit(main())
