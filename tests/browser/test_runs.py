"""The Runs tab: what one does with runs that are over, by mouse and by keyboard."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable

import pytest
from playwright.sync_api import Locator, Page, expect

from bench.harness import fixtures
from tests.browser.test_access import violations
from tests.browser.test_page import tab
from tests.support.app_process import App
from trainer_core.runs.workspace import Workspace

Visit = Callable[[App], Page]


@pytest.fixture(scope="module")
def app(serve: Callable[..., App]) -> App:
    """Three finished runs; the second has another beta, and the third is made from the first."""
    app = serve("100", gpu=24, runs=("first",))
    (run,) = (one.name for one in (app.workspace / "runs").iterdir())
    again(app, run, "second", dpo={"beta": 0.3})
    again(app, run, "third", data={"held_out": str(app.workspace / "runs" / run / "held-out.jsonl")})
    return app


def again(app: App, run: str, name: str, **changes: dict[str, object]) -> None:
    """A copy of a run's folder whose recipe differs."""
    made = shutil.copytree(app.workspace / "runs" / run, app.workspace / "runs" / f"20300101-000000-{name}")
    file = json.loads((made / "run.json").read_text())
    file["job"]["recipe"]["name"] = name
    for part, values in changes.items():
        file["job"]["recipe"][part] |= values
    (made / "run.json").write_text(json.dumps(file))


@pytest.fixture
def runs(app: App, visit: Visit) -> Page:
    page = visit(app)
    tab(page, "Runs")
    page.wait_for_function("window.tunebench.getPart('runs')?.length === 3")
    return page


def row(page: Page, name: str) -> Locator:
    return page.locator("#runs tbody tr:not(.run-form)").filter(has=page.get_by_role("button", name=name, exact=True))


def choose(page: Page, name: str, deed: str) -> None:
    """From a run's menu, by keyboard alone."""
    row(page, name).locator(".more").press("Enter")
    page.get_by_role("button", name=deed, exact=True).press("Enter")


def test_a_row_says_what_a_run_is(runs: Page) -> None:
    first = row(runs, "first")
    expect(first.locator(".lineage")).to_have_text("SmolLM2 135M → SFT → DPO")
    expect(first.locator(".sparkline")).to_be_visible()
    expect(first).to_contain_text("24 + 20")
    expect(first).to_contain_text("0.1 MB")
    expect(runs.locator("#runs-count")).to_have_text("3 runs")
    runs.fill("#runs-find", "sec")
    expect(runs.locator("#runs tbody tr:visible")).to_have_count(1)
    expect(runs.locator("#runs-count")).to_have_text("1 of 3 runs")


def test_a_long_list_is_drawn_as_it_comes_into_sight_and_searched_whole(
    serve: Callable[..., App], visit: Visit
) -> None:
    app = serve("100")
    fixtures.copy_run(fixtures.make_run(Workspace(app.workspace), "first", 4), 249)
    page = visit(app)
    tab(page, "Runs")
    rows = page.locator("#runs tbody tr")
    expect(page.locator("#runs-count")).to_have_text("250 runs")
    expect(rows).to_have_count(100)
    for there in (200, 250):
        rows.last.scroll_into_view_if_needed()
        expect(rows).to_have_count(there)
    page.fill("#runs-find", "copy-0000")
    expect(rows).to_have_count(1)
    expect(page.locator("#runs-count")).to_have_text("1 of 250 runs")


def test_chosen_runs_over_each_other(runs: Page) -> None:
    expect(runs.locator("#overlay")).to_be_hidden()
    row(runs, "first").locator(".choose").check()
    expect(runs.locator("#overlay .caption")).to_have_text("first.")
    row(runs, "second").locator(".choose").check()
    expect(runs.locator("#overlay .caption")).to_have_text("second and first.")
    expect(runs.locator("#overlay-differ tbody tr")).to_have_count(1)
    expect(runs.locator("#overlay-differ tbody tr")).to_have_text("DPO beta0.30.1")
    expect(runs.locator("#overlay-names span")).to_have_text(["second", "first"])
    runs.select_option("#overlay-curve", "sft.loss")
    figure = runs.locator("#overlay figure")
    expect(figure.locator("h3")).to_have_text("SFT loss")
    expect(figure.locator("path.soft")).to_have_count(2)
    assert "second latest 1." in (figure.locator(".plot").get_attribute("aria-label") or "")
    assert violations(runs) == []
    runs.click("#overlay-clear")
    expect(runs.locator("#overlay")).to_be_hidden()


def test_name_note_and_pin(app: App, runs: Page) -> None:
    choose(runs, "first", "Rename or add a note")
    runs.fill("#runs .run-form input", "<b>best</b>")
    runs.fill("#runs .run-form textarea", "keep this one")
    assert violations(runs) == []
    runs.locator("#runs .run-form input").press("Enter")
    expect(row(runs, "<b>best</b>").locator(".note")).to_have_text("keep this one")
    choose(runs, "<b>best</b>", "Pin")
    expect(runs.locator("#runs tbody tr").first).to_contain_text("★")
    expect(runs.locator("#recent button b", has_text="<b>best</b>")).to_have_count(1)
    choose(runs, "<b>best</b>", "Rename or add a note")
    runs.fill("#runs .run-form input", "")
    runs.get_by_role("button", name="Save", exact=True).click()
    expect(row(runs, "first")).to_contain_text("★")
    choose(runs, "first", "Unpin")
    expect(row(runs, "first")).not_to_contain_text("★")


def test_the_menu_closes_by_escape(runs: Page) -> None:
    more = row(runs, "first").locator(".more")
    more.press("Enter")
    expect(more).to_have_attribute("aria-expanded", "true")
    assert violations(runs) == []
    runs.keyboard.press("Escape")
    expect(more).to_have_attribute("aria-expanded", "false")
    expect(runs.locator(".popup")).to_have_count(0)
    expect(more).to_be_focused()


def test_settings_are_used_again(runs: Page) -> None:
    choose(runs, "second", "Use these settings")
    expect(runs.locator("#origin")).to_contain_text("Settings of second")
    expect(runs.locator("#plan")).to_contain_text("β 0.3")


def test_a_run_as_a_command(app: App, visit: Visit, runs: Page) -> None:
    runs.context.grant_permissions(["clipboard-read", "clipboard-write"])
    choose(runs, "second", "Copy as command")
    file = app.workspace / "runs" / "20300101-000000-second" / "run.json"
    expect(runs.locator("#runs-status")).to_have_text(f"Copied: python launch.py train {file}")
    assert runs.evaluate("navigator.clipboard.readText()") == f"python launch.py train {file}"


def test_thrown_away_brought_back_and_gone(app: App, runs: Page) -> None:
    choose(runs, "first", "Move to trash")
    expect(runs.locator("#runs .run-form .warn")).to_have_text(
        "⚠ Trained from this run and unusable without it: third."
    )
    runs.get_by_role("button", name="Cancel", exact=True).click()
    choose(runs, "third", "Move to trash")
    expect(runs.locator("#runs .run-form .warn")).to_have_count(0)
    runs.locator("#runs .danger").press("Enter")
    expect(runs.locator("#runs-count")).to_have_text("2 runs")
    runs.locator("#trash summary").click()
    expect(runs.locator("#trash summary")).to_contain_text("Trash: 1 run, 0.1 MB")
    assert violations(runs) == []
    runs.locator("#trash").get_by_role("button", name="Restore").click()
    expect(runs.locator("#runs-count")).to_have_text("3 runs")
    expect(runs.locator("#trash")).to_be_hidden()
    choose(runs, "third", "Move to trash")
    runs.locator("#runs .danger").click()
    runs.get_by_role("button", name="Empty trash").press("Enter")
    runs.locator("#trash .danger:visible").press("Enter")
    expect(runs.locator("#trash")).to_be_hidden()
    assert not (app.workspace / "trash" / "20300101-000000-third").exists()
    assert sorted(path.name for path in (app.workspace / "runs").iterdir())[-1] == "20300101-000000-second"


def test_a_run_on_its_way_to_the_trash_says_so_and_an_empty_table_where_its_runs_are(app: App, visit: Visit) -> None:
    """Last: nothing is left of the runs afterwards."""
    runs = visit(app)
    tab(runs, "Runs")
    expect(row(runs, "first")).to_be_visible()
    for other in runs.evaluate("tunebench.getPart('runs').filter(run => run.name !== 'first').map(run => run.id)"):
        runs.evaluate("run => tunebench.sendEvent('trashrun', { run })", other)
        runs.wait_for_function("run => !tunebench.getPart('runs').some(one => one.id === run)", arg=other)
    row(runs, "first").locator(".more").click()
    runs.get_by_role("button", name="Move to trash", exact=True).click()
    said = "document.querySelector('#runs .danger').click(), document.querySelector('#runs .danger').textContent"
    assert runs.evaluate(said) == "Moving…"
    expect(row(runs, "first")).to_have_attribute("aria-busy", "true")
    expect(runs.locator("#runs-empty")).to_be_visible(timeout=20_000)
    expect(runs.locator("#runs-empty")).to_have_text("All runs are in the trash below.")
    expect(runs.locator("#recent")).to_have_text("None yet")
    expect(runs.locator("#run-badge")).to_have_text("Idle")
    tab(runs, "Compare")
    expect(runs.get_by_role("heading", name="Nothing to compare yet")).to_be_visible()
    expect(runs.locator("#generate")).to_be_hidden()
    assert violations(runs) == []
    runs.click("#compare-start")
    expect(runs.get_by_role("tab", name="Start", exact=True)).to_have_attribute("aria-selected", "true")
