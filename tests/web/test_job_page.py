"""The job page, driven by events."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
from PIL import Image
from playwright.sync_api import Page, expect
from web_gateway import FakeGateway, error_body

pytestmark = pytest.mark.browser

JOB = "abcd1234"
KEY = "pubkey1234"
CREATED = "2026-01-01T00:00:00+00:00"
OpenPage = Callable[..., Page]


def tasks(**states: str) -> list[dict[str, Any]]:
    return [
        {"stage": stage, "state": states.get(stage, "BLOCKED"), "fraction": 0.0, "attempt": 1}
        for stage in ("sfm", "train", "postproc")
    ]


def pending(gateway: FakeGateway, position: int = 2) -> None:
    gateway.set_job(
        JOB,
        pub_key=KEY,
        title="Garden gate",
        status="PENDING",
        created_at=CREATED,
        image_count=24,
        queue_position=position,
        fraction=0.0,
        tasks=tasks(sfm="QUEUED"),
        log_tail=[f">> [QUEUE] Position {position}"],
    )


def training_event(iteration: int, loss: float, **more: Any) -> dict[str, Any]:
    return {
        "stage": "train",
        "step": "train",
        "fraction": iteration / 2000,
        "training": {
            "iteration": iteration,
            "iterations": 2000,
            "loss": loss,
            "iterations_per_second": 41.5,
            "gaussian_count": 38_412,
            "test_psnr": None,
        },
        **more,
    }


def step(page: Page, number: int) -> Any:
    return page.locator("#stepper li").nth(number)


def test_from_the_queue_to_the_viewer_link(gateway: FakeGateway, open_page: OpenPage) -> None:
    pending(gateway)
    page = open_page(f"/jobs/{JOB}")
    expect(page.locator("#now")).to_have_text("Number 2 in the queue")
    expect(page.locator("#log")).to_contain_text("[QUEUE] Position 2")
    expect(step(page, 0)).to_have_attribute("data-look", "done")
    gateway.push(JOB, "queue", {"position": 1})
    expect(page.locator("#now")).to_have_text("Number 1 in the queue")

    gateway.set_job(
        JOB, status="PROCESSING", queue_position=None, stage="sfm", step="match", fraction=0.1, eta_seconds=80
    )
    gateway.set_job(JOB, tasks=tasks(sfm="LEASED"))
    gateway.push(JOB, "job", {"old_state": "PENDING", "new_state": "PROCESSING", "error": None})
    expect(page.locator("body")).to_have_attribute("data-status", "PROCESSING")
    expect(step(page, 1)).to_have_attribute("data-look", "now")
    expect(page.locator("#eta")).to_contain_text("left")
    gateway.push(
        JOB,
        "progress",
        {"stage": "sfm", "step": "match", "fraction": 0.5, "log_lines": ["matched 120 of 276 pairs"]},
    )
    expect(page.locator("#log")).to_contain_text("matched 120 of 276 pairs")
    expect(step(page, 1)).to_contain_text("matching photos")

    done = tasks(sfm="SUCCEEDED", train="LEASED")
    done[0]["metrics"] = {"images": 24, "registered_images": 23, "points": 8370}
    gateway.set_job(JOB, tasks=done, stage="train", step="train", fraction=0.4)
    gateway.push(JOB, "task", {"stage": "train", "old_state": "QUEUED", "new_state": "LEASED", "attempt": 1})
    expect(step(page, 1)).to_contain_text("23 of 24 photos placed")
    gpu = {"index": 0, "used_mib": 1473, "total_mib": 16380}
    for iteration in range(100, 1001, 100):
        gateway.push(JOB, "progress", training_event(iteration, 20 / iteration, gpu_memory=gpu))
    expect(page.locator("#training-figures")).to_contain_text("1,000 / 2,000")
    expect(page.locator("#training-figures")).to_contain_text("38 k")
    expect(page.locator("#gpu-text")).to_have_text("1,473 of 16,380 MB")
    expect(page.locator("#chart-range")).to_contain_text("0.200 →")
    expect(page.locator("#percent")).to_have_text("40")

    gateway.add_scene(KEY, {"scene.spz": b"x" * 1_200_000, "cloud.ply": b"y" * 9_000_000})
    gateway.set_job(
        JOB,
        status="COMPLETED",
        fraction=1.0,
        eta_seconds=None,
        gaussian_count=38_412,
        viewer_url=f"/v/{KEY}",
        processing_time_seconds=74.2,
        tasks=tasks(sfm="SUCCEEDED", train="SUCCEEDED", postproc="SUCCEEDED"),
    )
    gateway.push(JOB, "job", {"old_state": "PROCESSING", "new_state": "COMPLETED", "error": None})
    gateway.end(JOB)
    expect(page.locator("#result")).to_be_visible()
    expect(page.locator("#open-viewer")).to_have_attribute("href", f"/v/{KEY}")
    expect(page.locator("#share-link")).to_have_value(f"{gateway.url}/v/{KEY}")
    expect(page.locator("#result-figures")).to_contain_text("1 min 14 s")
    expect(page.locator("#downloads li")).to_have_count(2)
    expect(page.locator("#downloads")).to_contain_text("1.2 MB")
    expect(page.locator("#cancel")).to_be_hidden()
    # It ends here: nobody asks again and again for a job that is done.
    page.wait_for_timeout(500)
    before = len(gateway.calls)
    page.wait_for_timeout(2500)
    assert gateway.calls[before:] == []


def test_the_scene_is_seen_while_it_sharpens(gateway: FakeGateway, open_page: OpenPage) -> None:
    pending(gateway)
    gateway.set_job(JOB, status="PROCESSING", queue_position=None, stage="train", step="train")
    gateway.set_job(JOB, tasks=tasks(sfm="SUCCEEDED", train="LEASED"))
    page = open_page(f"/jobs/{JOB}")
    gateway.push(JOB, "progress", training_event(100, 0.5))
    expect(page.locator("#training-figures")).to_contain_text("100 / 2,000")
    expect(page.locator("#preview")).to_be_hidden()
    picture = io.BytesIO()
    Image.new("RGB", (64, 48), "red").save(picture, "JPEG")
    gateway.files[JOB, "preview.jpg"] = picture.getvalue()
    page.wait_for_timeout(3000)
    gateway.push(JOB, "progress", training_event(200, 0.4))
    expect(page.locator("#preview")).to_be_visible()
    assert page.locator("#preview").evaluate("image => image.naturalWidth") == 64


def test_a_failure_shows_what_to_do_and_can_be_tried_again(gateway: FakeGateway, open_page: OpenPage) -> None:
    pending(gateway)
    page = open_page(f"/jobs/{JOB}")
    expect(page.locator("#now")).to_have_text("Number 2 in the queue")
    gateway.push(JOB, "progress", {"stage": "sfm", "step": "match", "fraction": 0.4, "log_lines": ["before"]})
    error = {
        "reason": "NO_OVERLAP",
        "message": "The photos do not overlap enough.",
        "remedy": "Take a step between photos.",
        "retryable": False,
    }
    gateway.set_job(
        JOB, status="FAILED", error=error, error_message=error["message"], tasks=tasks(sfm="FAILED")
    )
    gateway.push(JOB, "job", {"old_state": "PROCESSING", "new_state": "FAILED", "error": error})
    gateway.end(JOB)
    card = page.locator("#failure")
    expect(card).to_contain_text("The photos do not overlap enough.")
    expect(card).to_contain_text("Take a step between photos.")
    expect(card).to_contain_text("NO_OVERLAP")
    expect(step(page, 1)).to_have_attribute("data-look", "bad")
    page.click("#retry")
    expect(page.locator("body")).to_have_attribute("data-status", "PENDING")
    expect(card).to_be_hidden()
    assert f"POST /recon/jobs/{JOB}/retry" in gateway.calls
    # The new stream goes on behind the old one's end: no line of the log comes twice.
    gateway.push(JOB, "progress", {"stage": "sfm", "step": "match", "fraction": 0.1, "log_lines": ["again"]})
    expect(page.locator("#log")).to_have_text("before\nagain")
    assert gateway.last_event_ids == [None, "2"]


def test_a_job_made_anew_keeps_its_scene_in_sight(gateway: FakeGateway, open_page: OpenPage) -> None:
    pending(gateway)
    page = open_page(f"/jobs/{JOB}")
    earlier = page.locator("#earlier")
    expect(page.locator("#now")).to_have_text("Number 2 in the queue")
    expect(earlier).to_be_hidden()
    gateway.set_job(JOB, has_scene=True)
    gateway.push(JOB, "queue", {"position": 1})
    expect(earlier).to_contain_text("stays until the new one is done", timeout=10_000)
    expect(earlier.get_by_role("link")).to_have_attribute("href", f"/v/{KEY}")
    gateway.set_job(JOB, status="FAILED", error_message="No.", tasks=tasks(sfm="FAILED"))
    gateway.push(JOB, "job", {"old_state": "PROCESSING", "new_state": "FAILED", "error": None})
    expect(earlier).to_contain_text("is still there")


def test_a_broken_stream_resumes_where_it_was(gateway: FakeGateway, open_page: OpenPage) -> None:
    pending(gateway)
    gateway.set_job(JOB, status="PROCESSING", stage="train", tasks=tasks(sfm="SUCCEEDED", train="LEASED"))
    for iteration in (100, 200, 300):
        gateway.push(JOB, "progress", training_event(iteration, 0.2, log_lines=[f"line {iteration}"]))
    page = open_page(f"/jobs/{JOB}", expect_errors=("ERR_", "Failed to load"))
    expect(page.locator("#log")).to_contain_text("line 300")
    gateway.drop_streams()
    gateway.push(JOB, "progress", training_event(400, 0.1, log_lines=["line 400"]))
    expect(page.locator("#log")).to_have_text("line 100\nline 200\nline 300\nline 400")
    expect(page.locator("#link-state")).to_be_hidden()
    assert gateway.last_event_ids == [None, "3"]


def test_without_events_the_page_polls(gateway: FakeGateway, open_page: OpenPage) -> None:
    pending(gateway)
    gateway.refuse_events = True
    page = open_page(f"/jobs/{JOB}", expect_errors=("503",))
    expect(page.locator("#link-state")).to_be_visible()
    gateway.set_job(JOB, status="PROCESSING", stage="sfm", fraction=0.31, tasks=tasks(sfm="LEASED"))
    expect(page.locator("#percent")).to_have_text("31")
    gateway.add_scene(KEY, {"scene.spz": b"x"})
    gateway.set_job(JOB, status="COMPLETED", gaussian_count=5)
    expect(page.locator("#result")).to_be_visible()
    expect(page.locator("#link-state")).to_be_hidden()


def test_cancel_and_delete_ask_first(gateway: FakeGateway, open_page: OpenPage) -> None:
    pending(gateway)
    page = open_page(f"/jobs/{JOB}")
    page.click("#cancel")
    expect(page.locator("#confirm")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#confirm")).to_be_hidden()
    assert f"POST /recon/jobs/{JOB}/cancel" not in gateway.calls
    page.click("#cancel")
    page.click("#confirm-yes")
    expect(page.locator("#badge")).to_have_text("Cancelled")
    page.click("#delete")
    page.click("#confirm-yes")
    page.wait_for_url(gateway.url + "/")
    assert gateway.jobs == {}


def test_a_cancelled_job_stopped_in_one_stage(gateway: FakeGateway, open_page: OpenPage) -> None:
    pending(gateway)
    ended = tasks(sfm="CANCELLED", train="CANCELLED", postproc="CANCELLED")
    ended[0]["started_at"] = CREATED
    gateway.set_job(JOB, status="CANCELLED", tasks=ended)
    page = open_page(f"/jobs/{JOB}")
    expect(step(page, 1)).to_contain_text("stopped here")
    expect(step(page, 2)).to_have_attribute("data-look", "todo")
    expect(step(page, 3)).to_have_attribute("data-look", "todo")


def test_an_unknown_job_is_said(gateway: FakeGateway, open_page: OpenPage) -> None:
    page = open_page("/jobs/nosuchjo", expect_errors=("404",))
    expect(page.locator("#job-title")).to_have_text("No such job")
    expect(page.locator("#page-error")).to_contain_text("No job has this id.")
    expect(page.locator("#progress")).to_be_hidden()


def test_copy_puts_the_link_on_the_clipboard(gateway: FakeGateway, open_page: OpenPage) -> None:
    pending(gateway)
    gateway.add_scene(KEY, {"scene.spz": b"x"})
    gateway.set_job(JOB, status="COMPLETED", gaussian_count=5, viewer_url=f"https://example.org/v/{KEY}")
    page = open_page(f"/jobs/{JOB}", permissions=["clipboard-read", "clipboard-write"])
    page.click("#copy")
    expect(page.locator("#copy")).to_have_text("Copied")
    assert page.evaluate("() => navigator.clipboard.readText()") == f"https://example.org/v/{KEY}"


def test_an_action_that_is_refused_says_why(gateway: FakeGateway, open_page: OpenPage) -> None:
    pending(gateway)
    page = open_page(f"/jobs/{JOB}", expect_errors=("409",))
    body = error_body("JOB_STATE_CONFLICT", "The job has ended already.", "Reload the page.")
    page.route("**/cancel", lambda route: route.fulfill(status=409, json=body))
    page.click("#cancel")
    page.click("#confirm-yes")
    expect(page.locator("#page-error")).to_contain_text("The job has ended already.")
    calls = gateway.calls.count(f"GET /recon/jobs/{JOB}/status")
    gateway.push(JOB, "queue", {"position": 1})
    page.wait_for_timeout(3500)
    assert gateway.calls.count(f"GET /recon/jobs/{JOB}/status") > calls
    # A fresh status does not wipe away what the button was told.
    expect(page.locator("#page-error")).to_contain_text("The job has ended already.")
