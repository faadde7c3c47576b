"""For everybody: no axe violation on any tab and in any state, in light and dark, and room enough at every width."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page

from tests.browser.conftest import Profile
from tests.browser.test_page import open_compare
from tests.support.app_process import App
from tests.support.page_quiet import wait_until_quiet

TABS = {
    "Start": "#plan li",
    "Data": "#data-path",
    "Train": "#charts figure svg",
    "Compare": "#lanes .lane .answer",
    "Runs": "#runs tbody tr",
}
"""What is on the screen when a tab is drawn."""
SCHEMES = ("light", "dark")
RULES = {"runOnly": ["wcag2a", "wcag2aa", "wcag21aa", "best-practice"]}


@pytest.fixture(scope="module")
def app(serve: Callable[..., App]) -> App:
    return serve("60", gpu=24, runs=("fails", "fine"))


def violations(page: Page) -> list[str]:
    found = Axe().run(page, options=RULES).response["violations"]
    return [f"{one['id']}: {one['help']}: {[node['html'][:160] for node in one['nodes']][:3]}" for one in found]


def violations_in_each_scheme(page: Page) -> list[str]:
    """In light and in dark, to which a page that is open changes."""
    return [one for scheme in SCHEMES for one in violations(draw_in(page, scheme))]


def draw_in(page: Page, scheme: str) -> Page:
    page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
    page.wait_for_function("dark => document.body.classList.contains('dark') === dark", arg=scheme == "dark")
    page.wait_for_function("!document.getAnimations().some(one => one instanceof CSSTransition)")
    return page


def open_tab(page: Page, name: str) -> None:
    """Settings have a tab of the name Data as well."""
    page.evaluate("name => window.tunebench.openTab(name)", name.lower())


@pytest.fixture(scope="module")
def whole_page(app: App, browser: Browser) -> Iterator[Page]:
    """A page with one failed and one finished run, and lanes that have answered."""
    profile = Profile(browser)
    page = profile.open_page(app)
    open_compare(page, "fine")
    yield page
    assert profile.clear() == []
    profile.context.close()


@pytest.fixture
def shared_page(whole_page: Page) -> Iterator[Page]:
    """One page for all tests, which only look."""
    yield whole_page
    whole_page.set_viewport_size({"width": 1360, "height": 900})


def test_nothing_is_cut_off(shared_page: Page) -> None:
    """No tab scrolls sideways at any width. 680 is what a 200 % zoom leaves of 1360."""
    page = shared_page
    for width in (1360, 1024, 820, 680):
        page.set_viewport_size({"width": width, "height": 900})
        for name in TABS:
            open_tab(page, name)
            page.wait_for_timeout(300)
            assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0, (name, width)
        inner = "[...document.querySelectorAll('#conversation, #runs-view .tablewrap')]"
        wide = page.evaluate(f"{inner}.filter(one => one.scrollWidth > one.clientWidth).map(one => one.id)")
        assert wide == [], width


def test_the_button_is_at_hand_on_a_narrow_page(shared_page: Page) -> None:
    open_tab(shared_page, "Start")
    shared_page.set_viewport_size({"width": 820, "height": 900})
    box = shared_page.locator("#go").bounding_box()
    assert box and box["y"] < 600


@pytest.mark.parametrize("name", TABS)
def test_axe_finds_nothing(shared_page: Page, name: str) -> None:
    open_tab(shared_page, name)
    if name == "Start":
        shared_page.get_by_role("button", name="All settings").click()
        shared_page.locator("#settings-form [role=tab]").first.wait_for()
    shared_page.locator(TABS[name]).first.wait_for()
    wait_until_quiet(shared_page)
    assert violations_in_each_scheme(shared_page) == []


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_browser_draws_in_the_same_scheme(shared_page: Page, scheme: str) -> None:
    box = draw_in(shared_page, scheme).locator("#method input").first
    drawn = box.evaluate("node => getComputedStyle(node).colorScheme")
    assert (drawn == "dark") == (scheme == "dark")


def test_axe_finds_nothing_in_a_failed_run(shared_page: Page) -> None:
    open_tab(shared_page, "Runs")
    shared_page.locator("#runs tbody tr", has_text="fails").get_by_role("button").first.click()
    shared_page.wait_for_function("window.tunebench.getPart('run').phase === 'failed'")
    assert violations_in_each_scheme(shared_page) == []


def test_no_id_stands_twice(shared_page: Page) -> None:
    page = shared_page
    for name in TABS:
        open_tab(page, name)
        page.wait_for_timeout(300)
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map(one => one.id).filter(Boolean)")
    assert sorted({one for one in ids if ids.count(one) > 1}) == []
