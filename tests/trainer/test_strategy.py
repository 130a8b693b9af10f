"""What the default strategy does to a step's gradients."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from services.common.options import TrainingOptions
from services.trainer.config import resolve
from services.trainer.density import DensityLimits, NearCameras, TrainingState
from services.trainer.markov_moves import TorchMoves
from services.trainer.scene_types import StepOutput
from services.trainer.schedule import plan
from services.trainer.settings import TrainerSettings
from services.trainer.strategy import AdaptiveDensity
from tests.helpers.random_scene import random_gaussians


def made(state: TrainingState, **changes) -> AdaptiveDensity:
    """On a run of 30,000 steps."""
    config = resolve(TrainingOptions(iterations=30_000), TrainerSettings(), "cuda")
    return AdaptiveDensity(
        state, replace(plan(config, 30), **changes), DensityLimits(), NearCameras((), torch.device("cpu")),
        1.0, 1000, torch.Generator(), TorchMoves(),
    )  # fmt: skip


def test_a_longer_run_goes_on_after_pruning():
    """What is known of gradients is of as many Gaussians as there are, even when it is not asked for."""
    state = TrainingState.fresh(random_gaussians(40, 0, 1))
    control = made(state, densify_until=1000, densify_every=100)
    output = StepOutput(torch.zeros(()), state.gaussians.zeros_like(), torch.ones(40), torch.ones(40))
    control.observe(1000, output)
    state.gaussians.opacity_logits[:7] = -10.0
    control.adapt(1500, {})
    assert state.gaussians.count == 33
    saved = control.checkpoint()
    longer = made(state, densify_until=3000, densify_every=100)
    longer.restore(saved)
    output = StepOutput(torch.zeros(()), state.gaussians.zeros_like(), torch.ones(33), torch.ones(33))
    for step in (1599, 1600):
        longer.observe(step, output)
    longer.adapt(1600, {})
    assert state.gaussians.count > 33


@pytest.mark.parametrize(("iterations", "weight"), [(30_000, 0.01), (1_000, 0.0)])
def test_opacity_is_penalised_in_long_runs_and_nothing_else_is(iterations, weight):
    count = 40
    state = TrainingState.fresh(random_gaussians(count, 0, 1))
    config = resolve(TrainingOptions(iterations=iterations), TrainerSettings(), "cpu")
    control = AdaptiveDensity(
        state, plan(config, 30), DensityLimits(), NearCameras((), torch.device("cpu")), 1.0, 1000,
        torch.Generator(), TorchMoves(),
    )  # fmt: skip
    output = StepOutput(torch.zeros(()), state.gaussians.zeros_like(), torch.zeros(count), torch.ones(count))
    control.observe(1, output)
    logits = state.gaussians.opacity_logits.double().requires_grad_()
    (weight * torch.sigmoid(logits).mean()).backward()
    gradients = dict(output.gradients.items())
    assert torch.allclose(gradients.pop("opacity_logits").double(), logits.grad, rtol=1e-5)
    assert not any(tensor.any() for tensor in gradients.values())
