"""The upload page: choosing, checking, sending."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from playwright.sync_api import FilePayload, Page, expect
from web_gateway import FakeGateway, error_body

pytestmark = pytest.mark.browser

OPTIONS = {
    "options": [
        {
            "stage": "sfm",
            "name": "original_resolution",
            "type": "bool",
            "help": "Keep the photos' own size.",
            "default_value": "",
        },
        {
            "stage": "sfm",
            "name": "matcher",
            "type": "enum",
            "help": "How photos are matched.",
            "default_value": "",
            "choices": ["exhaustive", "sequential"],
        },
        {
            "stage": "train",
            "name": "iterations",
            "type": "int",
            "help": "Optimisation steps.",
            "default_value": "10000",
            "minimum": 1,
            "maximum": 200000,
        },
        {
            "stage": "postproc",
            "name": "outlier_remove_small_clusters",
            "type": "bool",
            "help": "Remove small clusters.",
            "default_value": "true",
        },
    ]
}
OpenPage = Callable[..., Page]


def photo(name: str, hue: int = 0) -> FilePayload:
    data = io.BytesIO()
    Image.new("HSV", (320, 240), (hue, 200, 180)).convert("RGB").save(data, "JPEG")
    return {"name": name, "mimeType": "image/jpeg", "buffer": data.getvalue()}


def mask(name: str, grey: int = 0) -> FilePayload:
    data = io.BytesIO()
    picture = Image.new("L", (320, 240), 255)
    picture.paste(grey, (160, 0, 320, 240))
    picture.save(data, "PNG")
    return {"name": name, "mimeType": "image/png", "buffer": data.getvalue()}


def photos(count: int) -> list[FilePayload]:
    return [photo(f"IMG_{i:03}.jpg", 20 * i % 255) for i in range(count)]


def drop(page: Page, files: list[FilePayload]) -> None:
    """Drops files on the page, as a hand would."""
    payload = [{**file, "buffer": list(file["buffer"])} for file in files]
    transfer = page.evaluate_handle(
        """files => {
            const transfer = new DataTransfer();
            for (const { name, mimeType, buffer } of files)
                transfer.items.add(new File([new Uint8Array(buffer)], name, { type: mimeType }));
            return transfer;
        }""",
        payload,
    )
    page.dispatch_event("body", "dragenter", {"dataTransfer": transfer})
    expect(page.locator("#veil")).to_be_visible()
    page.dispatch_event("body", "drop", {"dataTransfer": transfer})
    expect(page.locator("#veil")).to_be_hidden()


def drop_path(page: Page, path: Path) -> None:
    """Drops a file or folder of the disk, as the system's file manager does."""
    session = page.context.new_cdp_session(page)
    data = {"items": [], "files": [str(path)], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        session.send("Input.dispatchDragEvent", {"type": kind, "x": 200, "y": 200, "data": data})


def test_posts_fields_first_and_then_every_photo(gateway: FakeGateway, open_page: OpenPage) -> None:
    gateway.options = OPTIONS
    gateway.set_job("up10aded", pub_key="up10adedke", status="PENDING", queue_position=1, tasks=[])
    page = open_page("/")
    chosen = photos(4)
    page.set_input_files("#files", chosen)
    expect(page.locator(".thumb.has-picture")).to_have_count(4)
    page.fill("#title", "The old mill")
    page.check("#original_resolution", force=True)
    page.click("#advanced summary")
    page.fill("#option-iterations", "1234")
    page.select_option("#option-matcher", "sequential")
    page.click("#submit")
    page.wait_for_url("**/jobs/up10aded")
    (post,) = gateway.posts
    assert post["fields"] == [
        ("original_resolution", "true"),
        ("title", "The old mill"),
        ("matcher", "sequential"),
        ("iterations", "1234"),
    ]
    assert post["files"] == [("files", file["name"], file["buffer"]) for file in chosen]


def test_untouched_options_are_left_to_the_server(gateway: FakeGateway, open_page: OpenPage) -> None:
    gateway.options = OPTIONS
    gateway.set_job("up10aded", pub_key="up10adedke", status="PENDING", queue_position=1, tasks=[])
    page = open_page("/")
    page.set_input_files("#files", photos(3))
    page.click("#submit")
    page.wait_for_url("**/jobs/up10aded")
    assert gateway.posts[0]["fields"] == [("original_resolution", "false")]


def test_too_few_and_too_many_are_said_before_anything_is_sent(
    gateway: FakeGateway, open_page: OpenPage, tmp_path: Path
) -> None:
    gateway.options = {"options": [], "limits": {"min_images": 3, "max_images": 5}}
    page = open_page("/")
    expect(page.locator("[data-limit=max]")).to_have_text("5")
    paths = [tmp_path / file["name"] for file in photos(6)]
    for path, file in zip(paths, photos(6), strict=True):
        path.write_bytes(file["buffer"])
    page.set_input_files("#files", paths[:2])
    expect(page.locator("#check")).to_contain_text("Add 1 more")
    expect(page.locator("#submit")).to_be_disabled()
    page.set_input_files("#files", paths)  # Two of them are there already.
    expect(page.locator("#notices")).to_contain_text("2 photos had been added already")
    expect(page.locator("#check")).to_contain_text("Remove 1")
    expect(page.locator("#submit")).to_be_disabled()
    page.get_by_role("button", name="Remove IMG_005.jpg").click()
    expect(page.locator("#submit")).to_be_enabled()
    expect(page.locator("#submit")).to_have_text("Make a scene from 5 photos")
    assert gateway.posts == []


def test_what_is_no_photo_is_left_out_and_said(gateway: FakeGateway, open_page: OpenPage) -> None:
    page = open_page("/")
    wrong: list[FilePayload] = [
        {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"hello"},
        {"name": "IMG_1.HEIC", "mimeType": "image/heic", "buffer": b"heic"},
        {"name": "empty.jpg", "mimeType": "image/jpeg", "buffer": b""},
    ]
    drop(page, photos(3) + wrong)
    expect(page.locator(".thumb")).to_have_count(3)
    expect(page.locator("#notices li")).to_have_text(
        [
            "notes.txt was left out: not a photo.",
            "IMG_1.HEIC was left out: HEIC is not read here; export it as JPEG.",
            "empty.jpg was left out: the file is empty.",
        ]
    )
    expect(page.locator("#submit")).to_be_enabled()


def test_a_damaged_photo_is_marked_and_blocks(gateway: FakeGateway, open_page: OpenPage) -> None:
    page = open_page("/")
    bad: FilePayload = {"name": "bad.jpg", "mimeType": "image/jpeg", "buffer": b"\xff\xd8 not a jpeg at all"}
    page.set_input_files("#files", [*photos(3), bad])
    expect(page.locator(".is-damaged")).to_have_count(1)
    expect(page.locator("#check")).to_contain_text("1 photo cannot be opened")
    expect(page.locator("#submit")).to_be_disabled()
    page.get_by_role("button", name="Remove bad.jpg").click()
    expect(page.locator("#submit")).to_be_enabled()


def test_photos_of_two_folders_with_one_name_are_both_sent(gateway: FakeGateway, open_page: OpenPage) -> None:
    gateway.set_job("up10aded", pub_key="up10adedke", status="PENDING", queue_position=1, tasks=[])
    page = open_page("/")
    page.set_input_files("#files", photos(3))
    drop(page, [photo("IMG_000.jpg", 240)])
    expect(page.locator(".thumb")).to_have_count(4)
    page.click("#submit")
    page.wait_for_url("**/jobs/up10aded")
    names = [name for _, name, _ in gateway.posts[0]["files"]]
    assert names == ["IMG_000.jpg", "IMG_001.jpg", "IMG_002.jpg", "IMG_000-2.jpg"]


def test_masks_are_sent_but_are_no_photos(gateway: FakeGateway, open_page: OpenPage) -> None:
    gateway.options = {"options": [], "limits": {"min_images": 3, "max_images": 3}}
    gateway.set_job("up10aded", pub_key="up10adedke", status="PENDING", queue_position=1, tasks=[])
    page = open_page("/")
    expect(page.locator("[data-limit=max]")).to_have_text("3")
    masks = [mask("IMG_000.mask.png"), mask("img_001.JPG.MASK.PNG", 1)]
    page.set_input_files("#files", [masks[0], *photos(2)])
    expect(page.locator("#tray-sum")).to_contain_text("2 photos, 1 mask,")
    expect(page.locator("#check")).to_contain_text("Add 1 more")
    expect(page.locator("#submit")).to_be_disabled()
    page.set_input_files("#files", [*photos(3)[2:], masks[1]])
    expect(page.locator("#tray-sum")).to_contain_text("3 photos, 2 masks,")
    expect(page.locator(".thumb-kind")).to_have_text(["mask", "mask"])
    expect(page.locator("#check")).to_have_text("")
    expect(page.locator("#submit")).to_have_text("Make a scene from 3 photos")
    page.click("#submit")
    page.wait_for_url("**/jobs/up10aded")
    assert [(name, data) for _, name, data in gateway.posts[0]["files"]] == [
        *((file["name"], file["buffer"]) for file in photos(3)),
        ("IMG_000.jpg.mask.png", masks[0]["buffer"]),
        ("IMG_001.jpg.mask.png", masks[1]["buffer"]),
    ]


def test_masks_of_no_photo_are_left_out_and_said(gateway: FakeGateway, open_page: OpenPage) -> None:
    gateway.set_job("up10aded", pub_key="up10adedke", status="PENDING", queue_position=1, tasks=[])
    page = open_page("/")
    check, kinds = page.locator("#check"), page.locator(".thumb-kind")
    page.set_input_files("#files", [*photos(4), mask("IMG_003.mask.png"), mask("IMG_009.mask.png")])
    expect(check).to_have_text("IMG_009.mask.png is left out: no photo is named IMG_009.")
    expect(kinds).to_have_text(["mask", "left out"])
    page.get_by_role("button", name="Remove IMG_003.jpg").click()
    expect(check).to_have_text("2 masks are left out, such as IMG_003.mask.png: no photo is named IMG_003.")
    page.get_by_role("button", name="Remove IMG_009.mask.png").click()
    page.get_by_role("button", name="Remove IMG_003.mask.png").click()
    expect(check).to_have_text("")
    page.set_input_files("#files", [mask("IMG_001.mask.png"), mask("IMG_001.jpg.mask.png")])
    expect(check).to_have_text("IMG_001.jpg.mask.png is left out: IMG_001.jpg has another mask.")
    page.set_input_files("#files", [photo("IMG_000.jpg", 240)])
    page.set_input_files("#files", [mask("IMG_000.mask.png")])
    expect(check).to_have_text(
        "2 masks are left out, such as IMG_001.jpg.mask.png: IMG_001.jpg has another mask."
    )
    page.get_by_role("button", name="Remove IMG_001.jpg.mask.png").click()
    expect(check).to_have_text("IMG_000.mask.png is left out: several photos are named IMG_000.")
    expect(page.locator("#submit")).to_be_enabled()
    page.click("#submit")
    page.wait_for_url("**/jobs/up10aded")
    names = [name for _, name, _ in gateway.posts[0]["files"]]
    assert names == [*(f"IMG_00{k}.jpg" for k in range(3)), "IMG_000-2.jpg", "IMG_001.jpg.mask.png"]


@pytest.mark.parametrize("how", ["chosen", "dropped"])
def test_masks_follow_the_photos_of_their_folder(
    gateway: FakeGateway, open_page: OpenPage, tmp_path: Path, how: str
) -> None:
    """Cameras begin anew with their numbers in every folder."""
    gateway.set_job("up10aded", pub_key="up10adedke", status="PENDING", queue_position=1, tasks=[])
    for folder, hue in (("100", 0), ("101", 120)):
        (tmp_path / folder).mkdir()
        for file in (photo("IMG_1.jpg", hue), photo("IMG_2.jpg", hue + 60), mask("IMG_2.mask.png", hue)):
            (tmp_path / folder / file["name"]).write_bytes(file["buffer"])
            os.utime(tmp_path / folder / file["name"], (1, 1))  # as some archives have it
    (tmp_path / "101" / "IMG_1.mask.png").write_bytes(mask("", 5)["buffer"])
    page = open_page("/")
    if how == "chosen":
        page.set_input_files("#folder", tmp_path)
    else:
        drop_path(page, tmp_path)
    expect(page.locator("#tray-sum")).to_contain_text("4 photos, 3 masks,")
    expect(page.locator("#check")).to_have_text("")
    page.click("#submit")
    page.wait_for_url("**/jobs/up10aded")
    sent = {name: data for _, name, data in gateway.posts[0]["files"]}
    folder_of = {path.read_bytes(): path.parent.name for path in tmp_path.glob("*/*.*")}
    assert len(sent) == len(folder_of) == 7
    for name, data in sent.items():
        assert folder_of[data] == folder_of[sent[name.removesuffix(".mask.png")]], name


def test_a_refusal_shows_reason_and_remedy_and_keeps_the_photos(
    gateway: FakeGateway, open_page: OpenPage
) -> None:
    body = error_body("IMAGE_TRUNCATED", "IMG_001.jpg ends too early.", "Copy it from the camera again.")
    gateway.refuse_upload = (400, body)
    page = open_page("/", expect_errors=("400",))
    page.set_input_files("#files", photos(3))
    page.click("#submit")
    alert = page.locator("#upload-error")
    expect(alert).to_contain_text("IMG_001.jpg ends too early.")
    expect(alert).to_contain_text("Copy it from the camera again.")
    expect(alert).to_contain_text("IMAGE_TRUNCATED")
    expect(alert).to_be_focused()
    expect(page.locator(".thumb")).to_have_count(3)
    expect(page.locator("#submit")).to_be_enabled()


def test_an_upload_shows_progress_and_can_be_stopped(gateway: FakeGateway, open_page: OpenPage) -> None:
    gateway.upload_bytes_per_second = 3e6
    page = open_page("/")
    noise = [photo(f"big{i}.jpg") for i in range(3)]
    for file in noise:  # Bytes after the end of a JPEG are ignored: large files without large pictures.
        file["buffer"] += bytes(9_000_000)
    page.set_input_files("#files", noise)
    page.click("#submit")
    expect(page.locator("#transfer")).to_be_visible()
    expect(page.locator("#transfer-detail")).to_contain_text("of 27 MB")
    expect(page.locator("#transfer-detail")).to_contain_text("/s")
    page.click("#abort")
    expect(page.locator("#transfer")).to_be_hidden()
    expect(page.locator("#check")).to_contain_text("Stopped")
    expect(page.locator("#submit")).to_be_visible()
    assert gateway.posts == []


def test_a_number_out_of_range_is_not_sent(gateway: FakeGateway, open_page: OpenPage) -> None:
    gateway.options = OPTIONS
    page = open_page("/")
    page.set_input_files("#files", photos(3))
    page.click("#advanced summary")
    page.fill("#option-iterations", "999999999")
    page.click("#submit")
    expect(page.locator("#option-iterations:invalid")).to_have_count(1)
    expect(page.locator("#option-iterations")).to_be_focused()
    assert gateway.posts == []


def preset_option() -> dict[str, Any]:
    choices = ["draft", "standard", "high"]
    option = {"stage": "train", "name": "preset", "type": "enum", "help": "How long it may take."}
    return option | {"choices": choices, "default_value": "standard"}


def device(kind: str, name: str, *figures: tuple[float, int]) -> dict[str, Any]:
    names = ("draft", "standard", "high")
    presets = [
        {"preset": p, "seconds": s, "memory_bytes": m} for p, (s, m) in zip(names, figures, strict=True)
    ]
    return {"device": kind, "name": name, "presets": presets}


CPU = device("cpu", "AMD EPYC, 2 cores", (15.7, 565_000_000), (62.0, 687_000_000), (466.0, 983_000_000))
GPU = device("NVIDIA H100", "NVIDIA H100", (8.0, 900_000_000), (21.0, 1_600_000_000), (66.0, 4_040_000_000))


def test_presets_say_what_they_come_to(gateway: FakeGateway, open_page: OpenPage) -> None:
    gateway.options = {"options": [preset_option(), *OPTIONS["options"]], "devices": [CPU]}
    gateway.set_job("up10aded", pub_key="up10adedke", status="PENDING", queue_position=1, tasks=[])
    page = open_page("/")
    page.set_input_files("#files", photos(3))
    cards = page.locator(".preset")
    expect(cards).to_have_count(3)
    expect(cards.nth(0)).to_contain_text("about 20 s, 0.6 GB")
    expect(cards.nth(1)).to_contain_text("about 1 min, 0.7 GB")
    expect(cards.nth(2)).to_contain_text("about 8 min, 1.0 GB")
    expect(page.locator("#preset-note")).to_contain_text("AMD EPYC, 2 cores (CPU)")
    expect(page.get_by_role("radio", name="Standard")).to_be_checked()
    expect(page.locator("#option-preset")).to_have_count(0)  # once on the page is enough
    page.get_by_text("High", exact=True).click()
    page.click("#submit")
    page.wait_for_url("**/jobs/up10aded")
    assert ("preset", "high") in gateway.posts[0]["fields"]


def test_presets_on_several_devices(gateway: FakeGateway, open_page: OpenPage) -> None:
    gateway.options = {"options": [preset_option()], "devices": [GPU, CPU]}
    page = open_page("/")
    page.set_input_files("#files", photos(3))
    lines = page.locator("[data-preset=standard] > span")
    expect(lines).to_have_text(["about 25 s, 1.6 GB on NVIDIA H100", "about 1 min, 0.7 GB on CPU"])


def test_no_estimate_is_made_up(gateway: FakeGateway, open_page: OpenPage) -> None:
    """Without a trainer the presets can be chosen all the same; what they take comes when it is known."""
    gateway.options = {"options": [preset_option()], "devices": []}
    page = open_page("/")
    page.set_input_files("#files", photos(3))
    expect(page.locator(".preset")).to_have_count(3)
    expect(page.locator(".preset-estimate").first).to_have_text("")
    expect(page.locator("#preset-note")).to_have_text("")
    page.get_by_text("Draft", exact=True).click()
    gateway.options = {**gateway.options, "devices": [CPU]}
    expect(page.locator(".preset").first).to_contain_text("about 20 s, 0.6 GB", timeout=15_000)
    expect(page.get_by_role("radio", name="Draft")).to_be_checked()


def test_queue_and_jobs_are_listed(gateway: FakeGateway, open_page: OpenPage) -> None:
    gateway.queue = {"max_concurrent": 1, "running_count": 1, "pending_count": 2}
    job: dict[str, Any] = {"created_at": "2026-01-01T00:00:00+00:00", "image_count": 12}
    gateway.set_job("run00001", pub_key="a" * 10, status="PROCESSING", fraction=0.425, title="Fox", **job)
    gateway.set_job("done0001", pub_key="b" * 10, status="COMPLETED", gaussian_count=38412, title="", **job)
    page = open_page("/")
    expect(page.locator("#queue-chip")).to_have_text("1 running, 2 waiting")
    rows = page.locator("#job-list li")
    expect(rows).to_have_count(2)
    expect(rows.nth(0)).to_contain_text("Fox")
    expect(rows.nth(0)).to_contain_text("42 %")
    expect(rows.nth(1)).to_contain_text("38 k Gaussians")
    expect(rows.nth(1).get_by_role("link", name="View")).to_have_attribute("href", "/v/" + "b" * 10)


def test_the_page_is_light(gateway: FakeGateway, open_page: OpenPage) -> None:
    """The upload page must not fetch the viewer's engine."""
    sizes: dict[str, int] = {}
    page = open_page("/")
    page.on("response", lambda response: sizes.update({response.url: len(response.body())}))
    page.reload(wait_until="networkidle")
    assets = {url: size for url, size in sizes.items() if "/assets/" in url}
    assert assets
    assert sum(assets.values()) < 150_000
