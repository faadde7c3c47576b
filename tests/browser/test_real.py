"""The main job with nothing scripted: one click trains the starter model, through a reload and the death of the app."""

from __future__ import annotations

import json
import math
from collections.abc import Callable

import psutil
import pytest
from playwright.sync_api import Page, expect

from tests.browser.test_page import settings, tab
from tests.support.app_process import App
from trainer_core.models.starter import CONVERSION, NAME, SOURCE, is_starter_ready
from trainer_core.planning.presets import starter_recipe
from trainer_core.runs.heartbeat import read_heartbeat
from trainer_core.runs.workspace import Workspace

RUN_SECONDS = 1200


@pytest.mark.parametrize("starter", ["tiny", pytest.param("real", marks=pytest.mark.long)])
def test_one_click_trains_for_real(serve: Callable[..., App], visit: Callable[[App], Page], starter: str) -> None:
    app = serve("real")
    if starter == "tiny":
        put_tiny_starter(Workspace(app.workspace))
    page = visit(app)
    page.click("#go")
    steps(page, 2)
    page.reload()
    page.wait_for_function("window.tunebench?.points >= 2")
    run, seen = page.evaluate("[window.tunebench.run, window.tunebench.points]")
    worker = psutil.Process(read_heartbeat(Workspace(app.workspace).runs / run).pid)  # type: ignore[union-attr]
    worker.suspend()  # or a tiny run is done before the app is back, and Compare opens only for who has watched
    app.kill()
    app.start()
    page.wait_for_function("run => window.tunebench?.run === run && window.tunebench.failing === 0", arg=run)
    worker.resume()
    steps(page, seen + 1)
    page.wait_for_load_state()  # Gradio may reload a page whose server came back
    page.wait_for_function("run => window.tunebench?.run === run", arg=run)
    expect(page.get_by_role("tab", name="Train", exact=True)).to_have_attribute("aria-selected", "true")
    page.wait_for_function(
        "window.tunebench?.getPart('compare')?.lanes.every(lane => lane.stats)", timeout=RUN_SECONDS * 1000
    )
    expect(page.get_by_role("tab", name="Compare", exact=True)).to_have_attribute("aria-selected", "true")
    lanes = page.locator("#lanes .lane")
    expect(lanes.locator("h3")).to_have_text(["Base", "SFT", "DPO"])
    assert all(text.strip() for text in lanes.locator(".answer").all_inner_texts())
    check_curves(page)
    tab(page, "Train")
    expect(page.locator("#reference-check")).to_contain_text("Step-0 check ✓ margin 0.000 (must be 0), loss 0.693")
    check_answers(page)


def put_tiny_starter(workspace: Workspace) -> None:
    """Random weights in the starter's place, which all but the quality of the answers is as good with."""
    from tests.support import tiny

    folder = tiny.model(workspace.models / NAME)
    (folder / SOURCE).write_text(json.dumps({"conversion": CONVERSION}))
    assert is_starter_ready(workspace)


def steps(page: Page, count: int) -> None:
    page.wait_for_function("count => window.tunebench?.points >= count", arg=count, timeout=RUN_SECONDS * 1000)


def check_answers(page: Page) -> None:
    """At four checkpoints at least, each answered anew and shown beside the base's answer."""
    points = page.evaluate("window.tunebench.getPart('samples').points")
    asked = [at for at, point in enumerate(points) if point["answers"]]
    assert len(asked) >= 4 and {points[at]["stage"] for at in asked} == {"sft", "dpo"}
    slider = page.locator("#samples-slider")
    for at in asked:
        slider.fill(str(at))
        expect(page.locator("#samples-step")).to_have_text(points[at]["where"])
        expect(page.locator("#samples-answers .sample").nth(0)).to_contain_text("Base")
        expect(page.locator("#samples-answers .sample").nth(1)).to_contain_text(points[at]["where"])


def check_curves(page: Page) -> None:
    """Finite, whole, and going where learning goes."""
    series = page.evaluate("window.tunebench.series")
    values = {name: [value for _, value in points] for name, points in series.items()}
    assert all(math.isfinite(value) for curve in values.values() for value in curve)
    assert [step for step, _ in series["sft.loss"]] == list(range(1, (starter_recipe().sft.max_steps or 0) + 1)), (
        "no point is lost or repeated"
    )
    assert values["dpo.loss"][-1] < values["dpo.loss"][0] and values["dpo.margin"][-1] > 0


@pytest.mark.long
def test_a_run_that_diverges_is_ended_and_its_retry_goes_well(
    serve: Callable[..., App], visit: Callable[[App], Page]
) -> None:
    """SFT at a hundred times the rate, on the page; the one button of the failure fills Start with what then goes well."""
    page = visit(serve("real"))
    page.wait_for_function("document.querySelector('#plan').textContent.includes('steps of')")
    page.get_by_label("SFT only").check()
    settings(page, "SFT")
    for name, value in (("learning_rate", "0.1"), ("max_steps", "8"), ("max_length", "96")):
        page.fill(f"#sft-{name} input, #sft-{name} textarea", value)
        page.locator(f"#sft-{name} input, #sft-{name} textarea").blur()
    expect(page.locator("#plan")).to_contain_text("8 steps of 4 examples, rate 0.1")
    page.click("#go")
    ended(page, "failed")
    expect(page.locator("#verdict [role=alert]")).to_contain_text("SFT diverged")
    expect(page.locator("#doctor h3")).to_contain_text("The run is diverging")
    page.locator("#retry").press("Enter")
    expect(page.locator("#origin")).to_contain_text("SFT learning rate: 5e-4 (changed from 0.1)")
    sick = page.evaluate("window.tunebench.run")
    page.click("#go")
    page.wait_for_function("sick => window.tunebench.run !== sick", arg=sick)
    ended(page, "done")
    assert page.evaluate("window.tunebench.getPart('findings')") == []


def ended(page: Page, phase: str) -> None:
    page.wait_for_function(
        "phase => window.tunebench.getPart('run')?.phase === phase", arg=phase, timeout=RUN_SECONDS * 1000
    )
