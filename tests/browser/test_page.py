"""The page with the scripted worker: the one click, what survives, and what is said when something goes wrong."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from playwright.sync_api import Page, Route, expect

from launcher.version import read_version
from tests.support.app_process import App
from tests.support.page_quiet import wait_until_quiet, watch_requests
from tests.support.page_texts import script_codes, text_placeholders
from trainer_core.planning.presets import starter_recipe
from ui.format import page_text, page_texts

Visit = Callable[[App], Page]


@pytest.fixture(scope="module")
def app(serve: Callable[..., App]) -> App:
    return serve("25", gpu=24)


def begin(page: Page, name: str) -> str:
    """Start a run with this name, which tells the scripted worker what to do; returns its id once it is at work."""
    page.wait_for_function(
        "document.querySelector('#plan').textContent.includes('steps of')"
    )  # the form has its kept values from here on
    settings(page, "Run")
    page.fill("#recipe-name input, #recipe-name textarea", name)
    before = page.evaluate("window.tunebench.run")  # it may have the same name
    page.click("#go")
    shown = "([name, before]) => window.tunebench.run.includes(name) && window.tunebench.run !== before"
    page.wait_for_function(shown, arg=[name, before])
    return str(page.evaluate("window.tunebench.run"))


def open_compare(page: Page, name: str) -> None:
    """As the button of a run does; returns when its lanes have answered and the form is theirs."""
    watch_requests(page)
    page.wait_for_function("name => window.tunebench?.getPart('recent')?.some((one) => one.name === name)", arg=name)
    run = page.evaluate("name => window.tunebench.getPart('recent').find((one) => one.name === name).id", name)
    page.evaluate("run => window.tunebench.sendEvent('opencompare', { run })", run)
    answered = (
        "name => window.tunebench.getPart('compare')?.run.includes(name) && window.tunebench.getPart('compare').done"
    )
    page.wait_for_function(answered, arg=name, timeout=30_000)
    wait_until_quiet(page)


@pytest.fixture
def running(app: App, visit: Visit) -> Iterator[Page]:
    """A page on Train with a run that has some steps and many to go; it is stopped afterwards."""
    page = visit(app)
    begin(page, "slow")
    page.wait_for_function("window.tunebench.getPart('run').active && window.tunebench.series['sft.loss']?.length > 3")
    yield page
    stop(page)


def stop(page: Page) -> None:
    """The run at work, whichever is shown."""
    going = "(window.tunebench.getPart('active') ?? window.tunebench.getPart('run')).active"
    if page.evaluate(f"!{going}"):
        return
    page.click("#stop")
    page.click("#stop-confirm")
    page.wait_for_function(f"!{going}")


def phase(page: Page, wanted: str) -> None:
    page.wait_for_function("wanted => window.tunebench.getPart('run')?.phase === wanted", arg=wanted, timeout=30_000)


def tab(page: Page, name: str) -> None:
    page.get_by_role("tab", name=name, exact=True).click()


def settings(page: Page, part: str) -> None:
    """Open one page of All settings, and wait until it is there to stay: Gradio mounts it at its first opening and sends
    each field its value once more a frame later, over what only a program is quick enough to have typed by then.
    """
    form = page.locator("#settings-form")
    if not form.get_by_role("tab", name=part, exact=True).is_visible():
        form.get_by_role("button", name="All settings").click()
    form.get_by_role("tab", name=part, exact=True).click()
    model = {"Run": "recipe"}.get(part, part.lower())
    page.locator(f"#settings-form [id^='{model}-']:visible").first.wait_for()
    page.evaluate(
        "() => new Promise(done => setTimeout(() => requestAnimationFrame(() => requestAnimationFrame(done)), 50))"
    )


def test_a_script_renders_texts_as_python_does(app: App, visit: Visit) -> None:
    page, found = visit(app), page_texts()
    asked = [
        [code, {name: value for name in text_placeholders(found[code])}]
        for code in script_codes()
        for value in (1, 12345)
    ]
    rendered = page.evaluate("asked => asked.map(([code, params]) => pageText(code, params))", asked)
    assert rendered == [page_text(code, **params) for code, params in asked]
    assert page.evaluate("pageText('later.code')") == "later.code"


def test_one_click_trains_and_shows_three_answers(app: App, visit: Visit) -> None:
    page = visit(app)
    steps = starter_recipe().sft.max_steps
    expect(page.locator("#plan")).to_contain_text(f"{steps} steps of 4 examples")
    page.click("#go")
    expect(page.get_by_role("tab", name="Train", exact=True)).to_have_attribute("aria-selected", "true")
    phase(page, "done")
    expect(page.get_by_role("tab", name="Compare", exact=True)).to_have_attribute(
        "aria-selected", "true", timeout=10_000
    )
    page.wait_for_function(
        "window.tunebench.getPart('compare')?.phase === 'ready' && window.tunebench.ask", timeout=20_000
    )
    lanes = page.locator("#lanes .lane")
    expect(lanes.locator("h3")).to_have_text(["Base", "SFT", "DPO"])
    assert all(len(text) > 40 for text in lanes.locator(".answer").all_inner_texts())
    expect(page.locator("#prompt textarea")).to_have_value("I keep forgetting to water my plants. What can I do?")
    assert (
        page.title() == "✓ Done · Tunebench"
    )  # test_train.py reads the titles of a run at work, which this one may outrun
    tab(page, "Train")
    proof = page.locator("#reference-check").inner_text()
    assert proof.startswith("Step-0 check ✓ margin 0.000 (must be 0), loss 0.693 (must be 0.693 = ln 2)")
    summary = page.locator("figure[data-series='dpo.loss'] .plot").get_attribute("aria-label") or ""
    assert summary.startswith("DPO loss: latest 0.") and ", 20 steps; Held out latest 0." in summary


def test_generate_next_prompt_and_stop(app: App, visit: Visit) -> None:
    """Lanes grow together; Stop ends all of them and Generate works again at once."""
    page = visit(app)
    tab(page, "Compare")
    page.click("#next-prompt")
    expect(page.locator("#prompt textarea")).to_have_value("How can I make Monday mornings less awful?")
    page.click("#generate")
    page.wait_for_function("window.tunebench.getPart('compare')?.phase === 'answering'", timeout=20_000)
    page.wait_for_function("['Base', 'SFT', 'DPO'].every(lane => window.tunebench.text[lane]?.length > 5)")
    page.click("#cancel")
    page.wait_for_function("window.tunebench.getPart('compare').phase === 'ready'", timeout=3_000)
    page.fill("#prompt textarea", " ")
    page.click("#generate")
    expect(page.locator("#compare-problem [role=alert]")).to_have_text(
        "The prompt is empty. Enter one, or press Next for a sample prompt."
    )
    page.fill("#prompt textarea", "Why is the sky blue?")
    page.click("#generate")
    page.wait_for_function("window.tunebench.getPart('compare').phase === 'answering'")
    expect(page.locator("#compare-problem [role=alert]")).to_have_count(0)


def test_reload_keeps_the_curves(running: Page) -> None:
    tab(running, "Runs")
    before = running.evaluate("window.tunebench.points")
    running.wait_for_function("before => window.tunebench.points > before + 2", arg=before)
    running.reload()
    running.wait_for_function("window.tunebench?.series['sft.loss']?.length > 3")
    expect(running.get_by_role("tab", name="Runs", exact=True)).to_have_attribute("aria-selected", "true")
    tab(running, "Train")
    first = running.evaluate("window.tunebench.series['sft.loss'][0][0]")
    drawn = running.locator("figure[data-series='sft.loss'] path.raw").get_attribute("d") or ""
    assert first == 1 and drawn.count("L") >= before, "the curve begins at step 1 again, with the steps from before"
    tab(running, "Start")
    expect(running.locator("#go")).to_be_disabled()
    expect(running.locator("#stop")).to_be_enabled()


def test_two_pages_agree_and_a_second_run_is_refused(running: Page, app: App) -> None:
    other = running.context.new_page()
    other.route("**/component_server/**", lambda route: route.abort())  # a page that has not heard of the run
    other.goto(app.address)
    expect(other.locator("#go")).to_be_disabled()
    other.evaluate("document.querySelector('#go').disabled = false")  # as in a page that was open before the run began
    other.click("#go")
    run = running.evaluate("window.tunebench.run")
    expect(other.locator("#start-problem [role=alert]")).to_contain_text(f"Run {run} is already running. Stop it first")
    other.unroute("**/component_server/**")
    other.wait_for_function("window.tunebench.points > 3")
    assert abs(other.evaluate("window.tunebench.points") - running.evaluate("window.tunebench.points")) <= 12
    assert other.evaluate("window.tunebench.run") == run
    expect(other.locator("#go")).to_have_text("Running…")


def test_killed_app_is_found_again_with_the_same_run(serve: Callable[..., App], visit: Visit) -> None:
    app = serve("2")
    page = visit(app)
    run = begin(page, "long")
    page.wait_for_function("window.tunebench.series['sft.loss']?.length > 2")
    tab(page, "Runs")
    page.fill("#runs-find", "long")
    [worker] = workers(run)
    app.kill()
    expect(page.locator("#lost-connection")).to_be_visible(timeout=8_000)
    assert workers(run) == [worker], "the training goes on without the app"
    app.start()
    expect(page.locator("#lost-connection")).to_be_hidden(timeout=8_000)
    page.wait_for_function("window.tunebench.getPart('run').active")
    assert page.evaluate("window.tunebench.run") == run and workers(run) == [worker]
    expect(page.locator("#runs-find")).to_have_value("long")
    stop(page)
    phase(page, "stopped")


def workers(run: str) -> list[int]:
    """The processes that work on a run."""
    found = [(p.pid, p.info["cmdline"] or []) for p in psutil.process_iter(["cmdline"])]
    return [pid for pid, args in found if "tests.support.fake_worker" in args and run in " ".join(args)]


def test_stop_asks_first_and_keeps_what_was_learned(running: Page) -> None:
    running.click("#stop")
    running.click("#stop-cancel")
    expect(running.locator("#stop-confirm")).to_be_hidden()
    assert running.evaluate("window.tunebench.getPart('run').active")
    running.click("#stop")
    running.click("#stop-confirm")
    phase(running, "stopped")
    expect(running.locator("#verdict")).to_contain_text("Stopped at your request")
    expect(running.locator("#verdict")).to_contain_text("The SFT adapter is saved.")
    running.click("#open-compare")
    expect(running.locator("#lanes h3")).to_have_text(["Base", "SFT"], timeout=10_000)


def test_a_run_that_does_not_answer_can_be_ended_now(app: App, visit: Visit) -> None:
    page = visit(app)
    begin(page, "hangs-kept")
    page.wait_for_function(
        "window.tunebench.getPart('run')?.active && window.tunebench.series['sft.loss']?.length >= 5"
    )
    expect(page.locator("#kill")).to_be_hidden()
    page.click("#stop")
    page.click("#stop-confirm")
    page.click("#kill")
    page.click("#kill-cancel")
    expect(page.locator("#kill-question")).to_be_hidden()
    assert page.evaluate("window.tunebench.getPart('run').active"), "it was only asked"
    page.click("#kill")
    page.click("#kill-confirm")
    phase(page, "stopped")
    expect(page.locator("#verdict")).to_contain_text("You killed this run. Resume continues from SFT step 5.")
    expect(page.locator("#kill")).to_be_hidden()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("fails", "The loss became NaN at DPO step 8. Halve the learning rate (now 5e-6) and start again."),
        ("bug", "ValueError: <b>something</b> nobody thought of"),
        ("killed", "The worker was killed by SIGKILL."),
    ],
)
def test_failed_run_says_why(app: App, visit: Visit, name: str, said: str) -> None:
    page = visit(app)
    begin(page, name)
    phase(page, "failed")
    expect(page.locator("#verdict [role=alert]")).to_contain_text(said)
    expect(page.locator("#run-badge")).to_have_text("Failed")
    assert page.title() == "✗ Failed · Tunebench"
    expect(page.locator("#go")).to_be_enabled()


def test_compare_that_cannot_load_says_why(app: App, visit: Visit) -> None:
    page = visit(app)
    begin(page, "noload")
    expect(page.locator("#compare-failed")).to_contain_text("has no adapter_model.safetensors", timeout=30_000)


def test_model_text_is_shown_as_it_is(app: App, visit: Visit) -> None:
    page = visit(app)
    begin(page, "hostile")
    answer = page.locator("#lanes .answer").first
    said = '<img src=x onerror="window.pwned=1"> ${window.pwned=1} {{window.pwned=1}} `back` </script>'
    expect(answer).to_contain_text(said, timeout=30_000)
    assert page.evaluate("window.pwned") is None
    assert answer.evaluate("node => node.children.length") == 0
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_form_full_of_nonsense(app: App, visit: Visit) -> None:
    """One message for each wrong field, naming it; no run is made."""
    page = visit(app)
    before = page.evaluate("window.tunebench.getPart('buttons').runs")
    settings(page, "LoRA")
    page.fill("#lora-rank input, #lora-rank textarea", "0")
    settings(page, "SFT")
    page.fill("#sft-learning_rate input, #sft-learning_rate textarea", "fast")
    page.fill("#sft-epochs input, #sft-epochs textarea", "-1")
    settings(page, "DPO")
    page.fill("#dpo-beta input, #dpo-beta textarea", "")
    page.fill("#dpo-accumulation input, #dpo-accumulation textarea", "2.5")
    page.click("#go")
    lines = page.locator("#start-problem [role=alert] li")
    for name in ("LoRA rank", "SFT learning rate", "SFT epochs", "DPO beta", "DPO gradient accumulation"):
        expect(lines.filter(has_text=f"{name}: ")).to_have_count(1)
    expect(lines).to_have_count(5)
    expect(page.locator("#settings-form [aria-invalid]")).to_have_count(5)
    rank = page.locator("#lora-rank")
    expect(rank.locator("input, textarea")).to_be_focused()  # the first one, on another page than the one that was open
    expect(rank.locator(".wrong")).to_have_text("LoRA rank: must be between 1 and 512, you gave 0.")
    rank.locator("input, textarea").fill("8")
    page.keyboard.press("Tab")
    expect(rank.locator(".wrong, [aria-invalid]")).to_have_count(0)
    assert page.evaluate("window.tunebench.getPart('buttons').runs") == before


def test_a_model_that_cannot_be_is_said_at_once(app: App, visit: Visit) -> None:
    page = visit(app)
    page.fill("#model input", "asdf qwer")
    page.keyboard.press("Enter")
    expect(page.locator("#model .wrong")).to_contain_text("it is not a Hub id of the form owner/name")
    expect(page.locator("#model [aria-invalid]")).to_be_visible()


def test_suggested_settings_are_said_and_taken_back(app: App, visit: Visit) -> None:
    page = visit(app)
    expect(page.locator("#memory .edits")).to_have_count(0)  # nothing was edited yet
    expect(page.locator("#plan")).to_contain_text("steps of 4 pairs")
    page.click("[data-suggest]")
    expect(page.locator("#origin li").filter(has_text="DPO batch size: ")).to_contain_text("(changed from 4)")
    expect(page.locator("#plan")).not_to_contain_text("steps of 4 pairs")
    page.click("#undo")
    expect(page.locator("#plan")).to_contain_text("steps of 4 pairs")
    expect(page.locator("#origin li")).to_have_count(0)
    expect(page.locator("#undo")).to_be_hidden()


HOSTILE = "<img src=x onerror=window.pwned=1>${window.pwned=1}{{window.pwned=1}}"


@pytest.mark.parametrize(("field", "value"), [("#data input", "nowhere/pairs.jsonl"), ("#model input", HOSTILE)])
def test_bad_data_or_model_is_named(app: App, visit: Visit, field: str, value: str) -> None:
    page = visit(app)
    before = page.evaluate("window.tunebench.getPart('buttons').runs")
    page.fill(field, value)
    page.keyboard.press("Enter")
    page.click("#go")
    expect(page.locator("#start-problem [role=alert]")).to_contain_text(value)
    assert page.evaluate("window.pwned") is None
    assert page.evaluate("window.tunebench.getPart('buttons').runs") == before


def test_choices_survive_a_reload(app: App, visit: Visit) -> None:
    page = visit(app)
    settings(page, "LoRA")
    page.fill("#lora-rank input, #lora-rank textarea", "24")
    page.get_by_label("SFT only").check()
    expect(page.locator("#plan")).to_contain_text("LoRA rank 24")
    expect(page.locator("#plan")).not_to_contain_text("DPO")
    page.reload()
    expect(page.locator("#plan")).to_contain_text("LoRA rank 24")
    expect(page.get_by_label("SFT only")).to_be_checked()
    page.get_by_label("DPO only").check()
    expect(page.locator("#plan")).to_contain_text("DPO")
    expect(page.locator("#plan")).to_contain_text("LoRA rank 24")  # read from an input that was never on screen


def test_runs_table_opens_an_older_run(app: App, visit: Visit) -> None:
    page = visit(app)
    tab(page, "Runs")
    row = page.locator("#runs tbody tr").last
    expect(row).to_contain_text("Finished")
    expect(row).to_contain_text("24 + 20")
    row.get_by_role("button").first.click()
    expect(page.get_by_role("tab", name="Train", exact=True)).to_have_attribute("aria-selected", "true")
    expect(page.locator("#verdict")).to_contain_text("The SFT and DPO adapters are saved.")


def test_device_card(app: App, visit: Visit) -> None:
    page = visit(app)
    meter = page.get_by_role("meter")
    expect(meter).to_have_attribute("aria-valuetext", "21.9 of 24.0 GB free")
    expect(meter).to_have_attribute("aria-valuenow", "9")
    expect(page.locator("#device-split")).to_contain_text("Others 2.1 GB")


def test_nothing_can_be_typed_before_the_last_choices_are_back(app: App, visit: Visit) -> None:
    page = visit(app)
    held, waiting = list[Route](), True
    page.route("**/run/predict*", lambda route: held.append(route) if waiting else route.continue_())
    page.reload()
    page.wait_for_selector("#go")
    page.wait_for_function("document.getElementById('go').inert && document.getElementById('settings-form').inert")
    waiting = False
    for route in held:
        route.continue_()
    page.wait_for_function("document.querySelector('#plan').textContent.includes('steps of')")
    page.wait_for_function("!document.getElementById('go').inert && !document.getElementById('settings-form').inert")


def test_nothing_is_kept_or_offered(app: App, visit: Visit) -> None:
    page = visit(app)
    status = {
        path: page.request.get(app.root + path).status for path in ("/gradio_api/runs", "/monitoring", "/manifest.json")
    }
    assert status["/gradio_api/runs"] == 404 and status["/monitoring"] != 200 and status["/manifest.json"] == 200
    assert page.locator("footer:visible").count() == 0
    assert page.evaluate(
        "document.fonts.check('400 14px \"IBM Plex Sans\"') && document.fonts.check('700 14px \"IBM Plex Sans\"')"
    )


def test_a_quiet_page_costs_little(app: App, visit: Visit) -> None:
    """Idle: less than 2 KB a second over the wire."""
    page = visit(app)
    session = page.context.new_cdp_session(page)
    session.send("Network.enable")
    sizes: list[float] = []
    session.on("Network.loadingFinished", lambda event: sizes.append(event["encodedDataLength"]))
    page.wait_for_timeout(2_000)
    sizes.clear()
    page.wait_for_timeout(5_000)
    assert 3 <= len(sizes) <= 7, "about one question a second"
    assert sum(sizes) < 10_000, json.dumps(sizes)


def test_path_by_keyboard_alone(app: App, visit: Visit) -> None:
    page = visit(app)
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "go":
            break
    assert page.evaluate("document.activeElement.id") == "go"
    page.keyboard.press("Enter")
    page.wait_for_function("window.tunebench.getPart('run').active")
    phase(page, "done")


def test_workspace_holds_the_run(app: App) -> None:
    """What the page showed is what the folder says."""
    folders = [path.parent for path in Path(app.workspace).glob("runs/*/run.json")]
    assert folders and all(
        json.loads((folder / "run.json").read_text())["job"]["kind"] == "train" for folder in folders
    )


def test_pause_and_resume_go_on_where_it_was(app: App, visit: Visit) -> None:
    page = visit(app)
    begin(page, "slow")
    page.wait_for_function("window.tunebench.series['sft.loss']?.length > 3")
    page.click("#pause")
    phase(page, "paused")
    tab(page, "Train")
    expect(page.locator("#verdict h3")).to_have_text("Paused")
    expect(page.locator("#run-badge")).to_have_text("Paused")
    left = page.evaluate("window.tunebench.series['sft.loss'].map(point => point[0])")
    page.click("#resume")
    page.wait_for_function("at => window.tunebench.series['sft.loss']?.length > at", arg=len(left))
    steps = page.evaluate("window.tunebench.series['sft.loss'].map(point => point[0])")
    assert steps == list(range(1, len(steps) + 1)), "no step is lost or made twice"
    stop(page)


def test_a_failed_run_can_be_gone_on_with(app: App, visit: Visit) -> None:
    page = visit(app)
    begin(page, "fails")
    phase(page, "failed")
    tab(page, "Train")
    page.click("#resume")
    phase(page, "done")


def test_a_report_to_paste_is_one_click_away(app: App, visit: Visit) -> None:
    page = visit(app)
    assert page.inner_text("#version") == read_version()
    expect(page.locator("#problem-report")).to_be_hidden()
    page.click("#report-problem")
    block = page.locator("#problem-report textarea")
    expect(block).to_have_value(re.compile(rf"^Tunebench\s+{re.escape(read_version())}\b"), timeout=60_000)
    assert re.search(r"^Packages\s.*\btorch 2\.", block.input_value(), re.MULTILINE)
    assert "could not be read" not in block.input_value()
