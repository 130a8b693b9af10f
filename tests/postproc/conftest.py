"""Scenes for the tests of post-processing."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

import numpy as np
import pytest

from services.common.splat_cloud import SplatCloud


@pytest.fixture(scope="session")
def make_cloud() -> Callable[..., SplatCloud]:
    """Makes random scenes."""

    def make(count: int, degree: int = 3, seed: int = 0) -> SplatCloud:
        random = np.random.default_rng(seed)

        def normal(*shape: int) -> np.ndarray:
            return random.standard_normal(shape, dtype=np.float32)

        rest = 0.2 * normal(count, (degree + 1) ** 2 - 1, 3)
        scales = normal(count, 3) - 4
        return SplatCloud(
            4 * normal(count, 3), scales, normal(count, 4), normal(count), normal(count, 3), rest
        )

    return make


@pytest.fixture(scope="session")
def exhaust() -> Callable[[Generator[Any, None, Any]], tuple[list[Any], Any]]:
    """Runs a generator to its end: what it yielded, and what it returned."""

    def run(work: Generator[Any, None, Any]) -> tuple[list[Any], Any]:
        yielded = []
        while True:
            try:
                yielded.append(next(work))
            except StopIteration as stop:
                return yielded, stop.value

    return run
