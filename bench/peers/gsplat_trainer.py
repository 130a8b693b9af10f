"""gsplat as its users run it: its own strategies, torch's fused Adam and autograd in a plain loop.

Loss (our D-SSIM kernels, the fused SSIM of the table), schedules and held-out photos are as
in ours, so that what differs is how each trains. Learning rates are those of the 3DGS
reference for ``default`` and of the MCMC paper's code, which are gsplat's own, for ``mcmc``.
"""

from __future__ import annotations

import random

import torch
from gsplat import DefaultStrategy, MCMCStrategy, rasterization
from torch import Tensor

from bench.peers.gsplat_backend import GsplatBackend
from services.common.options import Strategy
from services.trainer.config import TrainingConfig
from services.trainer.dataset import Dataset, View
from services.trainer.init import initial_gaussians
from services.trainer.mcmc import smaller_and_denser
from services.trainer.scene_types import Gaussians
from services.trainer.schedule import plan

_NAMES = {
    "means": "means", "scales": "log_scales", "quats": "quats", "opacities": "opacity_logits", "sh0": "sh0",
    "shN": "sh_rest",
}  # fmt: skip
_OPACITY_PENALTY = _SCALE_PENALTY = 0.01
_DSSIM_WEIGHT = 0.2


class GsplatTrainer:
    """What ``bench.train`` asks of a trainer.

    Args:
        backend: Holds the loss kernels and the cameras as gsplat takes them.
        dataset: Photos, cameras and points.
        config: The run.
    """

    exposures = None

    def __init__(self, backend: GsplatBackend, dataset: Dataset, config: TrainingConfig) -> None:
        self.backend, self.config = backend, config
        self.dataset = dataset.to(backend.device)
        self.schedule = plan(config, len(dataset.train))
        self.iteration = 0
        self.background = torch.zeros(3, device=backend.device)
        self._order = random.Random(config.seed)
        self._queue: list[int] = []
        first = initial_gaussians(dataset, config.sh_degree, config.max_gaussians, config.seed)
        if config.strategy is Strategy.MCMC:
            first = smaller_and_denser(first)
        tensors = {name: getattr(first, ours).to(backend.device) for name, ours in _NAMES.items()}
        tensors["sh0"] = tensors["sh0"][:, None]
        self._params = {name: torch.nn.Parameter(tensor.contiguous()) for name, tensor in tensors.items()}
        self._optimizers = {
            name: torch.optim.Adam([parameter], lr=1e-3, eps=1e-15, fused=True)
            for name, parameter in self._params.items()
        }
        self._strategy = self._make_strategy()
        self._strategy.check_sanity(self._params, self._optimizers)
        scale = {} if config.strategy is Strategy.MCMC else {"scene_scale": dataset.extent}
        self._strategy_state = self._strategy.initialize_state(**scale)

    @property
    def gaussians(self) -> Gaussians:
        tensors = {ours: self._params[name].detach() for name, ours in _NAMES.items()}
        tensors["sh0"] = tensors["sh0"][:, 0]
        return Gaussians(**tensors)

    @property
    def done(self) -> bool:
        return self.iteration >= self.config.iterations

    def step(self) -> Tensor:
        self.iteration += 1
        step, view = self.iteration, self._next_view()
        rates = self.schedule.learning_rates(step, self.dataset.extent)
        for name, optimizer in self._optimizers.items():
            optimizer.param_groups[0]["lr"] = rates[_NAMES[name]]
        level = min(self.schedule.level(step), len(view.cameras) - 1)
        target = view.pictures[level].to(self.backend.device, non_blocking=True)
        picture, info = self._rasterize(view.cameras[level], self.schedule.degree(step))
        self._strategy.step_pre_backward(self._params, self._optimizers, self._strategy_state, step, info)
        planes = picture.detach().permute(2, 0, 1).contiguous()
        gradient, loss = self.backend._loss(planes, target, _DSSIM_WEIGHT)
        if self.config.strategy is Strategy.MCMC:
            penalty = _OPACITY_PENALTY * self._params["opacities"].sigmoid().mean()
            (penalty + _SCALE_PENALTY * self._params["scales"].exp().mean()).backward()
        picture.backward(gradient.view_as(planes).permute(1, 2, 0))
        for optimizer in self._optimizers.values():
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        last = {"lr": rates["means"]} if self.config.strategy is Strategy.MCMC else {}
        self._strategy.step_post_backward(
            self._params, self._optimizers, self._strategy_state, step, info, **last
        )
        return loss

    def finish(self) -> None:
        """Nothing is left to do."""

    def render(self, view: View) -> Tensor:
        with torch.no_grad():
            picture, _ = self._rasterize(view.cameras[0], self.schedule.degree(self.iteration))
        return picture

    def _rasterize(self, camera, degree: int):
        p, (view, intrinsics) = self._params, self.backend._view(camera)
        pictures, _, info = rasterization(
            p["means"], p["quats"], p["scales"].exp(), p["opacities"].sigmoid(),
            torch.cat((p["sh0"], p["shN"]), 1), view, intrinsics, camera.width, camera.height,
            sh_degree=degree, packed=False, backgrounds=self.background[None], near_plane=0.01,
            rasterize_mode="antialiased" if self.config.antialiased else "classic",
        )  # fmt: skip
        return pictures[0], info

    def _next_view(self) -> View:
        if not self._queue:
            self._queue = list(range(len(self.dataset.train)))
            self._order.shuffle(self._queue)
        return self.dataset.train[self._queue.pop()]

    def _make_strategy(self) -> DefaultStrategy | MCMCStrategy:
        schedule = self.schedule
        when = {
            "refine_start_iter": schedule.densify_from, "refine_stop_iter": schedule.densify_until,
            "refine_every": schedule.densify_every,
        }  # fmt: skip
        if self.config.strategy is Strategy.MCMC:
            return MCMCStrategy(cap_max=self.config.max_gaussians, **when)
        return DefaultStrategy(**when)  # resets opacities every 3,000 steps
