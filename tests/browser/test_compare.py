"""Compare under names: chosen lanes, conversation, strength, differences, heat map, scores, and text that attacks the page."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser.test_access import violations, violations_in_each_scheme
from tests.browser.test_page import open_compare, tab
from tests.browser.test_vote import generate, leave
from tests.support.app_process import App
from tests.support.fake_worker import HOSTILE
from tests.support.page_quiet import wait_until_quiet
from tests.trainer_core.evaluation.test_judge import Judge, likes

Visit = Callable[[App], Page]


@pytest.fixture(scope="module")
def app(serve: Callable[..., App], browser) -> App:  # type: ignore[no-untyped-def]
    """A server with an attacking run, one whose lanes say the same, and a well-behaved one, newest last."""
    opened = serve("120", gpu=24, runs=("hostile", "twins", "fine"))
    page = browser.new_page()
    page.goto(opened.address)
    open_compare(page, "fine")
    page.close()
    return opened


def choose_run(page: Page, name: str) -> None:
    """Pick a run in Compare, once the form shows what is loaded."""
    tab(page, "Compare")
    wait_until_quiet(page)
    page.click("#run input")
    page.get_by_role("option", name=re.compile(name)).click()


def pane(page: Page, lane: str):  # type: ignore[no-untyped-def]
    return page.locator(f"#lanes [data-lane='{lane}']")


def test_more_lanes_of_the_same_base(app: App, visit: Visit) -> None:
    page = visit(app)
    tab(page, "Compare")
    page.click("#lane-select input")
    expect(page.get_by_role("option", name=re.compile("^DPO · twins"))).to_be_visible()
    page.get_by_role("option", name="DPO at 50%").click()
    page.keyboard.press("Escape")
    generate(page)
    expect(page.locator("#lanes h3")).to_have_text(["Base", "SFT", "DPO", "DPO at 50%"])
    expect(pane(page, "DPO").locator(".adapter")).to_have_text("Adapter active ✓")
    expect(pane(page, "DPO").locator(".adapter")).to_have_attribute(
        "title", "adapter 3f9a12cd, moves logits by up to 4.2"
    )
    other = visit(app)  # a page opened now has the models that are loaded
    tab(other, "Compare")
    expect(other.locator("#lane-select .token")).to_have_text(["Base", "SFT", "DPO", "DPO at 50%"])
    other.close()
    page.click("#lane-select input")
    page.keyboard.press("Backspace")
    page.keyboard.press("Escape")
    generate(page)
    expect(page.locator("#lanes h3")).to_have_text(["Base", "SFT", "DPO"])


def test_a_prompted_base_and_a_conversation(app: App, visit: Visit) -> None:
    page = visit(app)
    tab(page, "Compare")
    page.get_by_role("button", name="System prompt and chat").click()
    wait_until_quiet(page)
    page.fill("#system textarea", "Be short.")
    page.get_by_label("Add a column: base model + this system prompt").check()
    expect(page.locator("#system textarea")).to_have_value("Be short.")
    generate(page)
    expect(page.locator("#compare-problem")).to_have_text("")
    expect(page.locator("#lanes h3").last).to_have_text("Base, prompted")
    page.get_by_label("Chat: keep the conversation").check()
    page.fill("#prompt textarea", "And then?")
    generate(page)
    expect(pane(page, "SFT").locator(".answer")).to_contain_text("This is turn 2.")
    expect(pane(page, "SFT").locator(".turns .message")).to_have_text(
        "I keep forgetting to water my plants. What can I do?"
    )


def test_the_strength_holds_from_the_next_answer_on(app: App, visit: Visit) -> None:
    page = visit(app)
    generate(page)
    pane(page, "DPO").locator("summary").click()
    strength = pane(page, "DPO").get_by_label("Strength")
    strength.focus()
    for _ in range(10):
        strength.press("ArrowLeft")
    expect(pane(page, "DPO").locator(".adapter")).to_contain_text("at 50%")
    page.click("#blind-vote")
    expect(page.locator("#compare-problem")).to_contain_text("DPO is at strength 50%. Set it back to 100%")
    strength.focus()
    for _ in range(10):
        strength.press("ArrowRight")
    expect(pane(page, "DPO").locator(".adapter")).not_to_contain_text("at 50%")


def test_differences_and_heat(app: App, visit: Visit) -> None:
    page = visit(app)
    generate(page)
    page.select_option("#lane-first", "SFT")
    page.get_by_label("Highlight words that differ").check()
    expect(pane(page, "SFT").locator("mark.differs").first).to_be_visible()
    text = page.evaluate("window.tunebench.text.SFT")
    assert pane(page, "SFT").locator(".answer").evaluate("node => node.textContent") == text
    assert not any("kettle" in one for one in pane(page, "SFT").locator("mark.differs").all_inner_texts())
    page.click("#heatmap-first")
    expect(page.locator("#heatmap-legend")).to_contain_text(
        "Green: more likely under SFT. Amber: more likely under DPO."
    )
    expect(pane(page, "SFT").locator("mark").first).to_have_attribute("title", "SFT -1.00, DPO 1.00 nats")
    generate(page)
    expect(page.locator("#heatmap-legend")).to_be_empty()


def test_a_new_seed_asks_again(app: App, visit: Visit) -> None:
    page = visit(app)
    generate(page)
    before = page.evaluate("window.tunebench.ask")
    page.locator("body").press("r")
    page.wait_for_function("before => window.tunebench.ask !== before", arg=before)
    page.get_by_role("button", name="Sampling").click()
    expect(page.locator("#sampling-seed input, #sampling-seed textarea")).to_have_value("43")


def test_scores_with_progress_cancel_and_the_red_flag(app: App, visit: Visit) -> None:
    page = visit(app)
    generate(page)
    run_dir = Path(app.workspace) / "runs" / page.evaluate("window.tunebench.getPart('compare').run")
    page.click("#score-go")
    expect(page.locator("#compare-error")).to_contain_text("has no held-out pairs")
    (run_dir / "held-out.jsonl").write_text("{}\n")
    page.click("#score-go")
    expect(page.locator("#score-progress")).to_contain_text("Scoring, part 1 of 2: held-out pairs")
    page.click("#score-stop")
    expect(page.locator("#score-warnings")).to_contain_text("Scoring was stopped.")
    page.click("#score-go")
    accuracy, general = page.locator("#score-first table").first, page.locator("#score-first table").last
    expect(accuracy.locator("caption")).to_have_text("Held-out accuracy", timeout=20_000)
    expect(accuracy.locator(".figure")).to_have_text(
        [f"{share} (n 40)" for share in ("50% [40%, 60%]", "60% [50%, 70%]", "70% [60%, 80%]")]
    )
    assert accuracy.locator(".span b").last.get_attribute("style") == "left: 70%"
    expect(general.locator("th")).to_have_text(["Base", "SFT", "DPO ⚑ forgot"])
    page.locator("#score-all summary").click()
    expect(page.locator("#score-rest caption").last).to_have_text("Change against the base")
    page.set_viewport_size({"width": 820, "height": 900})
    accuracy.scroll_into_view_if_needed()
    expect(accuracy.locator(".figure").last).to_be_in_viewport(ratio=1)
    assert violations(page) == []
    page.set_viewport_size({"width": 1360, "height": 900})
    expect(page.locator("#score-warnings [role=alert]")).to_contain_text("DPO gets 9 general questions wrong")
    assert len(json.loads((run_dir / "scores.json").read_text())["scores"]) == 3


def test_text_that_attacks_appears_literally(app: App, visit: Visit) -> None:
    page = visit(app)
    choose_run(page, "hostile")
    page.fill("#prompt textarea", HOSTILE)
    generate(page)
    for lane in ("Base", "SFT", "DPO"):
        assert pane(page, lane).locator(".answer").evaluate("node => node.textContent").strip() == HOSTILE
    page.get_by_label("Highlight words that differ").check()
    page.click("#heatmap-first")
    page.wait_for_selector("#lanes mark[title]")
    own = Path(app.workspace) / "hostile.txt"
    own.write_text(HOSTILE)
    page.fill("#prompt-set input", str(own))
    page.keyboard.press("Enter")
    page.click("#blind-vote")
    page.wait_for_function("window.tunebench.getPart('question')?.ready")
    expect(page.locator("#vote-prompt p")).to_have_text(HOSTILE)
    expect(page.locator("#vote-status")).to_have_text("Both answers are identical. ↓ counts them as a tie.")
    assert page.locator("#lanes .answer").first.evaluate("node => node.textContent").strip() == HOSTILE
    assert page.evaluate("window.pwned") is None and page.locator("#lanes img, #vote-question img").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    assert page.locator("#lanes .answer").first.get_attribute("dir") == "auto"
    leave(page)


def test_a_failed_question_leaves_the_lanes(app: App, visit: Visit) -> None:
    """A prompt set that is not there is named, and nothing else happens."""
    page = visit(app)
    tab(page, "Compare")
    page.fill("#prompt-set input", "/nowhere/at/all.txt")
    page.keyboard.press("Enter")
    page.click("#blind-vote")
    expect(page.locator("#compare-problem")).to_contain_text("/nowhere/at/all.txt cannot be read")


def test_a_model_judges_beside_the_votes(app: App, visit: Visit) -> None:
    page = visit(app)
    votes = Path(app.workspace) / "votes" / "votes.jsonl"
    before = votes.read_bytes() if votes.exists() else b""
    choose_run(page, "fine")
    generate(page)
    page.get_by_text("LLM judge").click()
    page.get_by_role("button", name="Judge Base vs DPO").click()
    expect(page.locator("#compare-error")).to_contain_text("'' is not the URL of a judge. Enter one such as")
    judge = Judge(likes("Tie it"))
    page.fill("#judge-url", judge.endpoint.url)
    page.fill("#judge-model", "<b>judge-1</b>")
    page.fill("#judge-cases", "4")
    page.get_by_role("button", name="Judge Base vs DPO").click()
    expect(page.locator("#judge-results li")).to_have_text(
        "<b>judge-1</b>: Base 0 – 4 DPO (100% DPO, 95 % interval 51–100)."
    )
    judge.close()
    assert votes.read_bytes() == before if before else not votes.exists(), "no vote was given"
    page.reload()
    tab(page, "Compare")
    expect(page.locator("#judge-url")).to_have_value(judge.endpoint.url)


def test_a_page_just_opened_asks_the_run_that_is_loaded(app: App, visit: Visit) -> None:
    """Pressed as early as a person can: what the app drew when it started knew no run."""
    page = visit(app)
    for _ in range(3):
        page.reload()
        page.wait_for_function("window.tunebench?.getPart('buttons')")
        generate(page)


def test_axe_finds_nothing_while_looking_and_voting(app: App, visit: Visit) -> None:
    page = visit(app)
    generate(page)
    page.get_by_text("LLM judge").click()
    pane(page, "DPO").locator("summary").click()
    page.click("#heatmap-first")
    page.wait_for_selector("#lanes mark[title]")
    assert violations_in_each_scheme(page) == []
    page.click("#blind-vote")
    page.wait_for_selector("#vote-a:enabled")
    page.locator("body").press("x")
    page.wait_for_selector("#vote-better:visible")
    for width in (1360, 1024, 820, 680):
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0, width
    assert violations_in_each_scheme(page) == []
    page.set_viewport_size({"width": 1360, "height": 900})
    page.click("#vote-end")
    page.wait_for_function("!window.tunebench.getPart('question')")
