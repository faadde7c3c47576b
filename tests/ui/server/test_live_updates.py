"""The live channel: a page gets what it lacks, and only that."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import gradio as gr
import pytest
from starlette.responses import Response

from tests.support.fake_worker import write_adapter
from tests.support.histories import LN2
from tests.support.serve import machine
from trainer_core.config.changes import with_changes
from trainer_core.config.jobs import TrainJob
from trainer_core.config.recipe import Recipe
from trainer_core.diagnosis.series import thin_points
from trainer_core.errors import ConfigError
from trainer_core.jobs.supervisor import Supervisor
from trainer_core.planning.presets import starter_recipe
from trainer_core.runs import checkpoints, run_folder
from trainer_core.runs.event_log import EventLog
from trainer_core.runs.events import (
    AdapterSaved,
    DataPrepared,
    Evaluation,
    Phase,
    PhaseChanged,
    RunEnded,
    RunFailed,
    SettingChanged,
    StepsPlanned,
    Suggestion,
    TrainStep,
)
from trainer_core.runs.run_state import RunState, apply
from trainer_core.runs.workspace import Workspace
from trainer_core.system.hardware_history import HardwareHistory, HardwareReading
from trainer_core.texts import verbatim
from ui.payloads import findings, run_list
from ui.payloads.run import progress_payload, run_option, run_payload, stage_states, status_detail
from ui.payloads.run_settings import SettingRow, group_settings, nearest_preset
from ui.server import live_updates
from ui.server.live_updates import Cursor, page_update

NEVER = (sys.executable, "-c", "raise SystemExit(1)")


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Supervisor]:
    opened = Supervisor(Workspace(tmp_path), NEVER, read_machine=lambda: machine(24))
    yield opened
    opened.close()


def step(stage: str, at: int, total: int = 20, loss: float = 1.0) -> TrainStep:
    preference = {"margin": 0.1 * at, "accuracy": 0.5} if stage == "dpo" else {}
    return TrainStep(stage, at, total, loss, 1e-4, 1.0, 0.5, 900.0, 0.5 * (total - at), preference)


def finished(supervisor: Supervisor, *events: object, name: str = "") -> str:
    """A run whose events these are; the last word is added."""
    run_dir = run_folder.create_run(supervisor.workspace.runs, TrainJob(recipe=Recipe(name=name)), name)
    log = EventLog(run_dir / "events.jsonl")
    for event in (*events, RunEnded(Phase.DONE)):
        log(event)  # type: ignore[arg-type]
    supervisor.registry.refresh()
    return run_dir.name


def cursor_after(first: dict, **more: object) -> Cursor:
    """What a page asks next."""
    marks = {name: part["mark"] for name, part in first["parts"].items()}
    return Cursor(run=first["run"], points=first["points"], marks=marks, ask=first["ask"], **more)  # type: ignore[arg-type]


def test_an_empty_workspace_has_a_page(supervisor: Supervisor) -> None:
    first = page_update(supervisor, Cursor())
    assert first["run"] == "" and first["series"] == {} and first["parts"]["run"]["value"] is None
    assert first["parts"]["meter"]["value"]["free"] == "21.9 of 24.0 GB free"


def test_the_second_answer_is_empty(supervisor: Supervisor) -> None:
    finished(supervisor, StepsPlanned({"sft": 2}), step("sft", 1), step("sft", 2))
    first = page_update(supervisor, Cursor())
    assert first["series"] == {"sft.loss": [(1, 1.0), (2, 1.0)]}
    second = page_update(supervisor, cursor_after(first))
    assert second["parts"] == {} and second["series"] == {} and second["from"] == 2


def test_only_new_points_are_sent(supervisor: Supervisor) -> None:
    finished(supervisor, *(step("sft", at) for at in range(1, 6)), *(step("dpo", at) for at in range(1, 4)))
    run = supervisor.registry.run_states[0].id
    later = page_update(supervisor, Cursor(run=run, points=7))
    assert later["from"] == 7
    assert later["series"] == {"dpo.loss": [(3, 1.0)], "dpo.margin": [(3, 0.3)], "dpo.accuracy": [(3, 0.5)]}


@pytest.mark.parametrize(
    "cursor", [Cursor(run="another", points=3), Cursor(points=99)], ids=["another run", "too many"]
)
def test_a_page_of_another_run_starts_anew(supervisor: Supervisor, cursor: Cursor) -> None:
    run = finished(supervisor, step("sft", 1), step("sft", 2))
    cursor = cursor.model_copy(update={"run": cursor.run or run})
    assert page_update(supervisor, cursor)["from"] == 0
    assert len(page_update(supervisor, cursor)["series"]["sft.loss"]) == 2


def test_a_page_may_show_an_older_run(supervisor: Supervisor) -> None:
    older = finished(supervisor, step("sft", 1), name="older")
    finished(supervisor, step("sft", 1), step("sft", 2), name="newer")
    assert page_update(supervisor, Cursor(show=older))["run"] == older
    assert page_update(supervisor, Cursor(show="deleted"))["run"] == supervisor.registry.run_states[0].id


def test_the_run_at_work_is_told_beside_an_older_one_that_is_shown(supervisor: Supervisor) -> None:
    older, newer = (finished(supervisor, step("sft", 20), name=name) for name in ("1", "2"))  # in one second perhaps
    beside, alone = (page_update(supervisor, Cursor(show=show))["parts"] for show in (older, ""))
    assert (
        beside["run"]["value"]["id"] == older
        and beside["active"]["value"]["id"] == alone["run"]["value"]["id"] == newer
    )
    assert beside["active_progress"]["value"] == alone["progress"]["value"] and alone["active"]["value"] is None
    EventLog(supervisor.registry.run_dir(newer) / "events.jsonl")(step("sft", 19))
    supervisor.registry.refresh()
    asked = Cursor(show=older, run=older, points=1, marks={name: part["mark"] for name, part in beside.items()})
    assert set(page_update(supervisor, asked)["parts"]) == {"active_progress"}


def test_long_parts_are_sent_only_where_they_are_seen(supervisor: Supervisor) -> None:
    finished(supervisor, step("sft", 1))
    assert {"runs", "log"} & set(page_update(supervisor, Cursor())["parts"]) == set()
    assert {"runs", "log"} <= set(page_update(supervisor, Cursor(tab="runs", log=True))["parts"])


def test_a_cursor_from_nowhere_is_refused() -> None:
    with pytest.raises(ConfigError, match="points"):
        live_updates.parse_values(Cursor, {"points": -1}, "cursor")


def test_without_a_margin_there_is_no_accuracy(supervisor: Supervisor) -> None:
    """At its first step the policy is its reference: TRL counts every pair as lost, which is no news about the model."""
    finished(supervisor, replace(step("dpo", 1), metrics={"margin": 0.0, "accuracy": 0.0}), step("dpo", 2))
    assert page_update(supervisor, Cursor())["series"]["dpo.accuracy"] == [(2, 0.5)]


def test_a_long_history_keeps_its_peaks() -> None:
    points = [(at, 1.0 if at != 50_000 else 9.0) for at in range(100_000)]
    few = thin_points(points, 2000)
    assert len(few) <= 2000 and (50_000, 9.0) in few
    assert few == sorted(few) and few[0][0] == 0


def test_a_reload_of_a_long_run_is_one_small_answer(supervisor: Supervisor) -> None:
    events = [step("dpo", at, 10_000, loss=1 / at) for at in range(1, 10_001)]
    finished(supervisor, *events)
    answer = json.dumps(page_update(supervisor, Cursor()))
    assert len(answer) < 150_000


def test_text_after_counts_as_a_browser_does() -> None:
    assert (
        live_updates.text_after("a😀b", 3) == "b"
        and live_updates.text_after("añb", 0) == "añb"
        and live_updates.text_after("ab", 9) == ""
    )


def test_a_finished_run_in_words(supervisor: Supervisor) -> None:
    run = finished(
        supervisor,
        PhaseChanged(Phase.TRAINING, stage="sft"),
        StepsPlanned({"sft": 2, "dpo": 2}),
        step("sft", 1, 2),
        step("sft", 2, 2),
        AdapterSaved("sft", "adapter-sft", 5, 2),
        step("dpo", 1, 2),
        step("dpo", 2, 2),
        AdapterSaved("dpo", "adapter-dpo", 5, 2),
    )
    view = supervisor.registry.run_state(run)
    said = {**(run_payload(supervisor.registry, view) or {}), **(progress_payload(view) or {})}
    assert (said["badge"], said["tone"], said["progress"], said["step"]) == ("Finished", "good", 1.0, "DPO step 2 of 2")
    assert [stage["state"] for stage in said["stages"]] == ["done"] * 4 and said["adapters"] == ["SFT", "DPO"]
    row = run_list.RunRows(supervisor.registry)()[0][0]
    assert (row["steps"], row["accuracy"], row["data"]) == ("2 + 2", "50% (n 16)", "sample")
    assert row["loss"] == "SFT\u00a01.000 · DPO\u00a01.000", "two losses, not one that fell"


def test_a_word_before_the_first_step_goes_with_it(supervisor: Supervisor) -> None:
    slow = "The first step is slower than the rest"
    before = apply(RunState("run"), PhaseChanged(Phase.TRAINING, verbatim(slow), stage="sft"))
    assert status_detail(before) == slow and status_detail(apply(before, step("sft", 1))) == ""


def test_a_run_is_dated_where_the_page_is_read(supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch) -> None:
    run = finished(supervisor, step("sft", 1, 1), AdapterSaved("sft", "adapter-sft", 5, 1))
    began = datetime.fromisoformat(run_folder.read_run(supervisor.registry.run_dir(run)).created)
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    assert run_option(supervisor.registry.run_dir(run), supervisor.registry.run_state(run)).endswith(
        f"{began.astimezone(ZoneInfo('Asia/Tokyo')):%Y-%m-%d %H:%M}"
    )
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("events", "states"),
    [
        ([], ["now", "todo", "todo", "todo"]),
        ([PhaseChanged(Phase.TRAINING, stage="sft")], ["done", "now", "todo", "todo"]),
        (
            [step("sft", 1), AdapterSaved("sft", "a", 1, 1), PhaseChanged(Phase.LOADING)],
            ["done", "done", "now", "todo"],
        ),
        (
            [step("sft", 1), AdapterSaved("sft", "a", 1, 1), step("dpo", 1), PhaseChanged(Phase.SAVING)],
            ["done", "done", "now", "todo"],
        ),
    ],
    ids=["starting", "sft", "loading for dpo", "saving dpo"],
)
def test_stages_of_a_run_at_work(supervisor: Supervisor, events: list, states: list[str]) -> None:
    view = RunState("x")
    for event in events:
        view = apply(view, event)
    assert [stage["state"] for stage in stage_states(Recipe(), view)] == states


def test_a_run_folder_that_cannot_be_read_is_listed(supervisor: Supervisor) -> None:
    folder = supervisor.workspace.runs / "20260101-000000-broken"
    folder.mkdir()
    (folder / "run.json").write_text("{")
    supervisor.registry.refresh()
    assert run_list.RunRows(supervisor.registry)()[0][0]["name"] == folder.name
    assert page_update(supervisor, Cursor(show=folder.name))["parts"]["run"]["value"]["name"] == folder.name


def test_a_step_costs_little(supervisor: Supervisor) -> None:
    """What a page gets in a second in which one DPO step was made."""
    run_dir = run_folder.create_run(supervisor.workspace.runs, TrainJob(recipe=Recipe()), "")
    log = EventLog(run_dir / "events.jsonl")
    for event in (StepsPlanned({"dpo": 300}), PhaseChanged(Phase.TRAINING, stage="dpo"), step("dpo", 1, 300)):
        log(event)
    supervisor.registry.refresh()
    first = page_update(supervisor, Cursor(tab="train"))
    metrics = {"margin": 0.2, "accuracy": 0.5, "chosen": -91.13244247436523, "rejected": -226.32200622558594}
    log(replace(step("dpo", 2, 300), loss=0.69123456, metrics=metrics))
    supervisor.registry.refresh()
    asked = cursor_after(first, tab="train")
    second = page_update(supervisor, asked)
    assert set(second["parts"]) == {"progress"} and second["series"]["dpo.chosen"] == [(2, -91.13)]
    sent = live_updates.strip_unchanged(second, asked)
    assert sent["steps"] == {"dpo": [[2, 0.6912, 0.2, 0.5, -91.13, -226.3]]} and "series" not in sent
    assert len(json.dumps(sent, separators=(",", ":"))) < 300


def test_many_points_are_sent_curve_by_curve(supervisor: Supervisor) -> None:
    finished(supervisor, *(step("dpo", at) for at in range(1, live_updates.MAX_ROW_POINTS + 2)))
    sent = live_updates.strip_unchanged(page_update(supervisor, Cursor()), Cursor())
    assert len(sent["series"]["dpo.loss"]) == live_updates.MAX_ROW_POINTS + 1 and "steps" not in sent


def test_a_curve_without_a_value_at_a_step_has_a_gap_there(supervisor: Supervisor) -> None:
    finished(
        supervisor,
        step("sft", 1),
        step("dpo", 1),
        replace(step("dpo", 2), metrics={"margin": float("nan"), "accuracy": 0.5}),
    )
    assert live_updates.strip_unchanged(page_update(supervisor, Cursor()), Cursor())["steps"] == {
        "sft": [[1, 1.0]],
        "dpo": [[1, 1.0, 0.1, 0.5, None, None], [2, 1.0, None, 0.5, None, None]],
    }


def test_deep_curves_run_over_both_stages(supervisor: Supervisor) -> None:
    finished(supervisor, step("sft", 1), step("sft", 2), step("dpo", 1))
    assert "detail" not in page_update(supervisor, Cursor())
    first = page_update(supervisor, Cursor(detail=0))
    assert first["detail"]["series"]["detail.seconds"] == [(1, 0.5), (2, 0.5), (3, 0.5)]
    run = first["run"]
    assert page_update(supervisor, Cursor(run=run, detail=2))["detail"]["series"]["detail.speed"] == [(3, 900.0)]
    assert page_update(supervisor, Cursor(run=run, detail=3))["detail"]["series"] == {}


def test_held_out_points_are_a_part(supervisor: Supervisor) -> None:
    finished(
        supervisor,
        step("dpo", 1),
        Evaluation("dpo", 1, 0.69, {"accuracy": 0.5, "margin": 0.0}),
        Evaluation("dpo", 2, float("nan")),
    )
    held = page_update(supervisor, Cursor())["parts"]["held_out"]["value"]
    values = {"dpo.held.loss": [(1, 0.69)], "dpo.held.accuracy": [(1, 0.5)], "dpo.held.margin": [(1, 0.0)]}
    assert held == {**values, "dpo.held.rows": [(1, 0), (2, 0)]}


def test_readings_are_sent_where_they_are_shown(supervisor: Supervisor) -> None:
    times = iter((100.0, 101.0))
    supervisor.device.readings = HardwareHistory(clock=lambda: next(times))
    supervisor.device.readings.record(machine(24))
    supervisor.device.readings.record(machine(24))
    assert "hardware" not in page_update(supervisor, Cursor())
    assert page_update(supervisor, Cursor(hardware=99.5))["hardware"] == [[0.5, 2.1, 41, 38, 3], [1.5, 2.1, 41, 38, 3]]
    assert page_update(supervisor, Cursor(hardware=100))["hardware"] == [[1, 2.1, 41, 38, 3]]


def test_readings_of_the_processor() -> None:
    readings = HardwareHistory(load=lambda: 75.0, clock=lambda: 5.0)
    readings.record(machine(0))
    assert readings.readings_since(0) == [HardwareReading(5.0, 12.0, 75.0)]


TRIVIAL = [
    DataPrepared(300, 300, 16, ""),
    *(
        replace(made, metrics={**made.metrics, "accuracy": float(made.step > 1)})
        for made in (step("dpo", at, 100, LN2 * 0.99**at) for at in range(1, 30))
    ),
]


def test_the_doctor_speaks_and_its_offer_is_a_recipe(supervisor: Supervisor) -> None:
    run = finished(supervisor, *TRIVIAL)
    (said,) = page_update(supervisor, Cursor())["parts"]["findings"]["value"]
    assert (said["key"], said["where"]) == ("dpo.trivial", "DPO step 4") and "48 pairs" in said["evidence"][0]
    recipe, changes = findings.apply_suggestion(supervisor.registry, run, said["key"])
    assert (recipe.lora.rank, recipe.dpo.losses) == (8, ("ipo",))
    assert changes == [
        "LoRA rank: 8 (changed from 16)",
        "LoRA alpha: 8 (changed from 16)",
        "DPO loss: ipo (changed from sigmoid)",
    ]
    with pytest.raises(ConfigError) as error:
        findings.apply_suggestion(supervisor.registry, run, "dpo.flat")
    assert error.value.text.code == "proposals.outdated"


def test_a_failed_run_offers_its_ways_out(supervisor: Supervisor) -> None:
    run_dir = run_folder.create_run(supervisor.workspace.runs, TrainJob(recipe=Recipe()), "")
    EventLog(run_dir / "events.jsonl")(
        RunFailed(verbatim("NaN"), offers=(Suggestion(verbatim("Half the rate"), {"dpo.learning_rate": 1e-6}),))
    )
    supervisor.registry.refresh()
    run = page_update(supervisor, Cursor())["parts"]["run"]["value"]
    assert run["offers"] == [{"key": "offer.0", "text": "Half the rate"}] and not run["kept"]
    write_adapter(checkpoints.checkpoint_dir(run_dir, "dpo", 3), "dpo", 3)
    supervisor.registry.refresh()
    assert page_update(supervisor, Cursor())["parts"]["run"]["value"]["kept"], "there is a checkpoint to go on from"
    recipe, changes = findings.apply_suggestion(supervisor.registry, run_dir.name, "offer.0")
    assert recipe.dpo.learning_rate == 1e-6 and changes == ["DPO learning rate: 1e-6 (changed from 5e-6)"]


def test_a_retry_begins_at_the_batch_that_the_run_had_come_to(supervisor: Supervisor) -> None:
    asked = with_changes(Recipe(), {"dpo.batch_size": 8, "dpo.accumulation": 2})
    run_dir = run_folder.create_run(supervisor.workspace.runs, TrainJob(recipe=asked), "")
    log = EventLog(run_dir / "events.jsonl")
    for what, before, used in (("dpo.batch_size", "8", "2"), ("dpo.accumulation", "2", "8")):
        log(SettingChanged(what, before, used, verbatim("memory ran out")))
    log(RunFailed(verbatim("Memory"), offers=(Suggestion(verbatim("Half the length"), {"dpo.max_length": 512}),)))
    supervisor.registry.refresh()
    recipe, changes = findings.apply_suggestion(supervisor.registry, run_dir.name, "offer.0")
    assert (recipe.dpo.batch_size, recipe.dpo.accumulation, recipe.dpo.max_length) == (2, 8, 512)
    assert len(changes) == 3 and any("2 (changed from 8)" in one for one in changes)


def test_settings_say_what_differs_from_the_preset(supervisor: Supervisor) -> None:
    recipe = with_changes(starter_recipe(), {"dpo.beta": 0.3})
    groups = {
        group.title: {row.label: row for row in group.rows} for group in group_settings(recipe, nearest_preset(recipe))
    }
    assert groups["DPO"]["Beta"] == SettingRow("Beta", "0.3", "0.1")
    assert [row.label for rows in groups.values() for row in rows.values() if row.preset is not None] == ["Beta"]


def test_a_quiet_second_is_a_few_bytes_and_a_change_is_asked_for_by_name(supervisor: Supervisor) -> None:
    run_id = finished(supervisor, *(step("sft", at) for at in range(1, 6)))
    supervisor.registry.refresh()
    first = page_update(supervisor, Cursor())
    quick = tuple(first["parts"][name]["mark"] for name in live_updates.QUICK_PARTS)
    held = Cursor(points=5, whole=first["whole"], quick=quick, ask=first["ask"], detail=5)
    assert live_updates.strip_unchanged(page_update(supervisor, held), held) == {}
    EventLog(supervisor.registry.run_dir(run_id) / "events.jsonl")(step("sft", 6))
    supervisor.registry.refresh()
    grown = live_updates.strip_unchanged(page_update(supervisor, held), held)
    assert set(grown) == {"parts", "points", "series", "detail"} and set(grown["parts"]) == {"progress"}
    assert grown["detail"] == [(1e-4, 1, 900, 0.5)], "a row, whose place follows from what the page holds"
    EventLog(supervisor.registry.run_dir(run_id) / "events.jsonl")(AdapterSaved("sft", "adapter-sft", 5, 6))
    supervisor.registry.refresh()
    assert page_update(supervisor, held) == {"stale": True}
    named = held.model_copy(
        update={"run": run_id, "whole": None, "marks": {name: part["mark"] for name, part in first["parts"].items()}}
    )
    assert "run" in page_update(supervisor, named)["parts"]


WRONG_CURSORS: list[object] = [
    {"points": -1}, {"points": "many"}, {"points": 1.5}, {"of_no_page": 1}, {"chars": {"a": "b"}}, {"marks": [1]}, {"whole": "x"},
    {"quick": "x"}, {"tab": None}, {"detail": []}, {"hardware": "now"}, {"chosen": {"a": 1}}, {"pair": 3}, [1], "cursor", 7,
]  # fmt: skip


def poll(supervisor: Supervisor, cursor: object) -> Response:
    """As the page asks."""
    with gr.Blocks(analytics_enabled=False):
        live = live_updates.build_live_channel(supervisor)
    return live.poll(cursor)  # type: ignore[attr-defined]


@pytest.mark.parametrize("cursor", WRONG_CURSORS, ids=str)
def test_a_cursor_that_is_none_is_a_bad_request(supervisor: Supervisor, cursor: object) -> None:
    answer = poll(supervisor, cursor)
    assert answer.status_code == 400 and answer.body


def test_the_cursor_of_a_page_is_answered(supervisor: Supervisor) -> None:
    finished(supervisor, step("sft", 1))
    for cursor in (
        None,
        {},
        {"points": 0, "tab": "runs"},
        {"detail": -1, "hardware": -1},
        {"run": "gone", "points": 10**9},
    ):
        answer = poll(supervisor, cursor)
        assert answer.status_code == 200 and json.loads(answer.body)["parts"]
