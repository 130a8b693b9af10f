"""What a training run is to do, once options, settings and the device at hand are weighed."""

from __future__ import annotations

from dataclasses import dataclass

from services.common.options import TrainingOptions
from services.trainer.settings import TrainerSettings
from splatmill.errors import Reason, SplatmillError

# What two cores bring to a good picture in about a minute.
CPU_ITERATIONS = 2_500
CPU_MAX_GAUSSIANS = 40_000
CPU_IMAGE_SIZE = 640


@dataclass(frozen=True)
class TrainingConfig:
    """A training run, nothing left open."""

    iterations: int
    """Steps, one photo each."""
    densify_until_iter: int
    """Last step at which Gaussians are added, at most ``iterations``."""
    sh_degree: int
    """Highest degree of the spherical harmonics, 0 to 3."""
    max_gaussians: int
    """Most Gaussians."""
    train_image_size: int | None
    """Longest side of the photos in pixels; None leaves them as they are."""
    test_every: int
    """Every how many photos one is held out; 0 for none."""
    seed: int
    """Seed of every random choice."""
    coarse_to_fine: bool
    """Begin at a quarter of the resolution, go on at half of it."""


def resolve(options: TrainingOptions, settings: TrainerSettings, device_type: str) -> TrainingConfig:
    """Weighs a job's options, the settings and the device.

    An option wins over a setting, a setting that is given explicitly over the device's
    default.

    Args:
        options: The job's options; None where the person left the choice.
        settings: The service's settings.
        device_type: ``cuda`` or ``cpu``.

    Returns:
        The run.

    Raises:
        SplatmillError: INVALID_OPTION when every photo would be held out.
    """
    on_cpu = device_type == "cpu"
    given = settings.model_fields_set
    iterations = options.iterations
    if iterations is None:
        default = on_cpu and "training_iterations" not in given
        iterations = CPU_ITERATIONS if default else settings.training_iterations
    max_gaussians = options.max_gaussians
    if max_gaussians is None:
        default = on_cpu and "max_gaussians" not in given
        max_gaussians = CPU_MAX_GAUSSIANS if default else settings.max_gaussians
    image_size = options.train_image_size or settings.train_image_size
    if image_size is None and on_cpu:
        image_size = CPU_IMAGE_SIZE
    test_every = settings.test_every if options.test_every is None else options.test_every
    if test_every == 1:
        raise SplatmillError(
            Reason.INVALID_OPTION,
            "test_every 1 would hold out every photo and leave none to train on.",
            "Give 2 or more, or 0 to hold out none.",
            field="test_every",
        )
    return TrainingConfig(
        iterations=iterations,
        densify_until_iter=_densify_until(options, settings, iterations, on_cpu),
        sh_degree=settings.sh_degree if options.sh_degree is None else options.sh_degree,
        max_gaussians=max_gaussians,
        train_image_size=image_size,
        test_every=test_every,
        seed=settings.training_seed if options.seed is None else options.seed,
        coarse_to_fine=on_cpu,
    )


def _densify_until(options: TrainingOptions, settings: TrainerSettings, iterations: int, on_cpu: bool) -> int:
    if options.densify_until_iter is not None:
        return min(options.densify_until_iter, iterations)
    if on_cpu and "densify_until_iter" not in settings.model_fields_set:
        return iterations // 2
    # A setting made for longer runs: the second half is there to refine what the first has placed.
    until = settings.densify_until_iter
    return until if until < iterations else iterations // 2
