"""A stand-in for the gateway: the built pages, and JSON, events and files that a test sets."""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

from aiohttp import BodyPartReader, web

DIST = Path(__file__).parents[2] / "services/gateway/web/dist"
# What the gateway sends; a page that needs more fails here first.
CSP = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; worker-src blob:; "
    "connect-src 'self' data: blob:; img-src 'self' data: blob:; style-src 'self' 'unsafe-inline'; "
    "font-src 'self'"
)
T = TypeVar("T")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def error_body(reason: str, message: str, remedy: str = "", retryable: bool = False) -> dict[str, Any]:
    error = {"reason": reason, "message": message, "remedy": remedy, "retryable": retryable}
    return {"error": error, "error_message": message}


class FakeGateway:
    """Runs in a thread; tests set its state from theirs.

    Attributes:
        jobs: Status JSON by job id.
        scenes: Public JSON by share key.
        files: Bytes by share key and name.
        options: Answer of ``GET /recon/options``.
        posts: Fields and files of every upload received.
        refuse_upload: Status and body to answer uploads with.
        calls: Method and path of every request.
    """

    def __init__(self) -> None:
        self.jobs: dict[str, dict[str, Any]] = {}
        self.scenes: dict[str, dict[str, Any]] = {}
        self.files: dict[tuple[str, str], bytes] = {}
        self.options: dict[str, Any] = {"options": []}
        self.queue: dict[str, Any] = {"max_concurrent": 1, "running_count": 0, "pending_count": 0}
        self.posts: list[dict[str, Any]] = []
        self.refuse_upload: tuple[int, dict[str, Any]] | None = None
        self.refuse_events = False
        self.api_key = "sm_right"
        self.upload_bytes_per_second: float | None = None
        self.calls: list[str] = []
        self.last_event_ids: list[str | None] = []
        self._events: dict[str, list[tuple[int, str, dict[str, Any]]]] = {}
        self._ended: set[str] = set()
        self._streams: set[web.StreamResponse] = set()
        self._changed: asyncio.Event
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._runner: web.AppRunner
        self.url = ""

    # Called from the test's thread.

    def start(self) -> FakeGateway:
        self._thread.start()
        self._wait(self._start())
        return self

    def stop(self) -> None:
        self._wait(self._runner.cleanup())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    def push(self, job_id: str, event: str, data: dict[str, Any]) -> int:
        """Sends an event to whoever watches; answers its sequence."""
        return self._wait(self._push(job_id, event, data))

    def end(self, job_id: str) -> None:
        """Ends the job's event streams, as after its last event."""
        self._wait(self._end(job_id))

    def drop_streams(self) -> None:
        """Breaks all open event streams."""
        self._wait(self._drop_streams())

    def set_job(self, job_id: str, **fields: Any) -> None:
        self.jobs.setdefault(job_id, {"job_id": job_id}).update(fields)

    def add_scene(self, pub_key: str, files: dict[str, bytes], **fields: Any) -> None:
        """A scene with files; ``gaussian_count`` and the like in ``fields``."""
        for name, data in files.items():
            self.files[pub_key, name] = data
        artifacts = [
            {
                "name": name,
                "size_bytes": len(data),
                "url": f"https://share.example/recon/pub/{pub_key}/{name}",
            }
            for name, data in files.items()
        ]
        self.scenes[pub_key] = {"status": "COMPLETED", "title": "", "artifacts": artifacts, **fields}

    # In the server's thread.

    def _wait(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(10)

    async def _start(self) -> None:
        self._changed = asyncio.Event()
        app = web.Application(middlewares=[self._middleware], client_max_size=1 << 30)
        app.add_routes(
            [
                web.get("/", self._shows("index.html")),
                web.get("/jobs/{job_id}", self._shows("job.html")),
                web.get("/v/{pub_key}", self._shows("viewer.html")),
                web.static("/assets", DIST / "assets"),
                web.get("/recon/options", self._answers(lambda: self.options)),
                web.get("/recon/queue", self._answers(lambda: self.queue)),
                web.get("/recon/jobs", self._answers(lambda: {"jobs": list(self.jobs.values())})),
                web.post("/recon/jobs", self._upload),
                web.get("/recon/jobs/{job_id}/status", self._status),
                web.get("/recon/jobs/{job_id}/events", self._watch),
                web.post("/recon/jobs/{job_id}/cancel", self._cancel),
                web.post("/recon/jobs/{job_id}/retry", self._retry),
                web.delete("/recon/jobs/{job_id}", self._delete),
                web.get("/recon/jobs/{job_id}/artifacts", self._job_files),
                web.get("/recon/jobs/{job_id}/artifacts/{name}", self._job_file),
                web.get("/signin", self._shows("signin.html")),
                web.post("/recon/session", self._sign_in),
                web.get("/recon/pub/{pub_key}", self._scene),
                web.get("/recon/pub/{pub_key}/{name}", self._file),
            ]
        )
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    @web.middleware
    async def _middleware(self, request: web.Request, handler: Any) -> web.StreamResponse:
        self.calls.append(f"{request.method} {request.path}")
        response: web.StreamResponse
        try:
            response = await handler(request)
        except web.HTTPNotFound:
            response = await self._page("notfound.html", 404)
        if not response.prepared:
            response.headers["Content-Security-Policy"] = CSP
        return response

    def _shows(self, name: str) -> Handler:
        async def handler(_request: web.Request) -> web.StreamResponse:
            return await self._page(name)

        return handler

    def _answers(self, data: Callable[[], Any]) -> Handler:
        async def handler(_request: web.Request) -> web.StreamResponse:
            return await self._json(data())

        return handler

    async def _page(self, name: str, status: int = 200) -> web.Response:
        text = await asyncio.to_thread((DIST / name).read_text)
        return web.Response(text=text, content_type="text/html", status=status)

    async def _json(self, data: Any, status: int = 200) -> web.Response:
        return web.json_response(data, status=status)

    async def _job_missing(self) -> web.Response:
        return await self._json(error_body("JOB_NOT_FOUND", "No job has this id.", "Check the id."), 404)

    async def _upload(self, request: web.Request) -> web.StreamResponse:
        post: dict[str, Any] = {"fields": [], "files": []}
        reader = await request.multipart()
        while (part := await reader.next()) is not None:
            assert isinstance(part, BodyPartReader)
            if part.filename is None:
                post["fields"].append((part.name, await part.text()))
                continue
            data = bytearray()
            while chunk := await part.read_chunk(1 << 16):
                data += chunk
                if self.upload_bytes_per_second:
                    await asyncio.sleep(len(chunk) / self.upload_bytes_per_second)
            post["files"].append((part.name, part.filename, bytes(data)))
        self.posts.append(post)
        if self.refuse_upload:
            status, body = self.refuse_upload
            return await self._json(body, status)
        return await self._json({"job_id": "up10aded", "pub_key": "up10adedke", "original_resolution": False})

    async def _job_files(self, request: web.Request) -> web.Response:
        names = [name for job_id, name in self.files if job_id == request.match_info["job_id"]]
        return await self._json({"artifacts": [{"name": name} for name in names]})

    async def _job_file(self, request: web.Request) -> web.Response:
        data = self.files.get((request.match_info["job_id"], request.match_info["name"]))
        if data is None:
            return await self._json(error_body("ARTIFACT_NOT_FOUND", "No such file."), 404)
        etag = f'"{hashlib.sha256(data).hexdigest()}"'
        headers = {"ETag": etag, "Cache-Control": "no-cache"}
        if request.headers.get("If-None-Match") == etag:
            return web.Response(status=304, headers=headers)
        return web.Response(body=data, headers=headers)

    async def _sign_in(self, request: web.Request) -> web.Response:
        if (await request.json())["api_key"] != self.api_key:
            body = error_body("UNAUTHENTICATED", "This API key is not known here.", "Ask the operator.")
            return await self._json(body, 401)
        answer = web.Response(status=204)
        answer.set_cookie("splatmill_key", self.api_key, httponly=True)
        return answer

    async def _status(self, request: web.Request) -> web.Response:
        job = self.jobs.get(request.match_info["job_id"])
        return await self._json(job) if job else await self._job_missing()

    async def _push(self, job_id: str, event: str, data: dict[str, Any]) -> int:
        events = self._events.setdefault(job_id, [])
        events.append((len(events) + 1, event, data))
        self._changed.set()
        self._changed = asyncio.Event()
        return len(events)

    async def _end(self, job_id: str) -> None:
        self._ended.add(job_id)
        self._changed.set()
        self._changed = asyncio.Event()

    async def _drop_streams(self) -> None:
        for stream in list(self._streams):
            if stream._req is not None and stream._req.transport is not None:
                stream._req.transport.close()

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        if self.refuse_events:
            return await self._json(error_body("UNAVAILABLE", "No events now."), 503)
        job_id = request.match_info["job_id"]
        last_id = request.headers.get("Last-Event-ID") or request.query.get("after")
        self.last_event_ids.append(last_id)
        sent = int(last_id or 0)
        response = web.StreamResponse(
            headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"}
        )
        await response.prepare(request)
        await response.write(b"retry: 200\n\n")
        self._streams.add(response)
        try:
            while True:
                changed = self._changed
                for sequence, event, data in self._events.get(job_id, [])[sent:]:
                    text = f"event: {event}\ndata: {json.dumps(data)}\n"
                    await response.write(f"id: {sequence}\n{text}\n".encode())
                    sent = sequence
                if job_id in self._ended:
                    await response.write(b"event: end\ndata: {}\n\n")
                    return response
                await changed.wait()
        except ConnectionError:
            return response
        finally:
            self._streams.discard(response)

    async def _cancel(self, request: web.Request) -> web.Response:
        self.set_job(request.match_info["job_id"], status="CANCELLED")
        return await self._json(self.jobs[request.match_info["job_id"]])

    async def _retry(self, request: web.Request) -> web.Response:
        self._ended.discard(request.match_info["job_id"])
        self.set_job(request.match_info["job_id"], status="PENDING", error=None, error_message=None)
        return await self._json(self.jobs[request.match_info["job_id"]])

    async def _delete(self, request: web.Request) -> web.Response:
        del self.jobs[request.match_info["job_id"]]
        return web.Response(status=204)

    async def _scene(self, request: web.Request) -> web.Response:
        scene = self.scenes.get(request.match_info["pub_key"])
        if scene is None:
            return await self._json(error_body("SCENE_NOT_FOUND", "No scene has this key."), 404)
        return await self._json(scene)

    async def _file(self, request: web.Request) -> web.Response:
        data = self.files.get((request.match_info["pub_key"], request.match_info["name"]))
        if data is None:
            return await self._json(error_body("ARTIFACT_NOT_FOUND", "No such file."), 404)
        return web.Response(body=data, content_type="application/octet-stream")
