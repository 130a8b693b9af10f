"""The first Gaussians."""

from __future__ import annotations

import math

import pytest
import torch

from services.trainer.dataset import Dataset, View
from services.trainer.init import SH_C0, in_view, initial_gaussians, neighbour_distances
from services.trainer.scene_types import Camera
from splatmill.errors import Reason, SplatmillError


def dataset(positions, colors=None, cameras=1) -> Dataset:
    views = []
    for k in range(cameras):
        pose = torch.eye(4)
        pose[0, 3] = -0.1 * k
        camera = Camera(pose, 50.0, 50.0, 32.0, 24.0, 64, 48)
        views.append(View(f"{k}", (camera,), (torch.zeros(48, 64, 3, dtype=torch.uint8),), 0.0))
    positions = torch.as_tensor(positions, dtype=torch.float32).reshape(-1, 3)
    if colors is None:
        colors = torch.full((len(positions), 3), 128, dtype=torch.uint8)
    return Dataset(tuple(views), (), 1.0, positions, torch.as_tensor(colors, dtype=torch.uint8))


def test_neighbour_distances_against_every_pair():
    points = torch.rand(200, 3, generator=torch.Generator().manual_seed(1))
    doubled = points.double()
    for i, value in enumerate(neighbour_distances(points)):
        squares = sorted(
            float(((doubled[i] - other) ** 2).sum()) for j, other in enumerate(doubled) if j != i
        )
        assert float(value) == pytest.approx(math.sqrt(sum(squares[:3]) / 3), rel=1e-6)


def test_neighbours_of_very_few_points():
    assert neighbour_distances(torch.zeros(1, 3)).tolist() == [0]
    assert neighbour_distances(torch.tensor([[0.0, 0, 0], [3.0, 4.0, 0]])).tolist() == [5, 5]
    assert neighbour_distances(torch.zeros(5, 3)).tolist() == [0] * 5


def test_values():
    r = torch.Generator().manual_seed(0)
    positions = torch.rand(50, 3, generator=r) * 0.4 + torch.tensor([0.0, 0.0, 4.0])
    colors = torch.randint(0, 256, (50, 3), generator=r).to(torch.uint8)
    first = initial_gaussians(dataset(positions, colors), 3, 1000, 0)
    assert torch.equal(first.means, positions)
    assert torch.sigmoid(first.opacity_logits) == pytest.approx(torch.full((50,), 0.1))
    assert first.log_scales.exp()[:, 0] == pytest.approx(neighbour_distances(positions))
    assert torch.equal(first.log_scales[:, 0], first.log_scales[:, 2])
    assert first.quats.tolist() == [[1, 0, 0, 0]] * 50
    assert first.sh0 * SH_C0 + 0.5 == pytest.approx(colors.float() / 255, abs=1e-6)
    assert first.sh_rest.shape == (50, 15, 3)
    assert initial_gaussians(dataset(positions, colors), 0, 1000, 0).sh_rest.shape == (50, 0, 3)


def test_one_point_gets_a_size():
    first = initial_gaussians(dataset([[0.0, 0.0, 5.0]]), 3, 1000, 0)
    assert first.log_scales.exp() == pytest.approx(torch.full((1, 3), 0.5))


def test_points_on_one_spot_get_a_size():
    first = initial_gaussians(dataset([[0.0, 0.0, 5.0]] * 6), 3, 1000, 0)
    assert torch.isfinite(first.log_scales).all()


def test_a_lonely_point_does_not_fill_the_picture():
    first = initial_gaussians(dataset([[0.0, 0.0, 2.0], [0.0, 0.0, 500.0]]), 3, 1000, 0)
    assert first.log_scales.exp()[:, 0] == pytest.approx(torch.tensor([0.2, 50.0]))


def test_points_behind_every_camera_are_no_points():
    with pytest.raises(SplatmillError) as caught:
        initial_gaussians(
            dataset([[0.0, 0.0, -5.0], [0.1, 0.0, -4.0], [0.0, 0.0, 0.0]], cameras=3), 3, 1000, 0
        )
    assert caught.value.reason == Reason.NO_POINTS
    with pytest.raises(SplatmillError):
        initial_gaussians(dataset([]), 3, 1000, 0)


def test_in_view():
    camera = dataset([]).train[0].cameras[0]
    points = torch.tensor([[0.0, 0, 1], [0, 0, -1], [0.63, 0, 1], [1.1, 0, 1], [0, 0.9, 1], [-0.9, 0, 1]])
    assert in_view(points, [camera]).tolist() == [True, False, True, False, False, True]


def test_more_points_than_wanted_are_thinned_out_repeatably():
    positions = torch.rand(300, 3, generator=torch.Generator().manual_seed(0)) * 0.5 + torch.tensor(
        [0.0, 0.0, 4.0]
    )
    one = initial_gaussians(dataset(positions), 0, 120, 5)
    assert one.count == 120
    assert torch.equal(one.means, initial_gaussians(dataset(positions), 0, 120, 5).means)
    assert not torch.equal(one.means, initial_gaussians(dataset(positions), 0, 120, 6).means)
