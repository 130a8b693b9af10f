"""Signing in with an API key."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect
from web_gateway import FakeGateway

pytestmark = pytest.mark.browser

OpenPage = Callable[..., Page]


def test_a_wrong_key_is_told_and_the_right_one_leads_on(gateway: FakeGateway, open_page: OpenPage) -> None:
    page = open_page("/signin?next=/jobs/abcd1234", expect_errors=("401",))
    page.get_by_label("API key").fill("sm_wrong")
    page.get_by_role("button", name="Sign in").click()
    expect(page.locator("#signin-error")).to_contain_text("not known here")
    gateway.set_job("abcd1234", pub_key="k" * 10, status="PENDING", title="Fox", tasks=[], log_tail=[])
    page.get_by_label("API key").fill(gateway.api_key)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url("**/jobs/abcd1234")
    assert [cookie["name"] for cookie in page.context.cookies()] == ["splatmill_key"]


def test_it_never_leads_to_another_site(gateway: FakeGateway, open_page: OpenPage) -> None:
    page = open_page("/signin?next=//elsewhere.example/")
    page.get_by_label("API key").fill(gateway.api_key)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url(f"{gateway.url}/")
