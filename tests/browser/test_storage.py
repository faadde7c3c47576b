"""What takes space, in the Runs tab: the list, freeing one of it, a move to another folder and back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser.test_access import violations
from tests.browser.test_page import tab
from tests.support.app_process import App

Visit = Callable[[App], Page]


@pytest.fixture(scope="module")
def app(serve: Callable[..., App]) -> App:
    started = serve("100", gpu=24, runs=("first",))
    for name in ("old", "kept"):
        (started.workspace / "exports" / name).mkdir(parents=True)
        (started.workspace / "exports" / name / "model.gguf").write_bytes(b"x" * 2_000_000)
    return started


@pytest.fixture
def page(app: App, visit: Visit) -> Page:
    page = visit(app)
    tab(page, "Runs")
    page.locator("#storage > summary").click()
    expect(page.locator("#storage-places .place")).to_have_count(3)
    return page


def test_one_is_freed_after_a_question_and_the_list_is_new(app: App, page: Page) -> None:
    group = page.locator(".stored").filter(has=page.get_by_role("heading", name="Exports"))
    expect(group.locator("li")).to_have_count(2)
    group.get_by_role("button", name="Free old").click()
    assert (app.workspace / "exports" / "old").is_dir(), "only asked"
    group.get_by_role("button", name="Delete 2.0 MB").click()
    expect(group.locator("li")).to_have_count(1)
    assert not (app.workspace / "exports" / "old").exists() and (app.workspace / "exports" / "kept").is_dir()
    expect(page.locator("#storage-problem")).to_be_empty()


def test_runs_move_to_another_folder_and_back(app: App, page: Page, tmp_path: Path) -> None:
    place = page.locator("[data-kind=runs]")
    place.get_by_role("button", name="Move… Runs").click()
    place.get_by_label("Move Runs into folder").fill(str(tmp_path / "drive"))
    place.get_by_role("button", name="Move", exact=True).click()
    expect(page.locator("#storage-said")).to_have_text("Runs: moved.")
    expect(place).to_contain_text(str(tmp_path / "drive"))
    assert (tmp_path / "drive" / "runs").is_dir() and (app.workspace / "runs").is_symlink()
    expect(page.locator("#runs tbody tr[data-run]")).to_have_count(1)
    page.reload()
    page.wait_for_function("window.tunebench?.getPart('buttons')")
    tab(page, "Runs")
    expect(page.locator("#runs tbody tr[data-run]")).to_have_count(1)
    page.locator("#storage > summary").click()
    place.get_by_role("button", name="Move… Runs").click()
    place.get_by_role("button", name="Back into the workspace").click()
    expect(page.locator("#storage-places")).not_to_contain_text(str(tmp_path / "drive"))
    assert not (app.workspace / "runs").is_symlink() and (app.workspace / "runs").is_dir()


def test_a_folder_that_cannot_be_is_refused_with_the_reason(app: App, page: Page) -> None:
    place = page.locator("[data-kind=exports]")
    place.get_by_role("button", name="Move… Exports").click()
    place.get_by_label("Move Exports into folder").fill(str(app.workspace / "inside"))
    place.get_by_role("button", name="Move", exact=True).click()
    expect(page.locator("#storage-said")).to_contain_text("Nothing was moved")
    assert not (app.workspace / "exports").is_symlink()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_can_be_read_at_every_width(page: Page, scheme: str) -> None:
    page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
    page.reload()
    page.wait_for_function("window.tunebench?.getPart('buttons')")
    tab(page, "Runs")
    page.locator("#storage > summary").click()
    page.locator("[data-kind=exports]").get_by_role("button", name="Move… Exports").click()
    assert violations(page) == []
    for width in (1440, 820, 390):
        page.set_viewport_size({"width": width, "height": 900})
        page.wait_for_function("(node => node.scrollWidth <= node.clientWidth)(document.querySelector('#storage'))")
