"""Import in the Compare tab: refused, done, a lane that answers and can be exported, and removed."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser.test_access import violations_in_each_scheme
from tests.browser.test_page import open_compare, tab
from tests.support.app_process import App

Visit = Callable[[App], Page]
LANE = "mine · imported"


@pytest.fixture(scope="module")
def app(serve: Callable[..., App]) -> App:
    return serve("100", gpu=24, runs=("first",))


def start_import(page: Page, source: Path, name: str) -> None:
    page.get_by_label("Folder or Hub id").fill(str(source))
    page.get_by_label("Name (optional)").fill(name)
    page.get_by_role("button", name="Import", exact=True).click()


def test_what_was_trained_elsewhere_is_a_lane_beside_a_run(app: App, visit: Visit, tmp_path: Path) -> None:
    for name in ("good", "bad"):
        (tmp_path / name).mkdir()
    page = visit(app)
    open_compare(page, "first")
    page.get_by_role("button", name="Import a model trained elsewhere").click()
    start_import(page, tmp_path / "missing", "mine")
    expect(page.locator("#import-problem .verdict")).to_contain_text("missing")
    start_import(page, tmp_path / "bad", "broken")
    lines = page.locator("#import-list li")
    expect(lines.first).to_contain_text("adapter_model.safetensors changed")
    start_import(page, tmp_path / "good", "mine")
    expect(lines.first).to_contain_text("trained elsewhere")
    expect(page.locator("#import-problem .verdict")).to_have_count(0)
    assert violations_in_each_scheme(page) == []
    page.locator("#lane-select input").click()
    page.get_by_role("option", name=LANE, exact=True).click()
    page.locator("#generate").click()
    expect(page.locator("#lanes")).to_contain_text(LANE)
    page.locator("#import-chosen input").click()
    page.get_by_role("option", name=re.compile(r"^mine · \d{8}$")).click()
    page.get_by_role("button", name="Move to trash").click()
    expect(lines).to_have_count(1)
    tab(page, "Runs")
    expect(page.locator("#trash")).to_contain_text("mine")
