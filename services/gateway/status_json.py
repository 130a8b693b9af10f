"""A job and its events as JSON."""

from __future__ import annotations

from typing import Any

from google.protobuf.json_format import MessageToDict
from google.protobuf.timestamp_pb2 import Timestamp

from splatmill.states import preset_name, strategy_name
from splatmill.v1 import options_pb2, progress_pb2
from splatmill.v1 import reconstruction_pb2 as pb

STAGE_NAME = {
    progress_pb2.STAGE_SFM: "sfm",
    progress_pb2.STAGE_TRAIN: "train",
    progress_pb2.STAGE_POSTPROC: "postproc",
}


def job_json(job: pb.Job, base_url: str) -> dict[str, Any]:
    """The status of a job; fields that do not apply are null."""
    completed = job.state == pb.JOB_STATE_COMPLETED
    current = current_task(job)
    progress = current.progress if current is not None else progress_pb2.StageProgress()
    error = error_detail_json(job.error) if job.HasField("error") else None
    return {
        "job_id": job.job_id,
        "pub_key": job.pub_key,
        "title": job.title,
        "status": job_state(job.state),
        "created_at": time_json(job, "created_at"),
        "started_at": time_json(job, "started_at"),
        "finished_at": time_json(job, "finished_at"),
        "image_count": job.image_count,
        "original_resolution": job.options.sfm.original_resolution,
        "queue_position": job.queue_position or None,
        "fraction": round(job.fraction, 4),
        "eta_seconds": eta_json(job),
        "stage": STAGE_NAME[current.stage] if current is not None else None,
        "step": progress.step or None,
        "training": numbers(progress.training) if progress.HasField("training") else None,
        "gpu_memory": numbers(progress.gpu_memory) if progress.HasField("gpu_memory") else None,
        "tasks": [task_json(task) for task in job.tasks],
        "log_tail": list(job.log_tail),
        "gaussian_count": job.gaussian_count if completed else None,
        "viewer_url": f"{base_url}/v/{job.pub_key}" if completed else None,
        "has_scene": job.has_scene,
        "processing_time_seconds": _seconds_between(job) if completed else None,
        "error": error,
        "error_message": f"{error['message']} {error['remedy']}".strip() if error is not None else None,
        "last_sequence": job.last_sequence,
        "priority": job.priority,
        "shared": job.shared,
        "share_expires_at": time_json(job, "share_expires_at"),
        "expected_seconds": round(job.expected_seconds, 1) if job.HasField("expected_seconds") else None,
    }


def current_task(job: pb.Job) -> pb.Task | None:
    """The stage that a worker runs now."""
    return next((task for task in job.tasks if task.state == pb.TASK_STATE_LEASED), None)


def eta_json(message: pb.Job | progress_pb2.StageProgress) -> float | None:
    """Seconds left; None when not known."""
    return round(message.eta_seconds, 1) if message.HasField("eta_seconds") else None


def task_json(task: pb.Task) -> dict[str, Any]:
    """A stage of a job."""
    succeeded = task.state == pb.TASK_STATE_SUCCEEDED
    return {
        "stage": STAGE_NAME[task.stage],
        "state": task_state(task.state),
        "fraction": 1.0 if succeeded else round(task.progress.fraction, 4),
        "step": task.progress.step or None,
        "attempt": task.attempt,
        "started_at": time_json(task, "started_at"),
        "finished_at": time_json(task, "finished_at"),
        "metrics": dict(task.metrics),
    }


def event_json(event: pb.JobEvent) -> tuple[str, dict[str, Any]]:
    """Name and data of an event."""
    data: dict[str, Any] = {"sequence": event.sequence, "created_at": time_json(event, "created_at")}
    kind = event.WhichOneof("payload")
    if kind == "job_state_changed":
        job = event.job_state_changed
        data |= {"old_state": job_state(job.old_state), "new_state": job_state(job.new_state)}
        data["error"] = error_detail_json(job.error) if job.HasField("error") else None
        return "job", data
    if kind == "task_state_changed":
        task = event.task_state_changed
        data |= {"stage": STAGE_NAME[task.stage], "attempt": task.attempt, "worker_id": task.worker_id}
        data |= {"old_state": task_state(task.old_state), "new_state": task_state(task.new_state)}
        data["error"] = error_detail_json(task.error) if task.HasField("error") else None
        return "task", data
    if kind == "queue_position_changed":
        return "queue", data | {"position": event.queue_position_changed.position}
    progress = event.progress
    data |= {
        "stage": STAGE_NAME.get(progress.stage),
        "step": progress.step,
        "fraction": round(progress.fraction, 4),
        "eta_seconds": eta_json(progress),
        "log_lines": list(progress.log_lines),
        "training": numbers(progress.training) if progress.HasField("training") else None,
        "gpu_memory": numbers(progress.gpu_memory) if progress.HasField("gpu_memory") else None,
    }
    return "progress", data


def numbers(message: Any) -> dict[str, Any]:
    """A flat message of figures, all fields present."""
    return MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)


def error_detail_json(error: progress_pb2.ErrorDetail) -> dict[str, Any]:
    """The typed error."""
    return {
        "reason": error.reason,
        "message": error.message,
        "remedy": error.remedy,
        "retryable": error.retryable,
    }


def job_state(state: pb.JobState.ValueType) -> str | None:
    """``PENDING`` and so on; None when unset."""
    return pb.JobState.Name(state).removeprefix("JOB_STATE_") if state else None


def task_state(state: pb.TaskState.ValueType) -> str | None:
    """``QUEUED`` and so on; None when unset."""
    return pb.TaskState.Name(state).removeprefix("TASK_STATE_") if state else None


def time_json(message: Any, field: str) -> str | None:
    """ISO 8601, UTC; None when unset."""
    if not message.HasField(field):
        return None
    time: Timestamp = getattr(message, field)
    return time.ToDatetime().isoformat(timespec="milliseconds") + "Z"


def _seconds_between(job: pb.Job) -> float:
    return round((job.finished_at.ToNanoseconds() - job.started_at.ToNanoseconds()) / 1e9, 2)


def device_json(device: options_pb2.TrainingDevice) -> dict[str, Any]:
    """A kind of device that trains, and the presets on it."""
    return {
        "device": device.device,
        "name": device.name,
        "workers": device.workers,
        "free_memory_bytes": device.free_memory_bytes if device.HasField("free_memory_bytes") else None,
        "presets": [
            {
                "preset": preset_name(preset.preset),
                "iterations": preset.iterations,
                "max_gaussians": preset.max_gaussians,
                "train_image_size": preset.train_image_size or None,
                "strategy": strategy_name(preset.strategy),
                "seconds": round(preset.seconds, 1),
                "memory_bytes": preset.memory_bytes,
                "past_runs": preset.past_runs,
            }
            for preset in device.presets
        ],
    }
