"""What changes over a run."""

from __future__ import annotations

import math

import pytest

from services.common.options import TrainingOptions
from services.trainer.config import resolve
from services.trainer.schedule import plan
from services.trainer.settings import TrainerSettings


def planned(device="cuda", photos=100, **options):
    return plan(resolve(TrainingOptions(**options), TrainerSettings(), device), photos)


def test_learning_rates_of_the_reference():
    schedule = planned(iterations=30_000)
    for step in (1, 700, 15_000, 21_000):
        rates = schedule.learning_rates(step, extent=2.5)
        # Exponential: equal shares of the run multiply by equal factors.
        expected = 1.6e-4 * (1.6e-6 / 1.6e-4) ** (step / 30_000) * 2.5
        assert rates["means"] == pytest.approx(expected)
        assert {name: rate for name, rate in rates.items() if name != "means"} == {
            "log_scales": 5e-3, "quats": 1e-3, "opacity_logits": 5e-2, "sh0": 2.5e-3, "sh_rest": 1.25e-4,
        }  # fmt: skip
    assert math.isclose(schedule.learning_rates(40_000, 1.0)["means"], 1.6e-6)


@pytest.mark.parametrize(("coarse_to_fine", "begin", "left"), [(False, 0.7, 0.1), (True, 0.85, 0.315)])
def test_at_the_end_of_a_run_everything_slows_down(coarse_to_fine, begin, left):
    schedule = planned(iterations=10_000, coarse_to_fine=coarse_to_fine)
    begin = round(begin * 10_000)
    first, usual, last = (schedule.learning_rates(step, 1.0) for step in (1, begin, 10_000))
    half = schedule.learning_rates((begin + 10_000) // 2, 1.0)
    for name in ("log_scales", "quats", "opacity_logits", "sh0", "sh_rest"):
        assert usual[name] == pytest.approx(first[name])
        assert last[name] / usual[name] == pytest.approx(left, rel=0.03)
        assert half[name] == pytest.approx(math.sqrt(usual[name] * last[name]))


def test_short_runs_with_many_photos_learn_faster():
    usual = planned(iterations=30_000).learning_rates(1, 1.0)
    fast = planned(iterations=2_000, photos=20).learning_rates(1, 1.0)
    assert fast["sh0"] == pytest.approx(2 * usual["sh0"])
    assert fast["means"] == pytest.approx(5 * usual["means"], rel=1e-2)
    few = planned(iterations=2_000, photos=19).learning_rates(1, 1.0)
    assert few["sh0"] == usual["sh0"]


def test_opacity_has_its_price_in_long_runs_and_always_with_mcmc():
    assert planned(iterations=5_000).opacity_penalty == 0.01
    assert planned(iterations=4_999).opacity_penalty == 0
    assert planned(iterations=2_000, strategy="mcmc").opacity_penalty == 0.01


def test_degrees_rise_every_thousand_steps():
    schedule = planned(iterations=30_000)
    assert [schedule.degree(step) for step in (1, 999, 1000, 2000, 3000, 30_000)] == [0, 0, 1, 2, 3, 3]
    assert planned(iterations=30_000, sh_degree=1).degree(30_000) == 1
    short = planned(iterations=300)
    assert short.degree(1) == 0
    assert short.degree(300) == 3


def test_resolution_rises_on_a_cpu_only():
    schedule = planned("cpu", iterations=1000)
    assert [schedule.level(step) for step in (1, 400, 401, 850, 851, 1000)] == [2, 2, 1, 1, 0, 0]
    assert planned(iterations=1000).level(1) == 0


def test_a_coarse_picture_needs_fewer_gaussians():
    schedule = planned("cpu", iterations=2000)
    assert schedule.densify_until == 1000
    assert [schedule.most(step, 40_001) for step in (100, 799, 800, 1000)] == [20_001, 20_001, 40_001, 40_001]
    assert planned(iterations=2000).most(100, 40_000) == 40_000, "full size from the beginning"
    # Too few rounds would be left to reach the full number.
    assert planned("cpu", iterations=1000).most(100, 40_000) == 40_000
    assert planned("cpu", iterations=2000, densify_until_iter=900).most(100, 40_000) == 40_000


def test_density_control_of_the_reference():
    schedule = planned(iterations=30_000, densify_until_iter=15_000)
    steps = [step for step in range(1, 30_001) if schedule.densifies(step)]
    assert steps == list(range(500, 15_001, 100))
    assert not schedule.prunes_large(3000)
    assert schedule.prunes_large(3100)
    assert schedule.prunes_large(15_000)
    assert not schedule.prunes_large(15_500)  # nothing would fill the holes
    pruned = [step for step in range(1, 30_001) if schedule.prunes(step)]
    assert pruned == list(range(15_500, 30_001, 500))


def test_short_runs_densify():
    schedule = planned("cpu", iterations=2_000)
    steps = [step for step in range(1, 2001) if schedule.densifies(step)]
    assert steps[0] <= 300
    assert steps[-1] == 1000


@pytest.mark.parametrize("iterations", [1, 2, 7, 99])
def test_the_shortest_runs_have_a_plan(iterations):
    schedule = planned("cpu", iterations=iterations)
    for step in range(1, iterations + 1):
        schedule.learning_rates(step, 1.0)
        assert 0 <= schedule.degree(step) <= 3
        assert not schedule.densifies(step)
