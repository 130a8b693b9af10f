"""Photos whose exposure varies: transforms that are learned, and how held-out photos are judged."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from services.common.options import TrainingOptions
from services.trainer.backend import AdamConfig
from services.trainer.config import resolve
from services.trainer.cpu.backend import CpuBackend
from services.trainer.dataset import Dataset, View
from services.trainer.evaluate import mean_psnr, psnr
from services.trainer.exposure import Exposures, cross_fitted
from services.trainer.scene_types import Camera
from services.trainer.settings import TrainerSettings
from services.trainer.trainer import Trainer
from tests.helpers import reference_renderer as reference
from tests.helpers.random_scene import look_at_origin, random_gaussians

CPU = torch.device("cpu")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def backend():
    return CpuBackend()


@pytest.mark.parametrize("antialiased", [False, True])
def test_gradients_against_autograd(backend, antialiased):
    # A seed of which no pixel's alpha stands within rounding of 1/255.
    scene, camera = random_gaussians(120, seed=43), look_at_origin(75, 41)
    target = torch.randint(0, 256, (41, 75, 3), dtype=torch.uint8, generator=generator())
    background = torch.tensor([0.2, 0.4, 0.6])
    exposure = torch.eye(3, 4) + 0.1 * torch.randn(3, 4, generator=generator())
    leaf = exposure.double().requires_grad_()
    arguments = (scene, camera, target, 3, background, 0.2, antialiased)
    loss, gradients, norms = reference.loss_and_gradients(*arguments, leaf)
    out = backend.loss_and_gradients(*arguments, exposure)
    assert float(out.loss) == pytest.approx(float(loss), rel=1e-5)
    assert torch.allclose(out.exposure_gradient.double(), leaf.grad, rtol=1e-4, atol=1e-6)
    for (name, value), (_, truth) in zip(out.gradients.items(), gradients.items(), strict=True):
        assert float((value.double() - truth).norm() / truth.norm()) < 5e-5, name
    assert torch.allclose(out.mean2d_gradient_norms.double(), norms, rtol=1e-3, atol=1e-9)


def test_each_photo_has_its_own_adam_and_the_mean_stays_the_identity():
    exposures, identity = Exposures(3, CPU), torch.eye(3, 4).double()
    leaves = [identity.clone().requires_grad_() for _ in range(3)]
    optimizers = [torch.optim.Adam([leaf], eps=1e-15) for leaf in leaves]
    for step, row in enumerate([0, 1, 0, 0, 2, 1]):
        gradient = torch.randn(3, 4, generator=generator(step))
        share = step / 6
        exposures.update(row, gradient, share, AdamConfig())
        leaves[row].grad = gradient.double()
        optimizers[row].param_groups[0]["lr"] = 0.01 * 0.1**share
        optimizers[row].step()
        with torch.no_grad():
            mean = sum(leaf.detach().clone() for leaf in leaves) / 3
            for leaf in leaves:
                leaf.sub_(mean - identity)
    for leaf, transform in zip(leaves, exposures.transforms, strict=True):
        assert torch.allclose(transform.double(), leaf.detach(), atol=1e-6)
    assert torch.allclose(exposures.transforms.mean(dim=0).double(), identity, atol=1e-6)


def test_a_fit_recovers_an_exposure_and_nothing_else():
    picture = torch.rand(96, 128, 3, generator=generator())
    transform = torch.tensor([[1.2, 0.0, 0.05, 0.02], [0.0, 0.8, 0.0, 0.0], [0.0, 0.1, 1.0, -0.03]])
    photo = picture @ transform[:, :3].T + transform[:, 3]
    assert (cross_fitted(picture, photo) - photo).abs().max() < 2e-3
    other = torch.rand(96, 128, 3, generator=generator(1))
    assert psnr(cross_fitted(picture, other).clamp(0, 1), other) < 11  # noise has no exposure


def test_no_pixel_is_judged_by_a_fit_that_has_seen_it():
    picture, photo = (torch.rand(64, 64, 3, generator=generator(seed)) for seed in (0, 1))
    before = cross_fitted(picture, photo)
    photo[:16, :16] = 0.0  # one white square
    changed = (cross_fitted(picture, photo) != before).any(dim=2)
    squares = changed.reshape(4, 16, 4, 16).any(dim=3).any(dim=1)
    board = (torch.arange(4)[:, None] + torch.arange(4)) % 2 == 1
    assert torch.equal(squares, board)


def test_pictures_without_colours_to_fit_stay_finite():
    flat = torch.full((40, 40, 3), 0.5)
    assert torch.allclose(cross_fitted(flat, flat), flat, atol=1e-4)
    for size in ((1, 1), (2, 3), (40, 40)):
        assert torch.isfinite(cross_fitted(torch.zeros(*size, 3), torch.ones(*size, 3))).all()


def varied_views(backend, count: int) -> tuple[list[View], list[View]]:
    """Views of a known scene under exposures of their own, and the same without."""
    scene = random_gaussians(150, seed=5, degree=0, size=0.4)
    scene.opacity_logits += 2.0
    varied, plain = [], []
    gains = torch.empty(count, 3).uniform_(-0.35, 0.35, generator=generator(2)).exp()
    for row in range(count):
        camera: Camera = look_at_origin(64, 48, turn=0.8 * (row / count - 0.5))
        picture = backend.render(scene, camera, 0, torch.zeros(3)) * 0.6
        for views, shown in ((plain, picture), (varied, picture * gains[row])):
            photo = (shown.clamp(0, 1) * 255).round().to(torch.uint8)
            views.append(View(str(row), (camera,), (photo,), 0.0))
    return varied, plain


def trained(backend, views: list[View], exposure: bool) -> Trainer:
    config = resolve(
        TrainingOptions(iterations=900, sh_degree=1, exposure=exposure), TrainerSettings(), "cpu"
    )
    config = replace(config, coarse_to_fine=False, max_gaussians=600)
    start = random_gaussians(300, seed=9, degree=0)
    dataset = Dataset(
        tuple(view for row, view in enumerate(views) if row % 6),
        tuple(views[::6]),
        extent=2.0,
        positions=start.means,
        colors=torch.full((300, 3), 90, dtype=torch.uint8),
    )
    trainer = Trainer(backend, dataset, config)
    while not trainer.done:
        trainer.step()
    return trainer


def test_varied_exposure_no_longer_costs_quality(backend):
    varied, plain = varied_views(backend, 24)
    without, learned = (trained(backend, varied, exposure) for exposure in (False, True))

    def judged_alike(trainer: Trainer) -> float:
        qualities = []
        for view in trainer.dataset.test:
            photo = view.pictures[0].float() / 255
            qualities.append(psnr(cross_fitted(trainer.render(view), photo).clamp(0, 1), photo))
        return sum(qualities) / len(qualities)

    assert mean_psnr(learned, learned.dataset.test) == pytest.approx(judged_alike(learned))
    assert judged_alike(learned) > judged_alike(without) + 1.5
    # The colours are those of the average photo: nearer to the true ones, uncorrected, too.
    truth = plain[::6]

    def to_truth(trainer: Trainer) -> float:
        pairs = [(trainer.render(view).clamp(0, 1), view.pictures[0].float() / 255) for view in truth]
        return sum(psnr(*pair) for pair in pairs) / len(pairs)

    assert to_truth(learned) > to_truth(without)
    mean = learned.exposures.transforms.mean(dim=0)
    assert torch.allclose(mean, torch.eye(3, 4), atol=1e-5)
