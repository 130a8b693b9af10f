"""The viewer, judged by its picture."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import Page, expect
from web_gateway import FakeGateway
from web_scene import SCALE, box, ply_bytes, splat_bytes, spz_bytes

pytestmark = pytest.mark.browser

KEY = "boxbox1234"
VIEWPORT = {"width": 480, "height": 480}
# Without motion there are few frames, and a frame takes software long.
STILL = {"viewport": VIEWPORT, "reduced_motion": "reduce"}
# What lies over the scene, left out of the pictures that are judged.
OVERLAYS = ".hud-top, .hud-bottom, .hint, .panel { visibility: hidden !important; }"
NO_WEBGL2 = """
    const original = HTMLCanvasElement.prototype.getContext;
    HTMLCanvasElement.prototype.getContext = function (type, ...rest) {
        return type === "webgl2" ? null : original.call(this, type, ...rest);
    };
"""
OpenPage = Callable[..., Page]
Picture = NDArray[np.float32]  # [H, W, 3], 0 to 1


def add_box(gateway: FakeGateway, offset: tuple[float, float, float] = (0, 0, 0)) -> int:
    splats = box(offset)
    files = {
        "scene.spz": spz_bytes(splats),
        "scene.splat": splat_bytes(splats),
        "cloud.ply": ply_bytes(splats),
    }
    gateway.add_scene(KEY, files, gaussian_count=len(splats), title="Box with a letter")
    return len(splats)


def settle(page: Page) -> None:
    expect(page.locator("body")).to_have_attribute("data-state", "ready", timeout=60_000)
    expect(page.locator("body")).to_have_attribute("data-settled", "true", timeout=60_000)


def picture(page: Page) -> Picture:
    """What is on the stage; a screenshot, since reading a WebGL canvas back gives zeros."""
    settle(page)
    page.wait_for_timeout(100)
    settle(page)
    shot = Image.open(io.BytesIO(page.locator("#stage").screenshot(style=OVERLAYS))).convert("RGB")
    return np.asarray(shot, np.float32) / 255


def reddish(region: Picture) -> NDArray[np.bool_]:
    """Pixels of the letter's red; fading orange and magenta are not."""
    red, green, blue = np.moveaxis(region, -1, 0)
    return (red > 0.45) & (red > 2.5 * green) & (red > 2.5 * blue)


def share(region: Picture, colour: str) -> float:
    """Fraction of pixels of a hue."""
    red, green, blue = np.moveaxis(region, -1, 0)
    high, low = np.full_like(red, 0.45), np.full_like(red, 0.35)
    masks = {
        "red": reddish(region),
        "green": (green > high) & (red < low) & (blue < low),
        "blue": (blue > high) & (red < low) & (green < low),
        "magenta": (red > high) & (blue > high) & (green < low),
        "orange": (red > 0.6) & (green > 0.3) & (green < 0.75) & (blue < low),
        "cyan": (green > high) & (blue > high) & (red < low),
        "white": (red > 0.6) & (green > 0.6) & (blue > 0.6),
    }
    return float(masks[colour].mean())


def difference(a: Picture, b: Picture) -> float:
    """Fraction of pixels that differ visibly."""
    return float((np.abs(a - b).max(-1) > 0.12).mean())


def drag(page: Page, dx: int, dy: int, button: str = "left") -> None:
    page.mouse.move(240, 240)
    page.mouse.down(button=button)  # type: ignore[arg-type]
    page.mouse.move(240 + dx // 2, 240 + dy // 2)
    page.mouse.move(240 + dx, 240 + dy)
    page.mouse.up(button=button)  # type: ignore[arg-type]


def assert_letter_upright(image: Picture) -> None:
    """The letter F: a bar at the left, the long arm on top, the short one in the middle."""
    height, width = image.shape[:2]
    red = reddish(image)
    # Where two faces blend at a corner a few pixels are red, too.
    rows = np.nonzero(red.mean(1) > 0.03)[0]
    columns = np.nonzero(red.mean(0) > 0.03)[0]
    assert red.mean() > 0.05, "no letter to be seen"
    top, bottom, left, right = rows.min(), rows.max(), columns.min(), columns.max()
    assert 0.15 < (right - left) / width < 0.8
    letter = red[top : bottom + 1, left : right + 1]
    h, w = letter.shape
    assert letter[:, : w // 9].mean() > 0.8, "the bar stands at the left"
    assert letter[: h // 10, : int(0.8 * w)].mean() > 0.8, "the long arm is on top"
    assert letter[int(0.62 * h) :, int(0.4 * w) :].mean() < 0.05, "nothing at the lower right"
    middle = letter[int(0.42 * h) : int(0.58 * h)]
    assert middle[:, int(0.3 * w) : int(0.5 * w)].mean() > 0.5, "the short arm is in the middle"
    assert middle[:, int(0.85 * w) :].mean() < 0.05, "the short arm is short"
    assert share(image, "white") > 0.2


@pytest.mark.parametrize("format_name", ["spz", "splat", "ply"])
def test_every_format_stands_upright_and_is_not_mirrored(
    gateway: FakeGateway, open_page: OpenPage, format_name: str
) -> None:
    total = add_box(gateway)
    page = open_page(f"/v/{KEY}" + ("" if format_name == "spz" else f"?format={format_name}"), **STILL)
    assert_letter_upright(picture(page))
    expect(page.locator("#count")).to_have_text(f"{total:,} splats")
    expect(page.locator("#scene-title")).to_have_text("Box with a letter")
    name = {"spz": "scene.spz", "splat": "scene.splat", "ply": "cloud.ply"}[format_name]
    fetched = [call for call in gateway.calls if call.startswith(f"GET /recon/pub/{KEY}/")]
    assert fetched == [f"GET /recon/pub/{KEY}/{name}"]


def test_a_scene_far_from_the_origin_is_not_distorted(gateway: FakeGateway, open_page: OpenPage) -> None:
    """Float16 centres would be off by a quarter of the box out there, seen from the side."""
    pictures = []
    for distance in (5, 500):
        add_box(gateway, (0, 0, distance))
        page = open_page(f"/v/{KEY}?format=splat", **STILL)
        assert_letter_upright(picture(page))
        for _ in range(9):
            page.keyboard.press("ArrowLeft")
        pictures.append(picture(page))
    assert share(pictures[0], "magenta") > 0.1
    assert difference(*pictures) < 0.03


def test_drag_turns_to_the_faces_that_are_there(gateway: FakeGateway, open_page: OpenPage) -> None:
    add_box(gateway)
    page = open_page(f"/v/{KEY}", viewport=VIEWPORT)
    before = picture(page)
    # Pulling the box to the right shows its left face, pulling it down its top.
    drag(page, 110, 0)
    turned = picture(page)
    assert difference(before, turned) > 0.1
    assert share(turned[:, :240], "magenta") > share(before[:, :240], "magenta") + 0.05
    assert share(turned, "green") < 0.02
    page.keyboard.press("r")
    assert difference(before, picture(page)) < 0.03, "reset leads back"
    drag(page, 0, 90)
    tilted = picture(page)
    assert share(tilted[:240], "blue") > share(before[:240], "blue") + 0.05
    assert share(tilted, "orange") < 0.02


def test_right_drag_pans_and_the_wheel_zooms(gateway: FakeGateway, open_page: OpenPage) -> None:
    add_box(gateway)
    page = open_page(f"/v/{KEY}", **STILL)
    before = picture(page)

    def red_columns(image: Picture) -> tuple[float, int]:
        columns = np.nonzero(reddish(image))[1]
        return float(columns.mean()), len(columns)

    drag(page, 70, 0, button="right")
    panned = picture(page)
    assert difference(before, panned) > 0.1
    # The hand moves the plane of the box's middle; its front is nearer and moves further.
    assert 70 < red_columns(panned)[0] - red_columns(before)[0] < 125
    page.keyboard.press("r")
    settle(page)
    page.mouse.move(240, 240)
    for _ in range(4):
        page.mouse.wheel(0, 200)
    zoomed = picture(page)
    assert red_columns(zoomed)[1] < 0.8 * red_columns(before)[1], "scrolling down leads away"
    page.keyboard.press("r")
    settle(page)
    page.keyboard.press("+")
    assert red_columns(picture(page))[1] > 1.15 * red_columns(before)[1]


def test_double_click_focuses_what_is_there(gateway: FakeGateway, open_page: OpenPage) -> None:
    add_box(gateway)
    page = open_page(f"/v/{KEY}", **STILL)
    before = picture(page)
    page.mouse.dblclick(108, 390)  # The foot of the letter's bar.
    after = picture(page)
    assert share(after[230:250, 230:250], "red") > 0.8, "it is in the middle now"
    assert before[400:440].mean() > 0.5
    assert after[400:440].mean() < 0.1, "nothing is below the box"


def test_arrow_keys_turn(gateway: FakeGateway, open_page: OpenPage) -> None:
    add_box(gateway)
    page = open_page(f"/v/{KEY}", **STILL)
    before = picture(page)
    for _ in range(6):
        page.keyboard.press("ArrowLeft")
    assert difference(before, picture(page)) > 0.1


def test_it_rests_when_nothing_moves(gateway: FakeGateway, open_page: OpenPage) -> None:
    """Drawing on demand: no frame is asked for while the picture rests."""
    add_box(gateway)
    counter = """
        window.frames_asked = 0;
        const original = window.requestAnimationFrame;
        window.requestAnimationFrame = (f) => { window.frames_asked += 1; return original(f); };
    """
    page = open_page(f"/v/{KEY}", **STILL, script=counter)
    settle(page)
    page.wait_for_timeout(500)
    before = page.evaluate("() => window.frames_asked")
    page.wait_for_timeout(1500)
    assert page.evaluate("() => window.frames_asked") == before > 0


def test_panels_open_and_close(gateway: FakeGateway, open_page: OpenPage) -> None:
    add_box(gateway)
    page = open_page(f"/v/{KEY}", viewport={"width": 900, "height": 640})
    settle(page)
    page.click("#download")
    expect(page.locator("#download-menu li")).to_have_count(3)
    expect(page.locator("#download-menu a").first).to_have_attribute("href", f"/recon/pub/{KEY}/scene.spz")
    page.keyboard.press("?")
    expect(page.locator("#help-panel")).to_be_visible()
    expect(page.locator("#download-menu")).to_be_hidden()
    page.keyboard.press("Escape")
    expect(page.locator("#help-panel")).to_be_hidden()


def test_a_file_shorter_than_it_should_be_is_an_error(gateway: FakeGateway, open_page: OpenPage) -> None:
    """A cut .splat has no header to tell: only the scene's count does."""
    total = add_box(gateway)
    whole = gateway.files[KEY, "scene.splat"]
    gateway.add_scene(KEY, {"scene.splat": whole[: 32 * 3000]}, gaussian_count=total)
    page = open_page(f"/v/{KEY}?format=splat", **STILL)
    expect(page.locator("body")).to_have_attribute("data-state", "error", timeout=60_000)
    expect(page.locator("#curtain")).to_contain_text(f"Only 3,000 of {total:,} splats")
    page.get_by_role("button", name="Show what there is").click()
    settle(page)


def test_a_download_that_breaks_off_is_an_error(gateway: FakeGateway, open_page: OpenPage) -> None:
    add_box(gateway)
    for artifact in gateway.scenes[KEY]["artifacts"]:
        artifact["size_bytes"] += 1000
    page = open_page(f"/v/{KEY}", **STILL)
    expect(page.locator("body")).to_have_attribute("data-state", "error", timeout=60_000)
    expect(page.locator("#curtain")).to_contain_text("A part of the scene is missing")
    expect(page.get_by_role("button", name="Try again")).to_be_visible()


def test_a_damaged_file_is_an_error_with_a_way_out(gateway: FakeGateway, open_page: OpenPage) -> None:
    total = add_box(gateway)
    whole = gateway.files[KEY, "scene.spz"]
    files = {"scene.spz": whole[: len(whole) // 2], "scene.splat": gateway.files[KEY, "scene.splat"]}
    gateway.add_scene(KEY, files, gaussian_count=total)
    page = open_page(f"/v/{KEY}", **STILL)
    expect(page.locator("body")).to_have_attribute("data-state", "error", timeout=60_000)
    page.get_by_role("link", name="Open scene.splat instead").click()
    settle(page)
    assert_letter_upright(picture(page))


def test_an_unknown_key_is_said(gateway: FakeGateway, open_page: OpenPage) -> None:
    page = open_page("/v/nosuchkey1", expect_errors=("404",))
    expect(page.locator("body")).to_have_attribute("data-state", "error")
    expect(page.locator("#curtain-title")).to_have_text("No scene here")
    expect(page.get_by_role("link", name="To the start page")).to_have_attribute("href", "/")


def test_an_unknown_page_is_said(gateway: FakeGateway, open_page: OpenPage) -> None:
    page = open_page("/nowhere", expect_errors=("404",))
    expect(page.get_by_role("heading", name="Nothing here")).to_be_visible()


def test_a_link_opened_too_early_waits_and_then_loads(gateway: FakeGateway, open_page: OpenPage) -> None:
    gateway.scenes[KEY] = {
        "status": "PROCESSING",
        "title": "Fox",
        "fraction": 0.46,
        "stage": "train",
        "eta_seconds": 42,
        "artifacts": [],
    }
    page = open_page(f"/v/{KEY}", **STILL)
    expect(page.locator("#curtain-title")).to_have_text("Still in the making: 46 %")
    expect(page.locator("#curtain-detail")).to_contain_text("Training")
    assert page.locator("body").get_attribute("data-state") == "loading"
    gateway.scenes[KEY]["fraction"] = 0.83
    expect(page.locator("#curtain-title")).to_have_text("Still in the making: 83 %")
    add_box(gateway)
    assert_letter_upright(picture(page))


def test_a_scene_that_is_made_anew_is_shown_until_then(gateway: FakeGateway, open_page: OpenPage) -> None:
    add_box(gateway)
    gateway.scenes[KEY] |= {"status": "PROCESSING", "stage": "train", "gaussian_count": None}
    page = open_page(f"/v/{KEY}", **STILL)
    assert_letter_upright(picture(page))
    expect(page.locator("#count")).to_contain_text("a new scene is in the making")


def test_without_webgl2_it_says_so(gateway: FakeGateway, open_page: OpenPage) -> None:
    add_box(gateway)
    page = open_page(f"/v/{KEY}", script=NO_WEBGL2)
    expect(page.locator("#curtain-title")).to_have_text("This browser cannot show it")
    expect(page.locator("#curtain-text")).to_contain_text("WebGL 2")
    assert not any("/assets/stage" in call for call in gateway.calls), "the engine is not even fetched"


def test_a_phone_turns_with_one_finger(gateway: FakeGateway, open_page: OpenPage) -> None:
    add_box(gateway)
    page = open_page(
        f"/v/{KEY}",
        viewport={"width": 360, "height": 520},
        reduced_motion="reduce",
        has_touch=True,
        is_mobile=True,
    )
    before = picture(page)
    expect(page.locator(".only-touch")).to_be_visible()
    session = page.context.new_cdp_session(page)

    def touch(kind: str, *points: tuple[int, int]) -> None:
        session.send(
            "Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": x, "y": y} for x, y in points]}
        )

    touch("touchStart", (180, 260))
    touch("touchMove", (220, 260))
    touch("touchMove", (260, 260))
    touch("touchEnd")
    turned = picture(page)
    assert share(turned[:, :180], "magenta") > share(before[:, :180], "magenta") + 0.03
    page.keyboard.press("r")
    settle(page)
    touch("touchStart", (150, 260), (210, 260))
    touch("touchMove", (120, 260), (240, 260))
    touch("touchMove", (80, 260), (280, 260))
    touch("touchEnd")
    assert share(picture(page), "red") > 1.3 * share(before, "red"), "pinching apart leads closer"


@pytest.mark.parametrize("format_name", ["spz", "ply"])
def test_an_antialiased_scene_is_shown_as_it_was_trained(
    gateway: FakeGateway, open_page: OpenPage, format_name: str
) -> None:
    """Splats of a tenth of a pixel hardly show when their opacity makes up for the blur."""
    tiny = replace(box(), scale=SCALE / 40)
    write = {"spz": spz_bytes, "ply": ply_bytes}[format_name]
    name = {"spz": "scene.spz", "ply": "cloud.ply"}[format_name]
    light = []
    for antialiased in (False, True):
        gateway.add_scene(KEY, {name: write(tiny, antialiased)}, gaussian_count=len(tiny), title="Dust")
        light.append(float(picture(open_page(f"/v/{KEY}?format={format_name}", **STILL)).mean()))
    empty = 13 / 255
    assert light[0] - empty > 0.02
    assert light[1] - empty < 0.5 * (light[0] - empty)
