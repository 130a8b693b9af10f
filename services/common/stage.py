"""What a stage is: input folder, options and context in; progress and an output folder out.

A stage knows neither gRPC nor the database. Two adapters offer it to the world: its own
streaming RPC (``stage_rpc``) and the worker loop (``worker``).
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeVar

from services.common.options import StageOptions


@dataclass(frozen=True)
class TrainingFigures:
    """Figures of a running training."""

    iteration: int
    """Steps done."""
    iterations: int
    """Steps to do in all."""
    loss: float
    """Loss of the last step."""
    iterations_per_second: float
    """Steps a second of wall clock over the last report's span."""
    gaussian_count: int
    """Gaussians now."""
    test_psnr: float | None = None
    """Mean PSNR of the held-out photos in dB, when last measured."""


@dataclass(frozen=True)
class GpuMemory:
    """Memory of one GPU in MiB."""

    index: int
    used_mib: int
    total_mib: int


@dataclass(frozen=True)
class Progress:
    """Where a stage is."""

    step: str
    """Its present step, such as ``"match"``."""
    fraction: float
    """Done so far of the whole stage, 0 to 1; never falls."""
    eta_seconds: float | None = None
    """Time left in this stage, while known."""
    log_lines: tuple[str, ...] = ()
    """Lines for the job's log."""
    training: TrainingFigures | None = None
    gpu_memory: GpuMemory | None = None


@dataclass(frozen=True)
class StageResult:
    """What a stage leaves besides its files."""

    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class StageContext:
    """What a stage may use besides its folders."""

    scratch_dir: Path
    """An empty folder that is removed afterwards."""
    checkpoint_dir: Path | None = None
    """A folder that is the same for every attempt at this task, to go on from."""


OptionsT_contra = TypeVar("OptionsT_contra", bound=StageOptions, contravariant=True)

StageRun = Generator[Progress, None, StageResult]


class StageFunction(Protocol[OptionsT_contra]):
    """The one function of a stage; it runs in a process of its own.

    Cancelling is ending that process, so a stage need not watch for it.

    Args:
        input_dir: Folder to read; never written to.
        output_dir: Empty folder to fill; published as a whole when the stage succeeds.
        options: Checked options; None in a field means that the stage decides.
        context: Scratch space.

    Raises:
        SplatmillError: The work cannot be done; reason, remedy and retryable say why.
    """

    def __call__(
        self, input_dir: Path, output_dir: Path, options: OptionsT_contra, context: StageContext
    ) -> StageRun:
        """Runs the stage."""
        ...
