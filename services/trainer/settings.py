"""Settings of training; a job's option overrides the setting of the same name."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from services.common.options import leaves_photos
from services.common.settings import ServiceSettings


class TrainerSettings(ServiceSettings):
    """Settings of the trainer service.

    Those that say "on a GPU" describe the default of a GPU. A machine without one takes
    smaller defaults by itself (see ``services.trainer.config``), unless the setting is
    given in the environment.
    """

    trainer_port: int = 50053
    """gRPC port."""
    training_iterations: int = Field(default=10_000, ge=1, le=200_000)
    """Optimisation steps, one photo each, on a GPU; fewer on a CPU."""
    densify_until_iter: int = Field(default=5_000, ge=0, le=200_000)
    """Last step at which Gaussians are added, on a GPU; half of the steps on a CPU."""
    sh_degree: int = Field(default=3, ge=0, le=3)
    """Degree of the spherical harmonics."""
    max_gaussians: int = Field(default=3_000_000, ge=100, le=20_000_000)
    """Most Gaussians a scene may have, on a GPU; fewer on a CPU."""
    train_image_size: int | None = Field(default=None, ge=64, le=8192)
    """Longest side of the photos trained on in pixels; on a GPU unset means as sfm left them."""
    test_every: int = Field(default=8, ge=0, le=1000)
    """Every how many photos one is held out for the quality figures; 0 holds out none."""
    checkpoint_seconds: float = Field(default=30.0, gt=0)
    """Pause between two checkpoints; what was trained since the last is lost when the trainer dies."""
    photo_cache_mib: int | None = Field(default=None, ge=1)
    """Memory for decoded photos in MiB; unset: a quarter of what is free. Others are decoded as needed."""
    preview_seconds: float = Field(default=3.0, gt=0)
    """Least pause between two previews, each a picture and a small splat, while the scene is trained."""
    training_seed: int = Field(default=0, ge=0, le=2**63 - 1)
    """Seed of every random choice."""
    trainer_device: Literal["auto", "cuda", "cpu"] = "auto"
    """``auto`` takes a GPU where there is one that works."""

    _leaves_photos = field_validator("test_every")(leaves_photos)
