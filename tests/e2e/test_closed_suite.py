"""A suite as an operator runs it: TLS on every port, keys, a worker token, metrics, traces, JSON logs."""

from __future__ import annotations

import asyncio
import json
import threading
import urllib.request
from http.server import ThreadingHTTPServer

import aiohttp
import grpc.aio
import pytest
import trustme

from services.registry import keys
from services.registry.database import Database
from splatmill import AsyncClient
from splatmill._status import from_rpc_error
from splatmill._transport import Authorized, Tls, channel_credentials, open_channel
from splatmill.errors import Reason, SplatmillError
from splatmill.sample import write_capture
from splatmill.v1 import reconstruction_pb2 as pb
from splatmill.v1 import task_pb2, task_pb2_grpc, trainer_pb2, trainer_pb2_grpc
from tests.chaos.trouble import in_trouble
from tests.common.test_tracing import Receiver
from tests.conftest import free_ports

pytestmark = pytest.mark.e2e

SERVICES = ("registry", "gateway", "sfm", "trainer", "postproc")
TOKEN = "a secret of the suite"
OPTIONS = {"iterations": 200, "max_gaussians": 1000, "train_image_size": 64}


@pytest.fixture
def tls(tmp_path) -> Tls:
    """One certificate for all services, as good as one for each."""
    authority = trustme.CA()
    made = authority.issue_cert("localhost", "127.0.0.1")
    made.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    made.private_key_pem.write_to_path(tmp_path / "key.pem")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    return Tls(tmp_path / "ca.pem", tmp_path / "cert.pem", tmp_path / "key.pem")


@pytest.fixture
def traces():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    Receiver.spans = []
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.fixture
def key(tmp_path) -> str:
    """Made before the suite starts, as an operator would."""
    (tmp_path / "suite" / "data").mkdir(parents=True)
    database = Database(f"sqlite:///{tmp_path}/suite/data/splatmill.db")
    database.upgrade()
    with database.transaction() as session:
        _, made = keys.create(session, "anna")
    database.close()
    return made


def settings_of(tls: Tls, endpoint: str) -> dict[str, str]:
    return {
        "SPLATMILL_TLS_CA": str(tls.ca),
        "SPLATMILL_TLS_CERT": str(tls.cert),
        "SPLATMILL_TLS_KEY": str(tls.key),
        "SPLATMILL_TLS_SERVER_NAME": "localhost",
        "SPLATMILL_TLS_REQUIRE_CLIENT_CERT": "true",
        "SPLATMILL_WORKER_TOKEN": TOKEN,
        "SPLATMILL_LOG_FORMAT": "json",
        "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
        "OTEL_BSP_SCHEDULE_DELAY": "200",
    }


def scrape(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        return answer.read().decode()


async def upload_over_http(url: str, key: str, photos) -> tuple[int, dict]:
    """As a script would, with the key in a header."""
    form = aiohttp.FormData()
    for name, value in OPTIONS.items():
        form.add_field(name, str(value))
    for photo in photos:
        form.add_field("files", photo.read_bytes(), filename=photo.name)
    headers = {"X-API-Key": key} if key else {}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{url}/recon/jobs", data=form, headers=headers) as answer,
    ):
        return answer.status, await answer.json()


async def refusals(address: str, tls: Tls, trainer_port: int) -> None:
    """Doors that have to be shut."""
    own = channel_credentials(tls)
    async with AsyncClient(address, credentials=own, patience=2) as stranger:
        with pytest.raises(SplatmillError) as caught:
            await stranger.queue()
        assert caught.value.reason is Reason.UNAUTHENTICATED
    without = channel_credentials(Tls(ca=tls.ca))
    async with AsyncClient(address, credentials=without, patience=1) as stranger:
        with pytest.raises(SplatmillError) as caught:
            await stranger.options()
        assert caught.value.reason is Reason.UNAVAILABLE, "no client certificate"
    async with open_channel(address, (), tls) as channel:
        lease = task_pb2.LeaseTaskRequest(worker_id="intruder", stages=[1])
        for token in ("", "wrong"):
            with pytest.raises(grpc.aio.AioRpcError) as raw:
                await Authorized(task_pb2_grpc.TaskServiceStub(channel), lambda t=token: t).LeaseTask(lease)
            assert from_rpc_error(raw.value).reason is Reason.UNAUTHENTICATED
    async with open_channel(f"127.0.0.1:{trainer_port}", (), tls) as channel:
        stage = trainer_pb2_grpc.TrainerServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as raw:
            async for _ in stage.RunTraining(trainer_pb2.RunTrainingRequest(input_dir="a", output_dir="b")):
                pass
        assert from_rpc_error(raw.value).reason is Reason.UNAUTHENTICATED


async def test_everything_on(tmp_path, tls, traces, key):
    capture = tmp_path / "photos"
    write_capture(capture, 8, 240, 180, 0)
    photos = sorted(capture.glob("*.jpg"))
    ports = free_ports(len(SERVICES))
    metrics = dict(zip(SERVICES, ports, strict=True))
    async with (
        in_trouble(
            tmp_path / "suite", "", SERVICES, metrics_ports=metrics, **settings_of(tls, traces)
        ) as trouble,
        asyncio.timeout(240),
        AsyncClient(
            trouble.registries[0], api_key=key, credentials=channel_credentials(tls), patience=60
        ) as client,
    ):
        assert await client.ready(30)
        trainer_port = next(part.port for part in trouble.parts if part.service == "trainer")
        await refusals(trouble.registries[0], tls, trainer_port)
        status, body = await _when_ready(trouble.gateway_url, "", photos)
        assert (status, body["error"]["reason"]) == (401, "UNAUTHENTICATED")
        status, body = await upload_over_http(trouble.gateway_url, key, photos)
        assert status == 200, body
        job = await client.wait(body["job_id"])
        assert job.state == pb.JOB_STATE_COMPLETED, job
        texts = {name: await asyncio.to_thread(scrape, port) for name, port in metrics.items()}
        await asyncio.sleep(1)
    check_metrics(texts)
    trace = check_spans()
    check_logs(trouble.folder, job.job_id, trace)


async def _when_ready(url: str, key: str, photos) -> tuple[int, dict]:
    """The gateway may still be starting."""
    while True:
        try:
            return await upload_over_http(url, key, photos)
        except aiohttp.ClientError:
            await asyncio.sleep(0.2)


def check_metrics(texts: dict[str, str]) -> None:
    assert (
        'splatmill_http_requests_total{code="200",method="POST",route="/recon/jobs"} 1.0' in texts["gateway"]
    )
    assert 'splatmill_jobs{state="completed"} 1.0' in texts["registry"]
    for stage, service in (("sfm", "sfm"), ("train", "trainer"), ("postproc", "postproc")):
        ended = f'splatmill_task_duration_seconds_count{{outcome="succeeded",stage="{stage}"}} 1.0'
        assert ended in texts["registry"]
        assert f'splatmill_worker_tasks_total{{outcome="succeeded",stage="{stage}"}} 1.0' in texts[service]
    handled = 'grpc_server_handled_total{grpc_code="OK",grpc_method="CreateJob"'
    assert handled in texts["registry"]


def check_spans() -> str:
    """One trace from the upload to the splat; answers its id."""
    sfm = next(made for _, made in Receiver.spans if made.name == "stage sfm")
    trace = [(name, made) for name, made in Receiver.spans if made.trace_id == sfm.trace_id]
    found = {made.name for _, made in trace}
    assert {"POST /recon/jobs", "CreateJob", "queue", "stage sfm", "stage train", "stage postproc"} <= found
    assert {"train", "publish"} <= found, "steps"
    services = {name for name, _ in trace}
    assert services == {f"splatmill-{name}" for name in ("gateway", "registry", "sfm", "train", "postproc")}
    return sfm.trace_id.hex()


def check_logs(folder, job_id: str, trace: str) -> None:
    """Every line is JSON, and those of the job say so."""
    for service in ("sfm", "trainer", "postproc"):
        (path,) = folder.glob(f"{service}-*.log")
        lines = [json.loads(line) for line in path.read_text().splitlines() if line.startswith("{")]
        about_job = [line for line in lines if line.get("job_id") == job_id]
        assert any(line["message"].endswith("done") for line in about_job)
        assert {line["trace_id"] for line in about_job} == {trace}
        assert all(line["worker_id"] and line["attempt"] == 1 for line in about_job)
