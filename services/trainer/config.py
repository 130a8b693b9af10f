"""What a training run is to do, once options, settings and the device at hand are weighed."""

from __future__ import annotations

from dataclasses import dataclass, replace

from services.common.options import Background, Preset, Strategy, TrainingOptions
from services.trainer.settings import TrainerSettings

_LEAST_OF_PHOTOS = 100_000  # Gaussians that a few photos are good for, too: they show large areas sharply


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
    strategy: Strategy = Strategy.DEFAULT
    """How the number of Gaussians is controlled."""
    background: Background = Background.BLACK
    """What is behind the scene."""
    exposure: bool = False
    """Whether each photo's exposure is learned; see ``services.trainer.exposure``."""
    antialiased: bool = False
    """Whether opacities make up for the low-pass filter; see ``services.trainer.backend``."""
    gaussians_per_photo: int | None = None
    """Most Gaussians for each photo trained on, where that comes to fewer; see ``limited_by_photos``."""


@dataclass(frozen=True)
class _Choices:
    """What a preset chooses; None leaves it to the settings."""

    iterations: int | None = None
    max_gaussians: int | None = None
    image_size: int | None = None
    strategy: Strategy = Strategy.DEFAULT
    gaussians_per_photo: int | None = None


# More Gaussians or steps than photos are good for learn these by heart: with mcmc, fox's held-out
# photos (43 to train on) had an SSIM of 0.895 with 500 k after 10,000 steps, 0.889 after 20,000, 0.884
# after 30,000; 0.894 with 300 k after 20,000, at the best PSNR of all; 0.865 with 1 M after 30,000.
# The standard one of a CPU is what two cores bring to a good picture in about a minute.
_GPU = {
    Preset.DRAFT: _Choices(3_000, 500_000, 1_000),
    Preset.STANDARD: _Choices(),
    Preset.HIGH: _Choices(20_000, 1_000_000, None, Strategy.MCMC, gaussians_per_photo=7_000),
}
_CPU = {
    Preset.DRAFT: _Choices(1_000, 20_000, 480),
    Preset.STANDARD: _Choices(2_500, 40_000, 640),
    Preset.HIGH: _Choices(7_500, 80_000, 960),
}


def resolve(options: TrainingOptions, settings: TrainerSettings, device_type: str) -> TrainingConfig:
    """Weighs a job's options, the settings and the device.

    An option wins over everything; a preset that the job names over the settings; a setting
    that is given explicitly over the device's default.

    Args:
        options: The job's options; None where the person left the choice.
        settings: The service's settings.
        device_type: ``cuda`` or ``cpu``.

    Returns:
        The run.
    """
    on_cpu = device_type == "cpu"
    choices = (_CPU if on_cpu else _GPU)[options.preset or Preset.STANDARD]

    def chosen(name: str, of_preset: int | None) -> int | None:
        setting: int | None = getattr(settings, name)
        named = options.preset not in (None, Preset.STANDARD)
        if of_preset is None or (name in settings.model_fields_set and not named):
            return setting
        return of_preset

    iterations = options.iterations or chosen("training_iterations", choices.iterations)
    max_gaussians = options.max_gaussians or chosen("max_gaussians", choices.max_gaussians)
    assert iterations is not None and max_gaussians is not None  # settings always have both
    strategy = options.strategy or choices.strategy
    return TrainingConfig(
        iterations=iterations,
        densify_until_iter=_densify_until(options, settings, iterations, on_cpu, strategy),
        sh_degree=settings.sh_degree if options.sh_degree is None else options.sh_degree,
        max_gaussians=max_gaussians,
        train_image_size=options.train_image_size or chosen("train_image_size", choices.image_size),
        test_every=settings.test_every if options.test_every is None else options.test_every,
        seed=settings.training_seed if options.seed is None else options.seed,
        coarse_to_fine=on_cpu if options.coarse_to_fine is None else options.coarse_to_fine,
        strategy=strategy,
        background=options.background or Background.BLACK,
        antialiased=bool(options.antialiased),
        exposure=bool(options.exposure),
        gaussians_per_photo=None if options.max_gaussians else choices.gaussians_per_photo,
    )


def limited_by_photos(config: TrainingConfig, photos: int) -> TrainingConfig:
    """The run with no more Gaussians than its preset finds photos good for.

    Args:
        config: The run.
        photos: Photos trained on.
    """
    if config.gaussians_per_photo is None:
        return config
    most = max(_LEAST_OF_PHOTOS, config.gaussians_per_photo * photos)
    return replace(config, max_gaussians=min(config.max_gaussians, most))


def _densify_until(
    options: TrainingOptions, settings: TrainerSettings, iterations: int, on_cpu: bool, strategy: Strategy
) -> int:
    if options.densify_until_iter is not None:
        return min(options.densify_until_iter, iterations)
    if strategy is Strategy.MCMC:
        return iterations * 5 // 6  # 25,000 of 30,000, as the paper has it
    named = options.preset not in (None, Preset.STANDARD)
    if named or (on_cpu and "densify_until_iter" not in settings.model_fields_set):
        return iterations // 2
    # A setting made for longer runs: the second half is there to refine what the first has placed.
    until = settings.densify_until_iter
    return until if until < iterations else iterations // 2


def held_out_rows(count: int, test_every: int) -> tuple[int, ...]:
    """Rows of the photos that are held out: the first and every n-th after it.

    With fewer than ``test_every`` photos none is: each counts too much for the scene.
    """
    if test_every == 0 or count < test_every:
        return ()
    return tuple(range(0, count, test_every))
