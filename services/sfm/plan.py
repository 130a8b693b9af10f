"""What is done with how much effort: features per photo, pairs to match, expected seconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import pycolmap

from services.common.cores import usable_cores
from services.common.options import Matcher, SfmOptions
from services.sfm.photos import Photo
from services.sfm.settings import SfmSettings

# Without a GPU, features cost seconds: extraction four times as many where pictures are
# doubled in size first, matching with the square of their number. A handful of photos can
# afford it and needs every point; many photos see each point often enough without.
_FEW_PHOTOS = 16
_SMALL_SIDE = 800  # pixels; smaller photos give too few features unless they are doubled
_CPU_FEATURES_FEW = 8192
_CPU_FEATURES_MANY = 4096
_NEIGHBOURS, _ALIKE = 10, 20
_CPU_FEATURE_SIZE = 1600
_GPU_FEATURE_SIZE = 3200


@dataclass(frozen=True)
class Plan:
    """Choices for one attempt at a reconstruction."""

    use_gpu: bool
    """Whether COLMAP extracts and matches on the GPU."""
    threads: int
    """Threads COLMAP may use."""
    max_features: int
    """Features kept per photo."""
    double_size: bool
    """Whether photos are doubled in size before features are looked for (SIFT's octave -1)."""
    feature_image_size: int
    """Longest side at which features are looked for, in pixels."""
    matcher: Matcher
    """How pairs are chosen."""
    neighbours: int
    """Sequential pairs: how many of the next photos each one is matched with."""
    alike: int
    """Sequential pairs: how many photos that look most like it each one is matched with as well."""
    undistorted_size: int
    """Longest side of undistorted photos in pixels; -1 keeps the original size."""

    @property
    def device(self) -> pycolmap.Device:
        """Where COLMAP extracts and matches."""
        return pycolmap.Device.cuda if self.use_gpu else pycolmap.Device.cpu

    def denser(self, settings: SfmSettings) -> Plan:
        """More of everything, for photos that could not be put together otherwise."""
        return replace(
            self,
            max_features=min(settings.colmap_max_features, max(_CPU_FEATURES_FEW, self.max_features)),
            double_size=True,
            matcher=Matcher.EXHAUSTIVE,
        )


def gpu_available() -> bool:
    """Whether COLMAP is built for CUDA (the ``pycolmap-cuda12`` wheel) and sees a GPU."""
    # Only a build with CUDA has the second function.
    return bool(pycolmap.has_cuda) and int(getattr(pycolmap, "get_num_cuda_devices")()) > 0  # noqa: B009


def make_plan(photos: list[Photo], options: SfmOptions, settings: SfmSettings) -> Plan:
    """Decides what the options leave open.

    Args:
        photos: Prepared photos.
        options: What the job asks for.
        settings: What the service allows.

    Returns:
        The plan of the first attempt.
    """
    use_gpu = gpu_available()
    few = len(photos) <= _FEW_PHOTOS
    small = max(max(photo.width, photo.height) for photo in photos) < _SMALL_SIDE
    affordable = settings.colmap_max_features if use_gpu else _CPU_FEATURES_FEW if few else _CPU_FEATURES_MANY
    exhaustive = len(photos) <= settings.colmap_exhaustive_photos
    keep_size = bool(options.original_resolution)
    return Plan(
        use_gpu=use_gpu,
        threads=min(settings.colmap_num_threads, usable_cores()),
        max_features=options.max_features or min(settings.colmap_max_features, affordable),
        double_size=use_gpu or few or small or options.max_features is not None,
        feature_image_size=_GPU_FEATURE_SIZE if use_gpu else _CPU_FEATURE_SIZE,
        matcher=options.matcher or (Matcher.EXHAUSTIVE if exhaustive else Matcher.SEQUENTIAL),
        neighbours=_NEIGHBOURS,
        alike=_ALIKE if options.matcher is None else 0,
        undistorted_size=-1 if keep_size else options.max_image_size or settings.max_image_size,
    )


def expected_costs(photos: list[Photo], plan: Plan, pairs: int) -> Mapping[str, float]:
    """Seconds that each step may take, measured on two cores; their ratios steer the progress bar.

    Args:
        photos: Prepared photos.
        plan: How they are worked on.
        pairs: Pairs to match.

    Returns:
        Seconds by step, in the order of the steps.
    """
    count = len(photos)
    megapixels = sum(_pixels(photo, plan.feature_image_size) for photo in photos) / 1e6
    features = min(plan.max_features, 1e6 * megapixels / count * (0.008 if plan.double_size else 0.003))
    speed = 0.12 if plan.use_gpu else 1.0
    return {
        "prepare": 0.01 * count,
        "extract": speed * megapixels * (0.65 if plan.double_size else 0.22),
        "match": speed * pairs * 0.02 * (features / 3000) ** 1.5,
        "map": 0.4 * count * (features / 4000),
        "undistort": 0.09 * count,
    }


def _pixels(photo: Photo, longest_side: int) -> float:
    scale = min(1.0, longest_side / max(photo.width, photo.height))
    return photo.width * photo.height * scale * scale
