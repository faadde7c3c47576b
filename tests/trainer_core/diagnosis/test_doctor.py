"""The doctor: each way to go wrong is named in time, and sound runs are left alone."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.support.histories import FOLDER, LN2, RECORDED, Made, recipe_of, recorded, views
from trainer_core.config.changes import with_changes
from trainer_core.config.recipe import Lora, MethodChain, Recipe
from trainer_core.diagnosis.doctor import CHECKS, diagnose
from trainer_core.diagnosis.finding import Finding
from trainer_core.diagnosis.series import estimate_noise, turning_points
from trainer_core.methods.dpo import Dpo
from trainer_core.methods.sft import Sft
from trainer_core.planning.presets import starter_recipe
from trainer_core.runs.compare_events import ConfidenceInterval, GenerationStats, LaneScore
from trainer_core.runs.events import SampleAnswer, SampleAnswers, Stage
from trainer_core.runs.run_state import RunState

SEEDS = range(4)


def dpo_loss(step: int, way: float) -> float:
    return LN2 * math.exp(-0.7 * way) if step > 1 else LN2


def away(onset: int, height: float):  # type: ignore[no-untyped-def]
    """A loss that falls until `onset` and then leaves upwards."""

    def loss(step: int, way: float) -> float:
        return 1.2 + 1.2 * math.exp(-6 * way) if step < onset else min(1.2 + 0.4 * (step - onset), height)

    return loss


def swinging(step: int, way: float) -> float:
    """DPO at a hundred times the rate: margins grow, and every third batch is far off."""
    if step < 12:
        return dpo_loss(step, way)
    return 3.0 + 0.1 * step if step % 3 == 0 else 0.2


def rising_stairs(way: float) -> float:
    """Three passes: each begins far lower than the last one ended, and rises again within."""
    part = min(2, int(3 * way))
    return (1.2, 0.75, 0.35)[part] + (-0.15, 0.12, 0.12)[part] * (3 * way - part)


def creeping(step: int, way: float) -> float:
    """Down by a fifth in 40 steps, and slowly up beyond where it began."""
    return 1.2 - min(step, 40) / 160 if step < 100 else min(1.35, 0.55 + step / 250)


def humps(step: int, way: float) -> float:
    """Down, up, down."""
    return 1.0 + 1.5 * math.exp(-10 * way) + 0.7 * math.exp(-(((way - 0.4) / 0.1) ** 2))


def steps_dpo(**more: object) -> Made:
    return Made(stage="dpo", loss=dpo_loss, wobble=0.04, **more)  # type: ignore[arg-type]


SICK: dict[str, tuple[Made, str, int]] = {
    "SFT diverges": (Made(loss=away(20, 8.0)), "sft.diverging", 40),
    "SFT loss is NaN": (Made(loss=lambda step, way: math.nan if step >= 30 else 2.0), "sft.diverging", 30),
    "SFT stands still": (Made(loss=lambda step, way: 2.0), "sft.still", 180),
    "SFT adapter is frozen": (Made(loss=lambda step, way: 1.4, norm=0.0), "sft.still", 100),
    "SFT memorises": (
        Made(total=400, held_out=lambda way: (1.6 - 1.2 * way if way < 0.4 else 1.12 + 0.6 * (way - 0.4), 0, 0)),
        "sft.memorising",
        320,
    ),
    "SFT loss is low early": (Made(loss=lambda step, way: 0.08 + 2 * math.exp(-40 * way), wobble=0.02), "sft.low_loss", 60),
    "SFT jumps": (Made(spikes=((60, 2.5), (90, 3.0), (130, 2.2))), "sft.spikes", 130),
    "SFT creeps up again": (
        Made(total=300, wobble=0.06, loss=creeping),
        "sft.diverging",
        190,
    ),
    "SFT knows its rows by heart": (
        Made(total=300, passes=3, wobble=0.06, loss=lambda step, way: rising_stairs(way)),
        "sft.memorising",
        220,
    ),
    "SFT descends twice": (Made(total=300, loss=humps), "sft.double_descent", 220),
    "DPO diverges": (
        Made(stage="dpo", loss=swinging, wobble=0.05, margin=lambda step, way: 0.3 * step),
        "dpo.diverging",
        26,
    ),
    "DPO margins run away": (
        Made(stage="dpo", loss=dpo_loss, wobble=0.04, margin=lambda step, way: min(25.0, 0.2 * step)),
        "dpo.margins",
        50,
    ),
    "DPO margins are wide and the loss jumps": (
        steps_dpo(margin=lambda step, way: 6 * way, spikes=tuple((at, 3.0) for at in range(120, 200, 9))),
        "dpo.margins",
        140,
    ),
    "DPO is flat": (
        Made(stage="dpo", loss=lambda step, way: LN2, wobble=0.01, margin=lambda step, way: 0.01, accuracy=lambda *_: 0.51),
        "dpo.flat",
        125,
    ),
    "DPO adapter is frozen": (
        Made(stage="dpo", loss=lambda step, way: LN2, wobble=0.0, margin=lambda step, way: 0.0, accuracy=lambda *_: 0.0),
        "dpo.dead",
        45,
    ),
    "DPO pairs are trivial": (steps_dpo(accuracy=lambda *_: 1.0), "dpo.trivial", 10),
    "DPO loses both sides": (
        steps_dpo(chosen=lambda step, way: -100 - 120 * way, rejected=lambda step, way: -120 - 300 * way),
        "dpo.collapse",
        80,
    ),
    "DPO loss is low early": (
        Made(stage="dpo", loss=lambda step, way: 0.06 + (LN2 - 0.06) * math.exp(-25 * way), wobble=0.015),
        "dpo.low_loss",
        40,
    ),
    "DPO overfits": (
        steps_dpo(held_out=lambda way: (0.69 - 0.4 * way if way < 0.5 else 0.49 + 0.4 * (way - 0.5), 0.65, 0.6)),
        "dpo.overfitting",
        175,
    ),
    "DPO learns nothing general": (
        steps_dpo(margin=lambda step, way: 4 * way, held_out=lambda way: (0.69, 0.5, 0.01)),
        "dpo.not_general",
        100,
    ),
    "DPO pairs are swapped": (
        steps_dpo(held_out=lambda way: (0.70 + 0.005 * way, 0.5 - 0.4 * way, -way)),
        "dpo.contradicted",
        175,
    ),
}  # fmt: skip


def findings(made: Made, seed: int, every: int = 1) -> Iterator[tuple[int, tuple[Finding, ...]]]:
    """The step, and what the doctor says then; asked at every step, or at every third, or …"""
    recipe = made.recipe.model_copy(update={"method": MethodChain(made.stage)})
    for view in views(made.told(seed)):
        if view.last_step and (view.last_step.step % every == 0 or view.last_step.step == made.total):
            yield view.last_step.step, diagnose(view, recipe)


@pytest.mark.parametrize("name", SICK)
def test_each_way_to_go_wrong_is_named_in_time(name: str) -> None:
    made, key, limit = SICK[name]
    for seed in SEEDS:
        step, found = next(((step, found) for step, found in findings(made, seed) if found), (0, ()))
        assert found, f"seed {seed}: nothing was found"
        assert found[0].key == key and found[0].step <= step <= limit, f"seed {seed}, step {step}: {found[0]}"


@pytest.mark.parametrize("name", SICK)
def test_what_is_offered_is_a_recipe(name: str) -> None:
    """The offer of every finding makes a valid recipe that differs from the sick one; applied again it stays within bounds."""
    made, key, _ = SICK[name]
    *_, (_, found) = findings(made, 0, every=made.total // 4)
    offers = [one.offer for one in found]
    assert key in [one.key for one in found], "what was found once is still there at the end"
    for offer in offers:
        assert offer.changes and with_changes(made.recipe, offer.changes) != made.recipe, offer


@pytest.mark.parametrize("name", SICK)
def test_each_number_fits_its_sentence(name: str) -> None:
    """A text whose numbers do not fit is shown as its code."""
    made, _, _ = SICK[name]
    *_, (_, found) = findings(made, 0, every=made.total)
    texts = [text for one in found for text in (one.title, one.says, one.source, *one.evidence)]
    assert found and not [str(text) for text in texts if text.code in str(text)]


@pytest.mark.parametrize(
    ("name", "says", "evidence"),
    [
        ("SFT memorises", "finding.memorising.says", ["evidence.held_out_loss", "evidence.training_loss"]),
        (
            "SFT knows its rows by heart",
            "finding.memorising.epoch_drops",
            ["evidence.epoch_drop", "evidence.epoch_drop", "evidence.epoch_steps"],
        ),
        ("SFT adapter is frozen", "finding.still.says", ["evidence.flat_loss", "evidence.frozen"]),
    ],
)
def test_the_explanation_fits_the_evidence(name: str, says: str, evidence: list[str]) -> None:
    made, key, _ = SICK[name]
    *_, (_, found) = findings(made, 0, every=made.total)
    (one,) = [one for one in found if one.key == key]
    assert one.says.code == says and [text.code for text in one.evidence] == evidence


def test_every_check_has_a_sick_run() -> None:
    named = {key.split(".")[1] for _, key, _ in SICK.values()}  # what two stages share has one name
    assert len(named) == len(CHECKS)


def stairs(step: int, way: float) -> float:
    """Three epochs: a little lower within each, and a step down when the rows come again."""
    epoch = int(way * 3)
    return (1.9, 1.3, 0.9)[epoch] - 0.3 * (way * 3 - epoch)


def slow_start(step: int, way: float) -> float:
    return 2.2 - 0.9 * way


HEALTHY: dict[str, Made] = {
    "SFT": Made(),
    "SFT, small batches": Made(wobble=0.3, total=400),
    "SFT, short": Made(total=18),
    "SFT, slow": Made(loss=slow_start, total=300),
    "SFT, slow and noisy": Made(loss=slow_start, total=300, wobble=0.25),
    "SFT, fast and then level": Made(loss=lambda step, way: 1.5 + 2 * math.exp(-step / 4), total=300),
    "SFT, three epochs in stairs": Made(loss=stairs, total=300, passes=3),
    "SFT, low but late": Made(loss=lambda step, way: 0.15 + 2 * math.exp(-4 * way), wobble=0.03),
    "SFT, one odd row": Made(spikes=((70, 3.0),)),
    "SFT, long": Made(total=1500, wobble=0.2, loss=lambda step, way: 1.3 + math.exp(-30 * way)),
    "SFT, held-out follows": Made(held_out=lambda way: (1.3 + 1.2 * math.exp(-6 * way), 0, 0)),
    "SFT, held-out levels off": Made(total=400, held_out=lambda way: (1.6 - 0.8 * min(way, 0.5), 0, 0)),
    "DPO": steps_dpo(),
    "DPO, strong": steps_dpo(margin=lambda step, way: 3.5 * way, accuracy=lambda step, way: 0.98 - 0.48 * math.exp(-5 * way)),
    "DPO, short": Made(stage="dpo", total=12, loss=dpo_loss, wobble=0.04),
    "DPO, slow": steps_dpo(total=300, margin=lambda step, way: 0.8 * way, accuracy=lambda step, way: 0.5 + 0.2 * way),
    "DPO, long": Made(stage="dpo", total=800, loss=dpo_loss, wobble=0.08, margin=lambda step, way: 2.5 * way),
    "DPO, noisy": Made(stage="dpo", loss=dpo_loss, wobble=0.15),
    "DPO, chosen falls a little": steps_dpo(chosen=lambda step, way: -100 - 7 * way, rejected=lambda step, way: -120 - 40 * way),
    "DPO, held-out follows": steps_dpo(held_out=lambda way: (LN2 - 0.25 * way, 0.5 + 0.25 * way, 1.2 * way)),
    "DPO, held-out is small": steps_dpo(held_out=lambda way: (LN2 - 0.1 * way, 0.56 + 0.1 * way, 0.6 * way)),
    "DPO, ends low": Made(stage="dpo", loss=lambda step, way: LN2 * math.exp(-2.2 * way) if step > 1 else LN2, wobble=0.03),
}  # fmt: skip


@pytest.mark.parametrize("name", HEALTHY)
def test_sound_runs_are_left_alone(name: str) -> None:
    made = HEALTHY[name]
    for seed in SEEDS:
        for step, found in findings(made, seed, every=1 + made.total // 100):
            assert not found, f"seed {seed}, step {step}: {found[0]}"


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.jsonl")), ids=lambda path: path.stem)
def test_real_runs_of_the_starter_model_are_left_alone(path: Path) -> None:
    """18 SFT and 6 DPO steps, or 24 and 12, on the sample data, where held-out scores rose; and those of RECORDED."""
    recipe = recipe_of(path.stem) if path.stem in RECORDED else starter_recipe()
    seen = [diagnose(view, recipe) for view in views(recorded(path))]
    assert len(seen) > 30 and not any(seen), next(filter(None, seen))[0]


def test_a_real_run_at_a_hundred_times_the_rate_is_named_at_once() -> None:
    """SFT of the starter model at 0.1: the loss goes from 3.7 to 48 in five steps, and stays near 10."""
    recipe = with_changes(starter_recipe(), {"method": "sft", "sft.learning_rate": 0.1})
    seen = [
        (view.last_step.step, diagnose(view, recipe))
        for view in views(recorded(FOLDER / "sick" / "rate-x100.jsonl"))
        if view.last_step
    ]
    named = [step for step, found in seen if found]
    assert named[0] <= 6 and named == [step for step, _ in seen if step >= named[0]], "and it stays named"
    assert {found[0].key for _, found in seen if found} == {"sft.diverging"}
    assert seen[-1][1][0].offer.changes == {"sft.learning_rate": 5e-4}


SICK_AS_RECORDED = (("tiny-twice-the-rate", "dpo.diverging"), ("tiny-seed-11-rank-4", "dpo.overfitting"))
"""Recorded as sound, and not so: held-out loss 0.61 → 1.47 by step 12; held-out margin below 0, that of training rising."""


@pytest.mark.parametrize(("name", "key"), SICK_AS_RECORDED)
def test_real_runs_that_are_not_sound_are_named(name: str, key: str) -> None:
    recipe = recipe_of(name)
    seen = [diagnose(view, recipe) for view in views(recorded(FOLDER / "sick" / f"{name}.jsonl"))]
    named = [found[0].key for found in seen if found]
    assert named and set(named) == {key}


def test_a_held_out_margin_that_grows_is_no_overfitting() -> None:
    """A few pairs that are badly wrong raise the loss; in real runs accuracy and margin went on rising meanwhile."""
    made = steps_dpo(held_out=lambda way: (0.69 - 0.4 * way if way < 0.5 else 0.49 + 0.4 * (way - 0.5), 0.7, way))
    assert not any(found for _, found in findings(made, 0, every=10))


def test_there_are_enough_histories() -> None:
    real = {path.stem for path in FOLDER.glob("*.jsonl")}
    assert len(SICK) >= 12 and len(HEALTHY) + len(real) >= 20 and len(real) >= 10
    assert set(RECORDED) == {one for one in real if one in RECORDED} | {name for name, _ in SICK_AS_RECORDED}


def score(lane: str, tokens: float = 30, ended: float = 1.0, repetition: float = 0.05) -> LaneScore:
    own = (ConfidenceInterval(value, None, None, 12) for value in (tokens, ended, repetition))
    held_out = (ConfidenceInterval(value, None, None, 50) for value in (0.6, 0.1, 20, 0.5))
    return LaneScore(lane, *held_out, own=GenerationStats(*own))


@pytest.mark.parametrize(
    ("scores", "keys"),
    [
        ([score("Base", 74, 0.2), score("SFT"), score("DPO", 25)], []),
        ([score("Base"), score("SFT"), score("DPO", 90, ended=0.4)], ["dpo.format"]),
        ([score("Base"), score("SFT"), score("DPO", 36, ended=0.4)], []),
        ([score("Base"), score("SFT", 90, ended=0.1), score("DPO", 200)], []),
        ([score("Base"), score("SFT"), score("DPO", tokens=70)], ["dpo.verbosity"]),
        ([score("Base"), score("SFT"), score("DPO", repetition=0.6)], ["dpo.repeating"]),
        ([score("Base", repetition=0.4), score("SFT"), score("DPO", repetition=0.5)], []),
        ([score("Base"), score("DPO")], []),
    ],
)
def test_answers_tell_what_curves_do_not(scores: list[LaneScore], keys: list[str]) -> None:
    *_, view = views(steps_dpo().told(1))
    assert [one.key for one in diagnose(view, Recipe(method=MethodChain("dpo")), scores)] == keys


def sampled(stage: Stage, step: int, tokens: int = 20, ended: int = 4, answer: str = "a b c d e f") -> SampleAnswers:
    """Four answers, of which so many ended by themselves."""
    return SampleAnswers(
        stage, step, tuple(SampleAnswer(f"Prompt {at}", answer, tokens, at < ended) for at in range(4)), 0.5
    )


BEFORE = (sampled("sft", 0, 48, 1), sampled("sft", 12), sampled("sft", 24))


@pytest.mark.parametrize(
    ("said", "keys"),
    [
        ((sampled("dpo", 4), sampled("dpo", 8, 24), sampled("dpo", 10, 25)), []),
        ((sampled("dpo", 4), sampled("dpo", 8, 48, 1)), []),
        ((sampled("dpo", 4), sampled("dpo", 8, 96, 2), sampled("dpo", 10, 80, 1)), ["dpo.format"]),
        ((sampled("dpo", 4), sampled("dpo", 8, 25, 0), sampled("dpo", 10, 24, 0)), []),
        ((sampled("dpo", 8, answer="Hi.<|im_start|>user"), sampled("dpo", 10, answer="[INST] no")), ["dpo.format"]),
        ((sampled("dpo", 8, 35), sampled("dpo", 10, 40)), ["dpo.verbosity"]),
        ((sampled("dpo", 8, answer="so it is " * 8), sampled("dpo", 10, answer="so it is " * 9)), ["dpo.repeating"]),
    ],
    ids=["sound", "one point", "no end", "cut soon after", "markers", "longer", "in circles"],
)
def test_sample_answers_tell_it_while_the_run_goes_on(said: tuple[SampleAnswers, ...], keys: list[str]) -> None:
    *_, view = views(steps_dpo().told(1))
    seen = replace(view, sampled=(*BEFORE, *said))
    assert [one.key for one in diagnose(seen, Recipe(method=MethodChain("dpo")))] == keys


def test_swapped_pairs_are_swapped_back_and_if_that_was_done_smoothed() -> None:
    *_, view = views(SICK["DPO pairs are swapped"][0].told(0))
    recipe = Recipe(method=MethodChain("dpo"))
    first = diagnose(view, recipe)[0].offer
    assert first.changes == {"data.steps": ["swap_sides"]}
    assert diagnose(view, with_changes(recipe, first.changes))[0].offer.changes["dpo.losses"] == ["robust"]


def test_easy_pairs_are_named_until_the_loss_sets_its_own_margin() -> None:
    made = steps_dpo(accuracy=lambda *_: 1.0, margin=lambda step, way: 4.0 * min(1, 4 * way))
    *_, view = views(made.told(0))
    recipe = Recipe(method=MethodChain("dpo"))
    (found,) = diagnose(view, recipe)
    assert found.key == "dpo.trivial" and found.offer.changes["dpo.losses"] == ["ipo"]
    assert diagnose(view, with_changes(recipe, found.offer.changes)) == ()


def test_pairs_that_held_out_ones_contradict_are_not_called_easy() -> None:
    """Swapped ones are told apart at once too."""
    made = steps_dpo(
        accuracy=lambda *_: 1.0,
        margin=lambda step, way: 4.0 * min(1, 4 * way),
        held_out=lambda way: (0.70 + 0.05 * way, 0.4 - 0.4 * way, -way),
    )
    for seen in views(made.told(0)):
        keys = [one.key for one in diagnose(seen, Recipe(method=MethodChain("dpo")))]
        assert not seen.evaluated or "dpo.trivial" not in keys
    assert keys[0] == "dpo.contradicted"


@pytest.mark.parametrize(
    ("recipe", "changes"),
    [
        (Recipe(), {"dpo.learning_rate": 1e-6}),
        (Recipe(dpo=Dpo(learning_rate=1e-6)), {"dpo.beta": 0.2}),
        (Recipe(dpo=Dpo(learning_rate=1e-6, beta=0.5, warmup=0)), {"dpo.warmup": 0.1}),
        (
            Recipe(dpo=Dpo(learning_rate=1e-6, beta=0.5)),
            {"dpo.losses": ["sigmoid", "sft"], "dpo.loss_weights": [1.0, 0.5]},
        ),
        (
            Recipe(dpo=Dpo(learning_rate=1e-6, beta=0.5, losses=("sigmoid", "sft"), loss_weights=(1.0, 1.0))),
            {"dpo.max_steps": 100},
        ),
        (Recipe(dpo=Dpo(learning_rate=5e-3)), {"dpo.learning_rate": 5e-5}),
        (Recipe(dpo=Dpo(warmup=0)), {"dpo.learning_rate": 1e-6, "dpo.warmup": 0.1}),
    ],
    ids=[
        "a slower rate", "at the slowest rate more beta", "most beta, so warm-up", "an SFT term", "fewer steps",
        "from far outside into the range", "no warm-up",
    ],
)  # fmt: skip
def test_a_diverging_run_is_slowed_down_within_its_range(recipe: Recipe, changes: dict[str, float]) -> None:
    *_, view = views(SICK["DPO diverges"][0].told(0))
    assert diagnose(view, recipe.model_copy(update={"method": MethodChain("dpo")}))[0].offer.changes == changes


@pytest.mark.parametrize(
    ("recipe", "changes"),
    [
        (Recipe(), {"sft.learning_rate": 5e-4}),
        (Recipe(sft=Sft(learning_rate=1e-3)), {"lora.rank": 32, "lora.alpha": 32}),
        (Recipe(sft=Sft(learning_rate=1e-3), lora=Lora(rank=512)), {"lora.rank": 512, "lora.alpha": 32}),
    ],
    ids=["a faster rate", "at the fastest rate more rank", "and no more rank than there is"],
)
def test_a_run_that_stands_still_is_pushed_within_its_range(recipe: Recipe, changes: dict[str, float]) -> None:
    *_, view = views(SICK["SFT stands still"][0].told(0))
    assert diagnose(view, recipe.model_copy(update={"method": MethodChain("sft")}))[0].offer.changes == changes


def test_nothing_is_said_of_a_run_without_steps() -> None:
    assert diagnose(RunState("new"), Recipe()) == ()


def test_noise_is_told_from_a_trend() -> None:
    random = np.random.default_rng(1)
    values = np.linspace(5, 1, 400) + random.normal(0, 0.2, 400)
    assert estimate_noise(values) == pytest.approx(0.2, rel=0.2)


@pytest.mark.parametrize(
    ("values", "corners"),
    [
        ([3, 2, 1, 1.2, 1], [0, 2]),
        ([3, 1, 2, 0], [0, 1, 2, 3]),
        ([1, 1, 1], []),
        ([1, 1.5, 1, 2.5], [0, 3]),
    ],
)
def test_a_zigzag_turns_only_at_large_swings(values: list[float], corners: list[int]) -> None:
    assert turning_points(np.array(values), 0.9) == corners
