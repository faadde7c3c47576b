"""A real server and a real browser: the app with a scripted worker, and a page that may talk to nobody else."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, Playwright, expect, sync_playwright

from tests.support.app_process import App, launch_chromium
from tests.support.page_quiet import watch_requests
from tests.support.scripted import finish_runs
from tools.browser import NoBrowser

expect.set_options(timeout=20_000)  # milliseconds, instead of 5,000: a busy machine is no failure


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
    flags = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "--process-per-site"
    opened = open_chromium(playwright, *flags)
    yield opened
    opened.close()


@pytest.fixture(scope="module", autouse=True)
def no_page_left_open(browser: Browser) -> Iterator[None]:
    """A page that a module leaves open asks its dead app once a second, through all later tests."""
    yield
    assert not browser.contexts


@pytest.fixture(scope="module")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., App]]:
    """Starts servers; all of them end with the module. `runs`: the names of runs that have ended before."""
    started: list[App] = []

    def start(worker: str, gpu: float = 0, reading: str = "", runs: Sequence[str] = ()) -> App:
        folder = tmp_path_factory.mktemp("app") / "workspace"
        if runs:
            finish_runs(folder, *runs)
        started.append(App(folder, worker, gpu, reading))
        return started[-1]

    yield start
    for app in started:
        app.close()


@pytest.fixture(scope="module")
def browser_profile(browser: Browser) -> Iterator[Profile]:
    opened = Profile(browser)
    yield opened
    opened.context.close()


@pytest.fixture
def visit(browser_profile: Profile) -> Iterator[Callable[..., Page]]:
    """Opens pages that remember nothing of other tests. At the end: no script error, and no request left 127.0.0.1."""
    yield browser_profile.open_page
    assert browser_profile.clear() == []


class Profile:
    """A browser profile whose cache and renderer stay warm from test to test, which halves the time to open a page."""

    def __init__(self, browser: Browser, **options: Any):
        self.context = browser.new_context(
            viewport={"width": 1360, "height": 900}, reduced_motion="reduce", locale="en-GB", **options
        )
        self.wrong: list[str] = []
        self.warm_pages: dict[str, Page] = {}
        self.context.on("request", lambda one: self.wrong.append(one.url) if is_foreign(one.url) else None)
        self.context.on("weberror", lambda error: self.wrong.append(str(error.error)))

    def open_page(self, app: App) -> Page:
        if app.root not in self.warm_pages:  # a page without a key: its renderer outlives the pages of the tests
            self.warm_pages[app.root] = self.context.new_page()
            self.warm_pages[app.root].goto(app.root)
        page = self.context.new_page()
        watch_requests(page)
        page.goto(app.address)
        page.wait_for_selector("#go")
        page.wait_for_function("window.tunebench?.getPart('buttons')")
        if len(self.open_pages) == 1:  # what is typed before the choices of the last visit are back would be lost
            page.wait_for_function("document.querySelector('#plan')?.textContent.includes('steps of')")
        return page

    @property
    def open_pages(self) -> list[Page]:
        """All but those that keep the renderer warm."""
        return [page for page in self.context.pages if page not in self.warm_pages.values()]

    def clear(self) -> list[str]:
        """Closes the pages and forgets what they stored; what went wrong on them."""
        for page in self.open_pages:
            page.close()
        self.context.clear_cookies()
        self.context.clear_permissions()
        for root, page in self.warm_pages.items():
            stored = {"origin": root, "storageTypes": "local_storage,indexeddb"}
            self.context.new_cdp_session(page).send("Storage.clearDataForOrigin", stored)
        wrong, self.wrong = self.wrong, []
        return wrong


def is_foreign(url: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme in ("http", "https", "ws", "wss") and parts.hostname != "127.0.0.1"
