"""A real server and a real browser: the app with a scripted worker, and a page that may talk to nobody else."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, Playwright, sync_playwright

from tests.support.app_process import App, launch_chromium
from tools.browser import NoBrowser


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.browser)


def open_chromium(playwright: Playwright, *flags: str) -> Browser:
    """None found is a reason to skip, or a failure where one is required."""
    try:
        return launch_chromium(playwright, *flags)
    except NoBrowser as error:
        if os.environ.get("TUNEBENCH_REQUIRE_BROWSER") == "1":
            pytest.fail(str(error))
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def playwright() -> Iterator[Playwright]:
    """The one connection to Playwright: a process can hold no second one."""
    with sync_playwright() as connection:
        yield connection


@pytest.fixture(scope="session")
def browser(playwright: Playwright) -> Iterator[Browser]:
    opened = open_chromium(playwright, "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1")
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., App]]:
    """Starts servers; all of them end with the module."""
    started: list[App] = []

    def start(worker: str, gpu: float = 0, reading: str = "") -> App:
        started.append(App(tmp_path_factory.mktemp("app") / "workspace", worker, gpu, reading))
        return started[-1]

    yield start
    for app in started:
        app.close()


@pytest.fixture
def visit(browser: Browser) -> Iterator[Callable[..., Page]]:
    with open_profile(browser) as open_page:
        yield open_page


@contextmanager
def open_profile(browser: Browser, **options: Any) -> Iterator[Callable[..., Page]]:
    """Opens pages in a fresh profile. At the end: no script error, and no request left 127.0.0.1."""
    context = browser.new_context(
        viewport={"width": 1360, "height": 900}, reduced_motion="reduce", locale="en-GB", **options
    )
    wrong: list[str] = []
    context.on("request", lambda request: wrong.append(request.url) if is_foreign(request.url) else None)
    context.on("weberror", lambda error: wrong.append(str(error.error)))

    def open_page(app: App) -> Page:
        page = context.new_page()
        page.goto(app.address)
        page.wait_for_selector("#go")
        page.wait_for_function("window.tunebench?.getPart('buttons')")
        if len(context.pages) == 1:  # what is typed before the choices of the last visit are back would be lost
            page.wait_for_function("document.querySelector('#plan')?.textContent.includes('steps of')")
        return page

    yield open_page
    context.close()
    assert wrong == []


def is_foreign(url: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme in ("http", "https", "ws", "wss") and parts.hostname != "127.0.0.1"
