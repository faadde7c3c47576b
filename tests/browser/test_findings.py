"""Three real runs that go wrong: the page names each while it runs, and the one button beside it leads to a healthy run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.support.app_process import App
from tests.trainer_core.diagnosis.test_doctor_sick_runs import SICK, recipe_of
from trainer_core.jobs.supervisor import Supervisor
from trainer_core.runs.workspace import Workspace

pytestmark = pytest.mark.long
RUN_MS = 1_200_000


@pytest.mark.parametrize("name", SICK)
def test_caught_live_and_healthy_after_one_click(
    serve: Callable[..., App], visit: Callable[[App], Page], tmp_path: Path, name: str
) -> None:
    app = serve("real")  # each its own: where a run has ended, Compare holds the device
    page = visit(app)
    beside = Supervisor(Workspace(app.workspace), device="cpu")
    sick = beside.control.start(recipe_of(tmp_path, name))
    beside.close()
    page.get_by_role("tab", name="Train", exact=True).click()
    page.wait_for_function("sick => window.tunebench.run === sick", arg=sick)
    if SICK[name].key == "failed":
        page.wait_for_function("window.tunebench.getPart('run').phase === 'failed'", timeout=RUN_MS)
        button = page.locator("#retry")
    else:
        found = "key => window.tunebench.getPart('run').active && window.tunebench.getPart('findings')[0]?.key === key"
        page.wait_for_function(found, arg=SICK[name].key, timeout=RUN_MS)
        page.locator("#stop").click()
        page.locator("#stop-confirm").click()
        page.wait_for_function("window.tunebench.getPart('run').phase === 'stopped'", timeout=RUN_MS)
        button = page.locator("#try-again")
    button.press("Enter")
    expect(page.locator("#origin")).to_contain_text("changed from")
    page.click("#go")
    page.wait_for_function("sick => window.tunebench.run !== sick", arg=sick)
    page.wait_for_function("window.tunebench.getPart('run').phase === 'done'", timeout=RUN_MS)
    assert page.evaluate("window.tunebench.getPart('findings')") == []
