"""The training loop, step by step: optimise, then control the density."""

from __future__ import annotations

import random

import torch
from torch import Tensor

from services.trainer.backend import AdamConfig, Backend
from services.trainer.config import TrainingConfig
from services.trainer.dataset import Dataset, View
from services.trainer.density import (
    DensityLimits,
    GradientStatistics,
    NearCameras,
    TrainingState,
    densify,
    drawable,
    prune,
    reset_opacity,
    useless,
)
from services.trainer.init import initial_gaussians
from services.trainer.scene_types import Gaussians
from services.trainer.schedule import Schedule, plan

DSSIM_WEIGHT = 0.2


class Trainer:
    """Trains Gaussians on a dataset.

    A step leaves its work with the device and does not wait for it; only density control,
    every hundred steps, and whoever reads the loss do.

    Args:
        backend: What rasterises and optimises.
        dataset: Photos, cameras and points.
        config: The run.
        schedule: Its plan; None takes the usual one.
        limits: Constants of density control.

    Raises:
        SplatmillError: NO_POINTS without a point to start from.
    """

    def __init__(
        self,
        backend: Backend,
        dataset: Dataset,
        config: TrainingConfig,
        schedule: Schedule | None = None,
        limits: DensityLimits | None = None,
    ) -> None:
        first = initial_gaussians(dataset, config.sh_degree, config.max_gaussians, config.seed)
        device = backend.device
        self.backend = backend
        self.dataset = dataset.to(device)
        self.config = config
        self.schedule = schedule or plan(config, len(dataset.train))
        self.limits = limits or DensityLimits()
        self.iteration = 0
        self.state = TrainingState.fresh(Gaussians(**{name: t.to(device) for name, t in first.items()}))
        self.background = torch.zeros(3, device=device)
        self._adam = AdamConfig()
        self._near = NearCameras(dataset.train, device)
        self._statistics = GradientStatistics(self.state.gaussians.count, device)
        self._generator = torch.Generator(device).manual_seed(config.seed)
        self._order = random.Random(config.seed)
        self._queue: list[View] = []

    @property
    def gaussians(self) -> Gaussians:
        """The scene as it is now."""
        return self.state.gaussians

    @property
    def done(self) -> bool:
        """Whether all steps are done."""
        return self.iteration >= self.config.iterations

    def step(self) -> Tensor:
        """One step.

        Returns:
            The loss, [], on the device; reading it waits for the device.
        """
        self.iteration += 1
        step, state = self.iteration, self.state
        view = self._next_view()
        level = min(self.schedule.level(step), len(view.cameras) - 1)
        target = view.pictures[level].to(self.backend.device, non_blocking=True)
        output = self.backend.loss_and_gradients(
            state.gaussians,
            view.cameras[level],
            target,
            self.schedule.degree(step),
            self.background,
            DSSIM_WEIGHT,
        )
        if step <= self.schedule.densify_until:
            self._statistics.add(output)
        self.backend.adam_step(
            state.gaussians,
            output.gradients,
            state.first_moments,
            state.second_moments,
            self.schedule.learning_rates(step, self.dataset.extent),
            step,
            self._adam,
        )
        loss = output.loss
        self._control_density(step)
        return loss

    def finish(self) -> None:
        """Removes what no picture can show; to be called once, after the last step."""
        prune(self.state, ~drawable(self.gaussians) | self._near.find(self.gaussians.means))

    def render(self, view: View) -> Tensor:
        """A photo's view at full size, [height, width, 3] float32, not clamped, on the device."""
        degree = self.schedule.degree(self.iteration)
        return self.backend.render(self.gaussians, view.cameras[0], degree, self.background)

    def _next_view(self) -> View:
        """Every photo once in random order, then anew."""
        if not self._queue:
            self._queue = list(self.dataset.train)
            self._order.shuffle(self._queue)
        return self._queue.pop()

    def _control_density(self, step: int) -> None:
        schedule, state = self.schedule, self.state
        if schedule.densifies(step):
            drop = self._useless(step)
            densify(
                state,
                self._statistics.mean(),
                drop,
                self.limits,
                self.dataset.extent,
                self.config.max_gaussians,
                self._generator,
            )
            self._statistics = GradientStatistics(state.gaussians.count, self.backend.device)
        elif schedule.prunes(step):
            prune(state, self._useless(step))
        if schedule.resets_opacity(step):
            reset_opacity(state, self.limits.reset_opacity)

    def _useless(self, step: int) -> Tensor:
        large = self.schedule.prunes_large(step)
        return useless(self.gaussians, self.limits, self.dataset.extent, large, self._near)
