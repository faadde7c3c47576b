"""Lanes that may stand side by side: those of the run, variants, and other runs on the same base."""

from __future__ import annotations

import time

import pytest

from tests.trainer_core.jobs.test_blind_voting import contest, supervisor  # noqa: F401  (fixtures)
from trainer_core.config.jobs import TrainJob
from trainer_core.config.recipe import Recipe
from trainer_core.errors import ConfigError
from trainer_core.jobs import lane_choices
from trainer_core.runs import run_folder
from trainer_core.runs.event_log import EventLog
from trainer_core.runs.events import AdapterSaved, Phase, PhaseChanged


def finished(supervisor, **recipe: str) -> str:  # type: ignore[no-untyped-def]  # noqa: F811
    job = TrainJob(recipe=Recipe(**recipe))
    run_dir = run_folder.create_run(supervisor.workspace.runs, job, job.recipe.name)
    say = EventLog(run_dir / "events.jsonl")
    say(AdapterSaved("dpo", "adapter-dpo", 5, 9))
    say(PhaseChanged(Phase.DONE))
    supervisor.registry.refresh()
    return run_dir.name


def test_a_run_its_variants_and_others_on_the_same_base(supervisor, contest) -> None:  # noqa: F811
    other = finished(supervisor, name="second")
    finished(supervisor, name="elsewhere", model="unsloth/Qwen3-8B")
    found = lane_choices.lanes_by_name(supervisor.registry, contest.run)
    assert list(found) == [
        "Base", "SFT", "DPO", "SFT at 50%", "SFT at 150%", "DPO at 50%", "DPO at 150%", "SFT and DPO, half each",
        f"DPO · second {other[:15]}",
    ]  # fmt: skip
    half = found["SFT and DPO, half each"]
    assert list(half.adapter_shares.values()) == [0.5, 0.5] and found["DPO at 150%"].strength == 1.5
    assert all(lane.name == name for name, lane in found.items())


def test_runs_of_one_long_name_are_two_lanes(supervisor, contest) -> None:  # noqa: F811
    others = []
    for at in range(2):
        others.append(finished(supervisor, name="n" * 64))
        time.sleep(1.1 * (1 - at))
    lanes = [
        name for name in lane_choices.lanes_by_name(supervisor.registry, contest.run) if name.startswith("DPO · nnn")
    ]
    assert len(lanes) == 2 and all(len(name) <= 64 for name in lanes)
    assert {name[-15:] for name in lanes} == {run_id[:15] for run_id in others}


def test_chosen_lanes(supervisor, contest) -> None:  # noqa: F811
    assert [lane.name for lane in lane_choices.select_lanes(supervisor.registry, contest.run, ())] == [
        "Base",
        "SFT",
        "DPO",
    ]
    prompted = lane_choices.select_lanes(supervisor.registry, contest.run, ("Base",), " Be short. ")
    assert [(lane.name, lane.system) for lane in prompted] == [("Base", ""), ("Base, prompted", "Be short.")]
    with pytest.raises(ConfigError, match="no lane 'KTO' beside this run any more"):
        lane_choices.select_lanes(supervisor.registry, contest.run, ("KTO",))
    six = list(lane_choices.lanes_by_name(supervisor.registry, contest.run))[:6]
    with pytest.raises(ConfigError, match="7 lanes are chosen; 6 are the most"):
        lane_choices.select_lanes(supervisor.registry, contest.run, six, "Be short.")


def test_a_run_that_cannot_be_read_is_left_out(supervisor, contest) -> None:  # noqa: F811
    broken = finished(supervisor, name="broken")
    (supervisor.registry.run_dir(broken) / "run.json").write_text("{")
    assert not [name for name in lane_choices.lanes_by_name(supervisor.registry, contest.run) if "broken" in name]
