"""The way in as a browser goes it: by the page on the disk, under a name of its own where the browser knows it; and out again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Playwright, expect

from tests.browser.conftest import open_chromium
from tests.support.app_process import App

NAME = "tunebench-0a1b2c3d.localhost"
HERE = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
"""A browser that does not know such names."""


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    with App(tmp_path_factory.mktemp("door") / "workspace", "50", own=NAME) as served:
        yield served


@pytest.fixture(params=["knows", "does not know"])
def opened(request: pytest.FixtureRequest, playwright: Playwright) -> Iterator[tuple[Browser, str]]:
    """A browser and the host under which it finds the page."""
    knows = request.param == "knows"
    browser = open_chromium(playwright, *([] if knows else [HERE]))
    yield browser, NAME if knows else "127.0.0.1"
    browser.close()


def test_the_page_on_the_disk_opens_the_app_and_one_signs_out(app: App, opened: tuple[Browser, str]) -> None:
    browser, host = opened
    page = browser.new_page()
    page.goto((app.workspace / "open-tunebench.html").as_uri())
    page.wait_for_selector("#go", timeout=30_000)
    assert urlsplit(page.url).hostname == host and "token" not in page.url
    (cookie,) = page.context.cookies()
    assert (cookie["domain"], cookie["httpOnly"], cookie["sameSite"]) == (host, True, "Strict")
    page.locator("#sign-out").click()
    expect(page.locator("h1")).to_have_text("Signed out everywhere")
    assert page.context.cookies() == []
    page.context.add_cookies([cookie])
    answer = page.goto(f"http://{host}:{app.port}/")
    assert answer and answer.status == 401


def test_the_password_lets_in(browser: Browser, tmp_path: Path) -> None:
    """A form's origin is what the browser says it is."""
    with App(tmp_path / "workspace", "50", password="open sesame") as app:
        page = browser.new_page()
        page.goto(app.root)
        for given, then in (("open barley", "#password"), ("open sesame", "#go")):
            page.locator("#password").fill(given)
            page.get_by_role("button", name="Open").click()
            page.wait_for_selector(then, timeout=30_000)
        page.close()
