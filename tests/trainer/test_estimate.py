"""What a training is expected to take, against the sums done by hand and runs that were measured."""

from __future__ import annotations

from dataclasses import replace

import pytest

from services.common.options import TrainingOptions
from services.trainer.config import TrainingConfig, limited_by_photos, resolve
from services.trainer.estimate import Capture, DeviceSpeed, expect, fitted, picture_size, stretches
from services.trainer.schedule import plan
from services.trainer.settings import TrainerSettings

GIB = 2**30
# As an H100 measured itself.
H100 = DeviceSpeed(1.0, 3.865e-4, 1.206e-10, 1.928e-9, 4.0, 5.93e-9, 0.0, 78.0 * GIB)
# As two free cores measured themselves.
CORES = DeviceSpeed(0.0, 0.0, 5.06e-8, 5.0e-7, 3.1, 6.3e-9, 418e6, 23.0 * GIB)
FOX = Capture(50, 899, 1600, 12_387)


def config(device: str, **options) -> TrainingConfig:
    return resolve(TrainingOptions(**options), TrainerSettings(), device)


def test_a_step_is_paid_by_its_pixels_and_gaussians():
    run = replace(config("cpu", iterations=300, max_gaussians=1000, test_every=0), coarse_to_fine=False)
    speed = DeviceSpeed(0.0, 1e-3, 1e-8, 1e-6, 2.0, 1e-9, 0.0, 0.0)
    capture = Capture(10, 1280, 960, 5000)  # trained at 640x480, all 1000 Gaussians from the start
    steps = 300 * (1e-3 + 640 * 480 * 1e-8 + 1000 * 1e-6)
    assert expect(run, speed, capture).seconds == pytest.approx(2.0 + steps + 10 * 1280 * 960 * 1e-9)


def test_coarse_pictures_cost_less():
    run = config("cpu")
    assert run.coarse_to_fine
    speed = replace(CORES, seconds_per_gaussian=0.0, start_seconds=0.0, decode_seconds_per_pixel=0.0)
    seconds = [expect(replace(run, coarse_to_fine=on), speed, Capture()).seconds for on in (True, False)]
    # 40 % of the steps at a sixteenth of the pixels, 45 % at a quarter, the rest at all of them.
    assert seconds[0] / seconds[1] == pytest.approx(0.4 / 16 + 0.45 / 4 + 0.15, rel=0.05)


def test_parts_of_a_run_are_all_of_it():
    for run in (config("cpu"), config("cuda"), config("cuda", preset="high"), config("cpu", iterations=77)):
        parts = list(stretches(run, plan(run, 40), 10_000))
        assert sum(steps for steps, _, _ in parts) == run.iterations
        counts = [count for _, _, count in parts]
        assert counts == sorted(counts)
        assert counts[-1] <= run.max_gaussians


def test_mcmc_grows_to_its_cap_and_the_default_as_far_as_it_does():
    mcmc, default = config("cuda", preset="high"), config("cuda")
    assert expect(mcmc, H100, FOX).gaussians == fitted(mcmc, H100, FOX).max_gaussians == 43 * 7000
    assert expect(default, H100, FOX).gaussians == pytest.approx(220_300, rel=0.35)  # measured


@pytest.mark.parametrize(
    ("options", "seconds", "mebibytes"),
    [({}, 12.0, 974), ({"strategy": "mcmc", "max_gaussians": 500_000}, 21.9, 1370)],
)
def test_an_h100_does_as_measured(options, seconds, mebibytes):
    """Training alone: reading photos and starting are not in these times."""
    expected = expect(
        config("cuda", **options), replace(H100, start_seconds=0, decode_seconds_per_pixel=0), FOX
    )
    assert expected.seconds == pytest.approx(seconds, rel=0.2)
    assert expected.memory_bytes == pytest.approx(mebibytes * 2**20, rel=0.35)


@pytest.mark.parametrize(("preset", "seconds", "megabytes"), [("draft", 18.9, 546), ("standard", 67.1, 692)])
def test_two_cores_do_as_measured(preset, seconds, megabytes):
    """Whole stages on fox, start and all, on a machine that was not quite free."""
    expected = expect(config("cpu", preset=preset), CORES, FOX)
    assert expected.seconds == pytest.approx(seconds, rel=0.35)
    assert expected.memory_bytes == pytest.approx(megabytes * 1e6, rel=0.2)


def test_presets_are_in_order():
    for device, speed in (("cpu", CORES), ("cuda", H100)):
        found = [
            expect(config(device, preset=name), speed, Capture()) for name in ("draft", "standard", "high")
        ]
        assert found[0].seconds < found[1].seconds < found[2].seconds
        assert found[0].memory_bytes < found[1].memory_bytes < found[2].memory_bytes


def test_little_memory_is_room_for_few():
    small = replace(H100, free_bytes=2.0 * GIB)
    run = config("cuda", preset="high")
    assert fitted(run, small, FOX).max_gaussians < run.max_gaussians
    assert expect(run, small, FOX).memory_bytes < 2 * GIB
    limited = limited_by_photos(run, 43)
    assert fitted(run, replace(H100, free_bytes=0.0), FOX) == limited  # where nobody tells, all is tried


def test_many_photos_are_not_all_in_memory():
    run, photos = config("cpu"), Capture(200, 1600, 1200)
    little, much = replace(CORES, free_bytes=0.5 * GIB), replace(CORES, free_bytes=8.0 * GIB)
    assert expect(run, little, photos).memory_bytes < expect(run, much, photos).memory_bytes


def test_photos_are_never_made_larger():
    assert picture_size(config("cpu"), Capture(width=320, height=240)) == (320, 240)
    assert picture_size(config("cpu"), Capture(width=1200, height=1600)) == (480, 640)
    assert picture_size(config("cuda"), Capture()) == (1600, 1200)


def test_figures_pass_between_processes():
    assert DeviceSpeed.from_metrics(CORES.metrics()) == CORES
    assert CORES.device_type == "cpu"
    assert H100.device_type == "cuda"
