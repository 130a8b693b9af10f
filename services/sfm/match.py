"""Step "match": features that show the same point, verified by the geometry of two views."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pycolmap

from services.common.options import Matcher
from services.sfm import pairs
from services.sfm.background import watch
from services.sfm.extract import SEED
from services.sfm.plan import Plan


@dataclass(frozen=True)
class Matched:
    """What the step answers."""

    pairs: int
    """Pairs that were tried."""
    verified: int
    """Pairs of photos that show the same things."""
    without_parallax: int
    """Verified pairs that a camera turning on the spot, or a flat scene, would explain as well."""
    partners: dict[str, int]
    """Verified partners by photo."""


def chosen_pairs(database: Path, names: Sequence[str], plan: Plan) -> list[pairs.Pair] | None:
    """Pairs to try, or None for all of them.

    Args:
        database: With features of all photos.
        names: Photos in their natural order.
        plan: How pairs are chosen.

    Returns:
        Pairs in a fixed order.
    """
    if plan.matcher is Matcher.EXHAUSTIVE:
        return None
    chosen = pairs.neighbours(names, plan.neighbours)
    if plan.alike:
        order = {name: number for number, name in enumerate(names)}
        with pycolmap.Database.open(database) as view:
            found = pairs.alike(view, plan.alike)
        chosen |= {tuple(sorted(pair, key=order.__getitem__)) for pair in found}  # type: ignore[misc]
    return sorted(chosen)


def match(
    database: Path, scratch: Path, plan: Plan, chosen: list[pairs.Pair] | None
) -> Generator[int, None, Matched]:
    """Matches and verifies pairs.

    Args:
        database: With features; matches are written into it.
        scratch: Folder for the list of pairs.
        plan: Threads and device.
        chosen: Pairs to try; None for all.

    Yields:
        Pairs done.

    Returns:
        Counts of what was found.
    """
    options = pycolmap.FeatureMatchingOptions(num_threads=plan.threads, use_gpu=plan.use_gpu)
    verification = pycolmap.TwoViewGeometryOptions()
    verification.ransac.random_seed = SEED

    def work(token: pycolmap.CancellationToken) -> None:
        if chosen is None:
            everything = pycolmap.ExhaustivePairingOptions()
            pycolmap.match_exhaustive(database, options, everything, verification, plan.device, token)
        else:
            listing = scratch / "pairs.txt"
            listing.write_text("".join(f"{a} {b}\n" for a, b in chosen), encoding="utf-8")
            pairing = pycolmap.ImportedPairingOptions(match_list_path=listing)
            pycolmap.match_image_pairs(database, options, pairing, verification, plan.device, token)

    with pycolmap.Database.open(database) as view:
        yield from watch("match photos", work, lambda: int(view.num_matched_image_pairs()))
        count = view.num_images()
        return _counted(view, count * (count - 1) // 2 if chosen is None else len(chosen))


def _counted(view: pycolmap.Database, tried: int) -> Matched:
    names = {image.image_id: image.name for image in view.read_all_images()}
    partners = dict.fromkeys(names.values(), 0)
    verified = without_parallax = 0
    config = pycolmap.TwoViewGeometryConfiguration
    flat = (config.PLANAR, config.PANORAMIC, config.PLANAR_OR_PANORAMIC)
    pair_ids, geometries = view.read_two_view_geometries()
    for pair_id, geometry in zip(pair_ids, geometries, strict=True):
        if len(geometry.inlier_matches) == 0 or geometry.config == config.WATERMARK:
            continue
        verified += 1
        without_parallax += geometry.config in flat
        for image in pycolmap.pair_id_to_image_pair(pair_id):
            partners[names[image]] += 1
    return Matched(tried, verified, without_parallax, partners)
