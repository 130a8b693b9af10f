"""Progress of the whole stage from the progress of its steps."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from services.common.stage import Progress

_LAST = 0.995  # what is left is for the report and the move to the output folder
_LINE_SECONDS = 3.0
_ETA_AFTER = 0.04


class StageProgress:
    """Turns "i of n of this step" into a fraction of the stage that never falls.

    Args:
        costs: Expected seconds of each step, in order; only their ratios matter.
        clock: Seconds, for tests.
    """

    def __init__(self, costs: Mapping[str, float], clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._started = self._line_at = clock()
        self._base, self._fraction = 0.0, 0.0
        self._costs = dict(costs)

    def replan(self, costs: Mapping[str, float]) -> None:
        """Spreads what is left over other steps: the costs are known better now, or work was added."""
        self._base = self._fraction
        self._costs = dict(costs)

    def at(self, step: str, done: float, total: float, *lines: str) -> Progress:
        """Progress at a point of a step.

        Args:
            step: One of the planned steps; those before it count as done.
            done: Units done of this step.
            total: Units of this step.
            lines: For the log.

        Returns:
            What to yield.
        """
        names = list(self._costs)
        before = sum(self._costs[name] for name in names[: names.index(step)])
        inside = self._costs[step] * min(1.0, done / total if total else 1.0)
        share = (before + inside) / sum(self._costs.values())
        self._fraction = max(self._fraction, self._base + (_LAST - self._base) * share)
        return Progress(step, self._fraction, self._eta(), lines)

    def line_due(self) -> bool:
        """Whether the log has been quiet long enough for another line about the same step."""
        now = self._clock()
        if now - self._line_at < _LINE_SECONDS:
            return False
        self._line_at = now
        return True

    def _eta(self) -> float | None:
        if self._fraction < _ETA_AFTER:
            return None
        elapsed = self._clock() - self._started
        return elapsed * (1 - self._fraction) / self._fraction
