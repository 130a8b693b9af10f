"""Looks at a scene that is still being trained: files that newer ones replace at any time."""

from __future__ import annotations

import asyncio
import hashlib
import os

from tests.gateway.test_gateway import PHOTOS, edge  # noqa: F401  (the fixture)
from tests.registry.conftest import bench, database_url, make_bench  # noqa: F401  (fixtures)


async def test_owners_see_the_newest_while_there_is_one(edge):  # noqa: F811
    answer = await edge.post_photos(PHOTOS)
    files = f"/recon/jobs/{answer['job_id']}/artifacts"
    assert not any("preview" in file["name"] for file in (await edge.get(files))["artifacts"])
    folder = edge.bench.data / f"jobs/{answer['job_id']}/checkpoints/train"
    folder.mkdir(parents=True)
    etags = []
    for content in (b"few splats", b"more and better splats"):
        (folder / "preview.spz").write_bytes(content)
        listed = {file["name"]: file for file in (await edge.get(files))["artifacts"]}
        assert listed["preview.spz"]["size_bytes"] == len(content)
        assert listed["preview.spz"]["sha256"] == hashlib.sha256(content).hexdigest()
        async with edge.session.get(f"{edge.url}{files}/preview.spz") as whole:
            assert (whole.status, await whole.read()) == (200, content)
            etags.append(whole.headers["ETag"])
        async with edge.session.get(
            f"{edge.url}{files}/preview.spz", headers={"If-None-Match": etags[0]}
        ) as again:
            assert again.status == (304 if content == b"few splats" else 200)
        async with edge.session.get(f"{edge.url}{files}/preview.spz", headers={"Range": "bytes=4-"}) as part:
            assert (part.status, await part.read()) == (206, content[4:])
    assert etags[0] != etags[1]
    await edge.get(f"/recon/pub/{answer['pub_key']}/preview.spz", 404)
    (folder / "preview.spz").unlink()
    await edge.get(f"{files}/preview.spz", 404)
    assert not any("preview" in file["name"] for file in (await edge.get(files))["artifacts"])


async def test_one_replaced_while_it_is_read_arrives_whole(edge):  # noqa: F811
    answer = await edge.post_photos(PHOTOS)
    url = f"{edge.url}/recon/jobs/{answer['job_id']}/artifacts/preview.spz"
    folder = edge.bench.data / f"jobs/{answer['job_id']}/checkpoints/train"
    folder.mkdir(parents=True)
    versions = {
        hashlib.sha256(content).hexdigest(): content
        for content in (os.urandom(size) for size in (700_000, 1_300_000, 40_000))
    }

    def replace_often() -> None:
        for round_ in range(300):
            (folder / ".next").write_bytes(list(versions.values())[round_ % 3])
            os.replace(folder / ".next", folder / "preview.spz")

    replacing = asyncio.create_task(asyncio.to_thread(replace_often))
    seen = set()
    while not replacing.done():
        async with edge.session.get(url) as whole:
            if whole.status == 404 and not seen:
                continue  # not there yet
            assert whole.status == 200
            etag = whole.headers["ETag"].strip('"')
            assert await whole.read() == versions[etag]
            seen.add(etag)
    await replacing
    assert len(seen) > 1
