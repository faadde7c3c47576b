"""Sample answers on Train: answers along the steps, an earlier step kept or compared, and model text that cannot break out."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from tests.browser.test_access import violations
from tests.browser.test_page import begin, phase, settings, stop, tab
from tests.support.app_process import App
from trainer_core.runs import checkpoints

Visit = Callable[[App], Page]


@pytest.fixture(scope="module")
def app(serve: Callable[..., App]) -> App:
    return serve("60", gpu=24)


@pytest.fixture
def samples(app: App, visit: Visit) -> Page:
    """Train with a finished run of its own."""
    page = visit(app)
    finished(app, page, "samples")
    page.wait_for_function("window.tunebench.getPart('samples')?.points.length === 10")
    return page


def finished(app: App, page: Page, name: str) -> None:
    """Train with a run at its end. Who watches Train to the end is taken to Compare, so this looks elsewhere before it begins."""
    run = begin(page, f"{name}-waits")
    expect(page.get_by_role("tab", name="Train", exact=True)).to_have_attribute("aria-selected", "true")
    tab(page, "Runs")
    expect(page.get_by_role("tab", name="Runs", exact=True)).to_have_attribute("aria-selected", "true")
    (app.workspace / "runs" / run / "go").touch()
    phase(page, "done")
    tab(page, "Train")


def go(page: Page, point: int) -> None:
    """The slider, by its keys. What is not on the screen yet cannot be focused, and the keys would go nowhere."""
    slider = page.locator("#samples-slider")
    expect(slider).to_be_visible()
    slider.focus()
    slider.press("Home")
    for _ in range(point):
        slider.press("ArrowRight")


def answer(page: Page) -> str:
    return page.locator("#samples-answers .sample").nth(1).locator("p").inner_text()


def test_the_slider_shows_what_was_answered_then(samples: Page) -> None:
    expect(samples.locator("#samples-step")).to_have_text("DPO step 20")
    go(samples, 1)
    expect(samples.locator("#samples-step")).to_have_text("SFT step 10")
    expect(samples.locator("#samples-slider")).to_have_attribute("aria-valuetext", "SFT step 10")
    assert answer(samples).startswith("sft 10: Pick one fixed moment")
    expect(samples.locator("#samples-answers .base p").first).to_contain_text("Watering plants is an important task.")
    expect(samples.locator("#samples-answers h4")).to_have_text(["What about plants?", "<b>Why</b> is it so?"])
    expect(samples.locator("figure[data-series='sft.loss'] .shown-mark")).to_have_count(1)
    expect(samples.locator("figure[data-series='dpo.loss'] .shown-mark")).to_have_count(0)
    expect(samples.locator("figure[data-series='sft.loss'] .best-mark")).to_have_count(1)
    assert violations(samples) == []


def test_an_earlier_step_is_kept_and_the_last_one_again(app: App, samples: Page) -> None:
    run = app.workspace / "runs" / samples.evaluate("window.tunebench.run")
    expect(samples.locator("#samples-note")).to_contain_text("This step is the saved adapter.")
    expect(samples.locator("#samples-keep")).to_have_count(0)
    go(samples, 6)
    samples.locator("#samples-keep").press("Enter")
    expect(samples.locator("#samples-note")).to_contain_text("This step is the saved adapter.")
    expect(samples.locator("#samples-step")).to_have_text("DPO step 8")
    weights = run / "adapter-dpo" / "adapter_model.safetensors"
    assert weights.read_text() == "dpo 8" and checkpoints.verify(run / "adapter-dpo").step == 8
    go(samples, 9)
    samples.locator("#samples-keep").click()
    expect(samples.locator("#samples-note")).to_contain_text("This step is the saved adapter.")
    assert weights.read_text() == "dpo 20"


def test_an_earlier_step_is_a_lane_in_compare(samples: Page) -> None:
    go(samples, 1)
    samples.locator("#samples-compare").click()
    lanes = samples.locator("#lanes .lane h3")
    expect(lanes).to_have_text(["Base", "SFT", "DPO", "SFT step 10"], timeout=20_000)
    samples.wait_for_function("window.tunebench.getPart('compare')?.lanes.every(lane => lane.stats)", timeout=20_000)
    before = samples.evaluate("window.tunebench.ask")
    samples.click("#generate")
    samples.wait_for_function("before => window.tunebench.ask !== before", arg=before)
    expect(lanes).to_have_text(["Base", "SFT", "DPO", "SFT step 10"])


def test_a_run_at_work_shows_the_newest_and_no_buttons(app: App, visit: Visit) -> None:
    page = visit(app)
    run = begin(page, "slowly-holds")
    tab(page, "Train")
    expect(page.locator("#samples-step")).to_have_text("Base model, before training")
    (app.workspace / "runs" / run / "go").touch()
    expect(page.locator("#samples-step")).to_have_text(re.compile(r"SFT step \d+"), timeout=20_000)
    expect(page.locator("#samples-buttons button")).to_have_count(0)
    assert violations(page) == []
    stop(page)


def test_what_a_model_says_is_only_text(app: App, visit: Visit) -> None:
    page = visit(app)
    finished(app, page, "hostile")
    go(page, 9)
    expect(page.locator("#samples-answers .sample p").first).to_contain_text('<img src=x onerror="window.pwned=1">')
    assert page.evaluate("window.pwned") is None


def test_prompts_are_edited_on_start(app: App, visit: Visit) -> None:
    page = visit(app)
    page.wait_for_function("document.querySelector('#plan').textContent.includes('steps of')")
    settings(page, "Run")
    page.fill("#recipe-samples textarea", "First one?\n\nA second, with a comma?")
    begin(page, "prompts")
    rows = page.evaluate_handle("window.tunebench.getPart('facts').settings.find(group => group.title === 'Run').rows")
    assert ["Sample prompts", "First one?, A second, with a comma?", None] in rows.json_value()
