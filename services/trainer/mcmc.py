"""3D Gaussian Splatting as Markov Chain Monte Carlo (Kheradmand et al. 2024).

Gaussians are samples of a distribution that the photos give. Dead ones move to where live
ones are, the set grows to a fixed size, noise lets faint ones explore, and a penalty on
opacity and size makes those die that are not needed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from services.trainer.density import TrainingState
from services.trainer.markov_moves import DEAD_OPACITY, MarkovMoves
from services.trainer.scene_types import Gaussians, StepOutput
from services.trainer.schedule import Schedule

_SCALE_PENALTY = 0.01
_NOISE = 5e5
# The constants are for scenes of this extent, in world units. COLMAP's unit is any length.
_EXTENT = 1.4
_MOST_COPIES = 51
_FIRST_OPACITY = 0.5
_FIRST_SCALE = 0.1
_LARGEST_OPACITY = 1 - 1e-6


def smaller_and_denser(gaussians: Gaussians) -> Gaussians:
    """The first Gaussians as the paper begins: a tenth of the size, opacity 0.5."""
    gaussians.log_scales += math.log(_FIRST_SCALE)
    gaussians.opacity_logits.fill_(math.log(_FIRST_OPACITY / (1 - _FIRST_OPACITY)))
    return gaussians


@dataclass
class MarkovChain:
    """Relocates, grows and shakes the set; see GaussianControl."""

    state: TrainingState
    schedule: Schedule
    max_gaussians: int
    generator: torch.Generator
    moves: MarkovMoves
    extent: float
    """Radius of the scene, world units."""
    _growth: float = field(init=False)

    def __post_init__(self) -> None:
        """Fixes how fast the set grows."""
        self._growth = self.schedule.growth(self.state.gaussians.count, self.max_gaussians)

    def observe(self, step: int, output: StepOutput) -> None:
        """Adds the gradients of the penalties on mean opacity and mean standard deviation."""
        del step
        weights = self.schedule.opacity_penalty, _SCALE_PENALTY * _EXTENT / self.extent
        self.moves.penalize(self.state.gaussians, output.gradients, *weights)

    def adapt(self, step: int, rates: Mapping[str, float]) -> None:
        """Relocates and grows every hundred steps, shakes after each."""
        if self.schedule.densifies(step):
            relocate(self.state, self.generator)
            grow(self.state, self._growth, self.max_gaussians, self.generator)
        means = self.state.gaussians.means
        noise = torch.randn(means.shape, generator=self.generator, device=means.device)
        strength = _NOISE * rates["means"] * (_EXTENT / self.extent) ** 2
        self.moves.shake(self.state.gaussians, noise, strength)

    def checkpoint(self) -> dict[str, Any]:
        """See GaussianControl."""
        return {"growth": self._growth}

    def restore(self, saved: Mapping[str, Any]) -> None:
        """See GaussianControl."""
        self._growth = float(saved["growth"])


def relocate(state: TrainingState, generator: torch.Generator) -> int:
    """Moves dead Gaussians to live ones, drawn by opacity; answers how many.

    Source and copies then share the source's light (equation 9 of the paper).
    """
    gaussians = state.gaussians
    opacity = torch.sigmoid(gaussians.opacity_logits)
    sound = torch.ones_like(opacity, dtype=torch.bool)
    for _, tensor in gaussians.items():
        sound &= torch.isfinite(tensor).reshape(len(tensor), -1).all(dim=1)
    alive = sound & (opacity > DEAD_OPACITY)
    dead = (~alive).nonzero()[:, 0]
    if len(dead) == 0 or len(dead) == gaussians.count:
        return 0
    weights = torch.where(alive, opacity, torch.zeros_like(opacity))
    sources = torch.multinomial(weights, len(dead), replacement=True, generator=generator)
    _share_light(gaussians, sources)
    for _, tensor in gaussians.items():
        tensor[dead] = tensor[sources]
    for moments in (state.first_moments, state.second_moments):
        for _, tensor in moments.items():
            tensor[sources] = 0
            tensor[dead] = 0
    return len(dead)


def grow(state: TrainingState, factor: float, most: int, generator: torch.Generator) -> int:
    """Adds copies of Gaussians drawn by opacity, up to ``most``; answers how many."""
    gaussians = state.gaussians
    count = min(most, math.ceil(factor * gaussians.count)) - gaussians.count
    if count <= 0:
        return 0
    weights = torch.sigmoid(gaussians.opacity_logits).nan_to_num(0.0) + 1e-12
    sources = torch.multinomial(weights, count, replacement=True, generator=generator)
    _share_light(gaussians, sources)
    state.append(gaussians.select(sources))
    return count


def shared(opacity: Tensor, copies: Tensor) -> tuple[Tensor, Tensor]:
    """What N copies at one place need so that together they look as the one did.

    Equation 9 of the paper: o' = 1 - (1 - o)^(1 / N), and standard deviations times
    o / sum over k = 0 .. N - 1 of C(N, k + 1) (-1)^k o'^(k + 1) / sqrt(k + 1). The paper's
    double sum has become a single one by the hockey-stick identity.

    Args:
        opacity: [M], 0 to 1.
        copies: N for each, [M] int64, from 1 to 51.

    Returns:
        New opacity [M], and the factor of the standard deviations [M]; both float64.
    """
    old = opacity.double().clamp(max=_LARGEST_OPACITY)
    new = 1 - (1 - old) ** (1 / copies.double())
    orders = torch.arange(1, _MOST_COPIES + 1, device=opacity.device)
    terms = _coefficients(opacity.device)[copies] * new[:, None] ** orders
    return new, old / terms.sum(dim=1)


def _coefficients(device: torch.device) -> Tensor:
    """C(N, k) (-1)^(k - 1) / sqrt(k) for N = 0 .. 51 (rows) and k = 1 .. 51."""
    rows = [
        [math.comb(n, k) * (-1) ** (k - 1) / math.sqrt(k) for k in range(1, _MOST_COPIES + 1)]
        for n in range(_MOST_COPIES + 1)
    ]
    return torch.tensor(rows, dtype=torch.float64, device=device)


def _share_light(gaussians: Gaussians, sources: Tensor) -> None:
    """Makes sources as faint and small as they are with their copies beside them."""
    copies = torch.bincount(sources, minlength=gaussians.count)[sources] + 1
    opacity, factor = shared(torch.sigmoid(gaussians.opacity_logits[sources]), copies.clamp(max=_MOST_COPIES))
    opacity = opacity.clamp(DEAD_OPACITY, _LARGEST_OPACITY)
    gaussians.opacity_logits[sources] = torch.logit(opacity).float()
    gaussians.log_scales[sources] += factor.log().float()[:, None]
