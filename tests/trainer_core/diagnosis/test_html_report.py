"""The report of a run: what it says, and that it needs nothing but itself."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.support.histories import FOLDER, recorded
from tests.trainer_core.diagnosis.test_doctor import SICK
from trainer_core.cli import commands
from trainer_core.config.jobs import CompareJob, Lane, TrainJob
from trainer_core.config.recipe import Data, MethodChain, Recipe
from trainer_core.diagnosis import html_report
from trainer_core.diagnosis.series import thin_points
from trainer_core.errors import ConfigError
from trainer_core.planning.presets import starter_recipe
from trainer_core.runs import run_folder
from trainer_core.runs.compare_events import ConfidenceInterval, GenerationStats, LaneScore, ScoresReady
from trainer_core.runs.event_log import EventLog
from trainer_core.runs.events import Event, Phase, RunEnded, SampleAnswer, SampleAnswers, SettingChanged, Stage
from trainer_core.runs.metadata import RunMetadata, write_metadata
from trainer_core.texts import verbatim


def made(workspace: Path, recipe: Recipe, *events: Event) -> Path:
    """A run whose worker said this."""
    versions = {"torch": "2.13"}
    run_dir = run_folder.create_run(
        workspace / "runs", TrainJob(recipe=recipe), "", device="A <card>", versions=versions
    )
    log = EventLog(run_dir / "events.jsonl")
    for event in events:
        log(event)
    return run_dir


def lane_score(lane: str, accuracy: float, margin: float, tokens: float, ended: float) -> LaneScore:
    held_out = (ConfidenceInterval(value, None, None, 50) for value in (accuracy, margin, 20, 0.5))
    own = GenerationStats(*(ConfidenceInterval(value, None, None, 12) for value in (tokens, ended, 0.0)))
    return LaneScore(lane, *held_out, own=own)


def scored(workspace: Path, run_dir: Path) -> None:
    lanes = (Lane(name="Base"), Lane(name="DPO", adapter=str(run_dir / "adapter-dpo")))
    folder = run_folder.create_run(workspace / "compare", CompareJob(model="starter", lanes=lanes), "")
    scores = (lane_score("Base", 0.06, -1.36, 74, 0.17), lane_score("DPO", 0.62, 0.161, 21, 1.0))
    EventLog(folder / "events.jsonl")(ScoresReady(scores))


class Tags(HTMLParser):
    """Every tag with its attributes, and whether each is closed."""

    VOID = {"meta", "line", "path"}

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag


def self_contained(text: str) -> None:
    """No script, no reference to anything outside, every tag closed."""
    tags = Tags(text)
    assert tags.open == []
    assert not {"script", "link", "img", "iframe", "a", "object"} & {tag for tag, _ in tags.seen}
    assert not [attrs for _, attrs in tags.seen if {"src", "href", "xlink:href", "onclick", "onload"} & set(attrs)]
    assert not re.search(r"https?:|url\(|@import|javascript:", text)


def test_a_real_run_on_one_page(tmp_path: Path) -> None:
    run_dir = made(tmp_path, starter_recipe(), *recorded(FOLDER / "starter-24-12.jsonl"))
    scored(tmp_path, run_dir)
    text = html_report.render_run_report(html_report.load_report_data(run_dir))
    self_contained(text)
    assert "The run finished. Its last step was DPO step 12 of 12. 352 examples, 352 pairs, 50 held out." in text
    assert "Step 0 proof holds. Margin 0.0000 (must be 0), loss 0.6931." in text
    assert text.count("<figure>") == 5 and 'aria-label="DPO loss: Training from 0.693 to 0.228"' in text
    assert "The curves show nothing wrong." in text
    assert '<th scope="col">Base</th><th scope="col">DPO</th>' in text
    assert re.search(r"<td>Held-out accuracy</td><td>6%[^<]*</td><td>62%", text)
    assert re.search(r"<td>Ends by itself</td><td>17%[^<]*</td><td>100%", text)
    assert '<th scope="row">LoRA rank</th><td>16</td>' in text and '<th scope="row">torch</th><td>2.13</td>' in text
    assert "precision: auto → bf16" in text and str(tmp_path) not in text


def test_findings_are_told(tmp_path: Path) -> None:
    sick = SICK["DPO pairs are trivial"][0]
    run_dir = made(
        tmp_path, sick.recipe.model_copy(update={"method": MethodChain("dpo")}), *sick.told(1), RunEnded(Phase.STOPPED)
    )
    text = html_report.render_run_report(html_report.load_report_data(run_dir))
    self_contained(text)
    assert "The pairs are too easy (DPO step 4)" in text and "Try: The IPO loss and rank 8" in text
    assert "<h2>Scores</h2>" not in text and "The run was stopped. Its last step was DPO step 200 of 200." in text


def test_nothing_from_outside_is_taken_for_html(tmp_path: Path) -> None:
    bad = "<img src=x onerror=alert(1)>"
    run_dir = made(tmp_path, Recipe(model="a/b"), SettingChanged(bad, bad, bad, verbatim(bad)))
    write_metadata(run_dir, RunMetadata(name=bad, note=bad))
    text = html_report.render_run_report(html_report.load_report_data(run_dir))
    self_contained(text)
    assert "<img" not in text and "A &lt;card&gt;" in text and text.count("&lt;img") >= 6


def test_folders_of_the_computer_are_not_told(tmp_path: Path) -> None:
    recipe = Recipe(data=Data(pairs=str(tmp_path / "my pairs.jsonl")))
    text = html_report.render_run_report(html_report.load_report_data(made(tmp_path, recipe)))
    assert "<td>my pairs.jsonl</td>" in text and str(tmp_path) not in text


def test_a_run_without_steps_has_a_report(tmp_path: Path) -> None:
    text = html_report.render_run_report(html_report.load_report_data(made(tmp_path, Recipe())))
    self_contained(text)
    assert "The run is in progress." in text and "<figure>" not in text


def test_a_long_run_makes_a_small_page(tmp_path: Path) -> None:
    run_dir = made(tmp_path, Recipe(method=MethodChain("sft")), *SICK["SFT memorises"][0].told(1))
    text = html_report.render_run_report(html_report.load_report_data(run_dir))
    assert len(text) < 40_000 and "Held out - -" in text
    assert thin_points([(float(at), float(-at % 7)) for at in range(5000)], html_report.MAX_CHART_POINTS)[-1][0] > 4950


def test_no_report_of_a_comparison(tmp_path: Path) -> None:
    folder = run_folder.create_run(tmp_path / "compare", CompareJob(model="starter", lanes=(Lane(name="Base"),)), "")
    with pytest.raises(ConfigError) as error:
        html_report.load_report_data(folder)
    assert error.value.text.code == "report.no_training" and error.value.text.params["run"] == folder.name


def test_by_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_dir = made(tmp_path, Recipe(), RunEnded(Phase.DONE))
    assert commands.main(["--workspace", str(tmp_path), "report", "last"]) == 0
    assert Path(capsys.readouterr().out.strip()) == run_dir / "report.html"
    self_contained((run_dir / "report.html").read_text(encoding="utf-8"))
    assert (
        commands.main(["--workspace", str(tmp_path), "report", run_dir.name, "--out", str(tmp_path / "it.html")]) == 0
    )
    assert (tmp_path / "it.html").exists()
    assert commands.main(["--workspace", str(tmp_path), "report", "nobody"]) == 1


def test_the_sample_answers_of_the_base_and_each_last_step_are_in_it(tmp_path: Path) -> None:
    def said(stage: Stage, step: int, answer: str) -> SampleAnswers:
        return SampleAnswers(stage, step, (SampleAnswer("Why <b>?", answer, 3, True),), 0.1)

    steps = (said("sft", 0, "base"), said("sft", 4, "early"), said("sft", 8, "late"), said("dpo", 4, "<i>last"))
    text = html_report.render_run_report(html_report.load_report_data(made(tmp_path, Recipe(), *steps)))
    cells = re.findall(r"<t[dh][^>]*>([^<]*)</t[dh]>", text[text.index("Sample answers") :])
    assert cells[:8] == [
        "Prompt",
        "Base",
        "SFT step 8",
        "DPO step 4",
        "Why &lt;b&gt;?",
        "base",
        "late",
        "&lt;i&gt;last",
    ]


def test_a_step_with_fewer_answers_than_prompts_leaves_cells_empty(tmp_path: Path) -> None:
    asked = tuple(SampleAnswer(prompt, "base", 3, True) for prompt in ("One?", "Two?"))
    steps = (SampleAnswers("sft", 0, asked, 0.1), SampleAnswers("sft", 4, asked[:1], 0.1))
    text = html_report.render_run_report(html_report.load_report_data(made(tmp_path, Recipe(), *steps)))
    cells = re.findall(r"<t[dh][^>]*>([^<]*)</t[dh]>", text[text.index("Sample answers") :])
    assert cells[3:9] == ["One?", "base", "base", "Two?", "base", ""]
