"""The Train tab: what the doctor says and what its button does; what one does with a chart; the word at the end."""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser.test_access import SCHEMES, violations
from tests.browser.test_page import begin, phase, settings, stop, tab
from tests.support.app_process import App

Visit = Callable[[App], Page]
LOSS = "figure[data-series='sft.loss']"


@pytest.fixture(scope="module")
def app(serve: Callable[..., App]) -> App:
    return serve("60", gpu=24, runs=("trivial",))


@pytest.fixture(scope="module")
def trivial_run(app: App) -> str:
    """The id of a finished run whose pairs were too easy."""
    (run,) = (app.workspace / "runs").glob("*-trivial-*")
    return run.name


@pytest.fixture
def train(app: App, trivial_run: str, visit: Visit) -> Page:
    """Train with that run."""
    page = visit(app)
    page.evaluate("run => window.tunebench.selectRun(run)", trivial_run)
    tab(page, "Train")
    page.wait_for_function(
        "run => window.tunebench.run === run && window.tunebench.getPart('findings')?.length", arg=trivial_run
    )
    return page


def test_without_memory_it_goes_on_with_less_and_ends_with_three_ways_out_a_click_each(app: App, visit: Visit) -> None:
    page = visit(app)
    run = begin(page, "crams")
    phase(page, "failed")
    tab(page, "Train")
    verdict = page.locator("#verdict")
    expect(verdict).to_contain_text("Out of memory in SFT at batch 1 and length 256 after 3 smaller settings")
    expect(page.locator("#notes")).to_contain_text("sft.batch_size: 4 → 2. out of memory at batch 4")
    ways = [
        ("Truncate rows at 128 tokens instead of 256", "SFT max length (tokens): 128 (changed from 256)"),
        ("Load the base model in 4 bit", "Base precision: nf4 (changed from auto)"),
        ("Rank 8 instead of 16", "LoRA rank: 8 (changed from 16)"),
    ]
    for words, said in ways:
        page.evaluate("run => window.tunebench.selectRun(run)", run)
        tab(page, "Train")
        verdict.get_by_role("button", name=words).click()
        expect(page.get_by_role("tab", name="Start", exact=True)).to_have_attribute("aria-selected", "true")
        expect(page.locator("#origin")).to_contain_text(said)


def test_the_doctor_names_it_and_one_click_fills_start(train: Page) -> None:
    doctor = train.locator("#doctor")
    expect(doctor.locator("h3")).to_contain_text("The pairs are too easy")
    expect(doctor.locator(".evidence")).to_contain_text("accuracy 1.00 from step 2 of 20 on")
    expect(train.locator("#doctor-status")).to_contain_text("Doctor: The pairs are too easy.")
    expect(train.locator("#try-again")).to_have_text("Try again with: the IPO loss and rank 8")
    greens = train.locator("#train .button:not(.small):visible")
    expect(greens).to_have_text(["Open Compare"])
    train.locator("#try-again").press("Enter")
    expect(train.get_by_role("tab", name="Start", exact=True)).to_have_attribute("aria-selected", "true")
    origin = train.locator("#origin")
    expect(origin).to_contain_text("LoRA rank: 8 (changed from 16)")
    expect(origin).to_contain_text("DPO loss: ipo (changed from sigmoid)")
    expect(train.locator("#plan")).to_contain_text("LoRA rank 8")
    begin(train, "again")
    phase(train, "done")
    expect(train.locator("#origin .origin")).to_have_count(0)
    recipe = train.evaluate("window.tunebench.getPart('facts').settings.find(group => group.title === 'DPO').rows")
    assert ["Loss", "ipo", "sigmoid"] in recipe


def test_settings_say_what_differs_from_the_preset(app: App, visit: Visit) -> None:
    page = visit(app)
    tab(page, "Runs")
    page.locator("#runs tbody tr", has_text="again").get_by_role("button").first.click()
    expect(page.locator("#settings summary")).to_have_text("Settings used (3 differ from the preset)")
    page.locator("#settings summary").click()
    expect(page.locator("#settings dd.changed")).to_have_text(["8 preset: 16", "16 preset: 32", "ipo preset: sigmoid"])


def test_charts_speak(train: Page) -> None:
    label = train.locator(f"{LOSS} .plot").get_attribute("aria-label") or ""
    assert label.startswith("SFT loss: latest 1.") and "; Held out latest" in label
    expect(train.locator(f"{LOSS} .caption")).to_contain_text("Perplexity 3.")
    expect(train.locator("figure[data-series='dpo.margin'] .caption")).to_contain_text("Chosen answers have gained 1.")
    expect(train.locator("figure[data-series='dpo.accuracy'] .caption")).to_contain_text(
        "100 % of the pairs in the latest steps ("
    )
    expect(train.locator("figure[data-series='dpo.chosen'] .caption")).to_contain_text("rejected −1")
    thick = train.locator(f"{LOSS} .value").inner_text()
    perplexity = re.search(r"Perplexity ([\d.]+);", train.locator(f"{LOSS} .caption").inner_text())
    assert perplexity and abs(float(perplexity[1]) - math.exp(float(thick))) < 0.06
    words = train.locator("#charts figure").evaluate_all("all => all.map(one => one.textContent).join()")
    assert "−80" in words and not re.search(r"(?<![\w−])-\d", words), "real minus signs"


def test_a_share_of_few_held_out_pairs_is_grey_and_says_of_how_many(train: Page) -> None:
    share = train.locator("figure[data-series='dpo.accuracy'] .caption span")
    for pairs, tone in ((17, ""), (16, ""), (15, "few")):
        train.evaluate(
            """pairs => {
                const held = window.tunebench.getPart("held_out");
                held["dpo.held.rows"] = held["dpo.held.rows"].map(([step]) => [step, pairs]);
                window.tunebench.drawCurves();
            }""",
            pairs,
        )
        expect(share).to_have_text(re.compile(rf"100 % \({pairs} of {pairs} pairs\)"))
        assert (share.get_attribute("class") or "") == tone


def test_before_the_first_step_it_says_what_it_does_and_charts_to_come_are_one_line(app: App, visit: Visit) -> None:
    page = visit(app)
    run = begin(page, "slow-waits")
    expect(page.locator("#verdict .detail.first")).to_have_text("Starting the worker")
    expect(page.locator("#later")).to_have_text("Charts appear with the first step.")
    (app.workspace / "runs" / run / "go").write_text("")
    page.wait_for_function("window.tunebench.series['sft.loss']?.length > 1")
    expect(page.locator("#verdict .detail")).to_have_count(0)
    expect(page.locator("#charts figure:visible")).to_have_count(1)
    expect(page.locator("#later")).to_have_text("DPO charts come after SFT.")
    stop(page)


def test_a_failed_run_leads_with_what_the_doctor_proposes(app: App, visit: Visit) -> None:
    page = visit(app)
    begin(page, "fails")
    phase(page, "failed")
    tab(page, "Train")
    resume = page.locator("#resume")
    expect(resume).to_have_class("button")
    blank = dict.fromkeys(("says", "where", "source"), "")
    said = {**blank, "key": "x", "title": "It is too fast", "evidence": [], "offer": "Half the rate"}
    page.evaluate("said => (tunebench.parts.findings = { mark: 1, value: [said] }, tunebench.applyUpdate({}), 0)", said)
    expect(resume).to_have_class("button small")
    expect(page.locator("#try-again")).to_have_class("button")


def test_a_failed_run_without_a_checkpoint_leads_with_its_settings(app: App, visit: Visit) -> None:
    page = visit(app)
    run = begin(page, "bug")
    phase(page, "failed")
    tab(page, "Train")
    expect(page.locator("#start-again")).to_have_count(0)
    expect(page.locator("#resume")).to_have_class("button")
    shutil.rmtree(app.workspace / "runs" / run / "checkpoints")
    expect(page.locator("#start-again")).to_have_class("button")
    expect(page.locator("#resume")).to_have_class("button small")
    page.locator("#start-again").press("Enter")
    expect(page.get_by_role("tab", name="Start", exact=True)).to_have_attribute("aria-selected", "true")
    expect(page.locator("#origin")).to_contain_text("Settings of bug")


def test_stopping_early_is_one_click_and_another_number_may_be_typed(app: App, visit: Visit) -> None:
    page = visit(app)
    settings(page, "SFT")
    field = page.locator("#sft-patience input")
    field.click()
    page.get_by_role("option", name="After 3 evaluations (usual)").click()
    settings(page, "DPO")
    page.locator("#dpo-patience input").fill("7")
    page.locator("#dpo-patience input").press("Enter")
    page.wait_for_timeout(500)
    begin(page, "early")
    phase(page, "done")
    found = page.evaluate(
        "window.tunebench.getPart('facts').settings.map(one => one.rows.find(row => row[0] === 'Early stopping'))"
    )
    assert [row[1] for row in found if row] == ["3", "7"]


@pytest.mark.parametrize("works", [True, False])
def test_a_command_is_copied_without_the_clipboard_of_a_secure_page(train: Page, works: bool) -> None:
    """As a page over plain http has none; where the old way fails as well, the text stands there to be copied by hand."""
    train.evaluate(
        "works => { Object.defineProperty(navigator, 'clipboard', { value: undefined });"
        " document.addEventListener('copy', () => { window.copied = getSelection().toString()"
        " || document.activeElement.value }); if (!works) document.execCommand = () => false; }",
        works,
    )
    tab(train, "Runs")
    row = train.locator("#runs tbody tr", has_text="trivial").first
    row.locator(".more").click()
    train.get_by_role("button", name="Copy as command").click()
    if works:
        expect(train.locator("#runs-status")).to_contain_text("Copied: python launch.py train ")
        assert train.evaluate("'Copied: ' + copied") == train.locator("#runs-status").inner_text()
        return
    text = train.locator("#runs .run-form input")
    expect(text).to_be_focused()
    assert text.input_value().startswith("python launch.py train ")
    assert (
        text.evaluate("one => [one.selectionStart, one.selectionEnd, one.value.length]")[1:]
        == [len(text.input_value())] * 2
    )


def menu(page: Page, item: str) -> None:
    """Choose from a chart's menu, by keyboard alone."""
    summary = page.locator(f"{LOSS} .menu summary")
    summary.focus()
    if page.locator(f"{LOSS} .menu").get_attribute("open") is None:
        summary.press("Enter")
    page.locator(f"{LOSS} [data-do={item}]").press("Enter")


def test_a_curve_as_table_and_files(train: Page, tmp_path: Path) -> None:
    menu(train, "table")
    rows = train.locator(f"{LOSS} .numbers tbody tr")
    expect(rows).to_have_count(24)
    expect(rows.nth(5).locator("td")).to_have_count(2)
    expect(train.locator(f"{LOSS} .plot")).to_be_hidden()
    assert violations(train) == []
    menu(train, "table")
    expect(train.locator(f"{LOSS} .plot svg").first).to_be_visible()
    for kind, begins in (("csv", b"step,Training,Held out\n1,2.7,\n"), ("png", b"\x89PNG")):
        with train.expect_download() as download:
            menu(train, kind)
        path = tmp_path / download.value.suggested_filename
        download.value.save_as(path)
        assert path.name.endswith(f"sft.loss.{kind}") and path.read_bytes().startswith(begins)


def test_zoom_survives_new_points(app: App, trivial_run: str, visit: Visit) -> None:
    page = visit(app)
    begin(page, "slow")
    page.wait_for_function("window.tunebench.series['sft.loss']?.length > 8")
    box = page.locator(f"{LOSS} .plot").bounding_box()
    assert box
    page.mouse.move(box["x"] + 60, box["y"] + 60)
    page.mouse.down()
    page.mouse.move(box["x"] + 110, box["y"] + 60)
    page.mouse.up()
    zoom = f'document.querySelector("{LOSS}").zoom'
    before, count = page.evaluate(zoom), page.evaluate("window.tunebench.points")
    assert before and before[1] - before[0] < 12
    page.wait_for_function("count => window.tunebench.points > count + 3", arg=count)
    assert page.evaluate(zoom) == before
    left = page.locator(f"{LOSS} .plot svg text", has_text="steps").text_content()
    assert left == f"{round(before[1])} steps"
    assert violations(page) == []
    page.locator(f"{LOSS} .plot").dblclick()
    assert page.evaluate(zoom) is None
    page.evaluate(f"{zoom} = [2, 6]")
    page.locator("#detail-charts > summary").click()
    page.locator("#hardware-charts > summary").click()
    page.wait_for_function(
        "window.tunebench.series['detail.rate']?.length > 5 && window.tunebench.series['hardware.memory']?.length > 1"
    )
    expect(page.locator("figure[data-series='hardware.watts'] .value")).to_have_text("38.0")
    expect(page.locator("#train-left")).to_contain_text("done at about")
    first = page.evaluate("window.tunebench.series['detail.rate'].map(point => point[0])")
    assert first == list(range(1, len(first) + 1)), "whole at first, then a row a step: none is lost or twice there"
    assert page.evaluate(zoom) == [2, 6]
    page.evaluate("run => window.tunebench.selectRun(run)", trivial_run)
    page.wait_for_function("run => window.tunebench.run === run", arg=trivial_run)
    assert page.evaluate(zoom) is None, "a zoom ends where another run is shown"
    stop(page)


def test_the_end_is_told_once_to_those_who_asked(app: App, trivial_run: str, visit: Visit) -> None:
    """Beside a run from before, for without any Train asks nobody."""
    page = visit(app)
    page.evaluate(
        "() => { window.said = []; window.Notification = class { constructor(title, more) { said.push([title, more.tag]) }"
        " static permission = 'granted'; static requestPermission() { return Promise.resolve('granted') } } }"
    )
    tab(page, "Train")
    page.locator("#notifications input[name=notify]").check()
    tab(page, "Start")
    run = begin(page, "fails")
    phase(page, "failed")
    page.wait_for_function("window.said.length")
    assert page.evaluate("said") == [["Failed: fails", run]]
    page.reload()
    page.wait_for_function("window.tunebench?.getPart('buttons')")
    tab(page, "Train")
    expect(page.locator("#notifications input[name=notify]")).to_be_checked()
    expect(page.locator("#notifications input[name=sound]")).not_to_be_checked()


def test_progress_and_end_are_told_while_an_older_run_is_looked_at(app: App, trivial_run: str, visit: Visit) -> None:
    page = visit(app)
    page.evaluate(
        "() => { window.said = []; window.Notification = class { constructor(title) { said.push(title) }"
        " static permission = 'granted' }; localStorage.setItem('tunebench.notify', 'yes') }"
    )
    run = begin(page, "fails-slowly-waits")
    page.evaluate("run => window.tunebench.selectRun(run)", trivial_run)
    page.wait_for_function("run => window.tunebench.run === run", arg=trivial_run)
    (app.workspace / "runs" / run / "go").touch()
    page.wait_for_function("/^[1-9][0-9]?% (SFT|DPO) · Tunebench$/.test(document.title)")
    expect(page.locator("#run-badge")).to_have_text("Running")
    page.wait_for_function("window.said.length")
    assert page.evaluate("[said, tunebench.run]") == [["Failed: fails-slowly-waits"], trivial_run]
    expect(page.locator("#run-badge")).to_have_text("Failed")


def test_the_tab_icon_fills(app: App, visit: Visit) -> None:
    page = visit(app)
    begin(page, "slow")
    page.wait_for_function("window.tunebench.series['sft.loss']?.length > 2")
    first = page.locator("link[rel~=icon]").first.get_attribute("href")
    page.wait_for_function(
        "first => document.querySelector('link[rel~=icon]').href !== first && document.title.includes('%')", arg=first
    )
    stop(page)


def test_an_odd_run_folder_is_one_row_and_no_trouble(serve: Callable[..., App], visit: Visit) -> None:
    app = serve("60")
    page = visit(app)
    expect(page.locator("#app-error")).to_be_hidden()
    bad = app.workspace / "runs" / "20260101-000000-bad"
    bad.mkdir(parents=True)
    (bad / "run.json").write_text("{}")
    (bad / "events.jsonl").mkdir()
    page.get_by_role("tab", name="Runs").click()
    expect(page.get_by_text("Cannot be shown").first).to_be_visible(timeout=20_000)
    expect(page.locator("#app-error")).to_be_hidden()


def test_the_report_opens_without_a_network(train: Page, tmp_path: Path) -> None:
    with train.expect_download() as download:
        train.locator("#report").press("Enter")
    file = tmp_path / download.value.suggested_filename
    download.value.save_as(file)
    page = train.context.new_page()
    page.set_content(file.read_text(encoding="utf-8"))
    expect(page.get_by_role("heading", level=1)).to_have_text("trivial")
    expect(page.locator(".finding")).to_contain_text("The pairs are too easy")
    expect(page.get_by_role("img")).to_have_count(5)
    for scheme in SCHEMES:
        page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        assert violations(page) == []
