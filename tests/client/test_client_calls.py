"""Watches, downloads and short calls, with and without breaks."""

from __future__ import annotations

import asyncio
import socket
import time

import pytest

from splatmill import AsyncClient, Client, SplatmillError
from splatmill.errors import Reason
from splatmill.v1 import reconstruction_pb2 as pb


def numbered(count: int) -> list[pb.JobEvent]:
    return [pb.JobEvent(sequence=number) for number in range(1, count + 1)]


async def test_watch_loses_and_repeats_nothing(client, service):
    service.job = pb.Job(job_id="abcd1234")
    service.events = numbered(20)
    service.breaks = [3, 0, 0, 1, 8]
    seen = [event.sequence async for event in client.watch("abcd1234")]
    assert seen == list(range(1, 21))
    assert [call for call in service.calls if call.startswith("Watch")] == [
        "WatchJob 0", "WatchJob 3", "WatchJob 3", "WatchJob 3", "WatchJob 4", "WatchJob 12",
    ]  # fmt: skip


async def test_watch_from_the_middle(client, service):
    service.job = pb.Job(job_id="abcd1234")
    service.events = numbered(9)
    assert [event.sequence async for event in client.watch("abcd1234", 6)] == [7, 8, 9]


async def test_wait_follows_to_the_end(client, service):
    service.job = pb.Job(job_id="abcd1234", state=pb.JOB_STATE_PROCESSING, last_sequence=4)
    service.events = numbered(9)
    service.breaks = []
    job = await client.wait("abcd1234", timeout=5)
    assert job.state == pb.JOB_STATE_COMPLETED
    assert "WatchJob 4" in service.calls


async def test_a_short_call_is_made_again(client, service):
    service.job = pb.Job(job_id="abcd1234")
    service.breaks = [0, 0]
    assert (await client.get("abcd1234")).job_id == "abcd1234"
    assert service.calls == ["GetJob"] * 3


async def test_a_refusal_is_not_asked_again(client, service):
    with pytest.raises(SplatmillError) as caught:
        await client.get("nothere1")
    assert caught.value.reason == Reason.JOB_NOT_FOUND
    assert caught.value.remedy == "Check the id."
    assert service.calls == ["GetJob"]


async def test_delete_and_retry_with_lost_answers(client, service):
    service.job = pb.Job(job_id="abcd1234", state=pb.JOB_STATE_FAILED)
    service.breaks = [0]
    assert (await client.retry("abcd1234")).state == pb.JOB_STATE_PENDING
    service.breaks = [0]
    await client.delete("abcd1234")
    with pytest.raises(SplatmillError, match="No such job"):
        await client.delete("abcd1234")


async def test_list_turns_the_pages(client, service):
    jobs = await client.list_jobs()
    assert [job.job_id for job in jobs] == [f"{number:08d}" for number in range(450)]
    assert len(await client.list_jobs(limit=5)) == 5


async def test_download_goes_on_at_its_offset(client, service, tmp_path):
    data = bytes(range(250)) * 40
    service.files["scene.spz"] = data
    service.breaks = [4, 0, 3]
    path = await client.download("pubkey1234", "scene.spz", tmp_path / "new" / "scene.spz")
    assert path.read_bytes() == data
    assert service.offsets == [0, 4000, 4000, 7000]
    assert list(path.parent.iterdir()) == [path]


async def test_download_goes_on_with_an_earlier_part(client, service, tmp_path):
    service.files["cloud.ply"] = data = bytes(range(200)) * 50
    (tmp_path / "cloud.ply.part").write_bytes(data[:3333])
    await client.download("pubkey1234", "cloud.ply", tmp_path / "cloud.ply")
    assert (tmp_path / "cloud.ply").read_bytes() == data
    assert service.offsets == [3333]


@pytest.mark.parametrize("stale", [b"of another scene", b"x" * 20_000])
async def test_a_part_of_another_file_is_dropped(client, service, tmp_path, stale):
    service.files["cloud.ply"] = data = bytes(range(200)) * 50
    (tmp_path / "cloud.ply.part").write_bytes(stale)
    await client.download("pubkey1234", "cloud.ply", tmp_path / "cloud.ply")
    assert (tmp_path / "cloud.ply").read_bytes() == data
    assert service.offsets == [len(stale), 0]


async def test_a_file_replaced_in_the_middle_comes_from_the_start(client, service):
    service.files["cloud.ply"] = b"old" * 3000
    service.breaks = [5]
    original = service._count

    async def replace_then_break(context, left):
        if left == [0]:
            service.files["cloud.ply"] = b"newer" * 3000
        await original(context, left)

    service._count = replace_then_break
    assert await client.read("abcd1234", "cloud.ply") == b"newer" * 3000
    assert service.offsets == [0, 5000, 0]


async def test_logs_and_empty_files(client, service, tmp_path):
    service.files |= {"logs/process.log": b"line\n" * 900, "empty.txt": b""}
    service.breaks = [2]
    assert await client.read("abcd1234", "logs/process.log") == b"line\n" * 900
    (tmp_path / "process.log.part").write_bytes(b"of another run\n")
    path = await client.download("abcd1234", "logs/process.log", tmp_path / "process.log")
    assert path.read_bytes() == b"line\n" * 900
    assert (await client.download("abcd1234", "empty.txt", tmp_path / "empty.txt")).read_bytes() == b""


async def test_an_unknown_file_leaves_nothing(client, tmp_path):
    with pytest.raises(SplatmillError) as caught:
        await client.download("pubkey1234", "none.ply", tmp_path / "none.ply")
    assert caught.value.reason == Reason.ARTIFACT_NOT_FOUND
    assert list(tmp_path.iterdir()) == []


async def test_nobody_there():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
    async with AsyncClient(address, patience=0.5) as client:
        assert not await client.ready(0.3)
        start = time.monotonic()
        with pytest.raises(SplatmillError) as caught:
            await client.queue()
        assert time.monotonic() - start < 3
        assert caught.value.reason == Reason.UNAVAILABLE
        assert address in str(caught.value)
        assert caught.value.retryable


def test_the_address_comes_from_the_environment(monkeypatch):
    monkeypatch.setenv("SPLATMILL_REGISTRY_ADDRESS", "registry.example:1234")
    with Client() as client:
        assert client.address == "registry.example:1234"
    monkeypatch.delenv("SPLATMILL_REGISTRY_ADDRESS")
    with Client() as client:
        assert client.address == "localhost:50051"


async def test_the_sync_client_is_the_same(service, photos, tmp_path):
    """From a thread, while this loop serves: as in a notebook."""
    service.events = numbered(6)
    service.files["scene.spz"] = b"spz" * 999
    service.breaks = [2]

    def use() -> None:
        with Client(service.address, patience=3) as client:
            assert client.ready()
            job = client.create_job(photos)
            service.breaks = [4]
            assert [event.sequence for event in client.watch(job.job_id)] == [1, 2, 3, 4, 5, 6]
            watch = client.watch(job.job_id)
            assert next(watch).sequence == 1
            watch.close()
            assert client.wait(job.job_id).state == pb.JOB_STATE_COMPLETED
            assert client.read("pubkey1234", "scene.spz") == b"spz" * 999
            assert client.download("pubkey1234", "scene.spz", tmp_path / "s").exists()
            with pytest.raises(SplatmillError):
                client.get("nothere1")
            half_watched = client.watch(job.job_id)
            next(half_watched)
        client.close()  # a second time changes nothing

    await asyncio.to_thread(use)
    assert service.images == dict(photos)


def test_every_method_of_the_async_client_is_there():
    def public(kind: type) -> set[str]:
        return {name for name in vars(kind) if not name.startswith("_")}

    assert public(AsyncClient) == public(Client)
