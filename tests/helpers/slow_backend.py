"""A backend of a few Gaussians and pixels: the float64 reference behind the trainer's interface."""

from __future__ import annotations

import torch

from services.trainer.markov_moves import TorchMoves
from services.trainer.scene_types import Gaussians, StepOutput
from tests.helpers import reference_renderer as reference


class SlowBackend(TorchMoves):
    """For tests of the trainer that must not depend on a fast backend."""

    def __init__(self) -> None:
        self.device = torch.device("cpu")

    def render(self, gaussians, camera, sh_degree, background, antialiased=False):
        doubled = Gaussians(**{name: tensor.double() for name, tensor in gaussians.items()})
        return reference.render(
            doubled, camera, sh_degree, background.double(), antialiased=antialiased
        ).float()

    def loss_and_gradients(
        self, gaussians, camera, target, sh_degree, background, dssim_weight, antialiased=False, exposure=None
    ):
        leaf = None if exposure is None else exposure.double().requires_grad_()
        loss, gradients, norms = reference.loss_and_gradients(
            gaussians, camera, target, sh_degree, background, dssim_weight, antialiased, leaf
        )
        mean, covariance, depth = reference.project(gaussians, camera)
        reach = 3 * covariance.diagonal(dim1=1, dim2=2).amax(dim=1).sqrt()
        on_picture = (mean[:, 0] + reach > 0) & (mean[:, 0] - reach < camera.width)
        on_picture &= (mean[:, 1] + reach > 0) & (mean[:, 1] - reach < camera.height)
        radii = torch.where(on_picture & (depth > reference.NEAR_PLANE), reach, 0.0)
        single = Gaussians(**{name: tensor.float() for name, tensor in gradients.items()})
        slope = None if leaf is None else leaf.grad.float()
        return StepOutput(loss.float(), single, norms.float(), radii.float(), slope)

    def adam_step(self, parameters, gradients, first_moments, second_moments, learning_rates, step, config):
        sets = (parameters, gradients, first_moments, second_moments)
        for (name, value), (_, gradient), (_, m), (_, v) in zip(*(s.items() for s in sets), strict=True):
            m.mul_(config.beta1).add_(gradient, alpha=1 - config.beta1)
            v.mul_(config.beta2).addcmul_(gradient, gradient, value=1 - config.beta2)
            unbiased = v / (1 - config.beta2**step)
            rate = learning_rates[name] / (1 - config.beta1**step)
            value.sub_(rate * m / (unbiased.sqrt() + config.epsilon))

    def synchronize(self):
        pass

    def release(self):
        pass
