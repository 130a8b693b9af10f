"""What the default strategy does to a step's gradients."""

from __future__ import annotations

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
