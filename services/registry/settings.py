"""Settings of the registry."""

from __future__ import annotations

from pydantic import Field

from services.common.settings import ServiceSettings


class RegistrySettings(ServiceSettings):
    """What the registry reads from its environment."""

    registry_port: int = 50051
    """Its gRPC port."""
    database_url: str = ""
    """URL of PostgreSQL or SQLite; empty for the file ``splatmill.db`` in the data folder."""
    database_connections: int = Field(default=16, ge=1)
    """Most connections of one replica to PostgreSQL, besides the one that listens."""
    max_concurrent_jobs: int = 1
    """Most jobs in PROCESSING at once; 0 for no limit."""
    min_images: int = 3
    """Fewest photos of a job, masks not counted."""
    max_images: int = 200
    """Most photos of a job; as many masks may come with them."""
    max_image_bytes: int = 100 * 1024 * 1024
    """Largest photo in bytes."""
    max_image_pixels: int = 150_000_000
    """Largest photo in pixels; a small file that claims more is a decompression bomb."""
    min_free_bytes: int = 1024 * 1024 * 1024
    """Uploads are refused when less room than this is left."""
    lease_seconds: float = 60.0
    """How long a worker may be silent before its task is given to another."""
    max_attempts: int = 3
    """How often a stage is begun before the job fails."""
    retry_seconds: float = 5.0
    """Pause before the second attempt; doubled for each further one."""
    upload_ttl_seconds: float = 24 * 3600
    """How long an unfinished resumable upload is kept."""

    max_log_bytes: int = Field(default=10 * 1024 * 1024, ge=1024)
    """Largest log of a job; the older half goes when it is full."""
    keep_free_bytes: int = 4 * 1024 * 1024 * 1024
    """Below this room on the disk intermediate files go, those of the longest ended jobs first."""
    retain_photos_days: float = Field(default=0.0, ge=0)
    """How long photos are kept after a job's end; 0 for ever."""
    retain_intermediates_days: float = Field(default=0.0, ge=0)
    """The same for the COLMAP model, undistorted photos and checkpoints."""
    retain_results_days: float = Field(default=0.0, ge=0)
    """The same for the scene."""
    retain_logs_days: float = Field(default=0.0, ge=0)
    """The same for the log."""
    orphan_ttl_seconds: float = Field(default=7 * 24 * 3600, ge=0)
    """How long a job's folder that the database does not know of is left alone."""

    @property
    def resolved_database_url(self) -> str:
        """The URL in force."""
        return self.database_url or f"sqlite:///{self.data_dir.resolve() / 'splatmill.db'}"
