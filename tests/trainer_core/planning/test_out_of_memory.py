"""Out of memory: what is done by itself, in which order, what is only offered, and that the result stays the same."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest

from tests.support.engine_case import WORDINGS
from tests.support.training_runs import recipe, start, write_inputs
from trainer_core.config import changes
from trainer_core.config.jobs import TrainJob
from trainer_core.config.recipe import Recipe
from trainer_core.methods.sft import Sft
from trainer_core.models.architecture import Architecture
from trainer_core.planning import out_of_memory
from trainer_core.planning.presets import load_catalogue
from trainer_core.runs import effective_recipe, run_folder
from trainer_core.runs.event_log import EventLog
from trainer_core.runs.events import OutOfMemory, Phase, PhaseChanged, RowLengths, Stage, TrainStep
from trainer_core.runs.run_state import RunState, read_run_state
from trainer_core.texts import Text
from trainer_core.worker import runner

pytestmark = pytest.mark.real


@pytest.mark.parametrize(
    ("batch", "accumulation", "after"),
    [(8, 2, (4, 4)), (2, 2, (1, 4)), (3, 1, (1, 3)), (6, 3, (3, 6)), (5, 4, (2, 10)), (7, 1, (1, 7)), (12, 1, (6, 2))],
)
def test_the_effective_batch_stays_also_where_it_cannot_be_halved(
    batch: int, accumulation: int, after: tuple[int, int]
) -> None:
    asked = Recipe(sft=Sft(batch_size=batch, accumulation=accumulation))
    rung = out_of_memory.next_fallback(asked, "sft", 0)
    assert rung
    now = effective_recipe.effective_recipe(asked, rung.settings).sft
    assert (now.batch_size, now.accumulation) == after and now.effective_batch == batch * accumulation


def batch_text(size: int, accumulation: int) -> Text:
    return Text("out_of_memory.batch", batch=size, accumulation=accumulation)


def taken_fallbacks(
    asked: Recipe, on_card: bool, loading: bool = False, shape: Architecture | None = None
) -> list[Text]:
    """The fallbacks, one after the other."""
    told: list[Text] = []
    while rung := out_of_memory.next_fallback(asked, "sft", len(told), on_card, loading, shape):
        asked = effective_recipe.effective_recipe(asked, rung.settings)
        told.append(rung.summary)
    return told


def test_rungs_in_their_order_and_at_most_three() -> None:
    large, small = Recipe(sft=Sft(batch_size=16, accumulation=1)), Recipe(sft=Sft(batch_size=2, accumulation=8))
    assert taken_fallbacks(large, on_card=True) == [batch_text(8, 2), batch_text(4, 4), batch_text(2, 8)]
    assert taken_fallbacks(small, on_card=True) == [
        batch_text(1, 16),
        Text("out_of_memory.no_kept_layers"),
        Text("out_of_memory.offloaded"),
    ]
    assert taken_fallbacks(small, on_card=False) == [batch_text(1, 16)]
    assert taken_fallbacks(small, on_card=True, loading=True) == [Text("out_of_memory.offloaded")]
    off = changes.with_changes(small, {"memory.skip_layers": "off", "memory.offload_embedding": "on"})
    assert taken_fallbacks(off, on_card=True) == [batch_text(1, 16)]


def test_a_table_that_is_the_output_head_too_is_not_moved() -> None:
    small, catalogue = Recipe(sft=Sft(batch_size=2, accumulation=8)), load_catalogue()
    tied, apart = (
        catalogue.find_architecture(name) for name in ("unsloth/Qwen3-4B-bnb-4bit", "unsloth/Qwen3-8B-bnb-4bit")
    )
    assert tied and apart and tied.tied and not apart.tied
    assert taken_fallbacks(small, on_card=True, shape=tied) == [batch_text(1, 16), Text("out_of_memory.no_kept_layers")]
    assert taken_fallbacks(small, on_card=True, loading=True, shape=tied) == []
    assert taken_fallbacks(small, on_card=True, loading=True, shape=apart) == [Text("out_of_memory.offloaded")]


ROWS = RowLengths("dpo", longest=1000, most=448, beyond=0.0213)


def test_three_offers_the_mildest_first_each_a_click() -> None:
    asked = Recipe(model="unsloth/Qwen3-8B-bnb-4bit", precision="nf4")
    length, rank, smaller = out_of_memory.suggest_fixes(asked, "dpo", ROWS, "nf4")
    assert length.text == Text("suggestion.cut_longest", tokens=448, lost=0.0213)
    assert length.changes == {"dpo.max_length": 448}
    assert rank.changes == {"lora.rank": 8, "lora.alpha": 8}
    assert smaller.changes == {"model": "unsloth/Qwen3-4B-bnb-4bit"}
    for offer in (length, rank, smaller):
        assert changes.with_changes(asked, offer.changes) != asked


def test_a_base_in_more_bits_is_packed_before_the_rank_is_cut() -> None:
    assert out_of_memory.suggest_fixes(Recipe(), "sft", None, "bf16")[1].changes == {"precision": "nf4"}


def test_length_is_halved_where_the_95th_percentile_is_no_shorter() -> None:
    even = replace(ROWS, longest=448)
    assert out_of_memory.suggest_fixes(Recipe(), "dpo", even, "nf4")[0].changes == {"dpo.max_length": 512}
    assert out_of_memory.suggest_fixes(Recipe(), "dpo", None, "nf4")[0].changes == {"dpo.max_length": 512}


def test_an_unknown_model_is_replaced_by_the_starter() -> None:
    for model, smaller in (("nobody/knows-this", "starter"), ("unsloth/Qwen3-8B", "unsloth/Qwen3-4B")):
        offer = out_of_memory.suggest_smaller_model(model)
        assert offer and offer.changes == {"model": smaller}


@pytest.mark.parametrize("precision", ["nf4", "bf16"])
def test_the_smallest_model_is_not_replaced_by_itself(precision: str) -> None:
    asked = Recipe()
    offers = out_of_memory.suggest_fixes(asked, "sft", None, precision)
    assert len({str(offer.text) for offer in offers}) == 3
    assert all(changes.with_changes(asked, offer.changes) != asked for offer in offers)


def run_dir(folder: Path, batch: int) -> tuple[Path, EventLog]:
    """A run that has come to its first step."""
    asked = Recipe(sft=Sft(batch_size=batch, accumulation=4))
    made = run_folder.create_run(folder / "runs", TrainJob(recipe=asked), "t")
    log = EventLog(made / "events.jsonl")
    for event in (
        PhaseChanged(Phase.TRAINING, stage="sft"),
        replace(ROWS, stage="sft"),
        TrainStep("sft", 1, 9, 1.0, 1e-4, 1.0, 1.0, 9.0, 9.0),
    ):
        log(event)
    return made, log


def test_a_rung_is_written_into_the_run(tmp_path: Path) -> None:
    made, log = run_dir(tmp_path, 2)
    assert runner.plan_oom_retry(made, log, "CUDA out of memory")
    view = read_run_state(made)
    assert view.detail.code == "loading.less_memory"
    assert view.detail.params["settings"] == Text("out_of_memory.batch", batch=1, accumulation=8)
    assert [(one.what, one.asked, one.used) for one in view.changes] == [
        ("sft.batch_size", "2", "1"),
        ("sft.accumulation", "4", "8"),
    ]
    assert view.out_of_memory == (OutOfMemory("sft", "CUDA out of memory"),)


def test_at_batch_1_the_run_stops_with_the_three_ways_out(tmp_path: Path) -> None:
    made, log = run_dir(tmp_path, 1)
    assert not runner.plan_oom_retry(made, log, "CUDA out of memory")
    view = read_run_state(made)
    assert view.phase is Phase.FAILED and len(view.offers) == 3
    assert view.error == Text("out_of_memory.nothing_left", stage="SFT", batch=1, length=1024)
    assert view.offers[0].changes == {"sft.max_length": 448}


def test_after_three_rungs_the_batch_that_is_left_is_offered_first(tmp_path: Path) -> None:
    made, log = run_dir(tmp_path, 16)
    for goes_on in (True, True, True, False):
        log(PhaseChanged(Phase.TRAINING, stage="sft"))
        assert runner.plan_oom_retry(made, log, "CUDA out of memory") is goes_on
    view = read_run_state(made)
    assert view.error == Text("out_of_memory.limit_reached", stage="SFT", batch=2, length=1024, taken=3)
    assert len(view.offers) == 3
    assert view.offers[0].text == Text("suggestion.batch_1", whole=64, batch=2, accumulation=32)
    assert view.offers[0].changes == {"sft.batch_size": 1, "sft.accumulation": 64}
    assert view.offers[1].changes == {"sft.max_length": 448}


def test_what_is_left_at_batch_1_is_offered_by_its_setting() -> None:
    asked = Recipe(model="unsloth/Qwen3-8B-bnb-4bit", sft=Sft(batch_size=1, accumulation=16))
    left = out_of_memory.remaining_fallback(asked, "sft", on_card=True, loading=False, shape=None)
    first = out_of_memory.suggest_fixes(asked, "sft", None, "nf4", left)[0]
    assert first.text == Text("suggestion.use_fallback", settings=Text("out_of_memory.no_kept_layers"))
    assert first.changes == {"memory.skip_layers": "off"} and changes.with_changes(asked, first.changes) != asked


PLACES = ("1", "4", "evaluated", "saving")
"""The first step, mid-run, in an evaluation, and in saving."""
FIVE = ("torch", "cublas", "cudnn", "cpu", "bnb")
RATES = {"sft": 1e-2, "dpo": 1e-3}
GRID = list(product(RATES, FIVE, PLACES))
SOME = [("sft", "torch", "1"), ("sft", "cublas", "evaluated"), ("sft", "bnb", "saving"),
        ("dpo", "cudnn", "4"), ("dpo", "cpu", "1"), ("dpo", "bnb", "saving")]  # fmt: skip
"""Each stage, wording and place once; the rest of the grid is for `--long`."""


@pytest.fixture(scope="module")
def views(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> dict[str, RunState]:
    """An undisturbed run of each stage, and one for each place and wording."""
    folder, tried = tmp_path_factory.mktemp("ladder"), GRID if request.config.getoption("--long") else SOME
    write_inputs(folder)
    faults = [*RATES, *(f"{wording}@{stage}.{place}" for stage, wording, place in tried)]
    made = {
        fault: run_folder.create_run(folder / "runs", TrainJob(recipe=short(folder, fault)), "t") for fault in faults
    }
    start(folder, *(f"{fault}:{place}" if "@" in fault else str(place) for fault, place in made.items()))
    return {fault: read_run_state(place) for fault, place in made.items()}


def short(folder: Path, fault: str) -> Recipe:
    """Six steps of the stage that the fault is in."""
    stage = fault.partition("@")[2].partition(".")[0] or fault
    steps = {"batch_size": 2, "accumulation": 2, "max_length": 128, "max_steps": 6, "learning_rate": RATES[stage]}
    return recipe(folder, method=stage, sample_tokens=0, **{stage: steps})


@pytest.mark.parametrize(
    ("stage", "wording", "place"), [pytest.param(*one, marks=() if one in SOME else pytest.mark.long) for one in GRID]
)
def test_the_run_goes_on_by_itself_to_the_same_losses(
    views: dict[str, RunState], stage: Stage, wording: str, place: str
) -> None:
    view, undisturbed = views[f"{wording}@{stage}.{place}"], views[stage]
    assert view.phase is Phase.DONE, view.error
    assert [one.stage for one in view.out_of_memory] == [stage]
    assert WORDINGS[wording].startswith(view.out_of_memory[0].message)
    used = {change.what: int(change.used) for change in view.changes if change.what.startswith(f"{stage}.")}
    assert used == {f"{stage}.batch_size": 1, f"{stage}.accumulation": 4}
    assert [point.step for point in view.points] == [1, 2, 3, 4, 5, 6]
    for one, other in zip(view.points, undisturbed.points, strict=True):
        assert one.loss == pytest.approx(other.loss, abs=1e-6)
