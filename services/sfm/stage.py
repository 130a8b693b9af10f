"""The stage: photos in; undistorted photos, cameras and points out."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import TypeVar

import pycolmap

from services.common.options import SfmOptions
from services.common.stage import Progress, StageContext, StageResult, StageRun
from services.sfm import report
from services.sfm.background import watch
from services.sfm.extract import camera_groups, extract, import_photos
from services.sfm.mapping import map_photos
from services.sfm.match import chosen_pairs, match
from services.sfm.pairs import every_pair
from services.sfm.photos import LeftOut, Photo, prepare
from services.sfm.plan import Plan, expected_costs, make_plan
from services.sfm.progress import StageProgress
from services.sfm.refine import refine_lenses
from services.sfm.report import Attempt
from services.sfm.settings import SfmSettings
from services.sfm.undistort import undistort
from services.sfm.upright import make_upright
from splatmill._photo_names import is_mask
from splatmill.errors import Reason, SplatmillError

T = TypeVar("T")
Step = Generator[Progress, None, T]

_SAY_SECONDS = 0.3  # between two reports, at least
_GOOD_SHARE = 0.9  # of the photos registered: nothing more is tried
_ENOUGH_FEATURES = 1000
_POOR_SHARE = 0.5  # below, even starting again from the features is worth its time


def run(input_dir: Path, output_dir: Path, options: SfmOptions, context: StageContext) -> StageRun:
    """Recovers cameras and points from photos. See ``services.common.stage.StageFunction``.

    Args:
        input_dir: Has ``images/``.
        output_dir: Gets ``images/`` (undistorted), ``masks/`` of those that have one,
            ``sparse/{cameras,images,points3D}.bin`` (PINHOLE cameras, standing upright) and
            ``sfm_report.json``.
        options: Options of the job.
        context: Scratch space.

    Yields:
        Progress.

    Returns:
        Metrics images, registered_images, points, mean_reprojection_error_px.

    Raises:
        SplatmillError: TOO_FEW_IMAGES, NO_OVERLAP, TOO_FEW_REGISTERED, INPUT_NOT_FOUND.
    """
    pycolmap.logging.minloglevel = int(pycolmap.logging.ERROR)
    return (yield from _Run(input_dir / "images", output_dir, options, context.scratch_dir).run())


class _Run:
    """One run of the stage: what its steps share."""

    def __init__(self, source: Path, output: Path, options: SfmOptions, scratch: Path):
        self._source, self._output, self._options, self._scratch = source, output, options, scratch
        self._settings = SfmSettings()
        self._folder, self._masks = scratch / "photos", scratch / "masks"
        self._photos: list[Photo] = []
        self._left_out: list[LeftOut] = []
        self._seconds: dict[str, float] = defaultdict(float)
        self._attempts: list[Attempt] = []
        self._progress = StageProgress(
            {"prepare": 1.0, "extract": 9.0, "match": 9.0, "map": 9.0, "undistort": 2.0}
        )

    def run(self) -> StageRun:
        """All steps in order."""
        yield from self._prepare()
        plan = make_plan(self._photos, self._options, self._settings)
        yield from self._try(plan)
        best = max(self._attempts, key=lambda attempt: attempt.registered)
        error = report.refuse(self._photos, best)
        if error is not None:
            raise error
        yield from self._refine(best)
        yield from self._explain(best)
        model = best.models[0]
        make_upright(model)
        with self._timed("undistort"):
            yield from self._undistort(model, plan)
        figures = report.metrics(self._photos, self._left_out, model)
        report.write_report(self._output, figures, self._left_out, self._attempts, best, self._seconds)
        return StageResult(figures)

    def _prepare(self) -> Step[None]:
        if not self._source.is_dir():
            raise SplatmillError(
                Reason.INPUT_NOT_FOUND,
                "The input folder has no images/ folder.",
                "Put the photos into images/.",
            )
        total = sum(not is_mask(path.name) for path in self._source.iterdir())
        self._folder.mkdir(parents=True)
        self._masks.mkdir()
        yield self._progress.at("prepare", 0, total, f"preparing {total} photos")
        with self._timed("prepare"):
            steps = prepare(self._source, self._folder, self._masks)
            prepared = yield from self._report("prepare", steps, total, None)
        self._photos, self._left_out = prepared.photos, list(prepared.left_out)
        lines = [f"left out: {item.name} {item.reason}" for item in prepared.left_out[:20]]
        if prepared.rewritten:
            lines.append(f"turned upright or converted {prepared.rewritten} photos")
        if masked := sum(photo.masked for photo in prepared.photos):
            lines.append(f"{masked} photos have masks")
        yield self._progress.at("prepare", total, total, *lines)

    def _try(self, plan: Plan) -> Step[None]:
        """Tries with growing effort until enough photos are put together."""
        yield from self._attempt("as planned", plan)
        if self._best_share() < _GOOD_SHARE:
            yield from self._remap("weaker evidence accepted")
        denser = plan.denser(self._settings)
        if self._best_share() < _POOR_SHARE and denser != plan and not self._hopeless():
            yield from self._attempt("more features, every pair", denser)
            if self._best_share() < _GOOD_SHARE:
                yield from self._remap("more features, weaker evidence accepted")

    def _hopeless(self) -> bool:
        """Whether no two photos match though they have features enough: more would not help."""
        last = self._attempts[-1]
        return last.matched.verified == 0 and median(last.features.values()) >= _ENOUGH_FEATURES

    def _best_share(self) -> float:
        return max(attempt.registered for attempt in self._attempts) / len(self._photos)

    def _attempt(self, what: str, plan: Plan) -> Step[None]:
        """Features, matches and a model from scratch."""
        database = self._scratch / f"attempt_{len(self._attempts)}.db"
        names = [photo.name for photo in self._photos]
        groups = camera_groups(self._photos)
        self._progress.replan(expected_costs(self._photos, plan, every_pair(names)))
        cameras = "one camera" if len(groups) == 1 else f"{len(groups)} cameras"
        line = f"looking for up to {plan.max_features} features in each of {len(names)} photos of {cameras}"
        again = [f"trying again: {what}"] if self._attempts else []
        yield self._progress.at("extract", 0, len(names), *again, line)
        with self._timed("extract"):
            import_photos(database, self._folder, groups)
            steps = extract(database, self._folder, self._masks, plan)
            features = yield from self._report(
                "extract", steps, len(names), "found features in {} of {} photos"
            )
        with self._timed("match"):
            chosen = chosen_pairs(database, names, plan)
            pairs = every_pair(names) if chosen is None else len(chosen)
            kind = "every photo with every other" if chosen is None else "likely neighbours"
            yield self._progress.at("match", 0, pairs, f"matching {pairs} pairs ({kind})")
            steps_matched = match(database, self._scratch, plan, chosen)
            matched = yield from self._report("match", steps_matched, pairs, "matched {} of {} pairs")
        yield self._progress.at("match", 1, 1, f"{matched.verified} of {pairs} pairs show the same things")
        attempt = Attempt(what, plan, features, matched)
        self._attempts.append(attempt)
        yield from self._map(attempt, database, relaxed=False)

    def _remap(self, what: str) -> Step[None]:
        """Another model from the matches of the last attempt."""
        last = self._attempts[-1]
        if last.matched.verified == 0:
            return
        database = self._scratch / f"attempt_{len(self._attempts) - 1}.db"
        while not database.exists():  # remapped attempts have no database of their own
            database = self._scratch / f"attempt_{int(database.stem.split('_')[1]) - 1}.db"
        attempt = replace(last, what=what, models=[])
        self._attempts.append(attempt)
        self._progress.replan({"map": 4.0, "undistort": 1.0})
        yield self._progress.at("map", 0, 1, f"trying again: {what}")
        yield from self._map(attempt, database, relaxed=True)

    def _map(self, attempt: Attempt, database: Path, relaxed: bool) -> Step[None]:
        if attempt.matched.verified == 0:
            return
        models = self._scratch / f"models_{len(self._attempts)}"
        models.mkdir()
        with self._timed("map"):
            steps = map_photos(database, self._folder, models, attempt.plan, relaxed)
            total = len(self._photos)
            attempt.models = yield from self._report("map", steps, total, "registered {} of {} photos")
        if not attempt.models:
            yield self._progress.at("map", 1, 1, "no two photos to begin with")

    def _refine(self, best: Attempt) -> Step[None]:
        rough, threads = best.models[0], best.plan.threads
        total = len(self._photos)
        with self._timed("map"):
            refining = watch("refine the lenses", lambda token: refine_lenses(rough, threads), lambda: total)
            best.models[0] = yield from self._report("map", refining, total, None)

    def _explain(self, best: Attempt) -> Step[None]:
        model, total = best.models[0], len(self._photos)
        error = model.compute_mean_reprojection_error()
        lines = [
            f"registered {best.registered} of {total} photos: {model.num_points3D()} points, "
            f"mean reprojection error {error:.2f} px"
        ]
        if len(best.models) > 1:
            sizes = ", ".join(str(other.num_reg_images()) for other in best.models[1:])
            lines.append(f"warning: the photos fall apart into groups; left out groups of {sizes} photos")
        missing = report.not_registered(self._photos, best)
        if missing:
            lines.append(f"warning: left out {report.listed([item.name for item in missing])}")
            lines += [f"left out: {item.name} {item.reason}" for item in missing[:20]]
        self._left_out += missing
        yield self._progress.at("map", 1, 1, *lines)

    def _undistort(self, model: pycolmap.Reconstruction, plan: Plan) -> Step[None]:
        total = int(model.num_reg_images())
        size = "their own size" if plan.undistorted_size < 0 else f"at most {plan.undistorted_size} pixels"
        yield self._progress.at("undistort", 0, total, f"undistorting {total} photos to {size}")
        steps = undistort(model, self._folder, self._masks, self._scratch, self._output, plan)
        yield from self._report("undistort", steps, total, None)

    def _report(self, step: str, counts: Generator[int, None, T], total: int, line: str | None) -> Step[T]:
        """Progress for each count, a line of the log now and then and at the end."""
        said_at = -math.inf
        while True:
            try:
                done = min(next(counts), total)
            except StopIteration as stop:
                return stop.value  # type: ignore[no-any-return]
            finished, now = done == total, time.monotonic()
            if not finished and now - said_at < _SAY_SECONDS:
                continue
            said_at = now
            due = line is not None and (finished or self._progress.line_due())
            yield self._progress.at(step, done, total, *([line.format(done, total)] if due and line else []))

    @contextmanager
    def _timed(self, step: str) -> Iterator[None]:
        started = time.monotonic()
        try:
            yield
        finally:
            self._seconds[step] += time.monotonic() - started
