"""Density control against a reference that goes through the Gaussians one by one in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from services.trainer.dataset import View
from services.trainer.density import (
    DensityLimits,
    GradientStatistics,
    NearCameras,
    TrainingState,
    densify,
    drawable,
    prune,
    split_parts,
    useless,
)
from services.trainer.scene_types import Camera, Gaussians, StepOutput
from tests.helpers.random_scene import look_at_origin, random_gaussians

EXTENT = 4.0
LIMITS = DensityLimits()


def state_of(count: int, seed: int = 0, degree: int = 1) -> TrainingState:
    """Gaussians with moments that tell which is whose."""
    first = random_gaussians(count, seed + 1, degree)
    second = random_gaussians(count, seed + 2, degree)
    return TrainingState(random_gaussians(count, seed, degree), first, second)


def rows(gaussians: Gaussians) -> torch.Tensor:
    """Everything about each Gaussian in one row."""
    return torch.cat([tensor.reshape(len(tensor), -1) for _, tensor in gaussians.items()], dim=1)


def rotation(quat: np.ndarray) -> np.ndarray:
    """By turning the axes with quaternion products, unlike the code under test."""

    def product(a, b):
        return np.array([
            a[0] * b[0] - a[1:] @ b[1:],
            *(a[0] * b[1:] + b[0] * a[1:] + np.cross(a[1:], b[1:])),
        ])  # fmt: skip

    q = quat / np.linalg.norm(quat)
    conjugate = q * [1, -1, -1, -1]
    return np.stack([product(product(q, np.array([0.0, *axis])), conjugate)[1:] for axis in np.eye(3)], 1)


def test_statistics_are_means_over_visible_steps():
    r = torch.Generator().manual_seed(0)
    statistics = GradientStatistics(20, torch.device("cpu"))
    sums, counts = [0.0] * 20, [0] * 20
    for _ in range(7):
        radii = torch.where(torch.rand(20, generator=r) < 0.4, 0.0, 3.0)
        norms = torch.rand(20, generator=r) * (radii > 0)
        statistics.add(StepOutput(torch.zeros(()), random_gaussians(20), norms, radii))
        for i in range(20):
            sums[i] += float(norms[i])
            counts[i] += int(radii[i] > 0)
    expected = [total / count if count else 0.0 for total, count in zip(sums, counts, strict=True)]
    assert statistics.mean().tolist() == pytest.approx(expected)


def expected_densify(state, gradients, drop, max_gaussians, noise):
    """The rules one Gaussian at a time: (kept rows, cloned rows, split rows, split parts)."""
    count = state.gaussians.count
    room = max_gaussians - (count - int(drop.sum()))
    candidates = [i for i in range(count) if gradients[i] > LIMITS.gradient_threshold and not drop[i]]
    candidates = sorted(sorted(candidates, key=lambda i: -float(gradients[i]))[: max(0, room)])
    scales = np.exp(state.gaussians.log_scales.double().numpy())
    cloned = [i for i in candidates if scales[i].max() <= 0.01 * EXTENT]
    split = [i for i in candidates if i not in cloned]
    kept = [i for i in range(count) if not drop[i] and i not in split]
    parts = []
    for part in range(2):
        for row, i in enumerate(split):
            turn = rotation(state.gaussians.quats[i].double().numpy())
            offset = turn @ (scales[i] * noise[part, row].double().numpy())
            parts.append((i, state.gaussians.means[i].double().numpy() + offset, np.log(scales[i] / 1.6)))
    return kept, cloned, split, parts


@pytest.mark.parametrize("max_gaussians", [1000, 130, 101, 70])
def test_densify(max_gaussians):
    state = state_of(100)
    state.gaussians.log_scales -= 1.0  # so that some are small enough to be cloned
    r = torch.Generator().manual_seed(3)
    gradients = torch.rand(100, generator=r) * 5e-4
    drop = torch.rand(100, generator=r) < 0.2
    before = TrainingState(*(g.select(torch.arange(100)) for g in (
        state.gaussians, state.first_moments, state.second_moments)))  # fmt: skip
    generator = torch.Generator().manual_seed(9)
    change = densify(state, gradients, drop, LIMITS, EXTENT, max_gaussians, generator)
    noise = torch.randn(2, change.split, 3, generator=torch.Generator().manual_seed(9))
    kept, cloned, split, parts = expected_densify(before, gradients, drop, max_gaussians, noise)
    assert (change.cloned, change.split, change.pruned) == (len(cloned), len(split), int(drop.sum()))
    if max_gaussians == 1000:
        assert cloned
        assert split
    after = state.gaussians
    assert after.count == len(kept) + len(cloned) + len(parts)
    assert after.count <= max(max_gaussians, 100 - int(drop.sum()))
    first_new = len(kept)
    assert torch.equal(rows(after)[:first_new], rows(before.gaussians)[kept])
    assert torch.equal(rows(after)[first_new : first_new + len(cloned)], rows(before.gaussians)[cloned])
    for row, (parent, mean, log_scale) in enumerate(parts, start=first_new + len(cloned)):
        assert after.means[row].numpy() == pytest.approx(mean, rel=1e-5, abs=1e-6)
        assert after.log_scales[row].numpy() == pytest.approx(log_scale, rel=1e-5, abs=1e-6)
        for name in ("quats", "opacity_logits", "sh0", "sh_rest"):
            assert torch.equal(getattr(after, name)[row], getattr(before.gaussians, name)[parent])
    for moments, old in (
        (state.first_moments, before.first_moments),
        (state.second_moments, before.second_moments),
    ):
        assert torch.equal(rows(moments)[:first_new], rows(old)[kept])
        assert not rows(moments)[first_new:].any()


def test_split_parts_spread_as_the_gaussian_does():
    one = random_gaussians(1, seed=4, degree=0)
    noise = torch.randn(2, 1, 3, generator=torch.Generator().manual_seed(0))
    many = one.select(torch.zeros(20_000, dtype=torch.int64))
    noise = torch.randn(2, 20_000, 3, generator=torch.Generator().manual_seed(0))
    parts = split_parts(many, noise, 1.6)
    turn, scales = rotation(one.quats[0].double().numpy()), np.exp(one.log_scales[0].double().numpy())
    truth = turn @ np.diag(scales**2) @ turn.T
    found = np.cov(parts.means.double().numpy().T)
    assert np.abs(found - truth).max() < 0.03 * np.abs(truth).max()


def test_useless():
    scene = random_gaussians(12)
    scene.means[:, 2] = 0
    scene.opacity_logits[:] = 0
    scene.log_scales[:] = math.log(0.1)
    low, high = math.log(0.0049 / 0.9951), math.log(0.0051 / 0.9949)
    scene.opacity_logits[0], scene.opacity_logits[1] = low, high
    scene.log_scales[2, 1], scene.log_scales[3, 1] = math.log(0.401), math.log(0.399)
    scene.means[4, 0] = float("nan")
    scene.quats[5, 0] = float("inf")
    scene.log_scales[6, 0] = float("nan")
    scene.opacity_logits[7] = float("nan")
    nobody = NearCameras((), torch.device("cpu"))
    large = useless(scene, LIMITS, EXTENT, True, nobody).tolist()
    assert [i for i, drop in enumerate(large) if drop] == [0, 2, 4, 5, 6, 7]
    small = useless(scene, LIMITS, EXTENT, False, nobody).tolist()
    assert [i for i, drop in enumerate(small) if drop] == [0, 4, 5, 6, 7]


def test_near_cameras_against_each_pair():
    views = []
    for k in range(5):
        camera = look_at_origin(64, 48, distance=2.0, turn=0.5 * k)
        views.append(View(str(k), (camera,), (), near=(0.0, 0.6, 1.2, 1.8, 2.4)[k]))
    means = torch.randn(4000, 3, generator=torch.Generator().manual_seed(0)) * 1.5
    found = NearCameras(views, torch.device("cpu")).find(means)
    expected = torch.zeros(4000, dtype=torch.bool)
    for view in views:
        camera: Camera = view.cameras[0]
        pose = camera.cam_from_world.double()
        for i, point in enumerate(means.double()):
            x, y, z = (pose[:3, :3] @ point + pose[:3, 3]).tolist()
            if not 0 < z < view.near:
                continue
            wide = 1.3 * max(camera.cx, camera.width - camera.cx) / camera.fx
            high = 1.3 * max(camera.cy, camera.height - camera.cy) / camera.fy
            expected[i] |= abs(x / z) < wide and abs(y / z) < high
    assert 50 < int(expected.sum()) < 3000
    assert int((found != expected).sum()) <= 1  # a point may lie on the border


def test_pruning_carries_moments_and_never_takes_all():
    state = state_of(6)
    expected = rows(state.second_moments)[[0, 2, 3, 5]]
    assert prune(state, torch.tensor([False, True, False, False, True, False])) == 2
    assert torch.equal(rows(state.second_moments), expected)
    assert prune(state, torch.ones(4, dtype=torch.bool)) == 0
    assert state.gaussians.count == 4


def test_densify_never_takes_all():
    state = state_of(5)
    change = densify(
        state, torch.zeros(5), torch.ones(5, dtype=torch.bool), LIMITS, EXTENT, 10, torch.Generator()
    )
    assert (state.gaussians.count, change.pruned) == (5, 0)


def test_gradients_that_are_no_numbers_grow_nothing():
    state = state_of(5)
    gradients = torch.full((5,), float("nan"))
    densify(state, gradients, torch.zeros(5, dtype=torch.bool), LIMITS, EXTENT, 100, torch.Generator())
    assert state.gaussians.count == 5


def test_drawable():
    scene = random_gaussians(4)
    scene.opacity_logits[:] = torch.tensor([-5.6, -5.5, 0.0, 0.0])  # 1 / 255 lies at -5.537
    scene.sh_rest[3, 2, 1] = float("inf")
    assert drawable(scene).tolist() == [False, True, True, False]
