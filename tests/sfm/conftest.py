"""A small capture, and running the stage on folders of photos."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest

from services.common.options import SfmOptions
from services.common.stage import Progress, StageContext, StageResult
from splatmill.sample import write_capture


@dataclass
class Run:
    """What a run of the stage left and said."""

    output: Path
    result: StageResult
    progress: list[Progress]

    @property
    def lines(self) -> list[str]:
        """The log."""
        return [line for progress in self.progress for line in progress.log_lines]


@pytest.fixture(scope="session")
def small_capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten small photos of the sample scene, with their true cameras."""
    directory = tmp_path_factory.mktemp("small_capture")
    write_capture(directory, photos=10, width=480, height=360)
    return directory


@pytest.fixture(scope="session")
def run_sfm(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Run]:
    """Runs the stage on a list of photos, which are copied by name."""
    numbers = itertools.count()

    def run_on(photos: Iterable[Path], **options: object) -> Run:
        from services.sfm.stage import run  # noqa: PLC0415

        folder = tmp_path_factory.mktemp(f"sfm_{next(numbers)}")
        for name in ("input/images", "output", "scratch"):
            (folder / name).mkdir(parents=True)
        for photo in photos:
            (folder / "input/images" / photo.name).write_bytes(photo.read_bytes())
        context = StageContext(folder / "scratch")
        steps = run(folder / "input", folder / "output", SfmOptions.model_validate(options), context)
        progress: list[Progress] = []
        while True:
            try:
                progress.append(next(steps))
            except StopIteration as stop:
                return Run(folder / "output", stop.value, progress)

    return run_on


@pytest.fixture(scope="session")
def small_run(small_capture: Path, run_sfm: Callable[..., Run]) -> Run:
    """The stage run on the small capture."""
    return run_sfm(sorted(small_capture.glob("*.jpg")))
