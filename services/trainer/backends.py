"""Chooses what rasterises: the GPU where there is one that works, otherwise the CPU."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass

import torch

from services.trainer.backend import Backend
from services.trainer.device_name import cpu_name
from splatmill.errors import Reason, SplatmillError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ChosenBackend:
    """A backend and how to speak of it."""

    backend: Backend
    name: str
    """Of the device, for people."""
    warning: str = ""
    """Why the better device was not taken, if it was not."""


def choose_backend(preference: str = "auto") -> ChosenBackend:
    """Takes a backend.

    Args:
        preference: ``auto``, ``cuda`` or ``cpu``.

    Raises:
        SplatmillError: UNAVAILABLE when ``cuda`` is asked for and cannot be used.
    """
    warning = ""
    if preference != "cpu":
        try:
            chosen = _cuda()
        except Exception as error:  # drivers, compilers and libraries fail in many ways
            log.warning("the GPU cannot be used", exc_info=True)
            warning = f"The GPU cannot be used ({type(error).__name__}: {_first_line(error)})."
            chosen = None
        if chosen is not None:
            return chosen
        if preference == "cuda":
            raise SplatmillError(
                Reason.UNAVAILABLE,
                warning or "There is no GPU that torch can use.",
                "Check the driver (nvidia-smi) and that torch has CUDA, or leave trainer_device unset.",
            )
    # Only here: compiling or loading kernels takes a moment.
    from services.trainer.cpu.backend import CpuBackend  # noqa: PLC0415

    return ChosenBackend(CpuBackend(), cpu_name(), warning)


def _cuda() -> ChosenBackend | None:
    if not torch.cuda.is_available():
        return None
    # The set of Gaussians grows a little at a time, and blocks of fixed size would leave behind four
    # times the memory that it needs. torch reads this when the first memory is taken.
    for name in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"):
        os.environ.setdefault(name, "expandable_segments:True")
    from services.trainer.cuda.backend import CudaBackend  # noqa: PLC0415

    backend = CudaBackend()
    return ChosenBackend(backend, torch.cuda.get_device_name(backend.device))


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else ""
