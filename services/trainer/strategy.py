"""How the set of Gaussians changes while it is optimised: what every strategy offers to the loop."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from services.trainer.density import (
    DensityLimits,
    GradientStatistics,
    NearCameras,
    TrainingState,
    densify,
    prune,
    useless,
)
from services.trainer.markov_moves import MarkovMoves
from services.trainer.scene_types import StepOutput
from services.trainer.schedule import Schedule


class GaussianControl(Protocol):
    """Adds, moves and removes Gaussians. All of it happens in the state it was made with."""

    max_gaussians: int
    """Most Gaussians; may be lowered on the way."""

    def observe(self, step: int, output: StepOutput) -> None:
        """Sees a step's gradients before the optimiser does, and may change them."""
        ...

    def adapt(self, step: int, rates: Mapping[str, float]) -> None:
        """Changes the set after the optimiser's step, which had these learning rates."""
        ...

    def checkpoint(self) -> dict[str, Any]:
        """What a later process needs to go on."""
        ...

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Goes on from a checkpoint; the state has been restored already."""
        ...


@dataclass
class AdaptiveDensity:
    """The reference's density control: clone, split and prune.

    The reference lowers all opacities every 3,000 steps, so that Gaussians that no photo needs stay
    transparent. Here long runs have a small penalty on the mean opacity instead, at every step.
    """

    state: TrainingState
    schedule: Schedule
    limits: DensityLimits
    near: NearCameras
    extent: float
    """Radius of the scene, world units."""
    max_gaussians: int
    generator: torch.Generator
    moves: MarkovMoves

    def __post_init__(self) -> None:
        """Begins with no statistics."""
        self._statistics = self._fresh()

    def observe(self, step: int, output: StepOutput) -> None:
        """Gathers statistics; adds the gradient of the penalty on the mean opacity."""
        if step <= self.schedule.densify_until:
            self._statistics.add(output)
        if self.schedule.opacity_penalty:
            self.moves.penalize(
                self.state.gaussians, output.gradients, self.schedule.opacity_penalty, scale_weight=0.0
            )

    def adapt(self, step: int, rates: Mapping[str, float]) -> None:
        """See GaussianControl."""
        del rates
        schedule, state = self.schedule, self.state
        if schedule.densifies(step):
            densify(
                state, self._statistics.mean(), self._useless(step), self.limits, self.extent,
                schedule.most(step, self.max_gaussians), self.generator,
            )  # fmt: skip
            self._statistics = self._fresh()
        elif schedule.prunes(step) and prune(state, self._useless(step)):
            self._statistics = self._fresh()  # of as many as there are now: a longer run goes on from here

    def checkpoint(self) -> dict[str, Any]:
        """See GaussianControl."""
        return self._statistics.tensors()

    def restore(self, saved: Mapping[str, Any]) -> None:
        """See GaussianControl."""
        self._statistics = self._fresh()
        self._statistics.load(saved)

    def _fresh(self) -> GradientStatistics:
        gaussians = self.state.gaussians
        return GradientStatistics(gaussians.count, gaussians.means.device)

    def _useless(self, step: int) -> Tensor:
        large = self.schedule.prunes_large(step)
        return useless(self.state.gaussians, self.limits, self.extent, large, self.near)
