"""The figures of quality."""

from __future__ import annotations

import math

import pytest
import torch

from services.trainer.evaluate import psnr, ssim
from tests.helpers import reference_renderer as reference


def pictures(height=37, width=50):
    r = torch.Generator().manual_seed(0)
    first = torch.rand(height, width, 3, generator=r)
    return first, (first + 0.1 * torch.randn(height, width, 3, generator=r)).clamp(0, 1)


def test_ssim_is_that_of_the_loss():
    first, second = pictures()
    assert ssim(first, second) == pytest.approx(
        float(reference.ssim(first.double(), second.double())), abs=1e-5
    )
    assert ssim(first, first) == pytest.approx(1, abs=1e-5)


def test_ssim_of_pictures_smaller_than_its_window():
    first, second = pictures(5, 4)
    assert ssim(first, second) == pytest.approx(
        float(reference.ssim(first.double(), second.double())), abs=1e-5
    )


def test_psnr():
    first, second = pictures()
    error = sum(
        (a - b) ** 2 for a, b in zip(first.flatten().tolist(), second.flatten().tolist(), strict=True)
    )
    assert psnr(first, second) == pytest.approx(10 * math.log10(first.numel() / error), abs=1e-4)
    assert psnr(torch.zeros(4, 4, 3), torch.full((4, 4, 3), 0.1)) == pytest.approx(20, abs=1e-4)
    assert psnr(first, first) == 100
