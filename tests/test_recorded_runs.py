"""Run folders, votes, comparisons and recipes of the version that tests/support/recorded was made with open, resume to the same
end and compare as they did. What later versions call differently stands only in those files, see tests/support/record_runs.py."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.training_runs import environment, start
from trainer_core.config.jobs import TrainJob
from trainer_core.config.recipe import Sampling, read_recipe
from trainer_core.diagnosis import html_report
from trainer_core.evaluation import judge, preference_data, score_table, tally, votes
from trainer_core.jobs.supervisor import Supervisor, wait_for
from trainer_core.planning import measurements
from trainer_core.runs import checkpoints, metadata, run_folder
from trainer_core.runs.run_state import RunState, read_run_state
from trainer_core.runs.workspace import Workspace

pytestmark = pytest.mark.real
RECORDED = Path(__file__).parent / "support" / "recorded"
LOSSES: dict[str, list[list]] = json.loads((RECORDED / "losses.json").read_text())
"""Method → stage, step and loss of every optimiser step."""
STEPS = [2, 4, 5, 6, 8, 10]
"""Of a whole stage, those with a checkpoint."""
RUNS = {
    "sft-dpo": ("done", {"sft": STEPS, "dpo": STEPS}, {"sft": [5, 10], "dpo": [5, 10]}, ["sft", "dpo"]),
    "sft": ("done", {"sft": STEPS, "dpo": []}, {"sft": [5, 10], "dpo": []}, ["sft"]),
    "dpo": ("done", {"sft": [], "dpo": STEPS}, {"sft": [], "dpo": [5, 10]}, ["dpo"]),
    "paused-sft": ("paused", {"sft": [2, 4, 6], "dpo": []}, {"sft": [], "dpo": []}, []),
    "paused-dpo": ("paused", {"sft": STEPS, "dpo": [2, 4, 6]}, {"sft": [5, 10], "dpo": []}, ["sft"]),
    "stepped-down": ("done", {"sft": STEPS, "dpo": STEPS}, {"sft": [5, 10], "dpo": [5, 10]}, ["sft", "dpo"]),
    "failed": ("failed", {"sft": [], "dpo": []}, {"sft": [], "dpo": []}, []),
}
"""Name → phase, steps with a checkpoint, steps measured on held-out rows, adapters."""
NEAR = 1e-3
"""Of a loss, in nats. On one machine they are equal to the last bit; other processors add up in another order."""
SECONDS = 300.0


def copied(folder: Path) -> Workspace:
    """The record as a workspace of its own."""
    shutil.copytree(RECORDED, folder, dirs_exist_ok=True)
    for path in folder.glob("compare/*/run.json"):
        path.write_text(path.read_text(encoding="utf-8").replace("@ROOT@", folder.as_posix()), encoding="utf-8")
    return Workspace(folder)


def run_dir(workspace: Workspace, name: str) -> Path:
    (found,) = workspace.runs.glob(f"????????-??????-{name}-????")
    return found


def losses(view: RunState) -> list[list]:
    return [[point.stage, point.step, point.loss] for point in view.points]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """To be read only."""
    return copied(tmp_path_factory.mktemp("recorded"))


@pytest.fixture(scope="module")
def views(workspace: Workspace) -> dict[str, RunState]:
    """Every run as the app lists it."""
    listed = {view.id: view for view in Supervisor(workspace, device="cpu").registry.run_states}
    assert len(listed) == len(RUNS)
    return {name: listed[run_dir(workspace, name).name] for name in RUNS}


# ---- opening


@pytest.mark.parametrize("name", RUNS)
def test_a_run_opens_with_all_that_its_events_say(views: dict[str, RunState], name: str) -> None:
    view, (phase, saved, measured_at, adapters) = views[name], RUNS[name]
    assert view.phase == phase and not view.unreadable
    for stage in ("sft", "dpo"):
        assert [one.step for one in view.checkpoints if one.stage == stage] == saved[stage]
        assert [one.step for one in view.evaluated if one.stage == stage] == measured_at[stage]
    assert dict(view.adapters) == {stage: f"adapter-{stage}" for stage in adapters}
    assert bool(view.error) == bool(view.offers) == (phase == "failed")
    assert view.prepared and view.prepared.held_out == 6
    assert not [note for note in view.notes if "events.jsonl" in str(note)], "a line could not be read"


@pytest.mark.parametrize(("name", "steps"), [("sft-dpo", 20), ("paused-sft", 6), ("paused-dpo", 16)])
def test_every_step_has_its_number(views: dict[str, RunState], name: str, steps: int) -> None:
    view = views[name]
    assert losses(view) == LOSSES["sft+dpo"][:steps]
    assert {point.total for point in view.points} == {10} and view.planned == {"sft": 10, "dpo": 10}
    assert view.points[0].learning_rate == 5e-3 and view.points[5].grad_norm == pytest.approx(1.1885347)
    assert all(point.metrics["accuracy"] == 1 and point.metrics["margin"] > 0 for point in view.points[11:])


def test_a_run_opens_with_its_measures_and_answers(views: dict[str, RunState]) -> None:
    view = views["sft-dpo"]
    held_out = [one.loss for one in view.evaluated]
    assert held_out == [4.950359813750736, 4.680316478487045, 0.5216094056765238, 0.47309524814287823]
    assert [(one.metrics.get("accuracy"), one.rows) for one in view.evaluated] == [(None, 6), (None, 6), (1, 6), (1, 6)]
    assert [(one.stage, one.step) for one in view.sampled] == (
        [("sft", 0), *(("sft", step) for step in STEPS if step != 5), *(("dpo", step) for step in STEPS if step != 5)]
    )
    assert [(one.answer, one.tokens, one.ended) for one in view.sampled[-1].samples] == [("IIIIIIII", 8, False)] * 2
    assert view.proof and view.proof.holds and view.proof.loss == 0.6931471824645996
    assert {stage: one.longest for stage, one in view.row_lengths.items()} == {"sft": 50, "dpo": 63}
    assert len(view.notes) == 5


def test_a_run_that_stepped_down_opens_with_what_changed(workspace: Workspace, views: dict[str, RunState]) -> None:
    view = views["stepped-down"]
    assert len(view.out_of_memory) == 1 and len(view.points) == 20
    changed = [(one.what, one.asked, one.used) for one in view.changes]
    assert changed == [("dpo.batch_size", "2", "1"), ("dpo.accumulation", "2", "4")]
    assert {stage: (one.tokens, one.half < one.peak) for stage, one in view.probed.items()} == (
        {"sft": (100, True), "dpo": (126, True)}
    )
    assert len(measurements.load_measurements(workspace)) == 2


def test_a_failed_run_opens_with_its_way_out(views: dict[str, RunState]) -> None:
    assert [one.changes for one in views["failed"].offers] == [{"dpo.learning_rate": 5e-5}]
    assert views["failed"].steps_done("dpo") == 4


@pytest.mark.parametrize("name", RUNS)
def test_a_runs_recipe_is_what_was_asked(workspace: Workspace, name: str) -> None:
    file = run_folder.read_run(run_dir(workspace, name))
    job = run_folder.train_job_of(file)
    assert job and file.notes == () and file.created.startswith("20") and file.versions["torch"]
    stages = (name,) if name in ("sft", "dpo") else ("dpo",) if name == "failed" else ("sft", "dpo")
    assert job.recipe.method.stages == stages
    assert (job.recipe.lora.rank, job.recipe.sft.learning_rate, job.recipe.dpo.beta) == (2, 1e-2, 0.1)
    assert job.recipe.name == name.replace("-", " ")


@pytest.mark.parametrize("method", LOSSES)
def test_a_recipe_file_is_read(method: str) -> None:
    recipe = read_recipe(RECORDED / f"{method.replace('+', '_')}.toml")
    assert recipe.method.stages == tuple(method.split("+"))
    assert (recipe.sft.effective_batch, recipe.dpo.effective_batch, recipe.sample_tokens) == (4, 4, 8)


def test_every_checkpoint_and_adapter_is_sound(workspace: Workspace) -> None:
    folder = run_dir(workspace, "sft-dpo")
    for stage in ("sft", "dpo"):
        kept = [checkpoints.verify(one) for one in checkpoints.list_checkpoints(folder, stage)]
        assert [(one.stage, one.step, one.total) for one in kept] == [(stage, step, 10) for step in (10, 8, 6, 4, 2)]
        assert checkpoints.finished_adapter(folder, stage).step == 10


@pytest.mark.parametrize(("name", "stage"), [("paused-sft", "sft"), ("paused-dpo", "dpo")])
def test_a_paused_run_has_its_checkpoint_to_go_on_from(
    workspace: Workspace, views: dict[str, RunState], name: str, stage: str
) -> None:
    folder, prepared = run_dir(workspace, name), views[name].prepared
    job = run_folder.train_job_of(run_folder.read_run(folder))
    assert job and prepared
    found = checkpoints.latest_valid(folder, stage, prepared.sha256, checkpoints.settings_hash(job.recipe))
    assert (found.folder, found.step, found.skipped) == (checkpoints.checkpoint_dir(folder, stage, 6), 6, ())


def test_a_runs_name_note_and_pin_are_kept(workspace: Workspace) -> None:
    about = metadata.read_metadata(run_dir(workspace, "sft-dpo"))
    assert (about.name, about.note, about.pinned) == ("Whole", "Both stages, nothing happened.", True)


def test_a_run_has_its_report(workspace: Workspace) -> None:
    told = {name: html_report.load_report_data(run_dir(workspace, name)) for name in RUNS}
    curves = {name: html_report.render_run_report(one).count("<figure>") for name, one in told.items()}
    assert curves == (
        {"sft-dpo": 5, "sft": 1, "dpo": 4, "paused-sft": 1, "paused-dpo": 5, "stepped-down": 5, "failed": 1}
    )
    assert {name: [found.key for found in one.findings] for name, one in told.items() if one.findings} == (
        {"failed": ["dpo.diverging"]}
    )
    assert [len(one.scores) for one in told.values()] == [3, 0, 0, 0, 0, 0, 0]


# ---- votes and scores


def test_votes_are_counted(workspace: Workspace) -> None:
    told = votes.read_vote_records(votes.votes_path(workspace))
    standing = votes.active_votes(told)
    assert (len(told), len(standing)) == (16, 13)
    first, second = dict.fromkeys(vote.contest for vote in standing)
    assert (first.run, first.first, first.second) == (run_dir(workspace, "sft-dpo").name, "Base", "DPO")
    counted = tally.tally_votes(standing, first)
    assert (counted.first, counted.second, counted.ties, counted.bad, counted.skipped, counted.again) == (
        3,
        5,
        1,
        1,
        1,
        1,
    )
    assert counted.share and counted.share.value == 0.625 and counted.pairs == 9
    assert [vote.better for vote in standing if vote.better] == ["A better answer."]
    other = tally.tally_votes(standing, second)
    assert (other.first, other.second, other.ties, other.kinds) == (1, 0, 1, {"advice": (1, 1, 0)})
    strengths = {lane: round(one.value, 6) for lane, one in tally.lane_strengths(standing, first.run).items()}
    assert strengths == {"Base": -0.363884, "DPO": -0.033571, "SFT": 0.397455}
    assert votes.votes_on_current_lanes(standing, first.run, {"DPO": standing[0].adapters["DPO"]}) == standing
    ((_, place),) = preference_data.list_vote_data_sets(workspace)
    assert len(place.read_text(encoding="utf-8").splitlines()) == 9


def test_a_judges_verdicts_are_counted(workspace: Workspace) -> None:
    standing = votes.active_votes(votes.read_vote_records(votes.votes_path(workspace)))
    (one,) = judge.summarise_judges(judge.read_verdicts(workspace, standing[0].contest), standing)
    assert (one.judge, one.first, one.second, one.ties, one.torn) == ("a judge", 2, 2, 2, 2)
    assert (one.agreed, one.of_both) == (1, 4)


def test_scores_are_read(workspace: Workspace) -> None:
    scored = score_table.read_score_file(run_dir(workspace, "sft-dpo") / "scores.json")
    assert [one.lane for one in scored.scores] == ["Base", "SFT", "DPO"] and scored.reference == "Base"
    assert [one.margin.value for one in scored.scores] == [0.18433570663570556, 1.1242884493104501, 1.3681434424166763]
    rewards = [one.reward_margin and one.reward_margin.value for one in scored.scores]
    assert rewards == [None, 8.4655392964681, 13.410878499348959]
    assert [one.forgetting.lost for one in scored.scores] == [0, 2, 2] and len(scored.written) == 8
    assert len(score_table.format_score_rows(scored.scores)) == 12


def test_what_was_said_in_compare_is_read(workspace: Workspace) -> None:
    (folder,) = workspace.compare.iterdir()
    lanes = run_folder.read_run(folder).job.lanes
    assert all(Path(one.adapter).is_dir() for one in lanes[1:])
    view = read_run_state(folder)
    assert view.phase == "stopped" and view.notes == ()
    assert [(one.lane, one.sha256, one.strength) for one in view.lanes] == (
        [("Base", "", 1.0), ("SFT", "69c56d78f373", 1.0), ("DPO", "c5d5a4b420f5", 1.0)]
    )
    first = next(iter(view.said.values()))
    assert first.answers.keys() == first.ends.keys() == {"Base", "SFT", "DPO"} and all(first.answers.values())
    assert len(view.said) == 19 and sum(bool(one.problem) for one in view.said.values()) == 1
    assert view.heated and view.heated.pieces[0].second == -3.3218941688537598 and len(view.heated.pieces) == 9
    assert view.scored == score_table.read_score_file(run_dir(workspace, "sft-dpo") / "scores.json")


# ---- going on, training anew, and comparing


@pytest.fixture(scope="module")
def supervisor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Supervisor]:
    """On a copy that may change, with the real worker."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment().items():
            patch.setenv(name, value)
        opened = Supervisor(copied(tmp_path_factory.mktemp("resumed")), device="cpu")
        yield opened
        opened.close()


@pytest.mark.parametrize("name", [pytest.param("paused-sft", marks=pytest.mark.long), "paused-dpo"])
def test_a_paused_run_resumes_to_the_same_end(supervisor: Supervisor, views: dict[str, RunState], name: str) -> None:
    run_id, before = views[name].id, views[name]
    supervisor.control.resume(run_id)
    assert wait_for(
        lambda: supervisor.registry.refresh() or not supervisor.registry.run_state(run_id).phase.is_active, SECONDS
    )
    view = supervisor.registry.run_state(run_id)
    assert view.phase == "done", view.error
    assert view.points[: len(before.points)] == before.points, (
        "it went on from its checkpoint, and trained nothing twice"
    )
    assert_same_losses(view, "sft+dpo")
    ends = [[one.loss for one in run.evaluated if one.step == 10] for run in (view, views["sft-dpo"])]
    assert ends[0] == pytest.approx(ends[1], abs=NEAR)  # at step 5 it was asked to leave, and measured nothing


def test_recipes_give_the_recorded_losses_anew(tmp_path: Path) -> None:
    recipes = {method: read_recipe(RECORDED / f"{method.replace('+', '_')}.toml") for method in LOSSES}
    made = {
        method: run_folder.create_run(tmp_path / "runs", TrainJob(recipe=one), "") for method, one in recipes.items()
    }
    start(tmp_path, *map(str, made.values()))
    for method, folder in made.items():
        assert_same_losses(read_run_state(folder), method)


def assert_same_losses(view: RunState, method: str) -> None:
    found = {(stage, step): loss for stage, step, loss in losses(view)}
    assert found == pytest.approx({(stage, step): loss for stage, step, loss in LOSSES[method]}, abs=NEAR), view.error


def test_the_base_sft_and_dpo_of_a_recorded_run_answer(supervisor: Supervisor, views: dict[str, RunState]) -> None:
    """They say what they said to the same prompt while the run was trained."""
    current = supervisor.compare.compare_run(views["sft-dpo"].id)
    sampled = {(one.stage, one.step): one.samples[0] for one in views["sft-dpo"].sampled}
    prompt = sampled["sft", 0].prompt
    assert wait_for(lambda: supervisor.registry.refresh() or bool(current.state.lanes), SECONDS), current.state.error
    ask = current.ask(prompt, Sampling(temperature=0, max_new_tokens=8))
    assert wait_for(lambda: supervisor.registry.refresh() or ask in current.state.said, SECONDS), current.state.error
    answers = {"Base": sampled["sft", 0], "SFT": sampled["sft", 10], "DPO": sampled["dpo", 10]}
    said = {lane: text.strip() for lane, text in current.state.said[ask].answers.items()}
    assert said == {lane: one.answer for lane, one in answers.items()}
    assert current.lane_identities == {"Base": "", "SFT": "69c56d78f373", "DPO": "c5d5a4b420f5"}
    assert [one.difference for one in current.state.lanes] == pytest.approx([0, 1.3416885, 1.2181867], abs=1e-2)
