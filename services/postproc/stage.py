"""The postproc stage: outlier filter, then the files that viewers load."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Generator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.common.formats import draw_order, write_splat, write_splat44, write_spz
from services.common.options import PostprocOptions
from services.common.splat_cloud import SplatCloud, read_ply, write_ply
from services.common.stage import Progress, StageContext, StageResult, StageRun
from services.postproc.outliers import OutlierParameters, OutlierResult, find_outliers
from services.postproc.settings import PostprocSettings
from splatmill.errors import Reason, SplatmillError

FILTERED_PLY = "point_cloud_filtered.ply"
REPORT = "postproc_report.json"

# Where each step ends, as a share of the stage; measured on a scene of a million Gaussians.
_READ, _FILTERED = 0.03, 0.45
_FORMATS: tuple[tuple[str, float, Callable[[Path, SplatCloud, NDArray[np.intp]], None]], ...] = (
    (FILTERED_PLY, 0.58, lambda path, cloud, _: write_ply(path, cloud)),
    ("scene.splat", 0.62, write_splat),
    ("scene.splat44", 0.66, write_splat44),
    ("scene.spz", 1.0, write_spz),
)
_ITERATION_FOLDER = re.compile(r"iteration_(\d+)")


@dataclass
class _Clock:
    """Times the steps, and guesses the time left."""

    started: float = field(default_factory=time.monotonic)
    seconds: dict[str, float] = field(default_factory=dict)

    def progress(self, step: str, fraction: float, *log_lines: str) -> Progress:
        elapsed = time.monotonic() - self.started
        eta = elapsed * (1 - fraction) / fraction if fraction >= 0.1 else None
        return Progress(step, fraction, eta, log_lines)

    def lap(self, step: str) -> None:
        done = sum(self.seconds.values())
        self.seconds[step] = round(time.monotonic() - self.started - done, 3)


def run(input_dir: Path, output_dir: Path, options: PostprocOptions, context: StageContext) -> StageRun:
    """Filters the scene of the highest iteration and writes it in every format.

    Args:
        input_dir: The training's output, with ``point_cloud/iteration_{N}/point_cloud.ply``.
        output_dir: Gets ``point_cloud_filtered.ply``, ``scene.splat``, ``scene.splat44``,
            ``scene.spz`` and ``postproc_report.json``.
        options: None in a field means the setting of that name.
        context: Not used.

    Yields:
        Progress with lines for the log.

    Returns:
        gaussian_count, gaussian_count_before, removed_invalid, removed_by_distance,
        removed_by_clusters.

    Raises:
        SplatmillError: INPUT_NOT_FOUND without a scene, INVALID_REQUEST for a file that is
            none, EMPTY_SCENE for a scene in which nothing can be drawn.
    """
    del context
    parameters = resolve_parameters(options, PostprocSettings())
    clock = _Clock()
    source = find_trained_ply(input_dir)
    raw = read_ply(source)
    clock.lap("read")
    line = f"Read {len(raw):,} Gaussians, SH degree {raw.sh_degree}, from {source.parent.name}"
    yield clock.progress("filter", _READ, line)

    cloud = _drawable(raw)
    found = yield from _filter(cloud, parameters, clock)
    kept = cloud.select(found.keep)
    yield clock.progress("formats", _FILTERED, *_summary(len(raw), len(cloud), found))

    order = draw_order(kept)
    sizes: dict[str, int] = {}
    for name, fraction, write in _FORMATS:
        write(output_dir / name, kept, order)
        clock.lap(name)
        sizes[name] = (output_dir / name).stat().st_size
        yield clock.progress("formats", fraction, f"wrote {name}, {sizes[name] / 1e6:,.1f} MB")

    metrics = {
        "gaussian_count": len(kept),
        "gaussian_count_before": len(raw),
        "removed_invalid": len(raw) - len(cloud),
        "removed_by_distance": found.removed_by_distance,
        "removed_by_clusters": found.removed_by_clusters,
    }
    report = _report(metrics, parameters, found, kept) | {"bytes": sizes, "seconds": clock.seconds}
    (output_dir / REPORT).write_text(json.dumps(report, indent=2) + "\n")
    return StageResult({name: float(value) for name, value in metrics.items()})


def find_trained_ply(input_dir: Path) -> Path:
    """The scene of the highest iteration.

    Raises:
        SplatmillError: INPUT_NOT_FOUND.
    """
    numbered = [
        (int(match[1]), folder / "point_cloud.ply")
        for folder in (input_dir / "point_cloud").glob("iteration_*")
        if (match := _ITERATION_FOLDER.fullmatch(folder.name)) and (folder / "point_cloud.ply").is_file()
    ]
    if not numbered:
        raise SplatmillError(
            Reason.INPUT_NOT_FOUND,
            "There is no point_cloud/iteration_N/point_cloud.ply in the input folder.",
            "Run the training first.",
        )
    return max(numbered)[1]


def resolve_parameters(options: PostprocOptions, settings: PostprocSettings) -> OutlierParameters:
    """The job's options, and the settings where it has none."""

    def choose(name: str) -> Any:
        chosen = getattr(options, name)
        return getattr(settings, name) if chosen is None else chosen

    return OutlierParameters(
        k_neighbors=choose("outlier_k_neighbors"),
        std_threshold=choose("outlier_std_threshold"),
        remove_small_clusters=choose("outlier_remove_small_clusters"),
        min_cluster_ratio=choose("outlier_min_cluster_ratio"),
    )


def _drawable(raw: SplatCloud) -> SplatCloud:
    """Those without NaN and infinity."""
    finite = raw.finite()
    if not finite.any():
        what = "no Gaussians" if len(raw) == 0 else f"{len(raw):,} Gaussians, none of them with finite values"
        raise SplatmillError(
            Reason.EMPTY_SCENE,
            f"The trained scene has {what}.",
            "Train again with more photos that overlap, or with more iterations.",
        )
    return raw if finite.all() else raw.select(finite)


def _filter(
    cloud: SplatCloud, parameters: OutlierParameters, clock: _Clock
) -> Generator[Progress, None, OutlierResult]:
    work = find_outliers(cloud.positions, parameters)
    while True:
        try:
            fraction = next(work)
        except StopIteration as stop:
            clock.lap("filter")
            result: OutlierResult = stop.value
            return result
        yield clock.progress("filter", _READ + (_FILTERED - _READ) * fraction)


def _summary(before: int, drawable: int, found: OutlierResult) -> list[str]:
    """The filter's lines for the log."""
    lines = []
    if before > drawable:
        lines.append(f"removed {before - drawable:,} Gaussians with NaN or infinite values")
    removed = found.removed_by_distance + found.removed_by_clusters
    share = 100 * removed / drawable
    lines.append(
        f"removed {removed:,} outliers ({share:.1f} %), {found.removed_by_clusters:,} in small clusters; "
        f"{drawable - removed:,} Gaussians remain"
    )
    if found.largest_kept_alone:
        lines.append("all clusters were below outlier_min_cluster_ratio; kept the largest")
    return lines


def _report(
    metrics: dict[str, int], parameters: OutlierParameters, found: OutlierResult, kept: SplatCloud
) -> dict[str, Any]:
    low, middle, high = np.percentile(kept.positions, [1, 50, 99], axis=0)
    return {
        **metrics,
        "sh_degree": kept.sh_degree,
        "parameters": asdict(parameters),
        "filter": {
            "mean_neighbor_distance": found.mean_distance,
            "distance_limit": found.distance_limit,
            "eps": found.eps,
            "clusters": found.clusters,
            "largest_kept_alone": found.largest_kept_alone,
        },
        "position_percentiles": {"1": low.tolist(), "50": middle.tolist(), "99": high.tolist()},
    }
