"""The Markov chain's moves against the paper's formulas in plain Python."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from services.common.options import Strategy, TrainingOptions
from services.trainer.config import resolve
from services.trainer.dataset import DatasetLoader
from services.trainer.density import TrainingState
from services.trainer.evaluate import mean_psnr
from services.trainer.markov_moves import TorchMoves
from services.trainer.mcmc import MarkovChain, grow, relocate, shared, smaller_and_denser
from services.trainer.scene_types import Gaussians, StepOutput
from services.trainer.schedule import plan
from services.trainer.settings import TrainerSettings
from services.trainer.trainer import Trainer
from tests.helpers.colmap_writer import write_scene
from tests.helpers.random_scene import random_gaussians
from tests.helpers.slow_backend import SlowBackend


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def state_of(count: int) -> TrainingState:
    return TrainingState(
        random_gaussians(count, 0, 1), random_gaussians(count, 1, 1), random_gaussians(count, 2, 1)
    )


@pytest.mark.parametrize("copies", [1, 2, 3, 10, 51])
@pytest.mark.parametrize("opacity", [0.006, 0.3, 0.9, 0.999])
def test_copies_share_the_light(opacity, copies):
    new, factor = shared(torch.tensor([opacity]), torch.tensor([copies]))
    assert 1 - (1 - float(new)) ** copies == pytest.approx(opacity, rel=1e-6)
    double_sum = sum(
        math.comb(i - 1, k) * (-1) ** k / math.sqrt(k + 1) * float(new) ** (k + 1)
        for i in range(1, copies + 1)
        for k in range(i)
    )
    assert float(factor) == pytest.approx(opacity / double_sum, rel=1e-6)
    assert (float(factor) == pytest.approx(1)) == (copies == 1)


def test_the_dead_move_to_the_living():
    state = state_of(60)
    state.gaussians.opacity_logits[:20] = -9.0
    state.gaussians.means[25] = math.nan
    dead = torch.zeros(60, dtype=torch.bool)
    dead[:20] = True
    dead[25] = True
    living = state.gaussians.means[~dead].clone()
    assert relocate(state, generator()) == 21
    for mean in state.gaussians.means[dead]:
        source = (living == mean).all(dim=1)
        assert source.sum() == 1
        twins = (state.gaussians.means == mean).all(dim=1)
        for moments in (state.first_moments, state.second_moments):
            assert not moments.means[twins].any()
    assert (torch.sigmoid(state.gaussians.opacity_logits) >= 0.005 - 1e-6).all()
    assert state.first_moments.means.any(), "whoever had no part in it keeps its moments"


def test_nobody_to_move_to():
    state = state_of(5)
    state.gaussians.opacity_logits[:] = -9.0
    assert relocate(state, generator()) == 0
    assert relocate(state_of(5), generator()) == 0


def test_growth_ends_at_the_cap():
    state = state_of(100)
    assert grow(state, 1.05, 1000, generator()) == 5
    assert grow(state, 10.0, 120, generator()) == 15
    assert grow(state, 1.05, 120, generator()) == 0
    assert state.gaussians.count == state.first_moments.count == 120
    assert not state.first_moments.means[100:].any()


def test_only_the_faint_are_shaken_and_along_their_own_axes():
    count = 20_000
    flat = torch.log(torch.tensor([1.0, 0.1, 0.001])).repeat(count, 1)
    quats = torch.tensor([math.sqrt(0.5), 0.0, 0.0, math.sqrt(0.5)]).repeat(count, 1)  # x becomes y
    zeros = torch.zeros(count, 3)
    logits = torch.full((count,), -12.0)
    logits[: count // 2] = 3.0
    gaussians = Gaussians(zeros.clone(), flat, quats, logits, zeros, torch.zeros(count, 0, 3))
    noise = torch.randn(count, 3, generator=generator())
    TorchMoves().shake(gaussians, noise, 5.0)
    solid, faint = gaussians.means[: count // 2], gaussians.means[count // 2 :]
    assert solid.abs().max() < 1e-6
    share = 1 / (1 + math.exp(-100 * (0.005 - 1 / (1 + math.exp(12)))))
    expected = 5.0 * share * torch.tensor([0.1**2, 1.0, 0.001**2])
    assert torch.allclose(faint.std(dim=0), expected, rtol=0.03)


def test_penalties_have_the_gradients_they_should():
    state = state_of(40)
    chain = MarkovChain(state, plan(config(), 10), 1000, generator(), TorchMoves(), extent=2.8)
    output = StepOutput(torch.zeros(()), state.gaussians.zeros_like(), torch.zeros(40), torch.ones(40))
    chain.observe(1, output)
    logits = state.gaussians.opacity_logits.double().requires_grad_()
    scales = state.gaussians.log_scales.double().requires_grad_()
    (0.01 * torch.sigmoid(logits).mean() + 0.005 * scales.exp().mean()).backward()
    assert torch.allclose(output.gradients.opacity_logits.double(), logits.grad, rtol=1e-5)
    assert torch.allclose(output.gradients.log_scales.double(), scales.grad, rtol=1e-5)
    assert not output.gradients.means.any()


def test_the_first_ones_are_small_and_half_opaque():
    before, after = random_gaussians(9, 0, 1), smaller_and_denser(random_gaussians(9, 0, 1))
    assert torch.allclose(after.log_scales.exp(), 0.1 * before.log_scales.exp())
    assert torch.allclose(torch.sigmoid(after.opacity_logits), torch.full((9,), 0.5))


def config(**options):
    return resolve(TrainingOptions(strategy=Strategy.MCMC, **options), TrainerSettings(), "cpu")


def test_a_run_uses_the_whole_cap(tmp_path):
    source = write_scene(tmp_path / "sfm", photos=10, points=30)
    run = replace(config(iterations=700), max_gaussians=60, coarse_to_fine=False)
    assert run.densify_until_iter == 700 * 5 // 6
    loader = DatasetLoader(source, run)
    list(loader.load())
    trainer = Trainer(SlowBackend(), loader.dataset(), run)
    first = mean_psnr(trainer, trainer.dataset.train)
    while not trainer.done:
        trainer.step()
    assert trainer.gaussians.count == 60
    assert mean_psnr(trainer, trainer.dataset.train) > first + 3


def test_the_unit_of_length_does_not_matter():
    """A scene ten times as large, its Gaussians too, moves ten times as far and is penalised the same."""
    moved, slopes = [], []
    for unit in (1.0, 10.0):
        state = state_of(30)
        state.gaussians.means *= unit
        state.gaussians.log_scales += math.log(unit)
        state.gaussians.opacity_logits[:] = -6.0
        chain = MarkovChain(state, plan(config(), 10), 30, generator(), TorchMoves(), extent=2.0 * unit)
        output = StepOutput(torch.zeros(()), state.gaussians.zeros_like(), torch.zeros(30), torch.ones(30))
        chain.observe(1, output)
        before = state.gaussians.means.clone()
        chain.adapt(1, {"means": 1e-5 * unit})
        moved.append((state.gaussians.means - before) / unit)
        slopes.append(output.gradients.log_scales)
    assert moved[0].abs().max() > 0
    assert torch.allclose(moved[0], moved[1], rtol=1e-3, atol=1e-6)
    assert torch.allclose(slopes[0], slopes[1], rtol=1e-4)
