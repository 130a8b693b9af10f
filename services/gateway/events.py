"""A job's events as server-sent events, resumable by their numbers."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator
from typing import Any

import grpc.aio
from aiohttp import web

from services.gateway.keys import REGISTRY, STOPPING
from services.gateway.status_json import event_json
from splatmill._status import from_rpc_error
from splatmill.errors import Reason
from splatmill.v1 import reconstruction_pb2 as pb

HEARTBEAT_SECONDS = 15.0
RECONNECT_SECONDS = 1.0


async def job_events(request: web.Request) -> web.StreamResponse:
    """GET /recon/jobs/{job_id}/events; goes on behind the Last-Event-ID header."""
    registry = request.app[REGISTRY]
    job_id = request.match_info["job_id"]
    await registry.GetJob(pb.GetJobRequest(job_id=job_id))
    last = request.headers.get("Last-Event-ID") or request.query.get("after", "0")
    after = int(last) if last.isdecimal() and len(last) < 18 else 0
    response = web.StreamResponse(
        headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    )
    await response.prepare(request)
    stopping = asyncio.create_task(request.app[STOPPING].wait())
    events = follow(registry, job_id, after)
    waiting: asyncio.Task[pb.JobEvent] | None = None
    try:
        while True:
            if waiting is None:
                waiting = asyncio.ensure_future(anext(events))
            done, _ = await asyncio.wait(
                {waiting, stopping}, timeout=HEARTBEAT_SECONDS, return_when=asyncio.FIRST_COMPLETED
            )
            if stopping in done:
                return response
            if not done:
                await response.write(b": still here\n\n")
                continue
            try:
                event = waiting.result()
            except StopAsyncIteration:
                await response.write(b"event: end\ndata: {}\n\n")
                return response
            waiting = None
            name, data = event_json(event)
            await response.write(
                f"id: {event.sequence}\nevent: {name}\ndata: {json.dumps(data)}\n\n".encode()
            )
    finally:
        stopping.cancel()
        if waiting is not None:
            waiting.cancel()
            with contextlib.suppress(asyncio.CancelledError, StopAsyncIteration):
                await waiting
        await events.aclose()


async def follow(registry: Any, job_id: str, after: int) -> AsyncGenerator[pb.JobEvent, None]:
    """A job's events to its end, whatever happens to the connection; none twice, none left out."""
    while True:
        call = registry.WatchJob(pb.WatchJobRequest(job_id=job_id, after_sequence=after))
        try:
            async for answer in call:
                after = answer.event.sequence
                yield answer.event
            return
        except grpc.aio.AioRpcError as raw:
            error = from_rpc_error(raw)
            if error.reason is not Reason.UNAVAILABLE:
                raise error from raw
            await asyncio.sleep(RECONNECT_SECONDS)
        finally:
            call.cancel()
