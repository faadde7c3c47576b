"""Blind voting in the page: nothing tells who is who before the vote, keys vote, nothing is lost, and votes become data."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from playwright.sync_api import Page, expect

from tests.browser.test_page import begin, open_compare, phase, tab
from tests.support.app_process import App
from trainer_core.evaluation import votes
from trainer_core.runs.workspace import Workspace

Visit = Callable[[App], Page]
NAMES = re.compile(r"\b(SFT|DPO)\b|3f9a12cd")
"""What would tell who is who; "Base" begins too many words of the page."""


@pytest.fixture(scope="module")
def app(serve: Callable[..., App], browser) -> App:  # type: ignore[no-untyped-def]
    """A server with one finished run, whose lanes have answered."""
    opened = serve("120", gpu=24, runs=("fine",))
    page = browser.new_page()
    page.goto(opened.address)
    open_compare(page, "fine")
    page.close()
    return opened


def kept(app: App) -> list[votes.Vote]:
    return votes.active_votes(votes.read_vote_records(Path(app.workspace) / "votes" / "votes.jsonl"))


def blind(page: Page) -> None:
    """Begin a blind vote and wait until it may be given."""
    tab(page, "Compare")
    page.click("#blind-vote")
    ready(page)


def ready(page: Page) -> None:
    page.wait_for_function(
        "window.tunebench.getPart('question')?.ready && window.tunebench.text.A && window.tunebench.text.B"
    )
    page.wait_for_selector("#vote-a:enabled")


def key(page: Page, name: str) -> None:
    page.locator("body").press(name)


def vote(page: Page, name: str) -> None:
    """One vote by key, and on to the next question."""
    number = page.evaluate("window.tunebench.getPart('question').number")
    key(page, name)
    page.wait_for_function("window.tunebench.getPart('question').voted")
    key(page, "n")
    page.wait_for_function("before => window.tunebench.getPart('question').number > before", arg=number)
    ready(page)


def generate(page: Page) -> None:
    """Ask in all lanes and wait for the answers to this question."""
    tab(page, "Compare")
    before = page.evaluate("window.tunebench.ask")
    page.click("#generate")
    new = (
        "before => window.tunebench.ask && window.tunebench.ask !== before && window.tunebench.getPart('compare')?.done"
    )
    page.wait_for_function(new, arg=before, timeout=20_000)


def leave(page: Page) -> None:
    if page.evaluate("!!window.tunebench.getPart('question')"):
        page.click("#vote-end")
        page.wait_for_function("!window.tunebench.getPart('question')")


def test_nothing_tells_who_is_who_before_the_vote(app: App, visit: Visit) -> None:
    """Text, attributes and ids of the lanes, all that the network brought for them, and its order."""
    page = visit(app)
    told: list[str] = []
    page.on("response", lambda response: told.append(response.text()) if "component_server" in response.url else None)
    tab(page, "Compare")
    page.click("#blind-vote")
    ready(page)
    pane = page.locator("#lanes").evaluate("node => node.outerHTML")
    assert not NAMES.search(pane) and "Base" not in pane
    assert [order for order in re.findall(r'data-lane="(.*?)"', pane)] == ["A", "B"]
    heard = [json.loads(one) for one in told if '"text"' in one]
    during = [one for one in heard if one.get("ask") and one["ask"] == page.evaluate("window.tunebench.ask")]
    assert during and all(list(one["text"]) == ["A", "B"] for one in during)
    parts = json.dumps([{**one.get("parts", {}).get("compare", {}), "text": one["text"]} for one in during])
    assert not NAMES.search(parts) and "Base" not in parts
    assert all(
        page.locator(f"#{part}").is_hidden() for part in ("compare-form", "sides", "closer", "vote-next", "topairs")
    )
    page.set_viewport_size({"width": 1360, "height": 420})
    expect(page.locator("#vote-a")).to_be_in_viewport(ratio=0.95)
    page.set_viewport_size({"width": 1360, "height": 900})
    key(page, "ArrowLeft")
    page.wait_for_function("document.querySelector('#lanes').textContent.includes('the winner')")
    (given,) = kept(app)
    expect(page.locator("#lanes h3")).to_have_text(
        [f"A was {given.left}, the winner", f"B was {'DPO' if given.left == 'Base' else 'Base'}"]
    )
    assert page.evaluate("window.tunebench.text.A") == given.answers[given.left]
    page.wait_for_function("window.tunebench.getPart('question').number === 2")  # by itself, after the names were shown
    ready(page)
    assert not NAMES.search(page.locator("#lanes").evaluate("node => node.outerHTML"))
    leave(page)
    expect(page.locator("#lanes .lane.idle")).to_have_count(3)  # no lane seems to be at work
    expect(page.locator("#lanes .lane.waiting")).to_have_count(0)


def test_keys_vote_only_outside_inputs_and_undo_takes_back(app: App, visit: Visit) -> None:
    page = visit(app)
    blind(page)
    before = len(kept(app))
    key(page, "x")
    page.wait_for_selector("#vote-better:visible")
    page.fill("#vote-text", "xsn")
    page.locator("#vote-text").press("ArrowLeft")
    page.locator("#vote-text").press("u")
    assert len(kept(app)) == before + 1 and kept(app)[-1].choice == "bad"
    page.fill("#vote-text", "A better one.")
    page.get_by_role("button", name="Save this answer").click()
    ready(page)
    assert kept(app)[-1].better == "A better one."
    key(page, "ArrowDown")
    page.wait_for_function("window.tunebench.getPart('question').voted === 'tie'")
    key(page, "u")
    page.wait_for_function("window.tunebench.getPart('question').again")
    assert len(kept(app)) == before + 1
    key(page, "s")
    page.wait_for_function("window.tunebench.getPart('question').voted === 'skip'")
    expect(page.locator("#tally-numbers")).to_contain_text("skipped")
    leave(page)


def vote_for_dpo(page: Page) -> None:
    dpo_left = page.evaluate("window.tunebench.text.A.startsWith('Tie it')")
    vote(page, "ArrowLeft" if dpo_left else "ArrowRight")


def write_votes_for_dpo(app: App, count: int) -> None:
    """The newest vote again, with DPO on each side by turns: by keys each would take over a second."""
    newest = kept(app)[-1]
    for at in range(count):
        sides = {"left": "DPO", "choice": "left"} if at % 2 else {"left": "Base", "choice": "right"}
        again = newest.model_copy(update={"id": f"{newest.id}{at}", "index": newest.index + 1 + at, **sides})
        votes.append_record(votes.votes_path(Workspace(app.workspace)), again)


def test_twenty_votes_give_a_verdict_survive_a_reload_and_a_kill_and_become_data(app: App, visit: Visit) -> None:
    page = visit(app)
    blind(page)
    vote_for_dpo(page)
    decided = sum(bool(one.winner) for one in kept(app))
    write_votes_for_dpo(app, 20 - decided - 3)
    for _ in range(3):
        vote_for_dpo(page)
    given = kept(app)
    won = sum(one.winner == "DPO" for one in given)
    assert won >= 19
    expect(page.locator("#tally-verdict")).to_contain_text(
        "DPO is clearly better (check at 20 votes). Next check at 30"
    )
    expect(page.locator("#tally-share")).to_contain_text("exact sign test")
    expect(page.locator("#tally-checks")).to_contain_text("You picked the left side")
    expect(page.locator("#tally-kinds tbody tr").first).to_be_visible()
    numbers = page.locator("#tally-numbers").inner_text()
    page.reload()
    expect(page.locator("#tally-numbers")).to_have_text(numbers)
    app.kill()
    app.start()
    page.goto(app.address)
    expect(page.locator("#tally-numbers")).to_have_text(numbers)
    assert kept(app) == given
    page.click("#export-pairs")
    expect(page.locator("#pairs-status")).to_contain_text("pairs saved to votes-base-dpo")
    page.click("#train-on-them")
    expect(page.get_by_role("tab", name="Start", exact=True)).to_have_attribute("aria-selected", "true")
    place = next(Path(app.workspace).glob("data/votes-base-dpo-*.jsonl"))
    expect(page.locator("#data input")).to_have_value(re.compile("pairs from votes|" + re.escape(place.stem)))
    rows = [json.loads(line) for line in place.read_text().splitlines()]
    assert len(rows) == sum(bool(one.winner) for one in given) + 1, "and the better answer that was written"
    assert json.loads((place.parent / f"{place.name}.provenance.json").read_text())["contest"]["second"] == "DPO"
    page.click("#data input")
    expect(page.get_by_role("option", name=re.compile(f"{len(rows)} pairs from votes: Base and DPO"))).to_be_visible()
    page.keyboard.press("Escape")
    page.get_by_label("DPO only").check()
    begin(page, "fromvotes")
    phase(page, "done")
    opened = (
        "window.tunebench.getPart('compare')?.run.includes('fromvotes') && window.tunebench.getPart('compare').done"
    )
    page.wait_for_function(opened, timeout=30_000)


def test_sides_are_balanced_over_forty_questions(app: App) -> None:
    lefts = Counter(votes.is_first_lane_left(seed, index) for seed in (1, 2, 3) for index in range(40))
    assert lefts[True] == lefts[False]


def test_a_killed_worker_is_told_and_loads_again(app: App, visit: Visit) -> None:
    page = visit(app)
    generate(page)
    for process in psutil.process_iter(["cmdline"]):
        line = " ".join(process.info["cmdline"] or ())
        if str(Path(app.workspace) / "compare") in line and "fake_worker" in line:
            process.kill()
    expect(page.locator("#compare-failed")).to_contain_text("The worker ended without an error message", timeout=10_000)
    page.click("#compare-reload")
    page.wait_for_function("window.tunebench.getPart('compare')?.done", timeout=20_000)
    expect(page.locator("#compare-failed")).to_be_hidden()
