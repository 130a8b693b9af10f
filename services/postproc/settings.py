"""Settings of post-processing; a job's option overrides the setting of the same name."""

from __future__ import annotations

from pydantic import Field

from services.common.settings import ServiceSettings


class PostprocSettings(ServiceSettings):
    """Settings of the postproc service."""

    postproc_port: int = 50054
    """gRPC port."""
    outlier_k_neighbors: int = Field(default=20, ge=1, le=1000)
    """Neighbours whose mean distance judges a Gaussian an outlier."""
    outlier_std_threshold: float = Field(default=2.0, gt=0, le=100)
    """Remove beyond the mean of these distances plus this many standard deviations."""
    outlier_remove_small_clusters: bool = True
    """Whether to remove clusters smaller than outlier_min_cluster_ratio."""
    outlier_min_cluster_ratio: float = Field(default=0.01, ge=0, le=1)
    """Smallest cluster kept, as a fraction of all Gaussians."""
