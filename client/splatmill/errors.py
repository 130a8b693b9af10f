"""The one error type of Splatmill: what went wrong, what to do, whether to try again.

Services raise it, one interceptor turns it into a gRPC status, the gateway turns that
into an HTTP answer, and the client raises it again on the other side.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import grpc


class Reason(StrEnum):
    """Every reason an error may have; the value is what travels as ``ErrorInfo.reason``."""

    # Bad input.
    INVALID_REQUEST = "INVALID_REQUEST"
    INVALID_OPTION = "INVALID_OPTION"
    TOO_FEW_IMAGES = "TOO_FEW_IMAGES"
    TOO_MANY_IMAGES = "TOO_MANY_IMAGES"
    BAD_FILENAME = "BAD_FILENAME"
    NOT_AN_IMAGE = "NOT_AN_IMAGE"
    IMAGE_TRUNCATED = "IMAGE_TRUNCATED"
    IMAGE_TOO_LARGE = "IMAGE_TOO_LARGE"
    IMAGE_HASH_MISMATCH = "IMAGE_HASH_MISMATCH"
    BAD_OFFSET = "BAD_OFFSET"
    # Not for this caller.
    UNAUTHENTICATED = "UNAUTHENTICATED"
    PERMISSION_DENIED = "PERMISSION_DENIED"
    QUOTA_EXCEEDED = "QUOTA_EXCEEDED"
    # Not there, or not now.
    JOB_NOT_FOUND = "JOB_NOT_FOUND"
    SCENE_NOT_FOUND = "SCENE_NOT_FOUND"
    ARTIFACT_NOT_FOUND = "ARTIFACT_NOT_FOUND"
    INPUT_NOT_FOUND = "INPUT_NOT_FOUND"
    JOB_STATE_CONFLICT = "JOB_STATE_CONFLICT"
    UPLOAD_IN_PROGRESS = "UPLOAD_IN_PROGRESS"
    UPLOAD_INTERRUPTED = "UPLOAD_INTERRUPTED"
    LEASE_LOST = "LEASE_LOST"
    BUSY = "BUSY"
    STORAGE_FULL = "STORAGE_FULL"
    UNAVAILABLE = "UNAVAILABLE"
    # A stage could not do its work.
    NO_OVERLAP = "NO_OVERLAP"
    TOO_FEW_REGISTERED = "TOO_FEW_REGISTERED"
    NO_POINTS = "NO_POINTS"
    OUT_OF_MEMORY = "OUT_OF_MEMORY"
    TRAINING_DIVERGED = "TRAINING_DIVERGED"
    EMPTY_SCENE = "EMPTY_SCENE"
    STAGE_CRASHED = "STAGE_CRASHED"
    CANCELLED = "CANCELLED"
    INTERNAL = "INTERNAL"


_CODE_BY_REASON = {
    Reason.UNAUTHENTICATED: grpc.StatusCode.UNAUTHENTICATED,
    Reason.PERMISSION_DENIED: grpc.StatusCode.PERMISSION_DENIED,
    Reason.QUOTA_EXCEEDED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Reason.JOB_NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    Reason.SCENE_NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    Reason.ARTIFACT_NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    Reason.INPUT_NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    Reason.BAD_OFFSET: grpc.StatusCode.OUT_OF_RANGE,
    Reason.JOB_STATE_CONFLICT: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.UPLOAD_IN_PROGRESS: grpc.StatusCode.ABORTED,
    Reason.UPLOAD_INTERRUPTED: grpc.StatusCode.ABORTED,
    Reason.LEASE_LOST: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.BUSY: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Reason.STORAGE_FULL: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Reason.OUT_OF_MEMORY: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Reason.UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
    Reason.NO_OVERLAP: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.TOO_FEW_REGISTERED: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.NO_POINTS: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.TRAINING_DIVERGED: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.EMPTY_SCENE: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.STAGE_CRASHED: grpc.StatusCode.INTERNAL,
    Reason.CANCELLED: grpc.StatusCode.CANCELLED,
    Reason.INTERNAL: grpc.StatusCode.INTERNAL,
}


@dataclass(eq=False)
class SplatmillError(Exception):
    """Something went wrong, said so that a person and a program can act on it."""

    reason: Reason
    """Which of the known reasons."""
    message: str
    """What happened, in one or two sentences, without a stack trace."""
    remedy: str = ""
    """What the person can do about it."""
    retryable: bool = False
    """Whether the same call may succeed when made again unchanged."""
    field: str = ""
    """The offending field or file name, where there is one."""

    def __str__(self) -> str:
        """Message and remedy on one line."""
        return f"{self.message} {self.remedy}".strip()

    def __reduce__(self) -> tuple[type[SplatmillError], tuple[str, ...]]:
        """Lets the error cross process boundaries (Exception's own pickling loses the fields)."""
        return (SplatmillError, (self.reason, self.message, self.remedy, self.retryable, self.field))  # type: ignore[return-value]

    @property
    def code(self) -> grpc.StatusCode:
        """The gRPC status code; INVALID_ARGUMENT for every kind of bad input."""
        return _CODE_BY_REASON.get(self.reason, grpc.StatusCode.INVALID_ARGUMENT)
