"""What the stage says about its work: metrics, ``sfm_report.json``, lines and errors for people."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median

import pycolmap

from services.sfm.match import Matched
from services.sfm.photos import LeftOut, Photo
from services.sfm.plan import Plan
from splatmill.errors import Reason, SplatmillError

REPORT_FILE = "sfm_report.json"
_NAMED = 8
_FEW_FEATURES = 200
_LEAST_REGISTERED = 3
_LEAST_SHARE = 0.3


@dataclass
class Attempt:
    """One try at a reconstruction: what was done and what came of it."""

    what: str
    """In words, such as "more features"."""
    plan: Plan
    features: dict[str, int]
    """By photo."""
    matched: Matched
    models: list[pycolmap.Reconstruction] = field(default_factory=list)
    """The largest first."""

    @property
    def registered(self) -> int:
        """Photos in the largest model."""
        return int(self.models[0].num_reg_images()) if self.models else 0


def listed(names: Sequence[str]) -> str:
    """Names for a sentence, not all of them when there are many."""
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def not_registered(photos: Sequence[Photo], attempt: Attempt) -> list[LeftOut]:
    """Photos missing in the largest model, each with the likeliest reason."""
    model = attempt.models[0]
    inside = {model.image(number).name for number in model.reg_image_ids()}
    missing = []
    for photo in photos:
        if photo.name in inside:
            continue
        features = attempt.features.get(photo.name, 0)
        if features < _FEW_FEATURES:
            reason = f"has too little texture ({features} features): blurred, dark or blank"
        elif attempt.matched.partners.get(photo.name, 0) == 0:
            reason = "shows nothing that another photo shows"
        else:
            reason = "overlaps too little with the photos that were put together"
        missing.append(LeftOut(photo.original, reason))
    return missing


def refuse(photos: Sequence[Photo], attempt: Attempt) -> SplatmillError | None:
    """The error of a result that is not worth training on; None when it is."""
    count, registered = len(photos), attempt.registered
    if registered >= max(_LEAST_REGISTERED, _LEAST_SHARE * count):
        return None
    weak = [photo.original for photo in photos if attempt.features.get(photo.name, 0) < _FEW_FEATURES]
    blank = f" Too little texture: {listed(weak)}." if weak else ""
    if registered >= 2 and attempt.matched.verified:
        return SplatmillError(
            Reason.TOO_FEW_REGISTERED,
            f"Only {registered} of {count} photos could be put together.{blank}",
            "Take more photos between those you have, so that each shows at least two thirds of what its "
            "neighbours show, and avoid blur.",
        )
    if attempt.matched.verified == 0 or not _connected(attempt.matched):
        return SplatmillError(
            Reason.NO_OVERLAP,
            f"The {count} photos do not overlap enough to be put together.{blank}",
            "Take photos of one place from positions close to each other: each should show at least two "
            "thirds of what its neighbours show.",
        )
    return SplatmillError(
        Reason.NO_OVERLAP,
        f"The photos overlap but show no depth: taken from one spot, or of a flat thing.{blank}",
        "Walk sideways or around the subject between photos instead of turning on the spot.",
    )


def _connected(matched: Matched) -> bool:
    """Whether at least three photos have a partner."""
    return sum(1 for partners in matched.partners.values() if partners) >= _LEAST_REGISTERED


def metrics(
    photos: Sequence[Photo], left_out: Sequence[LeftOut], model: pycolmap.Reconstruction
) -> dict[str, float]:
    """The stage's figures by name."""
    model.update_point_3d_errors()
    return {
        "images": float(
            len(photos) + sum(1 for item in left_out if item.name not in {p.original for p in photos})
        ),
        "registered_images": float(model.num_reg_images()),
        "points": float(model.num_points3D()),
        "mean_reprojection_error_px": float(model.compute_mean_reprojection_error()),
    }


def write_report(
    output: Path,
    figures: dict[str, float],
    left_out: Sequence[LeftOut],
    attempts: Sequence[Attempt],
    best: Attempt,
    seconds: dict[str, float],
) -> None:
    """Writes ``sfm_report.json``.

    Args:
        output: The stage's output folder.
        figures: As ``metrics`` answered.
        left_out: Photos that are not in the result.
        attempts: All tries, in order.
        best: The one that was taken.
        seconds: Wall clock by step.
    """
    model = best.models[0]
    document = {
        **figures,
        "mean_track_length": float(model.compute_mean_track_length()),
        "left_out": [asdict(item) for item in left_out],
        "models": [int(other.num_reg_images()) for other in best.models],
        "cameras": [
            {
                "model": camera.model.name,
                "width": camera.width,
                "height": camera.height,
                "params": list(camera.params),
            }
            for _, camera in sorted(model.cameras.items())
        ],
        "features_per_photo": {
            "fewest": min(best.features.values()),
            "median": median(best.features.values()),
            "most": max(best.features.values()),
        },
        "pairs": {"tried": best.matched.pairs, "verified": best.matched.verified},
        "attempts": [
            {
                "what": attempt.what,
                "registered_images": attempt.registered,
                "matcher": attempt.plan.matcher.value,
            }
            for attempt in attempts
        ],
        "device": "gpu" if best.plan.use_gpu else "cpu",
        "seconds": {step: round(value, 2) for step, value in seconds.items()},
        "colmap": pycolmap.__version__,
    }
    (output / REPORT_FILE).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
