"""Looking around in a scene that is still being trained, on the job page."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import Page, expect
from test_job_page import JOB, KEY, pending, tasks, training_event
from test_viewer_page import NO_WEBGL2, share
from web_gateway import FakeGateway
from web_scene import RED, WHITE, Splats, box, spz_bytes

pytestmark = pytest.mark.browser

OpenPage = Callable[..., Page]
PAUSE_MS = 3100  # after which the page asks for a newer one
BOX = "#preview-box"


def jpeg() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 48), "teal").save(buffer, "JPEG")
    return buffer.getvalue()


def every(step: int, splats: Splats) -> Splats:
    """The same with fewer and larger splats, as a decimated scene is."""
    return replace(
        splats,
        positions=splats.positions[::step],
        colours=splats.colours[::step],
        scale=splats.scale * step**0.5,
    )


def without_letter(splats: Splats) -> Splats:
    red = np.all(splats.colours == np.float32(RED), axis=1)
    return replace(splats, colours=np.where(red[:, None], np.float32(WHITE), splats.colours))


def train(gateway: FakeGateway, open_page: OpenPage, splat: bytes, **options: object) -> Page:
    """The job page at the first look at a scene in training."""
    pending(gateway)
    gateway.set_job(JOB, status="PROCESSING", queue_position=None, stage="train", step="train")
    gateway.set_job(JOB, tasks=tasks(sfm="SUCCEEDED", train="LEASED"))
    gateway.files[JOB, "preview.jpg"] = jpeg()
    gateway.files[JOB, "preview.spz"] = splat
    page = open_page(f"/jobs/{JOB}", **options)
    gateway.push(JOB, "progress", training_event(50, 0.6))
    gateway.push(JOB, "progress", training_event(100, 0.5))
    expect(page.locator("#preview")).to_be_visible()
    return page


def picture(page: Page) -> NDArray[np.float32]:
    """What the canvas shows once it rests, [height, width, 3], 0 to 1."""
    expect(page.locator(BOX)).to_have_attribute("data-live", "ready", timeout=60_000)
    expect(page.locator(BOX)).to_have_attribute("data-settled", "true", timeout=60_000)
    page.wait_for_timeout(100)
    expect(page.locator(BOX)).to_have_attribute("data-settled", "true", timeout=60_000)
    shot = Image.open(io.BytesIO(page.locator(f"{BOX} canvas").screenshot())).convert("RGB")
    return np.asarray(shot, np.float32) / 255


def outline(shown: NDArray[np.float32]) -> list[float]:
    """Where the middle 90 % of what is lit lies: left, right, top and bottom as shares of the canvas."""
    rows, columns = np.nonzero(shown.max(axis=2) > 0.3)
    sides = [
        *np.quantile(columns / shown.shape[1], (0.05, 0.95)),
        *np.quantile(rows / shown.shape[0], (0.05, 0.95)),
    ]
    return [float(side) for side in sides]


def newer(gateway: FakeGateway, page: Page, splat: bytes, iteration: int, loads: int) -> None:
    """Puts a newer splat in place and waits until it is shown."""
    gateway.files[JOB, "preview.spz"] = splat
    page.wait_for_timeout(PAUSE_MS)
    gateway.push(JOB, "progress", training_event(iteration, 0.3))
    expect(page.locator(BOX)).to_have_attribute("data-loads", str(loads), timeout=60_000)


def test_the_scene_sharpens_and_the_camera_stays(gateway: FakeGateway, open_page: OpenPage) -> None:
    page = train(gateway, open_page, spz_bytes(every(5, box())))
    expect(page.locator("#look-around")).to_be_visible()
    assert not any("stage-" in call or "live-" in call for call in gateway.calls), "not before it is wanted"
    page.click("#look-around")
    coarse = picture(page)
    expect(page.locator("#preview")).to_be_hidden()
    expect(page.locator("#preview-note")).to_contain_text("1,556 splats that stand for 38,412")
    assert share(coarse, "red") > 0.02
    assert share(coarse, "magenta") < 0.02

    canvas = page.locator(f"{BOX} canvas").bounding_box()
    assert canvas is not None
    x, y = canvas["x"] + canvas["width"] / 2, canvas["y"] + canvas["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 25, y)
    page.mouse.move(x + 45, y)
    page.mouse.up()
    turned = picture(page)
    assert share(turned, "magenta") > 0.05, "the box's left face"

    newer(gateway, page, spz_bytes(box()), 200, 2)
    sharp = picture(page)
    expect(page.locator("#preview-note")).to_contain_text("7,776 splats")
    assert share(sharp, "magenta") > 0.05
    assert share(sharp, "red") > 0.02
    assert outline(sharp) == pytest.approx(outline(turned), abs=0.03), "seen from the same place"
    newer(gateway, page, spz_bytes(without_letter(box())), 300, 3)
    last = picture(page)
    # Where orange and magenta blend at the box's corner a few pixels are red, too.
    assert share(last, "red") < 0.25 * share(sharp, "red"), "nothing of the older one is left"
    assert share(last, "magenta") == pytest.approx(share(sharp, "magenta"), abs=0.01)

    # What has not changed is not loaded again.
    page.wait_for_timeout(PAUSE_MS)
    asked = gateway.calls.count(f"GET /recon/jobs/{JOB}/artifacts/preview.spz")
    gateway.push(JOB, "progress", training_event(400, 0.3))
    expect(page.locator("#training-figures")).to_contain_text("400 / 2,000")
    page.wait_for_timeout(500)
    assert gateway.calls.count(f"GET /recon/jobs/{JOB}/artifacts/preview.spz") == asked + 1
    expect(page.locator(BOX)).to_have_attribute("data-loads", "3")


def test_back_to_the_picture_and_on_to_the_viewer(gateway: FakeGateway, open_page: OpenPage) -> None:
    # The preview may go a moment before the page hears that the training has ended.
    page = train(gateway, open_page, spz_bytes(every(5, box())), expect_errors=("404",))
    page.click("#look-around")
    picture(page)
    page.click("#look-around")
    expect(page.locator("#preview")).to_be_visible()
    expect(page.locator(f"{BOX} canvas")).to_have_count(0)
    page.click("#look-around")
    assert share(picture(page), "red") > 0.02
    # The training ends, and with it the preview; whoever looks around is not thrown out.
    del gateway.files[JOB, "preview.spz"]
    gateway.set_job(JOB, stage="postproc", tasks=tasks(sfm="SUCCEEDED", train="SUCCEEDED", postproc="LEASED"))
    gateway.push(
        JOB, "task", {"stage": "postproc", "old_state": "QUEUED", "new_state": "LEASED", "attempt": 1}
    )
    gateway.add_scene(KEY, {"scene.spz": b"x"})
    gateway.set_job(JOB, status="COMPLETED", gaussian_count=5, viewer_url=f"/v/{KEY}")
    gateway.push(JOB, "job", {"old_state": "PROCESSING", "new_state": "COMPLETED", "error": None})
    expect(page.locator("#open-viewer")).to_have_attribute("href", f"/v/{KEY}")
    expect(page.locator("#preview-note")).to_contain_text("The viewer shows the whole scene")
    assert share(picture(page), "red") > 0.02
    page.get_by_role("button", name="Close").click()
    expect(page.locator(BOX)).to_be_hidden()


def test_a_job_that_is_cancelled_shows_nothing_more(gateway: FakeGateway, open_page: OpenPage) -> None:
    page = train(gateway, open_page, spz_bytes(every(5, box())))
    page.click("#look-around")
    picture(page)
    gateway.set_job(JOB, status="CANCELLED")
    gateway.push(JOB, "job", {"old_state": "PROCESSING", "new_state": "CANCELLED", "error": None})
    expect(page.locator(BOX)).to_be_hidden()
    expect(page.locator(f"{BOX} canvas")).to_have_count(0)


def test_a_file_that_cannot_be_read_leaves_the_picture(gateway: FakeGateway, open_page: OpenPage) -> None:
    page = train(gateway, open_page, b"no splat")
    page.click("#look-around")
    expect(page.locator("#preview-note")).to_contain_text("could not show the scene", timeout=60_000)
    expect(page.locator("#preview")).to_be_visible()
    expect(page.locator("#look-around")).to_have_text("Look around")


def test_closing_disturbs_no_sorting(gateway: FakeGateway, open_page: OpenPage) -> None:
    """The engine sorts a little after each frame; an error of it would fail the page's fixture."""
    page = train(gateway, open_page, spz_bytes(every(5, box())))
    for _ in range(8):
        page.click("#look-around")
        expect(page.locator(f"{BOX} canvas")).to_have_count(1)
        page.evaluate(
            """async () => {
                for (let frame = 0; frame < 2; frame++) await new Promise(requestAnimationFrame);
                document.querySelector("#look-around").click();
            }"""
        )
        expect(page.locator(f"{BOX} canvas")).to_have_count(0)
    page.wait_for_timeout(300)


def test_without_webgl2_there_is_the_picture_only(gateway: FakeGateway, open_page: OpenPage) -> None:
    page = train(gateway, open_page, spz_bytes(every(5, box())), script=NO_WEBGL2)
    page.wait_for_timeout(300)
    expect(page.locator("#look-around")).to_be_hidden()
