"""The training loop, step by step: optimise, then let the strategy change the set."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from services.common.options import Background, Strategy
from services.trainer.backend import AdamConfig, Backend
from services.trainer.config import TrainingConfig
from services.trainer.dataset import Dataset, View
from services.trainer.density import DensityLimits, NearCameras, TrainingState, drawable, prune
from services.trainer.exposure import Exposures
from services.trainer.init import initial_gaussians
from services.trainer.mcmc import MarkovChain, smaller_and_denser
from services.trainer.photo_cache import AHEAD, prefetch
from services.trainer.scene_types import Gaussians
from services.trainer.schedule import Schedule, plan
from services.trainer.strategy import AdaptiveDensity, GaussianControl

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
        if config.strategy is Strategy.MCMC:
            first = smaller_and_denser(first)
        device = backend.device
        self.backend = backend
        self.dataset = dataset.to(device)
        self.config = config
        self.schedule = schedule or plan(config, len(dataset.train))
        self.iteration = 0
        self.state = TrainingState.fresh(Gaussians(**{name: t.to(device) for name, t in first.items()}))
        self._adam = AdamConfig()
        self._near = NearCameras(dataset.train, device)
        self._generator = torch.Generator(device).manual_seed(config.seed)
        self._order = random.Random(config.seed)
        self._queue: list[int] = []
        self._white = torch.full((3,), float(config.background is Background.WHITE), device=device)
        self.control = self._make_control(limits or DensityLimits())
        self.exposures = Exposures(len(dataset.train), device) if config.exposure else None

    @property
    def gaussians(self) -> Gaussians:
        """The scene as it is now."""
        return self.state.gaussians

    @property
    def background(self) -> Tensor:
        """What renderings are looked at before, [3]: black, or white where trained so."""
        return self._white

    @property
    def done(self) -> bool:
        """Whether all steps are done."""
        return self.iteration >= self.config.iterations

    def step(self) -> Tensor:
        """One step. When it raises, nothing has changed and it can be tried again.

        Returns:
            The loss, [], on the device; reading it waits for the device.
        """
        row = self._next_row()
        step, rates = (
            self.iteration + 1,
            self.schedule.learning_rates(self.iteration + 1, self.dataset.extent),
        )
        try:
            loss = self._optimise(step, row, rates)
        except BaseException:
            self._queue.append(row)
            raise
        self.iteration = step
        before = TrainingState(self.state.gaussians, self.state.first_moments, self.state.second_moments)
        try:
            self.control.adapt(step, rates)
        except BaseException:
            self._put_back(before)
            raise
        return loss

    def finish(self) -> None:
        """Removes what no picture can show; to be called once, after the last step."""
        prune(self.state, ~drawable(self.gaussians) | self._near.find(self.gaussians.means))

    def render(self, view: View) -> Tensor:
        """A photo's view at full size, [height, width, 3] float32, not clamped, on the device."""
        degree = self.schedule.degree(self.iteration)
        return self.backend.render(
            self.gaussians, view.cameras[0], degree, self.background, self.config.antialiased
        )

    def checkpoint(self) -> dict[str, Any]:
        """All that a later process needs to go on from this step as this one would."""
        state = self.state
        return {
            "iteration": self.iteration,
            "gaussians": dict(state.gaussians.items()),
            "first_moments": dict(state.first_moments.items()),
            "second_moments": dict(state.second_moments.items()),
            "control": self.control.checkpoint(),
            "generator": self._generator.get_state(),
            "order": self._order.getstate(),
            "queue": list(self._queue),
            "exposures": None if self.exposures is None else self.exposures.checkpoint(),
        }

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Goes on from a checkpoint of the same dataset and strategy."""
        device = self.backend.device

        def tensors(name: str) -> Gaussians:
            return Gaussians(**{key: tensor.to(device) for key, tensor in saved[name].items()})

        restored = TrainingState(tensors("gaussians"), tensors("first_moments"), tensors("second_moments"))
        self._put_back(restored)
        self.iteration = int(saved["iteration"])
        self.control.restore(saved["control"])
        if self.exposures is not None:
            self.exposures.restore(saved["exposures"])
        self._generator.set_state(saved["generator"].cpu())
        version, numbers, gauss = saved["order"]
        self._order.setstate((version, tuple(numbers), gauss))
        self._queue = [int(row) for row in saved["queue"]]

    def _optimise(self, step: int, row: int, rates: Mapping[str, float]) -> Tensor:
        state, view = self.state, self.dataset.train[row]
        level = min(self.schedule.level(step), len(view.cameras) - 1)
        target = view.pictures[level].to(self.backend.device, non_blocking=True)
        output = self.backend.loss_and_gradients(
            state.gaussians,
            view.cameras[level],
            target,
            self.schedule.degree(step),
            self._background_of_step(),
            DSSIM_WEIGHT,
            self.config.antialiased,
            None if self.exposures is None else self.exposures.transforms[row],
        )
        self.control.observe(step, output)
        self.backend.adam_step(
            state.gaussians,
            output.gradients,
            state.first_moments,
            state.second_moments,
            dict(rates),
            step,
            self._adam,
        )
        if self.exposures is not None:
            assert output.exposure_gradient is not None
            self.exposures.update(row, output.exposure_gradient, step / self.config.iterations, self._adam)
        return output.loss

    def _background_of_step(self) -> Tensor:
        if self.config.background is Background.RANDOM:
            return torch.rand(3, generator=self._generator, device=self.backend.device)
        return self._white

    def _next_row(self) -> int:
        """Every photo once in random order, then anew; those that come next are decoded meanwhile."""
        if len(self._queue) <= AHEAD:
            later = list(range(len(self.dataset.train)))
            self._order.shuffle(later)
            self._queue = later + self._queue
        row = self._queue.pop()
        prefetch([self.dataset.train[coming].pictures for coming in self._queue[: -AHEAD - 1 : -1]])
        return row

    def _put_back(self, state: TrainingState) -> None:
        """Gives the state, which the control shares, other contents."""
        for each in fields(state):
            setattr(self.state, each.name, getattr(state, each.name))

    def _make_control(self, limits: DensityLimits) -> GaussianControl:
        config = self.config
        if config.strategy is Strategy.MCMC:
            return MarkovChain(
                self.state, self.schedule, config.max_gaussians, self._generator, self.backend,
                self.dataset.extent,
            )  # fmt: skip
        return AdaptiveDensity(
            self.state, self.schedule, limits, self._near, self.dataset.extent, config.max_gaussians,
            self._generator, self.backend,
        )  # fmt: skip
