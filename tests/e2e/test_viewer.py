"""A real browser opens the viewer of a real job."""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page, TimeoutError

from tests.e2e.test_suite import finished  # noqa: F401  (the fixture)
from tests.helpers.chromium import chromium

pytestmark = [pytest.mark.e2e, pytest.mark.browser, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with chromium() as browser:
        # Without motion there are few frames, and a frame takes software seconds on a busy machine.
        yield browser.new_page(viewport={"width": 360, "height": 270}, reduced_motion="reduce")


def picture(page: Page) -> np.ndarray:
    """The viewer's canvas once it has come to rest, [height, width, 3] uint8."""
    try:
        page.locator("body[data-settled='true']").wait_for(timeout=180_000)
    except TimeoutError as error:
        state = page.evaluate("JSON.stringify(document.body.dataset)")
        said = [message.text for message in page.console_messages()]
        pytest.fail(f"{error}\npage: {state}\nconsole: {said}\nerrors: {page.page_errors()}")
    return np.asarray(Image.open(io.BytesIO(page.locator("canvas").first.screenshot())).convert("RGB"))


def change(before: np.ndarray, after: np.ndarray) -> float:
    return float(np.abs(before.astype(int) - after.astype(int)).mean())


def drag(page: Page, button: str) -> None:
    page.mouse.move(180, 135)
    page.mouse.down(button=button)
    page.mouse.move(230, 150, steps=2)
    page.mouse.up(button=button)


def test_the_scene_shows_and_moves(suite, finished, page):  # noqa: F811
    page.goto(f"{suite.base_url}/v/{finished['pub_key']}")
    page.locator("body[data-state='ready']").wait_for(timeout=180_000)
    first = picture(page)
    assert len(np.unique(first.reshape(-1, 3) // 32, axis=0)) > 30, "a blank picture has few colours"
    drag(page, "left")
    turned = picture(page)
    assert change(first, turned) > 1
    drag(page, "right")
    panned = picture(page)
    assert change(turned, panned) > 1
    page.mouse.wheel(0, -400)
    assert change(panned, picture(page)) > 1


def test_an_unknown_key(suite, page):
    answer = page.goto(f"{suite.base_url}/v/0000000000")
    assert answer is not None
    assert answer.status == 404
    assert "not found" in page.content().lower() or "no scene" in page.content().lower()
