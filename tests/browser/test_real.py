"""The main job as a newcomer does it, with nothing scripted: a real worker trains the starter model and three lanes answer."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import App
from trainer_core import runs

pytestmark = pytest.mark.slow
TRAINING_MS = 900_000
POINTS = "window.tunebench.series['sft.loss']?.length ?? 0"


@pytest.mark.timeout(1500)
def test_one_click_to_three_answers_through_a_reload_and_a_killed_app(
    serve: Callable[..., App], visit: Callable[[App], Page]
) -> None:
    app = serve("real")
    page = visit(app)
    page.click("#go")
    page.wait_for_function(f"{POINTS} > 2", timeout=TRAINING_MS)
    run_id, points = page.evaluate("window.tunebench.run"), page.evaluate(POINTS)

    other = visit(app)
    other.reload()
    other.wait_for_function(f"{POINTS} >= {points} && window.tunebench.run === '{run_id}'")

    run_dir = app.workspace / "runs" / run_id
    before = runs.read_heartbeat(run_dir)
    app.kill()
    assert runs.alive(before), "the worker outlives the app"
    app.start()
    other.reload()
    other.wait_for_function(f"window.tunebench?.is('run')?.active && window.tunebench.run === '{run_id}'")
    assert runs.read_heartbeat(run_dir).pid == before.pid and len(list(run_dir.parent.iterdir())) == 1  # type: ignore[union-attr]

    compare = page.get_by_role("tab", name="Compare", exact=True)
    expect(compare).to_have_attribute("aria-selected", "true", timeout=TRAINING_MS)
    page.wait_for_function(
        "window.tunebench.is('compare')?.phase === 'ready' && window.tunebench.ask", timeout=TRAINING_MS
    )
    lanes = page.locator("#lanes .lane")
    expect(lanes.locator("h3")).to_have_text(["Base", "SFT", "DPO"])
    said = lanes.locator(".answer").all_inner_texts()
    assert all(len(text.split()) > 2 for text in said) and len(set(said)) > 1
