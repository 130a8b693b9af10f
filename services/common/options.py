"""The options of every stage: types, ranges and help in one place.

The registry checks them at submit, the gateway reads form fields by these names, the
stages receive them. Field names are those of ``splatmill/v1/options.proto``. None means
that the worker decides, from its settings and its device.
"""

from __future__ import annotations

from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field, field_validator


class StageOptions(BaseModel):
    """Base of the stages' options: frozen, no unknown names."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Matcher(StrEnum):
    """How photos are matched with each other."""

    EXHAUSTIVE = "exhaustive"
    SEQUENTIAL = "sequential"


class SfmOptions(StageOptions):
    """Options of structure from motion."""

    original_resolution: bool | None = Field(
        None, description="Keep the photos' own size instead of shrinking them to max_image_size."
    )
    max_image_size: int | None = Field(
        None, ge=256, le=8192, description="Longest side of the undistorted photos, in pixels."
    )
    max_features: int | None = Field(None, ge=256, le=65536, description="SIFT features kept per photo.")
    matcher: Matcher | None = Field(
        None, description="exhaustive: every photo with every other; sequential: neighbours by name."
    )


class Preset(StrEnum):
    """How much time a training may take."""

    DRAFT = "draft"
    STANDARD = "standard"
    HIGH = "high"


class Strategy(StrEnum):
    """How the number of Gaussians is controlled."""

    DEFAULT = "default"
    MCMC = "mcmc"


class Background(StrEnum):
    """What is behind the scene while it is trained."""

    BLACK = "black"
    WHITE = "white"
    RANDOM = "random"


def leaves_photos(test_every: int | None) -> int | None:
    """Answers ``test_every``; raises ValueError when no photo would be left to train on."""
    if test_every == 1:
        raise ValueError("every photo would be held out and none left to train on")
    return test_every


class TrainingOptions(StageOptions):
    """Options of training."""

    preset: Preset | None = Field(
        None, description="draft: see whether the photos work; high: more steps, finer detail."
    )
    strategy: Strategy | None = Field(
        None, description="default: clone, split and prune; mcmc: always use max_gaussians well."
    )
    iterations: int | None = Field(None, ge=1, le=200_000, description="Optimisation steps, one photo each.")
    densify_until_iter: int | None = Field(
        None, ge=0, le=200_000, description="Last step at which Gaussians are added or removed."
    )
    sh_degree: int | None = Field(None, ge=0, le=3, description="Degree of the spherical harmonics.")
    max_gaussians: int | None = Field(
        None, ge=100, le=20_000_000, description="Most Gaussians the scene may have."
    )
    train_image_size: int | None = Field(
        None, ge=64, le=8192, description="Longest side of the photos trained on, in pixels."
    )
    test_every: int | None = Field(
        None,
        ge=0,
        le=1000,
        description="Hold out every n-th photo, 2 or more, for the quality figures; 0 for none.",
    )
    background: Background | None = Field(
        None, description="Behind the scene while training; random leaves nothing transparent."
    )
    coarse_to_fine: bool | None = Field(None, description="Begin at a quarter of the resolution.")
    antialiased: bool | None = Field(
        None, description="Keep small and far Gaussians as bright at every size of the picture."
    )
    exposure: bool | None = Field(
        None, description="Learn each photo's exposure, so that changes of it are not part of the scene."
    )
    seed: int | None = Field(None, ge=0, le=2**63 - 1, description="Seed of every random choice.")

    _leaves_photos = field_validator("test_every")(leaves_photos)


class PostprocOptions(StageOptions):
    """Options of post-processing."""

    outlier_k_neighbors: int | None = Field(
        None, ge=1, le=1000, description="Neighbours whose mean distance judges an outlier."
    )
    outlier_std_threshold: float | None = Field(
        None, gt=0, le=100, description="Remove beyond mean + this many standard deviations."
    )
    outlier_remove_small_clusters: bool | None = Field(
        None, description="Remove clusters smaller than outlier_min_cluster_ratio."
    )
    outlier_min_cluster_ratio: float | None = Field(
        None, ge=0, le=1, description="Smallest cluster kept, as a fraction of all Gaussians."
    )


# What a worker takes by itself, for people to read; its settings change it for a whole deployment.
DEFAULTS = {
    "original_resolution": "false",
    "max_image_size": "1600",
    "max_features": "16384, fewer without a GPU",
    "matcher": "exhaustive up to 80 photos",
    "preset": "standard",
    "strategy": "default",
    "background": "black",
    "coarse_to_fine": "false on a GPU, true without",
    "antialiased": "false",
    "exposure": "false",
    "iterations": "10000 on a GPU, 2500 without",
    "densify_until_iter": "5000 on a GPU; half of the iterations without, and in shorter runs; with mcmc 5/6",
    "sh_degree": "3",
    "max_gaussians": "3000000 on a GPU, 40000 without",
    "train_image_size": "as sfm left them on a GPU, 640 without",
    "test_every": "8",
    "seed": "0",
    "outlier_k_neighbors": "20",
    "outlier_std_threshold": "2.0",
    "outlier_remove_small_clusters": "true",
    "outlier_min_cluster_ratio": "0.01",
}
