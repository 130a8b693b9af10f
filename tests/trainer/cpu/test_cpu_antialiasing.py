"""Antialiased rendering on the CPU: the factor rho on opacities and its gradient."""

from __future__ import annotations

import pytest
import torch

from services.trainer.cpu.backend import CpuBackend
from services.trainer.scene_types import Camera, Gaussians
from tests.helpers import reference_renderer as reference
from tests.helpers.random_scene import look_at_origin, random_gaussians, random_photo


@pytest.fixture(scope="module")
def backend():
    return CpuBackend()


def relative(value: torch.Tensor, truth: torch.Tensor) -> float:
    assert torch.isfinite(value).all()
    return float((value.double() - truth).norm() / truth.norm().clamp_min(1e-12))


def assert_agrees(backend, scene: Gaussians, camera: Camera, degree: int) -> None:
    """Loss and gradients within what plain rendering is held to."""
    target = random_photo(camera.height, camera.width)
    background = torch.tensor([0.2, 0.4, 0.6])
    arguments = (scene, camera, target, degree, background, 0.2)
    loss, gradients, norms = reference.loss_and_gradients(*arguments, antialiased=True)
    out = backend.loss_and_gradients(*arguments, antialiased=True)
    assert float(out.loss) == pytest.approx(float(loss), rel=1e-5)
    for (name, value), (_, truth) in zip(out.gradients.items(), gradients.items(), strict=True):
        assert relative(value, truth) < 5e-5, name
    assert relative(out.mean2d_gradient_norms, norms) < 5e-5


# Seeds of scenes in which no pixel's alpha stands within rounding of 1/255, where float32 and
# float64 may decide differently whether it counts.
@pytest.mark.parametrize(("degree", "seed"), [(0, 40), (1, 41), (2, 42), (3, 43)])
@pytest.mark.parametrize(("width", "height"), [(64, 48), (75, 41)])
@pytest.mark.parametrize("size", [0.15, 0.01])
def test_loss_and_gradients(backend, degree, seed, width, height, size):
    assert_agrees(backend, random_gaussians(120, seed=seed, size=size), look_at_origin(width, height), degree)


def test_render_matches_reference(backend):
    scene, camera = random_gaussians(300, seed=7), look_at_origin(101, 67)
    background = torch.tensor([0.1, 0.0, 0.3])
    doubled = Gaussians(**{name: tensor.double() for name, tensor in scene.items()})
    truth = reference.render(doubled, camera, 3, background.double(), antialiased=True)
    plain = backend.render(scene, camera, 3, background)
    picture = backend.render(scene, camera, 3, background, antialiased=True)
    assert (picture.double() - truth).abs().max() < 1e-4
    assert (picture - plain).abs().max() > 0.05


def test_small_and_flat_discs(backend):
    """Discs without thickness at all angles: some are seen from the side and vanish."""
    scene = random_gaussians(200, seed=9, size=0.1)
    scene.log_scales[:, 0] = -40.0
    assert_agrees(backend, scene, look_at_origin(64, 48), 3)


@pytest.mark.parametrize("log_scales", [(-40.0, -40.0, -40.0), (-40.0, -40.0, -1.0), (-40.0, -1.0, -1.0)])
def test_gaussians_without_area_vanish(backend, log_scales):
    """Points, lines, and discs from the side: not shown, and nothing is infinite or undefined."""
    scene = random_gaussians(50, seed=2)
    scene.log_scales[:] = torch.tensor(log_scales)
    scene.quats[:] = torch.tensor([1.0, 0.0, 0.0, 0.0])
    scene.means[:, 0] = 0.0  # and the camera in the plane x = 0, which the discs lie in
    camera = Camera(torch.eye(4), 60.0, 60.0, 32.0, 24.0, 64, 48)
    camera.cam_from_world[2, 3] = 4.0
    background = torch.tensor([0.3, 0.2, 0.1])
    target = torch.zeros(48, 64, 3, dtype=torch.uint8)
    out = backend.loss_and_gradients(scene, camera, target, 3, background, 0.2, antialiased=True)
    picture = backend.render(scene, camera, 3, background, antialiased=True)
    assert torch.equal(picture, background.expand(48, 64, 3))
    assert all(float(tensor.abs().sum()) == 0 for _, tensor in out.gradients.items())
    doubled = Gaussians(**{name: tensor.double() for name, tensor in scene.items()})
    truth = reference.render(doubled, camera, 3, background.double(), antialiased=True)
    assert (picture.double() - truth).abs().max() < 1e-6


@pytest.mark.parametrize("longest", [1.0, 3.0, 8.0, 30.0])
def test_extreme_shapes_stay_finite(backend, longest):
    scene, camera = random_gaussians(200, seed=4), look_at_origin(64, 48)
    scene.log_scales[:, 0] = longest
    scene.log_scales[:100, 1:] = -20.0
    scene.log_scales[100:150, 1] = longest
    target = torch.full((48, 64, 3), 255, dtype=torch.uint8)
    out = backend.loss_and_gradients(scene, camera, target, 3, torch.zeros(3), 0.2, antialiased=True)
    assert torch.isfinite(out.loss)
    assert all(torch.isfinite(tensor).all() for _, tensor in out.gradients.items())


def test_bad_numbers_do_not_spread(backend):
    scene, camera, background = random_gaussians(60), look_at_origin(64, 48), torch.zeros(3)
    kept = scene.select(torch.arange(8, 60))
    clean = backend.render(kept, camera, 3, background, antialiased=True)
    for row, (_, tensor) in zip(range(4), scene.items(), strict=False):
        tensor[row] = float("nan")
        tensor[row + 4] = float("inf") if row != 1 else 200.0
    scene.opacity_logits[7] = float("-inf")
    picture = backend.render(scene, camera, 3, background, antialiased=True)
    assert torch.allclose(picture, clean, atol=1e-6)


def test_modes_do_not_disturb_each_other(backend):
    """Scratch memory is shared: a plain step after an antialiased one is the same to the bit."""
    scene, camera = random_gaussians(500, seed=5), look_at_origin(160, 120)
    target, background = torch.full((120, 160, 3), 99, dtype=torch.uint8), torch.zeros(3)
    steps = []
    for antialiased in (False, True, False, True):
        out = backend.loss_and_gradients(scene, camera, target, 3, background, 0.2, antialiased)
        steps.append({name: tensor.clone() for name, tensor in out.gradients.items()})
    for name in steps[0]:
        assert torch.equal(steps[0][name], steps[2][name]), name
        assert torch.equal(steps[1][name], steps[3][name]), name
    assert not torch.equal(steps[0]["opacity_logits"], steps[1]["opacity_logits"])


def light(backend, camera: Camera, scale: float, antialiased: bool) -> float:
    """What one white Gaussian adds to the picture, summed over the full-size picture's area."""
    scene = random_gaussians(1)
    scene.means[:] = 0.0
    scene.log_scales[:] = scale
    scene.opacity_logits[:] = 4.0
    scene.sh0[:], scene.sh_rest[:] = 1.0, 0.0
    picture = backend.render(scene, camera, 0, torch.zeros(3), antialiased)
    return float(picture.sum()) / (camera.width * camera.height)


def test_light_of_a_subpixel_gaussian_keeps_at_half_the_resolution(backend):
    full = look_at_origin(128, 96, turn=0.0)
    half = full.scaled(64, 48)
    scale = torch.tensor(0.4 * 3.0 / full.fx).log().item()  # 0.4 pixels at the full size
    kept = light(backend, half, scale, True) / light(backend, full, scale, True)
    grown = light(backend, half, scale, False) / light(backend, full, scale, False)
    # Plainly drawn, (0.04 + 0.3) x 4 over (0.16 + 0.3) of the area, three times the light.
    assert kept == pytest.approx(1.0, abs=0.04)
    assert grown == pytest.approx(0.34 * 4 / 0.46, rel=0.04)
