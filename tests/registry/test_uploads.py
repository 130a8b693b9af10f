"""Photos on their way in: refused ones leave nothing, broken uploads resume."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import signal
import subprocess
import sys

import grpc.aio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from services.registry import history
from services.registry.lookups import job_by_id
from services.registry.uploads import Upload
from splatmill._status import Ending, from_rpc_error
from splatmill.errors import Reason, SplatmillError
from splatmill.v1 import reconstruction_pb2 as pb
from splatmill.v1 import reconstruction_pb2_grpc as rpc
from tests.conftest import free_ports
from tests.registry.conftest import BOTH_DATABASES, Bench, chunks, photo, refused


def nothing_left(bench: Bench) -> bool:
    return not list((bench.data / "jobs").glob("*"))


def bomb() -> bytes:
    buffer = io.BytesIO()
    Image.new("1", (30_000, 30_000)).save(buffer, "PNG")
    return buffer.getvalue()


BAD = {
    "text": (b"no photo at all", Reason.NOT_AN_IMAGE),
    "empty": (b"\0", Reason.NOT_AN_IMAGE),
    "gif": (photo(kind="GIF"), Reason.NOT_AN_IMAGE),
    "tiny": (photo(size=(8, 8)), Reason.NOT_AN_IMAGE),
    "cut jpeg": (photo(size=(400, 300))[:20_000], Reason.IMAGE_TRUNCATED),
    "cut png": (photo(size=(400, 300), kind="PNG")[:20_000], Reason.IMAGE_TRUNCATED),
    "bomb": (bomb(), Reason.IMAGE_TOO_LARGE),
}


@pytest.mark.parametrize("kind", BAD)
async def test_bad_photos(bench, kind):
    data, reason = BAD[kind]
    with refused(reason):
        await bench.create({"0.jpg": photo(), "1.jpg": data})
    assert nothing_left(bench)
    assert not (await bench.jobs.ListJobs(pb.ListJobsRequest())).jobs


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
async def test_good_photos(bench, kind):
    job = await bench.create({f"{k}.{kind}": photo(k, kind=kind) for k in range(3)})
    assert job.image_count == 3


@pytest.mark.parametrize(
    "name", ["../x.jpg", "a/b.jpg", "a\\b.jpg", "", ".hidden", "x\n.jpg", "é" * 200, "c:x.jpg"]
)
async def test_bad_names(bench, name):
    with refused(Reason.BAD_FILENAME):
        await bench.create({name: photo()})
    assert nothing_left(bench)


async def test_counts_and_sizes(make_bench):
    bench = await make_bench(max_images=4, max_image_bytes=50_000)
    with refused(Reason.TOO_FEW_IMAGES):
        await bench.create({"a.jpg": photo(), "b.jpg": photo()})
    with refused(Reason.TOO_MANY_IMAGES):
        await bench.create({f"{k}.jpg": photo(k) for k in range(5)})
    with refused(Reason.IMAGE_TOO_LARGE):
        await bench.create({"big.png": photo(size=(300, 300), kind="PNG")})
    with refused(Reason.BAD_FILENAME):
        await bench.create({"a.jpg": photo(), "A.JPG": photo(1)})
    assert nothing_left(bench)


def mask() -> bytes:
    return photo(size=(32, 32), kind="PNG")


@BOTH_DATABASES
async def test_masks_are_no_photos(bench):
    photos = {f"{k}.jpg": photo(k) for k in range(3)} | {"mask.png": photo(3, kind="PNG")}
    masks = {name: mask() for name in ("0.mask.png", "1.jpg.MASK.png", "Stra\u00dfe.mask.png", "0xmask.png")}
    job = await bench.create(masks | photos)
    assert job.image_count == 5, "0xmask.png is a photo"
    listed = await bench.jobs.ListJobs(pb.ListJobsRequest())
    assert [each.image_count for each in listed.jobs] == [5]
    stored = await bench.jobs.ListArtifacts(pb.ListArtifactsRequest(job_id=job.job_id))
    assert {f"upload/images/{name}" for name in photos | masks} <= {each.name for each in stored.artifacts}
    load = await bench.registry.transact(lambda s: history.workload(s, job_by_id(s, job.job_id)))
    assert load.photos == 5
    assert load.megapixels == pytest.approx((4 * 64 * 48 + 32 * 32) / 1e6)
    task = await bench.lease()
    assert task.image_count == 5


async def test_masks_do_not_count_towards_the_limits(make_bench):
    bench = await make_bench(max_images=4)
    photos = {f"{k}.jpg": photo(k) for k in range(4)}
    masks = {f"{k}.mask.png": mask() for k in range(4)}
    with refused(Reason.TOO_FEW_IMAGES):
        await bench.create({"0.jpg": photo(), "1.jpg": photo(1)} | masks)
    for extra, message in (("4.jpg", "at most 4 photos"), ("4.Mask.PNG", "at most 4 masks")):
        with refused(Reason.TOO_MANY_IMAGES, message):
            await bench.create(masks | photos | {extra: mask()})
    assert nothing_left(bench)
    assert (await bench.create(masks | photos)).image_count == 4


async def test_another_replica_may_have_filled_the_job(make_bench):
    bench = await make_bench(max_images=2)
    names = [f"{k}{suffix}" for k in range(2) for suffix in (".jpg", ".mask.png")]
    job_id = (await bench.create({}, hold=True)).job_id
    registry = bench.registry

    def upload() -> Upload:
        return Upload(registry.database, registry.store, registry.settings, job_id)

    def send(to: Upload, name: str) -> None:
        for chunk in chunks(name, mask()):
            to.feed(chunk)

    late = upload()  # knows of none of the photos that come now
    full = upload()
    for name in names:
        send(full, name)
    send(late, "1.jpg")
    for name, what in (("2.jpg", "photos"), ("2.mask.png", "masks")):
        with pytest.raises(SplatmillError, match=f"at most 2 {what}"):
            send(late, name)


async def test_no_room(make_bench):
    bench = await make_bench(min_free_bytes=1 << 60)
    with refused(Reason.STORAGE_FULL):
        await bench.create()
    assert nothing_left(bench)


async def test_a_wrong_hash(bench):
    async def requests():
        yield pb.CreateJobRequest(spec=pb.JobSpec())
        yield pb.CreateJobRequest(
            chunk=pb.ImageChunk(filename="a.jpg", data=photo(), last=True, sha256=b"0" * 32)
        )

    with refused(Reason.IMAGE_HASH_MISMATCH):
        await Ending(bench.jobs.CreateJob(requests())).result()
    assert nothing_left(bench)


async def broken_upload(bench: Bench, **spec) -> None:
    """Sends one whole photo and half of another, then breaks off."""

    async def requests():
        yield pb.CreateJobRequest(spec=pb.JobSpec(**spec))
        for chunk in chunks("0.jpg", photo(0)):
            yield pb.CreateJobRequest(chunk=chunk)
        yield pb.CreateJobRequest(chunk=next(iter(chunks("1.jpg", photo(1)))))
        await asyncio.sleep(0.3)
        call.cancel()
        await asyncio.sleep(5)

    call = bench.jobs.CreateJob(requests())
    with pytest.raises(asyncio.CancelledError):
        await call
    await asyncio.sleep(0.5)


async def test_a_broken_upload_leaves_nothing(bench):
    await broken_upload(bench)
    assert nothing_left(bench)
    assert not (await bench.jobs.ListJobs(pb.ListJobsRequest())).jobs


async def test_a_broken_upload_resumes(bench):
    await broken_upload(bench, resumable=True, request_id="mine")
    upload = await bench.jobs.GetUpload(pb.GetUploadRequest(request_id="mine"))
    assert upload.job.state == pb.JOB_STATE_UPLOADING
    assert [image.filename for image in upload.images] == ["0.jpg"]
    job_id = upload.job.job_id

    async def rest():
        yield pb.UploadImagesRequest(job_id=job_id)
        for k in (1, 2):
            for chunk in chunks(f"{k}.jpg", photo(k)):
                yield pb.UploadImagesRequest(chunk=chunk)

    answer = await bench.jobs.UploadImages(rest())
    assert [(i.filename, i.width, i.height) for i in answer.images] == [
        (f"{k}.jpg", 64, 48) for k in range(3)
    ]
    for _ in range(2):
        job = (await bench.jobs.SubmitJob(pb.SubmitJobRequest(job_id=job_id))).job
        assert job.state == pb.JOB_STATE_PENDING
    with refused(Reason.JOB_STATE_CONFLICT):
        await Ending(bench.jobs.UploadImages(rest())).result()


async def test_the_same_request_id_is_the_same_job(bench):
    first = await bench.create(request_id="once")
    second = await bench.create(request_id="once")
    assert first.job_id == second.job_id
    assert len((await bench.jobs.ListJobs(pb.ListJobsRequest())).jobs) == 1


async def test_unfinished_uploads_are_swept(make_bench):
    bench = await make_bench(upload_ttl_seconds=0.5)
    await broken_upload(bench, resumable=True)
    await asyncio.sleep(2.5)
    assert nothing_left(bench)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    messages=st.lists(
        st.one_of(
            st.builds(lambda title: pb.CreateJobRequest(spec=pb.JobSpec(title=title)), st.text(max_size=300)),
            st.builds(
                lambda name, data, last, digest: pb.CreateJobRequest(
                    chunk=pb.ImageChunk(filename=name, data=data, last=last, sha256=digest)
                ),
                st.text(max_size=20),
                st.binary(max_size=50),
                st.booleans(),
                st.binary(max_size=40),
            ),
            st.just(pb.CreateJobRequest()),
        ),
        max_size=5,
    )
)
async def test_any_order_of_messages_gets_a_typed_error(bench, messages):
    call = bench.jobs.CreateJob()
    ending = Ending(call)
    with contextlib.suppress(asyncio.InvalidStateError, grpc.aio.AioRpcError):  # refused before all was sent
        for message in messages:
            await call.write(message)
        await call.done_writing()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await ending.result()
    if from_rpc_error(caught.value).reason is not Reason.UPLOAD_INTERRUPTED:
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert nothing_left(bench)


async def test_a_killed_registry_loses_nothing(tmp_path):
    (port,) = free_ports(1)
    environment = {**os.environ, "SPLATMILL_DATA_DIR": str(tmp_path), "SPLATMILL_REGISTRY_PORT": str(port)}
    environment |= {"SPLATMILL_GRPC_HOST": "127.0.0.1", "SPLATMILL_MIN_FREE_BYTES": "0"}

    def begin() -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-m", "services.registry"], env=environment)

    process = begin()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub = rpc.ReconstructionServiceStub(channel)

            async def stored() -> bool:
                try:
                    return bool((await stub.GetUpload(pb.GetUploadRequest(request_id="r"))).images)
                except grpc.aio.AioRpcError:  # no such upload yet
                    return False

            async def requests():
                yield pb.CreateJobRequest(spec=pb.JobSpec(resumable=True, request_id="r"))
                for chunk in chunks("0.jpg", photo(0)):
                    yield pb.CreateJobRequest(chunk=chunk)
                while not await stored():
                    await asyncio.sleep(0.02)
                process.send_signal(signal.SIGKILL)
                await asyncio.sleep(10)

            with pytest.raises(grpc.aio.AioRpcError):
                await stub.CreateJob(requests(), wait_for_ready=True)
            process.wait()
            process = begin()
            request = pb.GetUploadRequest(request_id="r")
            upload = await stub.GetUpload(request, wait_for_ready=True, timeout=20)
            assert [image.filename for image in upload.images] == ["0.jpg"]
        process.terminate()
        assert process.wait(10) == 0
    finally:
        process.kill()
