"""Settings of structure from motion; a job's option overrides the setting of the same name."""

from __future__ import annotations

from pydantic import Field

from services.common.settings import ServiceSettings


class SfmSettings(ServiceSettings):
    """Settings of the sfm service."""

    sfm_port: int = 50052
    """gRPC port."""
    max_image_size: int = Field(default=1600, ge=256, le=8192)
    """Longest side of the undistorted photos in pixels, unless a job keeps the original resolution."""
    colmap_max_features: int = Field(default=16384, ge=256, le=65536)
    """Most SIFT features kept per photo. Without a GPU the stage takes fewer, to save minutes."""
    colmap_num_threads: int = Field(default=8, ge=1, le=1024)
    """Most threads COLMAP uses; never more than there are cores."""
    colmap_exhaustive_photos: int = Field(default=80, ge=2, le=10_000)
    """Up to this many photos every photo is matched with every other; above, with likely partners."""
