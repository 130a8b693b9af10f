"""Few Gaussians that stand for many."""

from __future__ import annotations

import math

import pytest
import torch

from services.trainer.decimate import LARGEST_GROWTH, contributions, curve_order, decimated, probabilities
from services.trainer.scene_types import Camera, Gaussians
from tests.helpers.random_scene import look_at_origin, random_gaussians
from tests.helpers.slow_backend import SlowBackend

CAMERA = look_at_origin(64, 48)


def test_a_small_scene_stays_as_it_is():
    scene = random_gaussians(50)
    scene.means[7, 1] = math.nan
    scene.opacity_logits[9] = -20  # too faint to be drawn
    few = decimated(scene, [CAMERA], 50)
    rest = torch.tensor([row for row in range(50) if row not in (7, 9)])
    for (name, kept), (_, expected) in zip(few.items(), scene.select(rest).items(), strict=True):
        assert torch.equal(kept, expected), name


def test_never_more_than_the_limit_and_the_most_significant_stay_as_they_are():
    scene = random_gaussians(3000, seed=1, size=0.02)
    large = torch.arange(0, 3000, 100)
    scene.means[large] *= 0.2
    scene.log_scales[large] = math.log(0.3)
    scene.opacity_logits[large] = 3.0
    for limit in (100, 300, 2999):
        few = decimated(scene, [CAMERA, look_at_origin(48, 64, turn=2.0)], limit)
        assert 0.95 * limit <= few.count <= limit
        found = (few.means[:, None] == scene.means[None, large]).all(dim=2)
        assert bool(found.any(dim=0).all()), "each of the large ones is there"
        kept = few.select(found.any(dim=1))
        assert torch.equal(kept.log_scales, torch.full_like(kept.log_scales, math.log(0.3)))


def test_those_that_stay_cover_for_those_that_go():
    """A wall of small Gaussians stays a wall: as dark nowhere, as bright on the whole."""
    side, camera = 40, look_at_origin(32, 24)
    across = torch.linspace(-1, 1, side)
    rows, columns = torch.meshgrid(across, across, indexing="ij")
    scene = random_gaussians(side * side)
    scene.means = torch.stack([rows.ravel(), columns.ravel(), torch.zeros(side * side)], dim=1)
    scene.log_scales[:] = math.log(1.2 / side)
    scene.opacity_logits[:] = 2.0
    scene.sh0[:] = 1.0
    scene.sh_rest[:] = 0.0
    few = decimated(scene, [camera], 160)
    growth = (few.log_scales.amax() - math.log(1.2 / side)).exp()
    assert 1.5 < float(growth) <= LARGEST_GROWTH

    def middle(shown: Gaussians) -> torch.Tensor:
        return SlowBackend().render(shown, camera, 3, torch.zeros(3))[7:17, 11:21].mean(dim=2)

    whole, thinned = middle(scene), middle(few)
    unchanged = few.select(torch.arange(few.count))
    unchanged.log_scales -= growth.log()
    assert float(thinned.mean()) > 0.8 * float(whole.mean())
    assert float(thinned.min()) > 0.3 * float(whole.min())
    assert float(middle(unchanged).mean()) < 0.65 * float(whole.mean()), "it would be full of holes"


def test_no_region_is_left_out():
    scene = random_gaussians(8000, seed=3)
    few = decimated(scene, [CAMERA], 800)
    for axis in range(3):
        before = torch.histc(scene.means[:, axis], 6, -1, 1) / scene.count
        after = torch.histc(few.means[:, axis], 6, -1, 1) / few.count
        assert torch.allclose(before, after, atol=0.04)


def test_what_pictures_do_not_show_contributes_nothing():
    scene = random_gaussians(5)
    scene.means[0] = torch.tensor([0.0, 0.0, -50.0])  # behind the camera
    scene.means[1] = torch.tensor([40.0, 0.0, 0.0])  # beside the picture
    scene.log_scales[2, 1] = math.nan
    scene.log_scales[3] = 200.0  # overflows, and covers the picture at most
    weights = contributions(scene, [CAMERA])
    assert torch.equal(weights > 0, torch.tensor([False, False, False, True, True]))
    assert float(weights[3]) <= CAMERA.width * CAMERA.height


def test_contribution_is_opacity_times_area_in_pixels():
    pose = torch.eye(4)
    camera = Camera(pose, 50.0, 40.0, 16.0, 12.0, 32, 24)
    scene = random_gaussians(1)
    scene.means[0] = torch.tensor([0.1, -0.1, 4.0])
    scene.log_scales[0] = torch.tensor([0.1, 0.3, 0.2]).log()
    scene.opacity_logits[0] = 0.0
    assert float(contributions(scene, [camera])[0]) == pytest.approx(0.5 * 0.3 * 0.2 * 50 * 40 / 16, rel=1e-5)


def test_probabilities_keep_the_proportions():
    stay = probabilities(torch.tensor([100.0, 1.0, 2.0, 3.0, 0.0]), 3)
    assert torch.allclose(stay, torch.tensor([1.0, 1 / 3, 2 / 3, 1.0, 0.0]))
    assert torch.equal(probabilities(torch.tensor([5.0, 0.0, 1.0]), 3), torch.tensor([1.0, 0.0, 1.0]))
    assert torch.equal(probabilities(torch.zeros(4), 2), torch.zeros(4))


def test_neighbours_on_the_curve_are_neighbours_in_space():
    points = torch.rand(4000, 3, generator=torch.Generator().manual_seed(0))
    path = points[curve_order(points, torch.ones(4000))]
    steps = (path[1:] - path[:-1]).norm(dim=1)
    assert float(steps.mean()) < 0.2 * float((points[1:] - points[:-1]).norm(dim=1).mean())


def test_a_scene_that_no_picture_shows_leaves_nothing():
    scene = random_gaussians(30)
    scene.means[:, 2] -= 100
    assert decimated(scene, [CAMERA], 10).count == 0
