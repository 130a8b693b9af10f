"""What a training will take, in seconds and bytes, before it is begun. Pure sums; no torch.

A step takes a + b P + c N seconds on a device: P the pixels of its picture, N the Gaussians
at that time. ``services.trainer.calibration`` measures a, b and c; which picture a step has
and when Gaussians are added, the run's own schedule says.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace

from services.common.options import Strategy
from services.trainer.config import TrainingConfig, held_out_rows, limited_by_photos
from services.trainer.footprint import PHOTO_SHARE, affordable_gaussians, photos_bytes, scene_bytes
from services.trainer.schedule import Schedule, plan

# Of the first Gaussians, that the default strategy adds in a round: fox, 12 k at first, ends
# with 165 k after 45 rounds at 899x1600, with the penalty, and has 37 k after 4 at 360x640.
_ADDED_SHARE, _ADDED_SHARE_PENALIZED = 0.4, 0.27
# What real steps take on a GPU against those of the calibration's made-up scenes, whose Gaussians
# overlap less: on an H100, fox took 12.0 s where 9.0 were reckoned, with mcmc 21.9 s where 11.5 were.
_GPU_SHARE = {Strategy.DEFAULT: 1.35, Strategy.MCMC: 1.9}
_LOOKS = 5  # renderings of each held-out photo: at three times on the way, at the end, as a picture
_LOOK_STEPS = 0.4  # of a step, that a rendering takes


@dataclass(frozen=True)
class Capture:
    """What is trained on; by default a capture such as people make."""

    photos: int = 40
    width: int = 1600
    """Of a photo as structure from motion leaves it, pixels."""
    height: int = 1200
    points: int = 10_000
    """Of structure from motion: the first Gaussians."""


@dataclass(frozen=True)
class DeviceSpeed:
    """What a device can do, as measured on it."""

    is_gpu: float
    """1 for a GPU, 0 for a CPU."""
    step_seconds: float
    """Of a step, whatever it trains: a."""
    seconds_per_pixel: float
    """Of a step, for each pixel of its picture: b."""
    seconds_per_gaussian: float
    """Of a step, for each Gaussian of the scene: c."""
    start_seconds: float
    """Until a process is ready to train."""
    decode_seconds_per_pixel: float
    """Of reading photos, for each pixel of theirs."""
    base_bytes: float
    """Memory of a process that is ready to train; 0 on a GPU."""
    free_bytes: float
    """Memory that is free; 0 where the device does not tell."""

    @property
    def device_type(self) -> str:
        """``cuda`` or ``cpu``."""
        return "cuda" if self.is_gpu else "cpu"

    def metrics(self) -> dict[str, float]:
        """As plain numbers, which pass between processes."""
        return asdict(self)

    @staticmethod
    def from_metrics(metrics: Mapping[str, float]) -> DeviceSpeed:
        """Back from plain numbers."""
        return DeviceSpeed(**metrics)


@dataclass(frozen=True)
class Expectation:
    """What a training is expected to come to."""

    seconds: float
    """Of the whole stage."""
    memory_bytes: int
    """Peak: of the GPU, or of the process on a CPU."""
    gaussians: int
    """In the scene at the end."""


def fitted(config: TrainingConfig, speed: DeviceSpeed, capture: Capture) -> TrainingConfig:
    """The run with no more Gaussians than photos are good for and memory has room for."""
    held_out = len(held_out_rows(capture.photos, config.test_every))
    config = limited_by_photos(config, capture.photos - held_out)
    if not speed.free_bytes:
        return config
    width, height = picture_size(config, capture)
    most = affordable_gaussians(int(speed.free_bytes), width * height)
    return replace(config, max_gaussians=min(config.max_gaussians, most))


def expect(config: TrainingConfig, speed: DeviceSpeed, capture: Capture) -> Expectation:
    """Reckons a run on a device.

    Args:
        config: The run.
        speed: The device.
        capture: What it trains on.
    """
    config = fitted(config, speed, capture)
    width, height = picture_size(config, capture)
    held_out = len(held_out_rows(capture.photos, config.test_every))
    schedule = plan(config, capture.photos - held_out)
    seconds, gaussians = 0.0, 0
    for steps, level, gaussians in stretches(config, schedule, capture.points):
        pixels = (width >> level) * (height >> level)
        seconds += steps * _step_seconds(speed, pixels, gaussians)
    if speed.is_gpu:
        seconds *= _GPU_SHARE[config.strategy]
    last = _step_seconds(speed, width * height, gaussians)
    seconds += _LOOKS * _LOOK_STEPS * held_out * last
    seconds += speed.start_seconds
    seconds += speed.decode_seconds_per_pixel * capture.photos * capture.width * capture.height
    memory = int(speed.base_bytes) + scene_bytes(gaussians, width * height)
    memory += _photos_held(config, speed, capture.photos, width * height)
    return Expectation(seconds, memory, gaussians)


def picture_size(config: TrainingConfig, capture: Capture) -> tuple[int, int]:
    """Width and height of the photos as they are trained on."""
    longest = max(capture.width, capture.height)
    scale = min(1.0, (config.train_image_size or longest) / longest)
    return max(1, round(scale * capture.width)), max(1, round(scale * capture.height))


def stretches(config: TrainingConfig, schedule: Schedule, points: int) -> Iterator[tuple[int, int, int]]:
    """A run in parts that are alike: how many steps, the level of their pictures, Gaussians.

    Args:
        config: The run.
        schedule: Its plan.
        points: The first Gaussians.
    """
    most = config.max_gaussians
    first = count = min(points, most)
    growth = schedule.growth(first, most)
    added = (_ADDED_SHARE_PENALIZED if schedule.opacity_penalty else _ADDED_SHARE) * first
    done = 0
    while done < config.iterations:
        steps = min(schedule.densify_every, config.iterations - done)
        yield steps, schedule.level(done + steps), count
        done += steps
        if schedule.densifies(done):
            more = count * growth if config.strategy is Strategy.MCMC else count + added
            count = min(most, round(more))


def _step_seconds(speed: DeviceSpeed, pixels: int, gaussians: int) -> float:
    return speed.step_seconds + speed.seconds_per_pixel * pixels + speed.seconds_per_gaussian * gaussians


def _photos_held(config: TrainingConfig, speed: DeviceSpeed, photos: int, pixels: int) -> int:
    """Bytes of decoded photos in the memory of the device."""
    size, most = photos_bytes(photos, pixels, config.coarse_to_fine), int(speed.free_bytes) // PHOTO_SHARE
    if not speed.free_bytes or size < most:
        return size
    return 0 if speed.is_gpu else most  # a GPU gets them one by one, then
