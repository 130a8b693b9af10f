"""States and stages by their plain names."""

from __future__ import annotations

from splatmill.errors import Reason, SplatmillError
from splatmill.v1 import options_pb2, progress_pb2
from splatmill.v1 import reconstruction_pb2 as pb

STAGE_NAMES = {
    progress_pb2.STAGE_SFM: "sfm",
    progress_pb2.STAGE_TRAIN: "train",
    progress_pb2.STAGE_POSTPROC: "postproc",
}
_FINAL = {pb.JOB_STATE_COMPLETED, pb.JOB_STATE_FAILED, pb.JOB_STATE_CANCELLED}


def is_final(state: pb.JobState.ValueType) -> bool:
    """Whether a job in this state stays in it unless it is retried."""
    return state in _FINAL


def state_name(state: pb.JobState.ValueType) -> str:
    """``PROCESSING`` of ``JOB_STATE_PROCESSING``."""
    return pb.JobState.Name(state).removeprefix("JOB_STATE_")


def task_state_name(state: pb.TaskState.ValueType) -> str:
    """``LEASED`` of ``TASK_STATE_LEASED``."""
    return pb.TaskState.Name(state).removeprefix("TASK_STATE_")


def stage_name(stage: progress_pb2.Stage.ValueType) -> str:
    """``sfm``, ``train`` or ``postproc``."""
    return STAGE_NAMES.get(stage, "")


def preset_name(preset: options_pb2.Preset.ValueType) -> str:
    """``draft`` of ``PRESET_DRAFT``."""
    return options_pb2.Preset.Name(preset).removeprefix("PRESET_").lower()


def strategy_name(strategy: options_pb2.Strategy.ValueType) -> str:
    """``mcmc`` of ``STRATEGY_MCMC``."""
    return options_pb2.Strategy.Name(strategy).removeprefix("STRATEGY_").lower()


def job_error(job: pb.Job) -> SplatmillError | None:
    """Why a job failed, as an error that can be raised; None for one that did not."""
    if not job.HasField("error"):
        return None
    known = Reason(job.error.reason) if job.error.reason in set(Reason) else Reason.INTERNAL
    return SplatmillError(known, job.error.message, job.error.remedy, job.error.retryable)
