"""Exports in the Runs tab: from a run's menu to a certificate, stopped, gone on with, and failed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.test_access import violations
from tests.browser.test_page import open_compare, tab
from tests.browser.test_runs import choose
from tests.support.app_process import App

Visit = Callable[[App], Page]


@pytest.fixture(scope="module")
def app(serve: Callable[..., App]) -> App:
    return serve("100", gpu=24, runs=("first",))


@pytest.fixture
def page(app: App, visit: Visit) -> Page:
    page = visit(app)
    tab(page, "Runs")
    page.wait_for_function("window.tunebench.getPart('runs')?.length === 1")
    return page


def open_form(page: Page) -> Locator:
    choose(page, "first", "Export…")
    form = page.locator(".export-form")
    expect(form).to_be_visible()
    return form


def begin_export(page: Page, name: str) -> Locator:
    """Start an export under this name, and return its place in the list."""
    form = open_form(page)
    form.get_by_label("Name").fill(name)
    form.get_by_role("button", name="Export", exact=True).click()
    return page.locator("article.export").filter(has=page.get_by_role("heading", name=name, exact=True))


def test_from_the_menu_of_a_run_to_its_certificate(app: App, page: Page) -> None:
    form = open_form(page)
    expect(form.locator("select")).to_have_value("DPO")
    expect(form.get_by_label("Name")).to_have_value("first-dpo")
    boxes = form.get_by_role("checkbox")
    assert [boxes.nth(at).is_checked() for at in range(5)] == [False] * 4 + [True]
    assert [boxes.nth(at).is_enabled() for at in range(5, 8)] == [shutil.which("llama-quantize") is not None] * 3
    form.locator("select").select_option("SFT")
    expect(form.get_by_label("Name")).to_have_value("first-sft")
    form.locator("select").select_option("DPO")
    boxes.nth(1).check()
    form.get_by_role("button", name="Export", exact=True).click()
    expect(form).to_have_count(0)
    made = page.locator("article.export")
    expect(made.locator(".badge").first).to_have_text("Exported")
    assert (app.workspace / "exports" / "first-dpo").is_dir()
    rows = made.locator("tbody tr")
    expect(rows).to_have_count(2)
    expect(rows.nth(0).locator("td")).to_have_text(
        ["144.8 MB", "14 of 16", "0.0003", "98.8% [98.6%, 98.9%]", "same but for ties"]
    )
    again = open_form(page)
    assert again.get_by_role("checkbox").nth(1).is_checked()  # the last choice
    assert violations(page) == []
    page.emulate_media(color_scheme="dark")
    page.reload()
    page.wait_for_function("window.tunebench?.getPart('buttons')")
    tab(page, "Runs")
    expect(rows).to_have_count(2)
    open_form(page)
    assert violations(page) == []
    for width in (1360, 820, 390):
        page.set_viewport_size({"width": width, "height": 900})
        page.wait_for_function("(node => node.scrollWidth <= node.clientWidth)(document.querySelector('#exports'))")


def test_one_that_is_stopped_goes_on(page: Page) -> None:
    made = begin_export(page, "holds-a-while")
    expect(made.get_by_role("progressbar")).to_have_attribute("aria-valuenow", "50")
    made.get_by_role("button", name="Stop holds-a-while").click()
    expect(made.locator(".badge").first).to_have_text("Stopped")
    made.get_by_role("button", name="Continue holds-a-while").click()
    expect(made.get_by_role("progressbar")).to_have_attribute("aria-valuenow", "50")
    made.get_by_role("button", name="Stop holds-a-while").click()
    expect(made.locator(".badge").first).to_have_text("Stopped")


def test_a_failed_one_says_why(page: Page) -> None:
    made = begin_export(page, "red")
    expect(made.locator(".badge").first).to_have_text("Failed")
    expect(made.get_by_role("alert")).not_to_be_empty()


def test_no_form_chosen_and_a_bad_name_are_said_in_place(page: Page) -> None:
    form = open_form(page)
    for at in range(5):
        form.get_by_role("checkbox").nth(at).uncheck()
    form.get_by_role("button", name="Export", exact=True).click()
    expect(form.get_by_role("alert")).not_to_be_empty()
    form.get_by_role("checkbox").nth(4).check()
    form.get_by_label("Name").fill("../elsewhere")
    form.get_by_role("button", name="Export", exact=True).click()
    expect(form).to_be_visible()
    assert form.get_by_label("Name").evaluate("input => input.validity.patternMismatch")
    form.get_by_role("button", name="Cancel").click()


def test_compare_leads_to_the_form_with_its_lane(app: App, visit: Visit) -> None:
    page = visit(app)
    open_compare(page, "first")
    page.get_by_role("button", name="Use this model… SFT").click()
    expect(page.locator(".export-form select")).to_have_value("SFT")
    expect(page.locator(".export-form").get_by_label("Name")).to_have_value("first-sft")


def test_the_strength_set_in_compare_is_exported(app: App, visit: Visit) -> None:
    page = visit(app)
    open_compare(page, "first")
    pane = page.locator("#lanes [data-lane='DPO']")
    pane.locator("summary").click()
    strength = pane.get_by_label("Strength")
    strength.focus()
    for _ in range(8):
        strength.press("ArrowLeft")
    page.get_by_role("button", name="Use this model… DPO").click()
    form = page.locator(".export-form")
    expect(form.locator("select")).to_have_value("DPO at 60 %, as set in Compare")
    form.get_by_label("Name").fill("as-set")
    form.get_by_role("button", name="Export", exact=True).click()
    made = page.locator("article.export").first
    expect(made.locator("h3")).to_have_text("as-set")
    expect(made.locator(".badge").first).to_have_text("Exported")
    newest = max((app.workspace / "export-jobs").iterdir())
    lane = json.loads((newest / "run.json").read_text())["job"]["lane"]
    assert (lane["name"], lane["strength"], lane["other"]) == ("DPO at 60%", 0.6, None)


def test_the_page_shows_the_exports_of_before(app: App, page: Page) -> None:
    assert Path(app.workspace / "export-jobs").is_dir()
    expect(page.locator("article.export")).to_have_count(4)
