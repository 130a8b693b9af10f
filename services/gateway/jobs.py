"""Jobs over HTTP: status, list, queue, cancel, retry, delete, options."""

from __future__ import annotations

import json
from typing import Any

import grpc.aio
from aiohttp import web
from google.protobuf.json_format import MessageToDict

from services.common.option_codec import parse_form
from services.gateway.keys import REGISTRY, SETTINGS
from services.gateway.status_json import STAGE_NAME, device_json, job_json, job_state, time_json
from splatmill.errors import Reason, SplatmillError
from splatmill.v1 import progress_pb2
from splatmill.v1 import reconstruction_pb2 as pb

_STAGE_BY_NAME = {name: stage for stage, name in STAGE_NAME.items()}


def base_url(request: web.Request) -> str:
    """Where the asker reaches this gateway."""
    return (request.app[SETTINGS].base_url or f"{request.scheme}://{request.host}").rstrip("/")


async def status(request: web.Request) -> web.Response:
    """GET /recon/jobs/{job_id}/status."""
    answer = await request.app[REGISTRY].GetJob(pb.GetJobRequest(job_id=request.match_info["job_id"]))
    return json_answer(job_json(answer.job, base_url(request)))


async def list_jobs(request: web.Request) -> web.Response:
    """GET /recon/jobs?status=...&page_size=...&page_token=..."""
    query = pb.ListJobsRequest(
        states=[_job_state(name) for name in request.query.getall("status", [])],
        page_size=_integer(request.query.get("page_size", "0"), "page_size"),
        page_token=request.query.get("page_token", ""),
    )
    answer = await request.app[REGISTRY].ListJobs(query)
    url = base_url(request)
    return json_answer(
        {"jobs": [job_json(job, url) for job in answer.jobs], "next_page_token": answer.next_page_token}
    )


async def queue(request: web.Request) -> web.Response:
    """GET /recon/queue."""
    answer = await request.app[REGISTRY].GetQueue(pb.GetQueueRequest())
    running = [
        {"job_id": job.job_id or None, "created_at": time_json(job, "created_at")}
        for job in answer.running_jobs
    ]
    pending = [
        {"job_id": job.job_id or None, "position": job.position, "created_at": time_json(job, "created_at")}
        for job in answer.pending_jobs
    ]
    return json_answer(
        {
            "max_concurrent": answer.max_concurrent,
            "running_count": len(running),
            "pending_count": len(pending),
            "running_jobs": running,
            "pending_jobs": pending,
        }
    )


async def cancel(request: web.Request) -> web.Response:
    """POST /recon/jobs/{job_id}/cancel."""
    answer = await request.app[REGISTRY].CancelJob(pb.CancelJobRequest(job_id=request.match_info["job_id"]))
    return json_answer(job_json(answer.job, base_url(request)))


async def retry(request: web.Request) -> web.Response:
    """POST /recon/jobs/{job_id}/retry, with an optional body {"from_stage": ..., "options": {...}}."""
    body = await json_body(request)
    name = body.get("from_stage")
    if name is not None and name not in _STAGE_BY_NAME:
        raise SplatmillError(
            Reason.INVALID_REQUEST,
            f"There is no stage {name!r}.",
            f"Stages are {', '.join(_STAGE_BY_NAME)}.",
            field="from_stage",
        )
    options = body.get("options", {})
    if not isinstance(options, dict):
        raise SplatmillError(
            Reason.INVALID_REQUEST,
            "options must be an object.",
            'Such as {"iterations": 5000}.',
            field="options",
        )
    texts = {
        str(key): json.dumps(value) if isinstance(value, bool) else str(value)
        for key, value in options.items()
    }
    call = pb.RetryJobRequest(
        job_id=request.match_info["job_id"],
        from_stage=_STAGE_BY_NAME[name] if name is not None else progress_pb2.STAGE_UNSPECIFIED,
        options=parse_form(texts),
    )
    answer = await request.app[REGISTRY].RetryJob(call)
    return json_answer(job_json(answer.job, base_url(request)))


async def delete(request: web.Request) -> web.Response:
    """DELETE /recon/jobs/{job_id}."""
    await request.app[REGISTRY].DeleteJob(pb.DeleteJobRequest(job_id=request.match_info["job_id"]))
    return web.Response(status=204)


async def options(request: web.Request) -> web.Response:
    """GET /recon/options."""
    answer = await request.app[REGISTRY].ListOptions(pb.ListOptionsRequest())
    found = []
    for option in answer.options:
        entry = MessageToDict(
            option, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
        )
        found.append(entry | {"stage": STAGE_NAME[option.stage]})
    limits = answer.limits
    return json_answer(
        {
            "options": found,
            "limits": {
                "min_images": limits.min_images,
                "max_images": limits.max_images,
                "max_image_bytes": limits.max_image_bytes,
            },
            "devices": await _devices(request),
        }
    )


async def _devices(request: web.Request) -> list[dict[str, Any]]:
    """What trains, with the presets on it; nothing for those who may not see what is there."""
    try:
        answer = await request.app[REGISTRY].ListPresets(pb.ListPresetsRequest())
    except grpc.aio.AioRpcError as error:
        if error.code() not in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
            raise
        return []
    return [device_json(device) for device in answer.devices]


async def json_body(request: web.Request) -> dict[str, Any]:
    """The request's JSON object; an empty one for an empty body."""
    text = await request.text()
    try:
        body = json.loads(text) if text.strip() else {}
    except ValueError as error:
        raise SplatmillError(
            Reason.INVALID_REQUEST, f"The body is no JSON: {error}.", "Send a JSON object."
        ) from error
    if not isinstance(body, dict):
        raise SplatmillError(
            Reason.INVALID_REQUEST, "The body must be a JSON object.", 'Such as {"from_stage": "train"}.'
        )
    return body


def _job_state(name: str) -> pb.JobState.ValueType:
    known = [job_state(value) for value in pb.JobState.values() if value]
    if name.upper() not in known:
        raise SplatmillError(
            Reason.INVALID_REQUEST,
            f"There is no status {name!r}.",
            f"Known are {', '.join(map(str, known))}.",
            field="status",
        )
    return pb.JobState.Value(f"JOB_STATE_{name.upper()}")


def _integer(text: str, field: str) -> int:
    if not text.isdecimal() or len(text) > 9:
        raise SplatmillError(
            Reason.INVALID_REQUEST,
            f"{field} must be a number, not {text[:20]!r}.",
            "Leave it out.",
            field=field,
        )
    return int(text)


def json_answer(body: object) -> web.Response:
    """JSON that no cache keeps."""
    return web.json_response(body, headers={"Cache-Control": "no-store"})
