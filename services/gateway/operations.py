"""Share links, failed attempts and workers over HTTP."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from services.gateway.jobs import base_url, json_answer, json_body
from services.gateway.keys import REGISTRY
from services.gateway.status_json import STAGE_NAME, error_detail_json, job_json, time_json
from splatmill.errors import Reason, SplatmillError
from splatmill.v1 import reconstruction_pb2 as pb

_ACTIONS = {
    "open": pb.SHARE_ACTION_OPEN,
    "close": pb.SHARE_ACTION_CLOSE,
    "renew": pb.SHARE_ACTION_RENEW,
}


async def share(request: web.Request) -> web.Response:
    """POST /recon/jobs/{job_id}/share {"action": "open|close|renew", "valid_for_seconds": ...}."""
    body = await json_body(request)
    action = body.get("action")
    if action not in _ACTIONS:
        raise SplatmillError(
            Reason.INVALID_REQUEST, f"There is no action {action!r}.",
            f"Choose one of {', '.join(_ACTIONS)}.", field="action",
        )  # fmt: skip
    call = pb.UpdateShareRequest(job_id=request.match_info["job_id"], action=_ACTIONS[action])
    seconds = body.get("valid_for_seconds")
    if seconds is not None:
        call.valid_for.FromMilliseconds(_milliseconds(seconds))
    answer = await request.app[REGISTRY].UpdateShare(call)
    return json_answer(job_json(answer.job, base_url(request)))


def _milliseconds(seconds: object) -> int:
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not abs(seconds) < 1e11:
        raise SplatmillError(
            Reason.INVALID_REQUEST, "valid_for_seconds must be a number.",
            "Leave it out for a link without end.", field="valid_for_seconds",
        )  # fmt: skip
    return int(1000 * seconds)


async def errors(request: web.Request) -> web.Response:
    """GET /recon/jobs/{job_id}/errors, and /recon/errors for administrators."""
    call = pb.ListErrorsRequest(job_id=request.match_info.get("job_id", ""))
    answer = await request.app[REGISTRY].ListErrors(call)
    return json_answer({"errors": [_error_json(attempt) for attempt in answer.errors]})


def _error_json(attempt: pb.FailedAttempt) -> dict[str, Any]:
    return {
        "job_id": attempt.job_id,
        "stage": STAGE_NAME.get(attempt.stage),
        "attempt": attempt.attempt,
        "worker_id": attempt.worker_id,
        "created_at": time_json(attempt, "created_at"),
        "error": error_detail_json(attempt.error),
    }


async def workers(request: web.Request) -> web.Response:
    """GET /recon/workers."""
    answer = await request.app[REGISTRY].ListWorkers(pb.ListWorkersRequest())
    return json_answer({"workers": [_worker_json(worker) for worker in answer.workers]})


def _worker_json(worker: pb.WorkerInfo) -> dict[str, Any]:
    return {
        "worker_id": worker.worker_id,
        "stages": [STAGE_NAME.get(stage) for stage in worker.stages],
        "device": worker.device,
        "first_seen_at": time_json(worker, "first_seen_at"),
        "last_seen_at": time_json(worker, "last_seen_at"),
        "job_id": worker.job_id or None,
        "stage": STAGE_NAME.get(worker.stage),
    }
