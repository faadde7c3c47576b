"""Held-out checks, early stopping and sample answers on a tiny model: what they say, and that they change nothing."""

from __future__ import annotations

import json
import math
from pathlib import Path
from random import Random

import pytest
from safetensors.torch import load_file

from tests.support import tiny
from tests.support.training_runs import STEPS, recipe, run
from trainer_core.data.tokenizer import decode_answer
from trainer_core.diagnosis.rules_answers import measure_answers
from trainer_core.methods.steps import SAVES_PER_STAGE, is_spaced_step
from trainer_core.planning.eval_budget import MIN_EVAL_ROWS
from trainer_core.runs import checkpoints
from trainer_core.runs.events import Phase, SampleAnswers
from trainer_core.runs.run_state import RunState

pytestmark = pytest.mark.real
OFF = {"evaluations": 0}
LORA = {"rank": 4, "alpha": 4, "dropout": 0.2}
"""With dropout, so that a random number drawn beside training would be seen."""


def write_pairs(path: Path, rows: int, seed: int) -> None:
    """Letters by chance: what is learned of one row says nothing about another."""
    random = Random(seed)
    letters = ["".join(random.choices("abcdefghijklmnop", k=random.randint(12, 36))) for _ in range(2 * rows)]
    made = [
        {"prompt": f"Say {seed} {at}.", "chosen": letters[2 * at], "rejected": letters[2 * at + 1]}
        for at in range(rows)
    ]
    path.write_text("\n".join(map(json.dumps, made)))


@pytest.fixture(scope="module")
def views(tmp_path_factory: pytest.TempPathFactory) -> dict[str, RunState]:
    """Everything that can share one process."""
    folder = tmp_path_factory.mktemp("evaluate")
    tiny.model(folder / "model")
    write_pairs(folder / "pairs.jsonl", 12, seed=1)
    write_pairs(folder / "held.jsonl", 12, seed=2)
    data = {"pairs": str(folder / "pairs.jsonl"), "held_out": str(folder / "held.jsonl")}
    sft = {**STEPS, "learning_rate": 1e-2, "epochs": 4}
    dpo = {**STEPS, "learning_rate": 3e-3, "epochs": 4}
    hard = {**STEPS, "learning_rate": 1e-2, "epochs": 40, "scheduler": "constant"}
    large = {"rank": 32, "alpha": 32}
    cases = {
        "on": recipe(folder, data=data, lora=LORA, sft=sft, dpo=dpo, samples=["Say it.", "Why?"], sample_tokens=8),
        "off": recipe(folder, data=data, lora=LORA, sft=sft | OFF, dpo=dpo | OFF, sample_tokens=0),
        "overfits": recipe(folder, data=data, method="sft", lora=large, sft=hard),
        "patient": recipe(folder, data=data, method="sft", lora=large, sft=hard | {"patience": 3}),
    }
    return dict(zip(cases, run(folder, *(("", case) for case in cases.values())), strict=True))


def test_checks_and_answers_change_nothing(views: dict[str, RunState]) -> None:
    on, off = views["on"], views["off"]
    assert on.phase is off.phase is Phase.DONE, on.error or off.error
    assert len(on.evaluated) > 4 and len(on.sampled) > 4 and not off.evaluated and not off.sampled
    assert [(p.stage, p.step, p.loss, p.metrics) for p in on.points] == [
        (p.stage, p.step, p.loss, p.metrics) for p in off.points
    ]
    for stage in ("sft", "dpo"):
        one, other = (load_file(Path(view.id) / f"adapter-{stage}/adapter_model.safetensors") for view in (on, off))
        assert all(one[key].equal(other[key]) for key in one)


def test_both_stages_are_measured_on_the_same_rows_to_the_end(views: dict[str, RunState]) -> None:
    for stage in ("sft", "dpo"):
        found = [one for one in views["on"].evaluated if one.stage == stage]
        total = next(point.total for point in views["on"].points if point.stage == stage)
        spread = [step for step in range(1, total + 1) if is_spaced_step(step, total, 10)]
        assert set(one.step for one in found) <= set(spread) and found[-1].step == total  # a busy machine gets fewer
        assert len({one.rows for one in found}) == 1 and found[0].rows >= MIN_EVAL_ROWS
        assert all(math.isfinite(one.loss) for one in found)
    dpo = [one for one in views["on"].evaluated if one.stage == "dpo"]
    assert all(0 <= one.metrics["accuracy"] <= 1 and math.isfinite(one.metrics["margin"]) for one in dpo)
    margins = [abs(one.metrics["margin"]) for one in dpo]
    assert dpo[0].loss == pytest.approx(math.log(2), abs=0.02) and margins[0] < 0.02 < margins[-1]


def test_the_base_answers_once_and_then_the_adapter_at_its_checkpoints(views: dict[str, RunState]) -> None:
    said = views["on"].sampled
    assert [(one.stage, one.step) for one in said] == [("sft", 0)] + [
        (stage, step) for stage in ("sft", "dpo") for step in (3, 5, 8, 10, 12)
    ]
    assert all([sample.prompt for sample in one.samples] == ["Say it.", "Why?"] for one in said)
    assert all(sample.tokens == 8 or sample.ended for one in said for sample in one.samples)
    assert len({one.samples[0].answer for one in said}) > 1, "an adapter that has learned answers otherwise"


@pytest.mark.parametrize(
    ("said", "answer", "marked"),
    [
        ("the fox<|im_end|>", "the fox", 0.0),
        ("the fox", "the fox", 0.0),
        ("the fox<|im_start|>user\nthe dog<|im_end|><|endoftext|>", "the fox<|im_start|>user\nthe dog", 1.0),
    ],
    ids=["ended", "cut", "markers"],
)
def test_markers_in_an_answer_are_seen(said: str, answer: str, marked: float) -> None:
    """As token ids they leave the model, by a tokenizer with the starter's own special tokens."""
    tokenizer = tiny.tokenizer()
    row = tokenizer(said, add_special_tokens=False)["input_ids"]
    sample = decode_answer(tokenizer, "Why?", row, [tokenizer.eos_token_id])
    assert sample.answer == answer and sample.ended == ("<|im_end|>" in said)
    assert measure_answers(SampleAnswers("dpo", 1, (sample,), 0.1)).marked == marked


def test_a_run_that_memorises_is_seen_and_its_best_step_is_known(views: dict[str, RunState]) -> None:
    view = views["overfits"]
    losses = [one.loss for one in view.evaluated]
    best = view.best_evaluation("sft")
    assert best and best.loss == min(losses) and losses[-1] > best.loss * 1.03, losses
    assert view.points[-1].loss < view.points[0].loss / 2


def test_the_best_can_be_kept_though_its_step_is_no_save_point(views: dict[str, RunState]) -> None:
    view = views["overfits"]
    best, total = view.best_evaluation("sft"), view.points[-1].step
    assert best and not is_spaced_step(best.step, total, SAVES_PER_STAGE), (
        "the example is of no use if the best falls on a save point"
    )
    folder = Path(view.id)
    assert checkpoints.verify(checkpoints.checkpoint_dir(folder, "sft", best.step)).step == best.step
    checkpoints.use_step(folder, "sft", best.step)
    assert checkpoints.verify(checkpoints.adapter_dir(folder, "sft")).step == best.step


def test_patience_ends_it_and_keeps_the_best(views: dict[str, RunState]) -> None:
    patient, whole = views["patient"], views["overfits"]
    assert patient.phase is Phase.DONE, patient.error
    best = patient.best_evaluation("sft")
    made = [point.loss for point in patient.points]
    assert best and made == [point.loss for point in whole.points][: len(made)]
    assert [one.step for one in patient.evaluated].index(best.step) == len(patient.evaluated) - 4
    assert patient.points[-1].step < whole.points[-1].step
    assert any("the adapter is from step" in str(note) for note in patient.notes), patient.notes
    folder = Path(patient.id)
    kept = checkpoints.checkpoint_dir(folder, "sft", best.step)
    one, other = (load_file(place / "adapter_model.safetensors") for place in (folder / "adapter-sft", kept))
    assert all(one[key].equal(other[key]) for key in one)
    assert checkpoints.finished_adapter(folder, "sft").folder and patient.planned == {"sft": patient.points[-1].step}
