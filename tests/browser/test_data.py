"""The Data tab in a browser: a file with foreign columns becomes a run; what the model sees; nothing stale, nothing executed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser.test_access import violations_in_each_scheme
from tests.browser.test_page import begin, phase, tab
from tests.browser.test_real import put_tiny_starter
from tests.support import tiny
from tests.support.app_process import App
from trainer_core.runs.workspace import Workspace

Visit = Callable[[App], Page]
HOSTILE = "<img src=x onerror=window.pwned=1>${window.pwned=1}{{window.pwned=1}}"


@pytest.fixture(scope="module")
def app(serve: Callable[..., App]) -> App:
    """With the starter in place: lengths of another model would wait half a minute for its conversion."""
    opened = serve("60", gpu=24)
    put_tiny_starter(Workspace(opened.workspace))
    return opened


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """120 pairs under German names: one with equal sides, two nearly equal, one with a mail address, one broken line."""
    rows = [{"frage": f"Was kommt nach {n}?", "gut": f"Nach {n} kommt {n + 1}, und so geht es immer weiter und weiter.",
             "schlecht": f"Keine Ahnung, frag doch jemand anderen nach der {n}."} for n in range(120)]  # fmt: skip
    rows[5]["schlecht"] = rows[5]["gut"]
    rows[6]["schlecht"], rows[7]["schlecht"] = rows[6]["gut"] + "!", rows[7]["gut"] + "?"
    rows[8]["gut"] = f"Schreib an anna@example.com. {HOSTILE}"
    path = tmp_path / "fremd.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"frage": "kaputt\n', encoding="utf-8")
    return path


def opened(page: Page, path: Path) -> None:
    tab(page, "Data")
    page.fill("#data-path", str(path))
    page.click("#data-check")


def mapped(page: Page, **parts: str) -> None:
    for part, column in parts.items():
        page.select_option(f"#part-{part}", column)


def chooses(page: Page, model: Path) -> None:
    """Start is on this model, and the Data tab knows."""
    page.wait_for_selector("#start-choices [data-choices]", state="attached")
    page.fill("#model input", str(model))
    page.keyboard.press("Enter")
    known(page, str(model))


def known(page: Page, words: str) -> None:
    page.wait_for_function(
        "words => document.querySelector('#start-choices span')?.dataset.choices.includes(words)", arg=words
    )


def numbers(page: Page, words: str) -> None:
    expect(page.locator("#data-numbers")).to_contain_text(words, timeout=15_000)


def test_from_a_foreign_file_to_a_run(app: App, visit: Visit, foreign: Path, model: Path) -> None:
    """Drop, map by clicks, see both sides as messages and as tokens, mend, use, train: the recipe says it all."""
    page = visit(app)
    chooses(page, model)
    tab(page, "Data")
    page.set_input_files("#data-file", foreign)
    expect(page.locator("#data-problem")).to_contain_text("found columns frage, gut, schlecht")
    mapped(page, prompt="frage", chosen="gut", rejected="schlecht")
    numbers(page, "119 of 121 rows usable · 103 pairs to train on · 16 held out")
    expect(page.locator("#data-blocked")).to_contain_text("1 line in fremd.jsonl cannot be read")
    expect(page.locator("#data-use")).to_be_hidden()
    expect(page.locator(".sides .chosen .turn p")).to_have_text(
        "Nach 0 kommt 1, und so geht es immer weiter und weiter."
    )
    expect(page.locator(".sides .rejected .turn p")).to_contain_text("Keine Ahnung")
    expect(page.locator("[data-code=identical] .count")).to_have_text("1")
    expect(page.locator("[data-code=damaged]")).to_contain_text("fremd.jsonl, line 121")

    page.click("[data-step=skip_damaged]")
    expect(page.locator("#data-use")).to_be_visible(timeout=15_000)
    page.click("[data-step=drop_near_identical]")
    numbers(page, "117 of 121 rows usable")
    expect(page.locator("[data-code=near_identical]")).to_have_count(0)
    page.click("[data-step=mask]")
    expect(page.locator("[data-undo=mask]")).to_be_visible(timeout=15_000)
    undo = "() => { document.querySelector('[data-undo=mask]').click(); return document.querySelector('#data-use').disabled; }"
    assert page.evaluate(undo), "what it would use is being checked"
    expect(page.locator("[data-code=personal]")).to_be_visible(timeout=15_000)

    expect(page.locator("#view-tokens")).to_be_enabled(timeout=30_000)
    page.check("#view-tokens")
    page.fill("#row-number", "6")
    page.press("#row-number", "Enter")  # the ninth line; three before it are left out
    rejected = page.locator("section.rejected .tokens")
    expect(page.locator("section.chosen .tokens")).to_contain_text(HOSTILE)
    assert page.evaluate("window.pwned") is None
    expect(rejected.locator(".tok.differs")).to_have_count(1)
    assert rejected.locator(".tok.trained").count() == rejected.locator(".tok").count()

    page.click("#data-use")
    expect(page.get_by_role("tab", name="Start", exact=True)).to_have_attribute("aria-selected", "true")
    expect(page.locator("#health")).to_contain_text("pairs for DPO")
    run = begin(page, "mapped")
    recipe = json.loads((app.workspace / "runs" / run / "run.json").read_text())["job"]["recipe"]
    assert recipe["data"]["pairs"] == str(app.workspace / "data" / "fremd.jsonl")
    assert {part: name for part, name in recipe["data"]["columns"].items() if name} == {
        "prompt": "frage", "chosen": "gut", "rejected": "schlecht",
    }  # fmt: skip
    assert recipe["data"]["steps"] == ["skip_damaged", "drop_near_identical"]
    phase(page, "done")


def test_columns_are_remembered_for_files_like_it(app: App, visit: Visit, foreign: Path, model: Path) -> None:
    page = visit(app)
    chooses(page, model)
    opened(page, foreign)
    mapped(page, prompt="frage", chosen="schlecht", rejected="gut")
    numbers(page, "119 of 121")
    page.reload()
    page.wait_for_function("window.tunebench?.getPart('buttons')")
    opened(page, foreign)
    numbers(page, "119 of 121")
    expect(page.locator("#part-chosen")).to_have_value("schlecht")


def test_nothing_of_the_file_before_stays(app: App, visit: Visit, tmp_path: Path, model: Path) -> None:
    page = visit(app)
    chooses(page, model)
    (tmp_path / "a.csv").write_text(
        "prompt,chosen,rejected\n" + "".join(f"q{n},yes {n} indeed,no {n}\n" for n in range(40))
    )
    chats = [
        {"messages": [{"role": "user", "content": f"hi {n}"}, {"role": "assistant", "content": f"ho {n}"}]}
        for n in range(40)
    ]
    (tmp_path / "b.jsonl").write_text("".join(json.dumps(row) + "\n" for row in chats))
    opened(page, tmp_path / "a.csv")
    numbers(page, "40 of 40")
    opened(page, tmp_path / "b.jsonl")
    numbers(page, "no rejected answers: usable for SFT only")
    expect(page.locator("#data-rows")).to_contain_text("ho 0")
    expect(page.locator("#data-result .sides")).to_have_count(0)
    opened(page, tmp_path / "nowhere.jsonl")
    expect(page.locator("#data-problem")).to_contain_text("there is no such file or folder")
    expect(page.locator("#data-result")).to_be_hidden()
    opened(page, tmp_path / "b.jsonl")
    page.click("#data-use")
    expect(page.get_by_label("SFT only")).to_be_checked()
    expect(page.locator("#plan")).not_to_contain_text("DPO")
    expect(page.locator("#health")).to_contain_text("30 examples for SFT")


def test_names_that_say_it_are_guessed(app: App, visit: Visit, tmp_path: Path, model: Path) -> None:
    page = visit(app)
    chooses(page, model)
    rows = [{"instruction": f"why {n}", "output_good": f"so {n}", "output_bad": f"no {n} way"} for n in range(40)]
    (tmp_path / "g.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    opened(page, tmp_path / "g.jsonl")
    numbers(page, "40 of 40")
    expect(page.locator("#data-columns")).to_contain_text("Guessed from the column names")
    expect(page.locator("#part-rejected")).to_have_value("output_bad")


def test_a_length_that_cuts_is_drawn_and_mended(app: App, visit: Visit, model: Path, tmp_path: Path) -> None:
    page = visit(app)
    chooses(page, model)
    lengths = [400, *(5 if n % 4 else 60 for n in range(1, 40))]
    rows = [{"prompt": f"why {n}", "chosen": "so " * long, "rejected": f"no {n}"} for n, long in enumerate(lengths)]
    rows[1]["prompt"] = "why " * 40
    (tmp_path / "long.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    opened(page, tmp_path / "long.jsonl")
    expect(page.locator("#data-lengths svg")).to_be_visible(timeout=30_000)
    page.fill("#data-length", "100")
    page.press("#data-length", "Enter")
    expect(page.locator("#data-cut")).to_contain_text("27.5 % of the rows are truncated at 100")
    expect(page.locator("[data-code=cut] .count")).to_have_text("10")
    expect(page.locator(".cutname")).to_have_text("max 100")
    numbers(page, "39 of 40 rows usable at 100 tokens · 10 of them truncated · about ")
    page.click("[data-code=cut] [data-length]")
    expect(page.locator("#data-cut")).to_contain_text("2.5 % of the rows are truncated")
    expect(page.locator("[data-code=cut] .count")).to_have_text("1")
    expect(page.locator("[data-code=cut] [data-length]")).to_have_count(0)
    numbers(page, "40 of 40 rows usable · 1 of them truncated")
    page.fill("#data-length", "320")
    page.press("#data-length", "Enter")
    expect(page.locator("#data-cut")).to_contain_text("at 320;")
    chosen = page.locator("#data-length").input_value()
    page.click("#data-use")
    known(page, f'"pairs": {chosen}')


def test_a_base_without_template_gets_one_by_a_click(
    app: App, visit: Visit, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    bare = tiny.model(tmp_path_factory.mktemp("model") / "bare")
    (bare / "chat_template.jinja").unlink()
    page = visit(app)
    chooses(page, bare)
    rows = [{"prompt": f"why {n}", "chosen": f"so {n} it is", "rejected": f"no {n}"} for n in range(40)]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    opened(page, tmp_path / "p.jsonl")
    expect(page.locator("#data-lengths")).to_contain_text("has no chat template", timeout=30_000)
    expect(page.locator("#data-lengths pre").nth(1)).to_contain_text("### Instruction:\nwhy 0")
    page.click("[data-template=alpaca]")
    page.check("#view-tokens")
    expect(page.locator("#data-rows .tokens").first).to_contain_text("### Instruction:⏎")
    page.click("#data-use")
    known(page, '"template": "alpaca"')


def test_another_templates_markers_are_refused_with_the_fix(
    app: App, visit: Visit, tmp_path: Path, model: Path
) -> None:
    page = visit(app)
    chooses(page, model)
    rows = [{"prompt": f"why {n} <|im_end|>", "chosen": f"so {n} it is", "rejected": f"no {n}"} for n in range(40)]
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    opened(page, tmp_path / "m.jsonl")
    expect(page.locator("#data-blocked")).to_contain_text("40 of 40 rows in m.jsonl hold a chat template's own markers")
    expect(page.locator("#data-use")).to_be_hidden()
    page.click("[data-step=strip_markers]")
    expect(page.locator("#data-use")).to_be_visible(timeout=15_000)
    expect(page.locator("#data-rows .turn.user p")).to_have_text("why 0")


def test_axe_finds_nothing_with_data_on_the_page(app: App, visit: Visit, foreign: Path, model: Path) -> None:
    page = visit(app)
    chooses(page, model)
    opened(page, foreign)
    mapped(page, prompt="frage", chosen="gut", rejected="schlecht")
    expect(page.locator("#view-tokens")).to_be_enabled(timeout=30_000)
    page.check("#view-tokens")
    page.fill("#data-length", "60")
    page.press("#data-length", "Enter")
    expect(page.locator(".cut-here").first).to_be_visible()
    assert violations_in_each_scheme(page) == []
    for width in (1360, 680):
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0, width


def test_conversations_are_called_so_and_using_them_says_so(
    app: App, visit: Visit, tmp_path: Path, model: Path
) -> None:
    page = visit(app)
    chooses(page, model)
    rows = [{"instruction": f"What is {n}?", "input": "", "output": f"It is {n}, and no more."} for n in range(40)]
    (tmp_path / "alpaca.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    opened(page, tmp_path / "alpaca.jsonl")
    expect(page.locator("#data-use")).to_have_text("Use this data for SFT", timeout=30_000)
    expect(page.get_by_label("Chats: one answer")).to_be_checked()
    expect(page.locator("#data-lengths svg")).to_be_visible(timeout=60_000)
    for width in (820, 1360):
        page.set_viewport_size({"width": width, "height": 900})
        fills = "one => document.querySelector(one + ' svg').clientWidth === document.querySelector(one).clientWidth"
        page.wait_for_function(fills, arg="#data-lengths .plot")
    said = "document.querySelector('#data-use').click(), document.querySelector('#data-use').textContent"
    assert page.evaluate(said) == "Using…"
    expect(page.locator("#data-use")).to_be_disabled()
    expect(page.get_by_role("tab", name="Start", exact=True)).to_have_attribute("aria-selected", "true")
    tab(page, "Data")
    expect(page.locator("#data-use")).to_have_text("Use this data for SFT")


def test_an_unclear_encoding_is_chosen_by_how_it_reads_and_reaches_the_run(
    app: App, visit: Visit, tmp_path: Path
) -> None:
    words = "Ráno zalévám květiny, ptala se, že šťastně běží přes žluté pole, a těšila se na příští léto."
    path = tmp_path / "old.jsonl"
    rows = [{"prompt": f"{at}?", "chosen": f"{words} {at}", "rejected": f"no {at}"} for at in range(80)]
    path.write_bytes("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode("iso8859-2"))
    page = visit(app)
    opened(page, path)
    expect(page.locator("[data-encoding=iso8859-2]")).to_contain_text("šťastně", timeout=15_000)
    assert page.locator("[data-encoding]").count() >= 2
    page.click("[data-encoding=iso8859-2]")
    expect(page.locator(".sides .chosen .turn p")).to_contain_text("šťastně běží", timeout=15_000)
    page.click("#data-use")
    known(page, '"encoding": "iso8859-2"')
