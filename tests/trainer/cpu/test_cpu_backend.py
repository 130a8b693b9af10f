"""The CPU kernels against the float64 reference."""

from __future__ import annotations

import pytest
import torch

from services.trainer.backend import AdamConfig
from services.trainer.cpu.backend import CpuBackend
from services.trainer.scene_types import Gaussians
from tests.helpers import reference_renderer as reference
from tests.helpers.random_scene import look_at_origin, random_gaussians, random_photo


@pytest.fixture(scope="module")
def backend():
    return CpuBackend()


def relative(value: torch.Tensor, truth: torch.Tensor) -> float:
    assert torch.isfinite(value).all()
    return float((value.double() - truth).norm() / truth.norm().clamp_min(1e-12))


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
@pytest.mark.parametrize(("width", "height"), [(64, 48), (75, 41)])
def test_loss_and_gradients(backend, degree, width, height):
    scene, camera = random_gaussians(120, seed=degree), look_at_origin(width, height)
    target = random_photo(height, width)
    background = torch.tensor([0.2, 0.4, 0.6])
    loss, gradients, norms = reference.loss_and_gradients(scene, camera, target, degree, background, 0.2)
    out = backend.loss_and_gradients(scene, camera, target, degree, background, 0.2)
    assert float(out.loss) == pytest.approx(float(loss), rel=1e-5)
    for (name, value), (_, truth) in zip(out.gradients.items(), gradients.items(), strict=True):
        assert relative(value, truth) < 5e-5, name
    assert relative(out.mean2d_gradient_norms, norms) < 5e-5


def test_render_matches_reference(backend):
    scene, camera = random_gaussians(300, seed=7), look_at_origin(101, 67)
    background = torch.tensor([0.1, 0.0, 0.3])
    doubled = Gaussians(**{name: tensor.double() for name, tensor in scene.items()})
    truth = reference.render(doubled, camera, 3, background.double())
    picture = backend.render(scene, camera, 3, background)
    assert (picture.double() - truth).abs().max() < 1e-4


def test_few_gaussians_may_reach_every_tile():
    """More tiles than there was room for: the backend makes room and projects again."""
    backend, scene, camera = CpuBackend(), random_gaussians(3, seed=3), look_at_origin(320, 240)
    scene.log_scales[:] = 1.0
    scene.opacity_logits[:] = -1.0
    picture = backend.render(scene, camera, 3, torch.zeros(3))
    doubled = Gaussians(**{name: tensor.double() for name, tensor in scene.items()})
    truth = reference.render(doubled, camera, 3, torch.zeros(3).double())
    assert float((truth.sum(2) > 0.01).float().mean()) > 0.9
    assert torch.allclose(picture.double(), truth, atol=1e-4)


def test_opaque_layers_stop_where_the_reference_does(backend):
    """Many opaque Gaussians behind each other: pixels are done early, the background barely shows."""
    scene, camera = random_gaussians(400, seed=3, size=0.6), look_at_origin(48, 48)
    scene.opacity_logits[:] = 6.0
    background = torch.tensor([1.0, 0.5, 0.0])
    target = torch.zeros(48, 48, 3, dtype=torch.uint8)
    _, gradients, _ = reference.loss_and_gradients(scene, camera, target, 1, background, 0.0)
    out = backend.loss_and_gradients(scene, camera, target, 1, background, 0.0)
    for (name, value), (_, truth) in zip(out.gradients.items(), gradients.items(), strict=True):
        assert relative(value, truth) < 5e-4, name


def test_nothing_in_view_is_background(backend):
    background, camera = torch.tensor([0.3, 0.2, 0.1]), look_at_origin(40, 30)
    behind = random_gaussians(5)
    behind.means[:] = torch.tensor([0.0, 0.0, -10.0])
    for scene in (behind, behind.select(torch.zeros(5, dtype=torch.bool))):
        picture = backend.render(scene, camera, 3, background)
        assert torch.allclose(picture, background.expand(30, 40, 3))
        target = torch.zeros(30, 40, 3, dtype=torch.uint8)
        out = backend.loss_and_gradients(scene, camera, target, 3, background, 0.2)
        assert all(float(tensor.abs().sum()) == 0 for _, tensor in out.gradients.items())


def test_bad_numbers_do_not_spread(backend):
    scene, camera, background = random_gaussians(60), look_at_origin(64, 48), torch.zeros(3)
    clean = backend.render(scene.select(torch.arange(12, 60)), camera, 3, background)
    for row, (_, tensor) in zip(range(4), scene.items(), strict=False):
        tensor[row] = float("nan")
        tensor[row + 4] = float("inf") if row != 1 else 200.0
    scene.opacity_logits[8:12] = -50.0
    scene.opacity_logits[7] = float("-inf")
    picture = backend.render(scene, camera, 3, background)
    assert torch.allclose(picture, clean, atol=1e-6)


def test_one_gaussian_of_no_size(backend):
    scene = random_gaussians(1)
    scene.means[:] = 0.0
    scene.log_scales[:] = -40.0
    scene.opacity_logits[:] = 4.0
    camera, background = look_at_origin(33, 17), torch.zeros(3)
    target = torch.full((17, 33, 3), 255, dtype=torch.uint8)
    _, gradients, _ = reference.loss_and_gradients(scene, camera, target, 3, background, 0.2)
    out = backend.loss_and_gradients(scene, camera, target, 3, background, 0.2)
    assert relative(out.gradients.sh0, gradients.sh0) < 5e-5
    assert relative(out.gradients.means, gradients.means) < 5e-4


def test_results_repeat_bit_for_bit(backend):
    scene, camera = random_gaussians(500, seed=5), look_at_origin(160, 120)
    target, background = random_photo(120, 160), torch.zeros(3)
    first = backend.loss_and_gradients(scene, camera, target, 3, background, 0.2)
    kept = {name: tensor.clone() for name, tensor in first.gradients.items()}
    again = backend.loss_and_gradients(scene, camera, target, 3, background, 0.2)
    assert all(torch.equal(tensor, kept[name]) for name, tensor in again.gradients.items())


def test_the_number_of_threads_changes_nothing():
    scene, camera = random_gaussians(500, seed=5), look_at_origin(160, 120)
    target, background = random_photo(120, 160), torch.zeros(3)
    outs = [
        CpuBackend(threads=n).loss_and_gradients(scene, camera, target, 3, background, 0.2) for n in (1, 2)
    ]
    for (name, one), (_, two) in zip(outs[0].gradients.items(), outs[1].gradients.items(), strict=True):
        assert torch.equal(one, two), name


def test_adam_follows_torch(backend):
    scene = random_gaussians(333)
    first, second = scene.zeros_like(), scene.zeros_like()
    leaves = [tensor.clone().requires_grad_() for _, tensor in scene.items()]
    rates = {name: 1e-3 * (k + 1) for k, (name, _) in enumerate(scene.items())}
    groups = [{"params": [leaf], "lr": rate} for leaf, rate in zip(leaves, rates.values(), strict=True)]
    optimizer = torch.optim.Adam(groups, eps=1e-15)
    for step in range(1, 6):
        gradients = random_gaussians(333, seed=step)
        for leaf, (_, gradient) in zip(leaves, gradients.items(), strict=True):
            leaf.grad = gradient.clone()
        optimizer.step()
        backend.adam_step(scene, gradients, first, second, rates, step, AdamConfig())
    for leaf, (name, tensor) in zip(leaves, scene.items(), strict=True):
        assert torch.allclose(tensor, leaf, rtol=1e-5, atol=1e-6), name
