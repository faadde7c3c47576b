"""Waits until the server has answered everything that a page asked: an answer under way may still change its form."""

from __future__ import annotations

from weakref import WeakKeyDictionary

from playwright.sync_api import Page, Request

HANDLERS = "/queue/", "/run/predict"  # Gradio's addresses of Python handlers; polls of the live channel have another
QUIET = 100  # milliseconds: a change in the page asks the server a frame or two later
LONGEST = 60_000  # milliseconds; a busy machine is no failure

open_requests: WeakKeyDictionary[Page, set[Request]] = WeakKeyDictionary()


def watch_requests(page: Page) -> None:
    """Once for a page, before the first request that is to be waited for."""
    if page in open_requests:
        return
    pending = open_requests[page] = set()
    page.on("request", lambda one: pending.add(one) if is_handler(one) else None)
    page.on("requestfinished", lambda one: pending.discard(one))
    page.on("requestfailed", lambda one: pending.discard(one))


def wait_until_quiet(page: Page) -> None:
    """Returns when nothing was open for QUIET; the page was given to `watch_requests` before."""
    waited = still = 0
    while still < QUIET:
        assert waited < LONGEST, f"still open: {[one.url for one in open_requests[page]]}"
        page.wait_for_timeout(20)
        waited += 20
        still = 0 if open_requests[page] else still + 20


def is_handler(request: Request) -> bool:
    return any(part in request.url for part in HANDLERS)
