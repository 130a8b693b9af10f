"""What changes over a run: learning rates, degree of the harmonics, resolution, densification.

The figures are those of the 3DGS reference (Kerbl et al. 2023), made for 30,000 steps. Runs
of a few thousand steps scale them as measured here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from services.common.options import Strategy
from services.trainer.config import TrainingConfig

_MEANS_FIRST, _MEANS_LAST = 1.6e-4, 1.6e-6  # times the scene's extent
_RATES = {
    "log_scales": 5e-3,
    "quats": 1e-3,
    "opacity_logits": 5e-2,
    "sh0": 2.5e-3,
    "sh_rest": 2.5e-3 / 20,
}
_SHORT_RUN = 5_000  # steps below which a run is short
_MANY_PHOTOS = 20  # fewer photos are soon learnt by heart, and faster rates help that
_SHORT_RATE_FACTOR, _SHORT_MEANS_FACTOR = 2.0, 5.0
_LEAST_GROWTH, _MOST_GROWTH = 1.05, 1.5  # a round
# Weight of the mean opacity in the loss (Kheradmand et al. 2024). Gaussians that no photo needs
# fade: after 10,000 steps of ``default`` a quarter fewer show fox's held-out photos better (median
# 31.3 for 31.1 dB, SSIM 0.888 for 0.884). In a few thousand steps it only loses detail. It replaces
# the reference's resets of opacity: in 30,000 steps with densification until 15,000, 31.4 dB and 0.886
# without resets, 30.4 and 0.882 with both, 30.8 and 0.879 with resets alone.
_OPACITY_PENALTY = 0.01
_GROWN_BY = 0.6  # share of the rounds after which the set has its full size
# Shares of the run. At full size a step takes nearly twice as long, and fox's held-out photos are as
# good within 0.03 dB with the second at 0.85 as at 0.8; 0.9 costs 0.04 to 0.1 dB.
_QUARTER_UNTIL, _HALF_UNTIL = 0.4, 0.85
# What a picture of a quarter of the size needs of the most Gaussians: with half of them, fox's 2,000
# steps took 37.5 s for 41.4 s and ended with 30.87 dB for 30.74; with a third SSIM suffers. ``mcmc``,
# which draws its new ones by opacity, lost 0.25 dB and does without.
_COARSE_SHARE = 0.5
# At full rate a scene wanders about its best; slower at the end it settles there.
_COOLS_FROM = 0.7  # share of the run
_COOLING = 7.7  # rates fall by e to this power over a whole run: to a tenth over the last 30 %


@dataclass(frozen=True)
class Schedule:
    """A run's plan. Steps count from 1."""

    iterations: int
    densify_from: int
    """First step at which Gaussians may be added."""
    densify_until: int
    """Last one."""
    densify_every: int
    prune_large_from: int
    """Step after which Gaussians that are large in the world are removed."""
    sh_every: int
    """Steps from one degree of the harmonics to the next."""
    sh_degree: int
    """Highest degree."""
    coarse_to_fine: bool
    rate_factor: float = 1.0
    means_factor: float = 1.0
    opacity_penalty: float = _OPACITY_PENALTY
    """Weight of the mean opacity in the loss."""

    def learning_rates(self, step: int, extent: float) -> dict[str, float]:
        """Learning rates by parameter.

        That of the means falls exponentially over the run, the others over its last part, at
        full resolution only.

        Args:
            step: The step.
            extent: Radius of the scene, world units.
        """
        share = min(1.0, step / self.iterations)
        means = math.exp(math.log(_MEANS_FIRST) * (1 - share) + math.log(_MEANS_LAST) * share)
        cools_from = max(_COOLS_FROM, _HALF_UNTIL) if self.coarse_to_fine else _COOLS_FROM
        cooled = math.exp(-_COOLING * max(0.0, share - cools_from))
        rates = {name: rate * self.rate_factor * cooled for name, rate in _RATES.items()}
        return {"means": means * self.means_factor * extent, **rates}

    def degree(self, step: int) -> int:
        """Degree of the harmonics in use: one more every ``sh_every`` steps."""
        return min(self.sh_degree, step // self.sh_every)

    def level(self, step: int) -> int:
        """How often the resolution is halved: 2, then 1, then 0."""
        if not self.coarse_to_fine:
            return 0
        share = step / self.iterations
        return 2 if share <= _QUARTER_UNTIL else 1 if share <= _HALF_UNTIL else 0

    def densifies(self, step: int) -> bool:
        """Whether Gaussians are added after this step."""
        return self.densify_from <= step <= self.densify_until and step % self.densify_every == 0

    def most(self, step: int, cap: int) -> int:
        """Most Gaussians after this step: fewer while the next one still has the coarsest resolution.

        Args:
            step: The step.
            cap: Most Gaussians of the run.
        """
        three_rounds_left = _QUARTER_UNTIL * self.iterations + 2 * self.densify_every
        if self.level(step + 1) == 2 and self.densify_until >= three_rounds_left:
            return math.ceil(_COARSE_SHARE * cap)
        return cap

    def prunes(self, step: int) -> bool:
        """Whether useless Gaussians are removed after this step; densifying does so anyway."""
        return step > self.densify_until and step % (5 * self.densify_every) == 0

    def prunes_large(self, step: int) -> bool:
        """Whether Gaussians that are large in the world are removed.

        Not after densification: nothing would fill the holes they leave.
        """
        return self.prune_large_from < step <= self.densify_until

    def growth(self, count: int, most: int) -> float:
        """Factor by which ``mcmc`` grows the set each round, to have its full size in good time.

        Args:
            count: Gaussians at the start.
            most: At most.
        """
        rounds = max(1.0, _GROWN_BY * (self.densify_until - self.densify_from) / self.densify_every)
        needed: float = (most / max(1, count)) ** (1 / rounds)
        return min(_MOST_GROWTH, max(_LEAST_GROWTH, needed))


def plan(config: TrainingConfig, photo_count: int) -> Schedule:
    """The plan of a run.

    Args:
        config: The run.
        photo_count: Photos trained on.
    """
    short = config.iterations < _SHORT_RUN
    faster = short and photo_count >= _MANY_PHOTOS
    return Schedule(
        iterations=config.iterations,
        densify_from=min(500, max(100, config.iterations // 10)),
        densify_until=config.densify_until_iter,
        densify_every=100,
        prune_large_from=3000,
        sh_every=min(1000, max(1, config.iterations // 10)),
        sh_degree=config.sh_degree,
        coarse_to_fine=config.coarse_to_fine,
        rate_factor=_SHORT_RATE_FACTOR if faster else 1.0,
        means_factor=_SHORT_MEANS_FACTOR if faster else 1.0,
        opacity_penalty=0.0 if short and config.strategy is Strategy.DEFAULT else _OPACITY_PENALTY,
    )
