"""The CUDA kernels against the float64 reference: on a GPU, and emulated where there is none."""

from __future__ import annotations

import pytest
import torch

from services.trainer.backend import AdamConfig
from services.trainer.markov_moves import TorchMoves
from services.trainer.scene_types import Camera, Gaussians
from tests.helpers import cuda_emulation
from tests.helpers import reference_renderer as reference
from tests.helpers.random_scene import look_at_origin, random_gaussians, random_photo


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(
            "emulated", marks=pytest.mark.skipif(not cuda_emulation.available(), reason="no C++ compiler")
        ),
        pytest.param(
            "cuda",
            marks=[
                pytest.mark.gpu,
                pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
            ],
        ),
    ],
)
def backend(request):
    if request.param == "emulated":
        return cuda_emulation.emulated_backend()
    from services.trainer.cuda.backend import CudaBackend  # noqa: PLC0415

    return CudaBackend()


def on_device(backend, gaussians: Gaussians) -> Gaussians:
    return Gaussians(**{name: tensor.clone().to(backend.device) for name, tensor in gaussians.items()})


def relative(value: torch.Tensor, truth: torch.Tensor) -> float:
    assert torch.isfinite(value).all()
    return float((value.cpu().double() - truth).norm() / truth.norm().clamp_min(1e-12))


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
@pytest.mark.parametrize(("width", "height"), [(64, 48), (75, 41)])
def test_loss_and_gradients(backend, degree, width, height):
    scene, camera = random_gaussians(120, seed=degree), look_at_origin(width, height)
    target = random_photo(height, width)
    background = torch.tensor([0.2, 0.4, 0.6])
    loss, gradients, norms = reference.loss_and_gradients(scene, camera, target, degree, background, 0.2)
    out = backend.loss_and_gradients(
        on_device(backend, scene),
        camera,
        target.to(backend.device),
        degree,
        background.to(backend.device),
        0.2,
    )
    assert float(out.loss) == pytest.approx(float(loss), rel=1e-5)
    for (name, value), (_, truth) in zip(out.gradients.items(), gradients.items(), strict=True):
        assert relative(value, truth) < 2e-4, name
    assert relative(out.mean2d_gradient_norms, norms) < 2e-4


# Seeds of scenes in which no pixel's alpha stands within rounding of 1/255.
@pytest.mark.parametrize(("degree", "seed"), [(0, 40), (1, 41), (2, 42), (3, 43)])
@pytest.mark.parametrize("size", [0.15, 0.01])
def test_antialiased_loss_and_gradients(backend, degree, seed, size):
    scene, camera = random_gaussians(120, seed=seed, size=size), look_at_origin(75, 41)
    target = random_photo(41, 75)
    background = torch.tensor([0.2, 0.4, 0.6])
    arguments = (scene, camera, target, degree, background, 0.2, True)
    loss, gradients, norms = reference.loss_and_gradients(*arguments)
    out = backend.loss_and_gradients(
        on_device(backend, scene),
        camera,
        target.to(backend.device),
        degree,
        background.to(backend.device),
        0.2,
        True,
    )
    assert float(out.loss) == pytest.approx(float(loss), rel=1e-5)
    for (name, value), (_, truth) in zip(out.gradients.items(), gradients.items(), strict=True):
        assert relative(value, truth) < 2e-4, name
    assert relative(out.mean2d_gradient_norms, norms) < 2e-4


@pytest.mark.parametrize("dssim_weight", [0.0, 0.2])
def test_what_a_mask_hides_does_not_count(backend, dssim_weight):
    scene, camera = random_gaussians(120, seed=1), look_at_origin(75, 41)
    target = random_photo(41, 75, 4)
    target[:20, :, 3] = 0
    target[:, :25, 3] = 255
    background = torch.tensor([0.2, 0.4, 0.6])
    arguments = (scene, camera, target, 3, background, dssim_weight)
    loss, gradients, _ = reference.loss_and_gradients(*arguments)
    out = backend.loss_and_gradients(
        on_device(backend, scene), camera, target.to(backend.device), 3, background.to(backend.device),
        dssim_weight,
    )  # fmt: skip
    assert float(out.loss) == pytest.approx(float(loss), rel=1e-5)
    for (name, value), (_, truth) in zip(out.gradients.items(), gradients.items(), strict=True):
        assert relative(value, truth) < 2e-4, name


@pytest.mark.parametrize("most_blocks", [1024, 2])
def test_gradient_through_an_exposure(backend, monkeypatch, most_blocks):
    monkeypatch.setattr("services.trainer.cuda.backend._EXPOSURE_BLOCKS", most_blocks)
    scene, camera = random_gaussians(120, seed=1), look_at_origin(75, 41)
    target = random_photo(41, 75)
    background = torch.tensor([0.2, 0.4, 0.6])
    exposure = torch.eye(3, 4) + 0.1 * torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    leaf = exposure.double().requires_grad_()
    arguments = (scene, camera, target, 3, background, 0.2, False, leaf)
    loss, gradients, norms = reference.loss_and_gradients(*arguments)
    out = backend.loss_and_gradients(
        on_device(backend, scene), camera, target.to(backend.device), 3, background.to(backend.device), 0.2,
        exposure=exposure.to(backend.device),
    )  # fmt: skip
    assert float(out.loss) == pytest.approx(float(loss), rel=1e-5)
    assert relative(out.exposure_gradient, leaf.grad) < 1e-4
    for (name, value), (_, truth) in zip(out.gradients.items(), gradients.items(), strict=True):
        assert relative(value, truth) < 2e-4, name
    assert relative(out.mean2d_gradient_norms, norms) < 2e-4


@pytest.mark.parametrize("log_scales", [(-40.0, -40.0, -40.0), (-40.0, -40.0, -1.0), (-40.0, -1.0, -1.0)])
def test_antialiased_gaussians_without_area_vanish(backend, log_scales):
    scene = random_gaussians(50, seed=2)
    scene.log_scales[:] = torch.tensor(log_scales)
    scene.quats[:] = torch.tensor([1.0, 0.0, 0.0, 0.0])
    scene.means[:, 0] = 0.0  # and the camera in the plane x = 0, which the discs lie in
    camera = Camera(torch.eye(4), 60.0, 60.0, 32.0, 24.0, 64, 48)
    camera.cam_from_world[2, 3] = 4.0
    background = torch.tensor([0.3, 0.2, 0.1]).to(backend.device)
    target = torch.zeros(48, 64, 3, dtype=torch.uint8).to(backend.device)
    out = backend.loss_and_gradients(on_device(backend, scene), camera, target, 3, background, 0.2, True)
    assert all(float(tensor.abs().sum()) == 0 for _, tensor in out.gradients.items())
    picture = backend.render(on_device(backend, scene), camera, 3, background, antialiased=True)
    assert torch.equal(picture, background.expand(48, 64, 3))


def test_render_matches_reference(backend):
    scene, camera = random_gaussians(300, seed=7), look_at_origin(101, 67)
    background = torch.tensor([0.1, 0.0, 0.3])
    doubled = Gaussians(**{name: tensor.double() for name, tensor in scene.items()})
    truth = reference.render(doubled, camera, 3, background.double())
    picture = backend.render(on_device(backend, scene), camera, 3, background.to(backend.device))
    assert (picture.cpu().double() - truth).abs().max() < 1e-4


def test_nothing_in_view_is_background(backend):
    background = torch.tensor([0.3, 0.2, 0.1])
    camera = look_at_origin(40, 30)
    behind = random_gaussians(5)
    behind.means[:] = torch.tensor([0.0, 0.0, -10.0])
    for scene in (behind, behind.select(torch.zeros(5, dtype=torch.bool))):
        picture = backend.render(on_device(backend, scene), camera, 3, background.to(backend.device))
        assert torch.allclose(picture.cpu(), background.expand(30, 40, 3))
        target = torch.zeros(30, 40, 3, dtype=torch.uint8).to(backend.device)
        out = backend.loss_and_gradients(
            on_device(backend, scene), camera, target, 3, background.to(backend.device), 0.2
        )
        assert all(float(tensor.abs().sum()) == 0 for _, tensor in out.gradients.items())


def test_not_a_number_does_not_spread(backend):
    scene, camera = random_gaussians(50), look_at_origin(64, 48)
    background = torch.zeros(3).to(backend.device)
    clean = backend.render(
        on_device(backend, scene.select(torch.arange(10, 50))), camera, 3, background
    ).clone()
    for row, (_, tensor) in zip(range(4), scene.items(), strict=False):
        tensor[row] = float("nan")
    scene.opacity_logits[4:10] = -50.0
    picture = backend.render(on_device(backend, scene), camera, 3, background)
    assert torch.allclose(picture, clean)


def test_pairs_outgrowing_the_room_recover(backend):
    if backend.device.type != "cuda":
        pytest.skip("the emulation waits for every count, so its room is never too small")
    small, big = random_gaussians(50, size=0.01), random_gaussians(4000, seed=3, size=0.5)
    camera, background = look_at_origin(320, 240), torch.zeros(3).to(backend.device)
    target = torch.zeros(240, 320, 3, dtype=torch.uint8).to(backend.device)
    backend.loss_and_gradients(on_device(backend, small), camera, target, 3, background, 0.2)
    scene = on_device(backend, big)
    for _ in range(3):
        out = backend.loss_and_gradients(scene, camera, target, 3, background, 0.2)
        backend.synchronize()
    stepped = {name: tensor.clone() for name, tensor in out.gradients.items()}
    backend.render(scene, camera, 3, background)
    again = backend.loss_and_gradients(scene, camera, target, 3, background, 0.2)
    for name, tensor in again.gradients.items():
        assert relative(tensor, stepped[name].cpu().double()) < 1e-4, name


def test_adam_follows_torch(backend):
    scene = on_device(backend, random_gaussians(333))
    first, second = scene.zeros_like(), scene.zeros_like()
    leaves = [tensor.clone().requires_grad_() for _, tensor in scene.items()]
    rates = {name: 1e-3 * (k + 1) for k, (name, _) in enumerate(scene.items())}
    groups = [{"params": [leaf], "lr": rate} for leaf, rate in zip(leaves, rates.values(), strict=True)]
    optimizer = torch.optim.Adam(groups, eps=1e-15)
    for step in range(1, 6):
        gradients = on_device(backend, random_gaussians(333, seed=step))
        for leaf, (_, gradient) in zip(leaves, gradients.items(), strict=True):
            leaf.grad = gradient.clone()
        optimizer.step()
        backend.adam_step(scene, gradients, first, second, rates, step, AdamConfig())
    for leaf, (name, tensor) in zip(leaves, scene.items(), strict=True):
        assert torch.allclose(tensor, leaf, rtol=1e-5, atol=1e-6), name


def test_a_markov_chains_moves(backend):
    scene, noise = (
        random_gaussians(300, seed=5),
        torch.randn(300, 3, generator=torch.Generator().manual_seed(0)),
    )
    scene.opacity_logits[::2] = -6.0
    ours, theirs = on_device(backend, scene), on_device(backend, scene)
    slopes, expected = ours.zeros_like(), ours.zeros_like()
    for moves, gaussians, gradients in ((backend, ours, slopes), (TorchMoves(), theirs, expected)):
        moves.penalize(gaussians, gradients, 0.01, 0.02)
        moves.shake(gaussians, noise.to(backend.device), 30.0)
    assert relative(slopes.opacity_logits, expected.opacity_logits.cpu().double()) < 1e-5
    assert relative(slopes.log_scales, expected.log_scales.cpu().double()) < 1e-5
    before = scene.means.double()
    assert relative(ours.means.cpu() - before, theirs.means.cpu().double() - before) < 1e-3
    assert not torch.equal(ours.means.cpu(), scene.means)
