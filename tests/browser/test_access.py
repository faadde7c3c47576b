"""For everybody: no axe violation on any tab and in any state, in light and dark, and room enough at every width."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page

from tests.browser.conftest import Profile
from tests.browser.test_page import open_compare, tab
from tests.support.app_process import App

TABS = ("Start", "Data", "Train", "Compare", "Runs")
RULES = {"runOnly": ["wcag2a", "wcag2aa", "wcag21aa", "best-practice"]}
Visit = Callable[[App], Page]


@pytest.fixture(scope="module")
def app(serve: Callable[..., App]) -> App:
    return serve("60", gpu=24, runs=("fails", "fine"))


@pytest.fixture(scope="module")
def past_runs(app: App, browser: Browser) -> None:
    """One failed and one finished run, and lanes that have answered."""
    page = browser.new_page()
    page.goto(app.address)
    open_compare(page, "fine")
    page.close()


def violations(page: Page) -> list[str]:
    found = Axe().run(page, options=RULES).response["violations"]
    return [f"{one['id']}: {one['help']}: {[node['html'][:160] for node in one['nodes']][:3]}" for one in found]


@pytest.fixture(scope="module", params=["light", "dark"])
def color_scheme(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def shared_page(app: App, past_runs: None, browser: Browser, color_scheme: str) -> Iterator[Page]:
    """One page for all tests that only look."""
    profile = Profile(browser, color_scheme=color_scheme)
    yield profile.open_page(app)
    assert profile.clear() == []
    profile.context.close()


@pytest.mark.parametrize("name", TABS)
def test_axe_finds_nothing(shared_page: Page, name: str) -> None:
    shared_page.evaluate("name => window.tunebench.openTab(name)", name.lower())
    if name == "Start":
        shared_page.get_by_role("button", name="All settings").click()
    shared_page.wait_for_timeout(1_500)
    assert violations(shared_page) == []


def test_the_browser_draws_in_the_same_scheme(shared_page: Page, color_scheme: str) -> None:
    drawn = shared_page.locator("#method input").first.evaluate("node => getComputedStyle(node).colorScheme")
    assert (drawn == "dark") == (color_scheme == "dark")


def test_axe_finds_nothing_in_a_failed_run(shared_page: Page) -> None:
    shared_page.evaluate("window.tunebench.openTab('runs')")
    shared_page.locator("#runs tbody tr", has_text="fails").get_by_role("button").first.click()
    shared_page.wait_for_function("window.tunebench.getPart('run').phase === 'failed'")
    assert violations(shared_page) == []


def test_nothing_is_cut_off(app: App, past_runs: None, visit: Visit) -> None:
    """No tab scrolls sideways at any width. 680 is what a 200 % zoom leaves of 1360."""
    page = visit(app)
    for width in (1360, 1024, 820, 680):
        page.set_viewport_size({"width": width, "height": 900})
        for name in TABS:
            page.evaluate("name => window.tunebench.openTab(name)", name.lower())
            page.wait_for_timeout(300)
            assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0, (name, width)
        inner = "[...document.querySelectorAll('#conversation, #runs-view .tablewrap')]"
        wide = page.evaluate(f"{inner}.filter(one => one.scrollWidth > one.clientWidth).map(one => one.id)")
        assert wide == [], width


def test_the_button_is_at_hand_on_a_narrow_page(app: App, visit: Visit) -> None:
    page = visit(app)
    page.set_viewport_size({"width": 820, "height": 900})
    box = page.locator("#go").bounding_box()
    assert box and box["y"] < 600


def test_no_id_stands_twice(app: App, visit: Visit) -> None:
    page = visit(app)
    for name in TABS:
        tab(page, name)
        page.wait_for_timeout(300)
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map(one => one.id).filter(Boolean)")
    assert sorted({one for one in ids if ids.count(one) > 1}) == []
