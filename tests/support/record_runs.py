"""Records what this version writes: `python -m tests.support.record_runs DIR` works in DIR, then fills tests/support/recorded.

Later versions must open, resume and compare what lies there, see tests/test_recorded_runs.py; so it is made anew only when a
new format is to be held as well, or when a trainer has another major version: its checkpoints are not gone on with, see
checkpoints.foreign. Two layers with random weights are trained by the real worker on the processor.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

from tests.support import tiny
from tests.support.training_runs import environment, start, write_data
from trainer_core.cli import demo
from trainer_core.config.jobs import TrainJob
from trainer_core.config.recipe import Recipe, Sampling, read_recipe
from trainer_core.evaluation import judge, preference_data, votes
from trainer_core.jobs import blind_voting
from trainer_core.jobs.comparison import CompareSession
from trainer_core.jobs.supervisor import Supervisor
from trainer_core.runs import checkpoints, metadata, run_folder
from trainer_core.runs.compare_requests import AdjustLaneRequest, ChatMessage, HeatmapRequest, ScoreRequest
from trainer_core.runs.metadata import RunMetadata
from trainer_core.runs.run_state import read_run_state
from trainer_core.runs.workspace import Workspace
from trainer_core.system import project

FOLDER = Path(__file__).parent / "recorded"
INSIDE = FOLDER.relative_to(project.PROJECT).as_posix()
RECIPE = """\
model = "{inside}/model"
precision = "fp32"
method = "{method}"
samples = ["Question number 3, what is it?", "What is six?"]
sample_tokens = 8

[data]
pairs = "{inside}/pairs.jsonl"

[lora]
rank = 2
alpha = 4

[sft]
learning_rate = 1e-2
epochs = 2
batch_size = 2
accumulation = 2
max_length = 128
evaluations = 2

[dpo]
learning_rate = 1e-3
epochs = 2
batch_size = 2
accumulation = 2
max_length = 128
evaluations = 2
"""
"""Paths are relative to the project: they are part of the hash that says whether a checkpoint fits its run."""
METHODS = {"sft_dpo": "sft+dpo", "sft": "sft", "dpo": "dpo"}
CASES = {
    "sft dpo": ("sft_dpo", ""),
    "sft": ("sft", ""),
    "dpo": ("dpo", ""),
    "paused sft": ("sft_dpo", "pause@sft.5"),
    "paused dpo": ("sft_dpo", "pause@dpo.5"),
    "stepped down": ("sft_dpo", "torch@dpo.1"),
    "failed": ("dpo", "nan2"),
}
"""Name of a run → its recipe, and what happens to it, see tests/support/engine_case.py."""
WITH_CHECKPOINTS = ("sft dpo", "paused sft", "paused dpo")
"""Of the others only what they say is recorded, and their recipes."""
LEFT_OUT = (
    ".reserve",
    "worker.log",
    "happened",
    "control.json",
    "*.lock",
    "gpu.*",
    "tokens",
    "reference",
    "compiled",
    ".dpo",
)
"""Logs with paths of this machine, locks, and what is made again when it is missing."""
SHORT = Sampling(temperature=0.7, max_new_tokens=8)
VERDICTS = (("A", "B"), ("B", "A"), ("A", "A"), ("tie", "tie"))


def main(folder: Path) -> None:
    os.environ.update(environment())
    shutil.rmtree(FOLDER, ignore_errors=True)
    tiny.model(FOLDER / "model", hidden_size=32, intermediate_size=64)
    write_data(FOLDER)
    for name, method in METHODS.items():
        (FOLDER / f"{name}.toml").write_text(RECIPE.format(inside=INSIDE, method=method))
    workspace = Workspace(folder.resolve() / "home")
    made = trained(workspace)
    compared(workspace, made["sft dpo"])
    metadata.write_metadata(
        made["sft dpo"], RunMetadata(name="Whole", note="Both stages, nothing happened.", pinned=True)
    )
    losses = {
        method: [(one.stage, one.step, one.loss) for one in read_run_state(made[name.replace("_", " ")]).points]
        for name, method in METHODS.items()
    }
    (FOLDER / "losses.json").write_text(json.dumps(losses, indent=1) + "\n")
    for name, run_dir in made.items():
        if name not in WITH_CHECKPOINTS:
            for one in (*run_dir.glob("adapter-*"), run_dir / checkpoints.CHECKPOINTS_FOLDER):
                shutil.rmtree(one, ignore_errors=True)
    shutil.copytree(workspace.root, FOLDER, ignore=shutil.ignore_patterns(*LEFT_OUT), dirs_exist_ok=True)
    forget_places(workspace)


def trained(workspace: Workspace) -> dict[str, Path]:
    """Every run from its start to where it ended, all in one process."""
    facts = Supervisor(workspace, device="cpu").spawner.run_file_facts
    made, arguments = {}, []
    for name, (recipe, fault) in CASES.items():
        asked = named(read_recipe(FOLDER / f"{recipe}.toml"), name)
        made[name] = run_folder.create_run(workspace.runs, TrainJob(recipe=asked), name, **facts((), asked.model))
        arguments.append(f"{fault}:{made[name]}" if fault else str(made[name]))
    start(workspace.root.parent, *arguments)
    return made


def named(recipe: Recipe, name: str) -> Recipe:
    """The recipe under a name. One measures its memory first, so that there is such an event."""
    probe = "on" if name == "stepped down" else "auto"
    return recipe.model_copy(update={"name": name, "memory": recipe.memory.model_copy(update={"probe": probe})})


def compared(workspace: Workspace, run_dir: Path) -> None:
    """The base, SFT and DPO of a run: a conversation, a turned dial, a heat map, scores, blind votes and a judge."""
    supervisor = Supervisor(workspace, device="cpu")
    current = supervisor.compare.compare_run(run_dir.name)
    until(supervisor, current, lambda view: bool(view.lanes))
    for follow in (False, True):
        ask = current.ask("What is five?", SHORT, follow=follow)
        until(supervisor, current, lambda view, ask=ask: ask in view.said)
    for strength in (0.5, 1.0):
        current.send(AdjustLaneRequest(id=f"dial-{strength}", lane="DPO", strength=strength))
    asked = (ChatMessage(role="user", content="What is four?"),)
    current.send(HeatmapRequest(id="heat", messages=asked, answer="It is 4.", lanes=("Base", "DPO")))
    until(supervisor, current, lambda view: view.heated is not None)
    current.send(AdjustLaneRequest(id="refused", lane="Nobody"))
    until(supervisor, current, lambda view: "refused" in view.said)
    current.send(ScoreRequest(pairs="nowhere.jsonl"))
    until(supervisor, current, lambda view: bool(view.scoring_error))
    demo.wait_for_scores(current, run_dir / "held-out.jsonl")
    voted(supervisor, run_dir.name)
    supervisor.close()


def until(supervisor: Supervisor, current: CompareSession, there) -> None:  # type: ignore[no-untyped-def]
    demo.wait_for_comparison(current, there, demo.LOAD_SECONDS)


def voted(supervisor: Supervisor, run_id: str) -> None:
    """Votes of every kind on two contests, one taken back and given again; a better answer, a data set, a judge's verdicts."""
    names = ("Base", "SFT", "DPO")
    first, second = (blind_voting.lane_pair(run_id, names, one, "DPO") for one in ("Base", "SFT"))
    blind_voting.start_question(supervisor.compare, first, "held-out", SHORT)
    for wanted in ("DPO", "DPO", "Base", "tie", "DPO", "bad", "skip", "DPO", "Base"):
        give(supervisor, wanted)
        if wanted == "bad":
            blind_voting.save_better_answer(supervisor.registry, "A better answer.")
        blind_voting.show_next_question(supervisor.registry)
    give(supervisor, "Base")
    blind_voting.undo_vote(supervisor.registry)
    give(supervisor, "DPO")
    blind_voting.retry_with_new_seed(supervisor.registry)
    give(supervisor, "Base")
    blind_voting.start_question(supervisor.compare, second, "bundled", SHORT)
    give(supervisor, "SFT")
    blind_voting.show_next_question(supervisor.registry)
    give(supervisor, "tie")
    blind_voting.end_voting(supervisor.registry)
    standing = votes.active_votes(votes.read_vote_records(votes.votes_path(supervisor.workspace)))
    preference_data.write_vote_data_set(supervisor.workspace, standing, first)
    for at, vote in enumerate(one for one in standing if one.contest == first and one.winner):
        words = iter(VERDICTS[at % len(VERDICTS)])
        case = judge.JudgeCase(first, vote.messages, *judge.answers_in_order(vote))
        judge.save_verdict(supervisor.workspace, judge.judge_case(case, lambda _, words=words: next(words), "a judge"))


def give(supervisor: Supervisor, wanted: str) -> None:
    """Vote for a lane, whichever side it stands on, or for neither."""
    current = supervisor.registry.comparison
    assert current
    until(supervisor, current, lambda _: blind_voting.is_answered(current))
    question = blind_voting.current_question(supervisor.registry)
    sides = {question.left_lane: "left", question.right_lane: "right"}
    blind_voting.cast_vote(supervisor.registry, sides.get(wanted, wanted))  # type: ignore[arg-type]


def forget_places(workspace: Workspace) -> None:
    """No file names a place of this machine: the workspace becomes @ROOT@, the project's own files relative. Where a manifest
    covers such a file it is sealed anew, as it would have been over these bytes."""
    places = {str(workspace.root): "@ROOT@", f"{project.PROJECT}/": ""}
    for path in filter(Path.is_file, FOLDER.rglob("*")):
        content = path.read_bytes()
        for place, instead in places.items():
            content = content.replace(place.encode(), instead.encode())
        if content != path.read_bytes():
            path.write_bytes(content)
    for path in FOLDER.rglob(checkpoints.MANIFEST):
        manifest = checkpoints.read_manifest(path.parent)
        files = {
            name: checkpoints.FileFingerprint(
                bytes=(path.parent / name).stat().st_size, sha256=checkpoints.file_sha256(path.parent / name)
            )
            for name in manifest.files
        }
        manifest = manifest.model_copy(update={"files": files})
        path.write_text(manifest.model_copy(update={"own": manifest.hash}).model_dump_json(indent=1))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
