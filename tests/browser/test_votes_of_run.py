"""Whose votes Compare shows: those of the loaded run and the two chosen lanes, in every page, whatever was voted on before."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from tests.browser.test_compare import choose_run
from tests.browser.test_page import begin, open_compare, stop, tab
from tests.browser.test_vote import generate, kept, leave, ready, vote
from tests.support.app_process import App

Visit = Callable[[App], Page]
NONE = "No votes for this run yet. Press B."
OVER = (
    "before => { const question = window.tunebench.getPart('question');"
    " return question.number > before || (question.voted && !question.can_continue); }"
)
VOTED = r"^Base \d – \d DPO · \d skipped$"


@pytest.fixture(scope="module")
def app(serve: Callable[..., App], browser) -> App:  # type: ignore[no-untyped-def]
    """A server with two finished runs whose lanes have the same names; the second is loaded, and three votes are on the first."""
    opened = serve("120", gpu=24, runs=("voted", "fresh"))
    page = browser.new_page()
    page.goto(opened.address)
    open_compare(page, "voted")
    page.click("#blind-vote")
    ready(page)
    for _ in range(3):
        vote(page, "ArrowLeft")
    leave(page)
    expect(page.locator("#tally-head")).to_have_text("Votes for voted: Base vs DPO")
    open_compare(page, "fresh")
    page.close()
    return opened


def counts(page: Page, name: str, lanes: str, numbers: str) -> None:
    expect(page.locator("#tally-head")).to_have_text(f"Votes for {name}: {lanes}")
    if numbers == NONE:
        expect(page.locator("#tally-empty")).to_have_text(NONE)
        for hidden in ("tally-numbers", "tally-odds", "tally-verdict", "topairs", "tally-span"):
            expect(page.locator(f"#{hidden}")).to_be_hidden()
    else:
        expect(page.locator("#tally-numbers")).to_have_text(re.compile(numbers))
        expect(page.locator("#tally-empty")).to_be_hidden()


def test_a_run_that_was_never_voted_on_has_no_votes(app: App, visit: Visit) -> None:
    """In a page that loads it, in one that was open meanwhile, and after a reload; the form is of the run that is loaded."""
    page, other = visit(app), visit(app)
    for one in (page, other):
        tab(one, "Compare")
        counts(one, "fresh", "Base vs DPO", NONE)
        expect(one.locator("#run input")).to_have_value(re.compile("^fresh "))
    open_compare(page, "voted")
    for one in (page, other):
        counts(one, "voted", "Base vs DPO", VOTED)
        expect(one.locator("#run input")).to_have_value(re.compile("^voted "))
    page.click("#export-pairs")
    expect(page.locator("#pairs-status")).to_contain_text("3 pairs saved")
    open_compare(page, "fresh")
    for one in (page, other):
        counts(one, "fresh", "Base vs DPO", NONE)
    expect(page.locator("#pairs-status")).to_be_empty()
    page.reload()
    counts(page, "fresh", "Base vs DPO", NONE)
    expect(page.locator("#run input")).to_have_value(re.compile("^fresh "))


def test_the_two_chosen_lanes_have_a_count_of_their_own(app: App, visit: Visit) -> None:
    page = visit(app)
    tab(page, "Compare")
    open_compare(page, "voted")
    page.click("#side1 input")
    page.locator("#side1").get_by_role("option", name="SFT", exact=True).click()
    expect(page.locator("#tally-head")).to_have_text("Votes for voted: SFT vs DPO")
    expect(page.locator("#tally-empty")).to_have_text("No votes on these two models yet. Press B.")
    page.click("#side1 input")
    page.locator("#side1").get_by_role("option", name="Base", exact=True).click()
    counts(page, "voted", "Base vs DPO", VOTED)


def test_choosing_another_run_shows_no_votes_under_another_name(app: App, visit: Visit) -> None:
    """Until it is loaded, the answers and the votes on the page are those of the loaded one, and the title says so."""
    page = visit(app)
    tab(page, "Compare")
    open_compare(page, "fresh")
    choose_run(page, "voted")
    counts(page, "fresh", "Base vs DPO", NONE)
    generate(page)
    counts(page, "voted", "Base vs DPO", VOTED)


def test_a_run_that_is_renamed_is_called_so(app: App, visit: Visit) -> None:
    page = visit(app)
    tab(page, "Compare")
    open_compare(page, "voted")
    run = page.evaluate("window.tunebench.getPart('compare').run")
    page.evaluate("run => window.tunebench.sendEvent('editrun', { run, about: { name: 'renamed' } })", run)
    counts(page, "renamed", "Base vs DPO", VOTED)
    page.evaluate("run => window.tunebench.sendEvent('editrun', { run, about: { name: 'voted' } })", run)
    counts(page, "voted", "Base vs DPO", VOTED)


def test_keys_work_after_a_click_on_a_tab(app: App, visit: Visit) -> None:
    page = visit(app)
    tab(page, "Compare")  # its content is made at its first opening
    expect(page.locator("#blind-vote")).to_be_enabled()
    tab(page, "Data")
    tab(page, "Compare")
    page.keyboard.press("b")
    ready(page)
    before = len(kept(app))
    tab(page, "Data")
    tab(page, "Compare")
    page.keyboard.press("ArrowDown")
    page.wait_for_function("window.tunebench.getPart('question').voted === 'tie'")
    page.keyboard.press("u")
    page.wait_for_function("window.tunebench.getPart('question').again")
    assert len(kept(app)) == before
    page.get_by_role("tab", name="Compare", exact=True).focus()
    page.keyboard.press("ArrowLeft")  # moves between tabs for who uses the keyboard
    assert page.evaluate("window.tunebench.getPart('question').voted") == ""
    page.keyboard.press("b")
    page.wait_for_function("!window.tunebench.getPart('question')")
    page.locator("#diff").check()
    page.keyboard.press("b")  # a box to tick takes no letters
    ready(page)
    leave(page)


def test_a_vote_after_the_models_were_unloaded_is_kept_and_the_page_says_why(app: App, visit: Visit) -> None:
    page = visit(app)
    failed: list[str] = []
    page.on("response", lambda answer: failed.append(answer.url) if answer.status >= 500 else None)
    tab(page, "Compare")
    page.click("#blind-vote")
    ready(page)
    page.wait_for_function("window.tunebench.getPart('question').can_continue")
    before = len(kept(app))
    tab(page, "Start")
    begin(page, "slow")
    tab(page, "Compare")
    expect(page.locator("#vote-status")).to_contain_text(
        "The models are unloaded while 'slow' trains. Your votes are kept"
    )
    for _ in range(2):  # this question, and the one that was answered ahead, if it was
        number = page.evaluate("window.tunebench.getPart('question').number")
        page.keyboard.press("ArrowRight")
        page.wait_for_function(OVER, arg=number)
        if page.evaluate("window.tunebench.getPart('question').voted"):
            break
    given = kept(app)[before:]
    assert given and all(one.choice == "right" for one in given)
    expect(page.locator("#vote-status")).to_contain_text(
        re.compile(r"B is better\. The models are unloaded while 'slow' trains")
    )
    expect(page.locator("#compare-error")).to_be_hidden()
    expect(page.locator("#vote-next")).to_be_hidden()
    expect(page.locator("#vote-reload")).to_be_hidden()
    assert failed == []
    number = page.evaluate("window.tunebench.getPart('question').number")
    tab(page, "Train")
    stop(page)
    tab(page, "Compare")
    page.locator("#vote-reload").click(timeout=20_000)
    ready(page)
    assert page.evaluate("window.tunebench.getPart('question').number") == number + 1
    assert kept(app)[before:] == given
    leave(page)
