"""Fixtures of the front end's tests: a stand-in gateway and a real Chromium."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser, BrowserContext, Page
from web_gateway import DIST, FakeGateway

from tests.helpers.chromium import chromium


@pytest.fixture
def gateway() -> Iterator[FakeGateway]:
    if not (DIST / "index.html").exists():
        pytest.fail("The front end is not built; run: make web")
    server = FakeGateway().start()
    yield server
    server.stop()


# Not for the whole session: Playwright's loop in this thread would be in the way of other tests' loops.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as instance:
        yield instance


OpenPage = Callable[..., Page]


@pytest.fixture
def open_page(browser: Browser, gateway: FakeGateway) -> Iterator[OpenPage]:
    """Opens a path of the gateway; at the end no page may have logged an error or left the host."""
    contexts: list[BrowserContext] = []
    problems: list[str] = []

    def opener(
        path: str, *, expect_errors: tuple[str, ...] = (), script: str = "", **context: object
    ) -> Page:
        made = browser.new_context(**{"viewport": {"width": 1000, "height": 720}, **context})
        contexts.append(made)
        if script:
            made.add_init_script(script)
        page = made.new_page()
        page.set_default_timeout(20_000)

        def complain(text: str) -> None:
            if not any(part in text for part in expect_errors):
                problems.append(text)

        page.on("pageerror", lambda error: complain(f"uncaught: {error}"))
        page.on("console", lambda message: complain(message.text) if message.type == "error" else None)
        page.on(
            "request",
            lambda request: (
                None
                if request.url.startswith((gateway.url, "data:", "blob:"))
                else problems.append(f"request to {request.url}")
            ),
        )
        page.goto(gateway.url + path)
        return page

    yield opener
    for context in contexts:
        context.close()
    assert problems == []
