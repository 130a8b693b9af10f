"""Finished scenes and files of jobs, with byte ranges and ETags."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import grpc.aio
from aiohttp import web

from services.gateway.jobs import base_url
from services.gateway.keys import REGISTRY
from services.gateway.status_json import STAGE_NAME, current_task, eta_json, job_state
from splatmill.errors import Reason, SplatmillError
from splatmill.v1 import reconstruction_pb2 as pb


async def scene(request: web.Request) -> web.Response:
    """GET /recon/pub/{pub_key}: what there is to see."""
    pub_key = request.match_info["pub_key"]
    answer = await request.app[REGISTRY].GetScene(pb.GetSceneRequest(pub_key=pub_key))
    url = f"{base_url(request)}/recon/pub/{pub_key}"
    job = answer.job
    current = current_task(job)
    body = {
        "pub_key": pub_key,
        "title": job.title,
        "status": job_state(job.state),
        "queue_position": job.queue_position or None,
        "stage": STAGE_NAME[current.stage] if current is not None else None,
        "fraction": round(job.fraction, 4),
        "eta_seconds": eta_json(job),
        "gaussian_count": job.gaussian_count or None,
        "artifacts": [_artifact_json(artifact, url) for artifact in answer.artifacts],
    }
    return web.json_response(body, headers={"Cache-Control": "no-store"})


async def job_artifacts(request: web.Request) -> web.Response:
    """GET /recon/jobs/{job_id}/artifacts."""
    job_id = request.match_info["job_id"]
    answer = await request.app[REGISTRY].ListArtifacts(pb.ListArtifactsRequest(job_id=job_id))
    url = f"{base_url(request)}/recon/jobs/{job_id}/artifacts"
    return web.json_response({"artifacts": [_artifact_json(artifact, url) for artifact in answer.artifacts]})


async def public_file(request: web.Request) -> web.StreamResponse:
    """GET /recon/pub/{pub_key}/{name}."""
    return await _send(request, {"pub_key": request.match_info["pub_key"]})


async def job_file(request: web.Request) -> web.StreamResponse:
    """GET /recon/jobs/{job_id}/artifacts/{name}."""
    return await _send(request, {"job_id": request.match_info["job_id"]})


async def _send(request: web.Request, key: dict[str, str]) -> web.StreamResponse:
    name = request.match_info["name"]
    artifact, call = await _open(request, _request(key, name, 0, 1))
    call.cancel()
    etag = f'"{artifact.sha256.hex()}"' if artifact.sha256 else ""
    headers = {
        "Content-Type": artifact.content_type,
        "Accept-Ranges": "bytes",
        "Cache-Control": "no-cache",
        "Content-Disposition": f"inline; filename*=UTF-8''{quote(name.rsplit('/', 1)[-1])}",
        "X-Content-Type-Options": "nosniff",
    }
    if etag:
        headers["ETag"] = etag
        if etag in [tag.strip() for tag in request.headers.get("If-None-Match", "").split(",")]:
            return web.Response(status=304, headers=headers)
    start, length, partial = _range(request, artifact.size_bytes, etag)
    headers["Content-Length"] = str(length)
    if partial:
        headers["Content-Range"] = f"bytes {start}-{start + length - 1}/{artifact.size_bytes}"
    response = web.StreamResponse(status=206 if partial else 200, headers=headers)
    if request.method == "HEAD" or length == 0:
        await response.prepare(request)
        return response
    newest, call = await _open(request, _request(key, name, start, length))
    try:
        if newest.sha256 != artifact.sha256:  # a newer preview has taken its place since
            return await _send(request, key)
        await response.prepare(request)
        while isinstance(answer := await call.read(), pb.DownloadArtifactResponse):
            if answer.data:
                await response.write(answer.data)
    finally:
        call.cancel()
    return response


async def _open(
    request: web.Request, wanted: pb.DownloadArtifactRequest
) -> tuple[pb.Artifact, grpc.aio.UnaryStreamCall[Any, pb.DownloadArtifactResponse]]:
    """A download of which the description has been read: its first message."""
    call = request.app[REGISTRY].DownloadArtifact(wanted)
    try:
        answer: pb.DownloadArtifactResponse = await call.read()
        if not isinstance(answer, pb.DownloadArtifactResponse):
            await call  # raises why there was no message
        return answer.artifact, call
    except BaseException:
        call.cancel()
        raise


def _request(key: dict[str, str], name: str, offset: int, length: int) -> pb.DownloadArtifactRequest:
    request = pb.DownloadArtifactRequest(name=name, offset=offset, length=length)
    for field, value in key.items():
        setattr(request, field, value)
    return request


def _range(request: web.Request, size: int, etag: str) -> tuple[int, int, bool]:
    """First byte, length, and whether that is a part, from the Range header.

    Raises:
        SplatmillError: No such part (BAD_OFFSET).
    """
    condition = request.headers.get("If-Range")
    if "Range" not in request.headers or (condition is not None and condition != etag):
        return 0, size, False
    try:
        wanted = request.http_range
    except ValueError:
        return 0, size, False
    start, stop, _ = wanted.indices(size)
    if wanted.start is None or start >= stop:
        raise SplatmillError(
            Reason.BAD_OFFSET,
            f"The file has {size} bytes; the range lies outside.",
            "Ask for less, or for all of it.",
        )
    return start, stop - start, True


def _artifact_json(artifact: pb.Artifact, url: str) -> dict[str, Any]:
    return {
        "name": artifact.name,
        "size_bytes": artifact.size_bytes,
        "content_type": artifact.content_type,
        "sha256": artifact.sha256.hex(),
        "url": f"{url}/{quote(artifact.name)}",
    }
