"""Uploads: what is sent, and what is sent again after a break."""

from __future__ import annotations

import asyncio

import pytest

from splatmill import SplatmillError
from splatmill.errors import Reason
from splatmill.v1 import options_pb2
from splatmill.v1 import reconstruction_pb2 as pb


async def test_photos_arrive_whole(client, service, photos):
    seen = []
    job = await client.create_job(
        photos,
        options={"iterations": 200, "matcher": "sequential"},
        title="Tea",
        on_upload_progress=seen.append,
    )
    assert job.state == pb.JOB_STATE_PENDING
    assert service.images == dict(photos)
    assert service.calls == ["CreateJob", "SubmitJob"]
    assert job.title == "Tea"
    assert job.options.training.iterations == 200
    assert job.options.sfm.matcher == options_pb2.MATCHER_SEQUENTIAL
    total = sum(len(data) for _, data in photos)
    assert seen[-1].bytes_sent == seen[-1].bytes_total == total
    assert seen[-1].photos_sent == seen[-1].photos_total == 3
    assert [each.photos_sent for each in seen] == [1, 2, 2, 2, 3]


async def test_masks_are_sent_and_are_no_photos(client, service, tmp_path):
    files = {"a.jpg": b"a" * 10, "a.mask.png": b"m", "b.jpg": b"b", "b.jpg.MASK.PNG": b"n"}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    seen = []
    await client.create_job(tmp_path, on_upload_progress=seen.append)
    assert service.images == files
    assert [(each.photos_sent, each.photos_total) for each in seen] == [(1, 2), (1, 2), (2, 2), (2, 2)]
    assert seen[-1].bytes_sent == seen[-1].bytes_total == 13
    service.job, service.breaks = None, [4]  # all has arrived, the answer has not
    seen.clear()
    await client.create_job(tmp_path, request_id="again", on_upload_progress=seen.append)
    assert [each.photos_sent for each in seen[-4:]] == [1, 1, 2, 2]


@pytest.mark.parametrize(
    "breaks, streams",
    [
        ([0], [[], ["a.jpg", "b.jpg", "c.jpg"]]),
        ([1], [["a.jpg"], ["b.jpg", "c.jpg"]]),
        ([4], [["a.jpg", "b.jpg", "c.jpg"], ["c.jpg"]]),
        ([3, 1], [["a.jpg", "b.jpg", "c.jpg"], ["c.jpg"], ["c.jpg"]]),
    ],
)
async def test_after_a_break_only_what_is_missing_is_sent(client, service, photos, breaks, streams):
    service.breaks = breaks
    job = await client.create_job(photos)
    assert job.state == pb.JOB_STATE_PENDING
    assert service.streams == streams
    assert service.images == dict(photos)
    assert service.calls[0] == "CreateJob"
    assert service.calls[-1] == "SubmitJob"


async def test_a_break_before_the_job_exists(client, service, photos):
    service.breaks = [-1]
    await client.create_job(photos)
    assert service.calls == ["CreateJob", "GetUpload", "CreateJob", "SubmitJob"]
    assert service.images == dict(photos)


async def test_a_lost_answer_makes_no_second_job(client, service, photos):
    service.breaks = [5]  # all five chunks have arrived, the answer has not
    job = await client.create_job(photos)
    assert job.job_id == "abcd1234"
    assert service.calls.count("CreateJob") == 1
    assert service.streams[1:] == [[]]  # nothing is sent again


async def test_another_process_goes_on_by_request_id(client, service, photos):
    service.job = pb.Job(job_id="abcd1234", state=pb.JOB_STATE_UPLOADING)
    service.request_id = "mine"
    service.images = {"a.jpg": b"", "b.jpg": b"another photo of that name"}
    await client.create_job(photos, request_id="mine")
    assert service.streams == [["b.jpg", "c.jpg"]]
    assert service.images == dict(photos)
    again = await client.create_job(photos, request_id="mine")
    assert again.job_id == "abcd1234"
    assert len(service.streams) == 1


async def test_refused_uploads_leave_nothing(client, service, photos):
    service.refuse = SplatmillError(Reason.NOT_AN_IMAGE, "a.jpg is no image.", "Send images.", field="a.jpg")
    with pytest.raises(SplatmillError) as caught:
        await client.create_job(photos)
    assert caught.value.reason == Reason.NOT_AN_IMAGE
    assert caught.value.field == "a.jpg"
    assert caught.value.remedy == "Send images."
    assert service.calls[-1] == "DeleteJob"
    assert service.job is None


async def test_a_photo_changed_on_its_way_is_sent_again(client, service, photos):
    service.refuse = SplatmillError(Reason.IMAGE_HASH_MISMATCH, "c.jpg was changed.", retryable=True)
    await client.create_job(photos)
    assert service.calls == ["CreateJob", "GetUpload", "UploadImages", "SubmitJob"]


async def test_cancelling_leaves_nothing(client, service, photos):
    def stop(_: object) -> None:
        task.cancel()

    task = asyncio.create_task(client.create_job(photos, on_upload_progress=stop))
    with pytest.raises(asyncio.CancelledError):
        await task
    assert service.job is None


async def test_giving_up_after_the_patience(client, service, photos):
    client._patience_seconds = 0.5
    service.breaks = [2] * 1000
    with pytest.raises(SplatmillError) as caught:
        await client.create_job(photos, request_id="later")
    assert caught.value.reason == Reason.UNAVAILABLE
    assert service.address in caught.value.message
    assert service.job is not None  # a later call with the same request_id goes on
    service.breaks = []
    job = await client.create_job(photos, request_id="later")
    assert job.state == pb.JOB_STATE_PENDING


async def test_paths_and_folders(client, service, tmp_path, photos):
    folder = tmp_path / "trip"
    folder.mkdir()
    for name, data in photos:
        (folder / name).write_bytes(data)
    (folder / "cameras.json").write_text("{}")
    (folder / "D.PNG").write_bytes(b"png")
    (folder / "inner").mkdir()
    (tmp_path / "one.webp").write_bytes(b"webp")
    await client.create_job([folder, str(tmp_path / "one.webp"), ("memory.jpg", b"x")])
    assert service.images == dict(photos) | {"D.PNG": b"png", "one.webp": b"webp", "memory.jpg": b"x"}


async def test_bad_sources(client, service, tmp_path):
    for sources, reason in (
        ([tmp_path / "none.jpg"], Reason.INPUT_NOT_FOUND),
        ([tmp_path], Reason.TOO_FEW_IMAGES),
        ([], Reason.TOO_FEW_IMAGES),
        ([("a.jpg", b"1"), ("a.jpg", b"2")], Reason.BAD_FILENAME),
    ):
        with pytest.raises(SplatmillError) as caught:
            await client.create_job(sources)
        assert caught.value.reason == reason
        assert caught.value.remedy
    assert service.calls == []


async def test_a_file_that_vanishes_on_the_way(client, service, tmp_path):
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).write_bytes(b"photo")

    def remove(_: object) -> None:
        (tmp_path / "b.jpg").unlink(missing_ok=True)

    with pytest.raises(SplatmillError) as caught:
        await client.create_job(tmp_path, on_upload_progress=remove)
    assert caught.value.reason == Reason.INPUT_NOT_FOUND
    assert "b.jpg" in caught.value.message
    assert service.job is None


@pytest.mark.parametrize(
    "options",
    [
        {"iteration": 5},
        {"iterations": "many"},
        {"iterations": 2.5},
        {"matcher": "psychic"},
        {"original_resolution": "2"},
    ],
)
async def test_bad_options_are_found_before_anything_is_sent(client, service, photos, options):
    with pytest.raises(SplatmillError) as caught:
        await client.create_job(photos, options=options)
    assert caught.value.reason == Reason.INVALID_OPTION
    assert caught.value.field == next(iter(options))
    assert service.calls == []


async def test_options_as_text(client, service, photos):
    text = {"iterations": " 3e3 ", "original_resolution": "Yes", "outlier_std_threshold": "1.5", "seed": "7"}
    job = await client.create_job(photos, options=text)
    assert job.options.training.iterations == 3000
    assert job.options.training.seed == 7
    assert job.options.sfm.original_resolution is True
    assert job.options.postproc.outlier_std_threshold == 1.5
    assert not job.options.sfm.HasField("max_image_size")
