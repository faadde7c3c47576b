"""fitting.py over a grid of cards, models, methods and data: it fits, it spends, it keeps the batch, it says why."""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.readings import card, replay
from trainer_core.config.recipe import METHOD_CHAINS, Lora, MethodChain, Recipe
from trainer_core.errors import DeviceError
from trainer_core.methods.base import EFFECTIVE_BATCH, DatasetStats, LengthQuantiles
from trainer_core.methods.dpo import Dpo
from trainer_core.methods.sft import Sft
from trainer_core.models.architecture import Architecture
from trainer_core.planning import measurements
from trainer_core.planning.fitting import FittedSettings, MemoryBudget, fit_settings
from trainer_core.planning.measurements import MeasuredMemory
from trainer_core.planning.memory_model import (
    SAFE_SHARE,
    Measurement,
    StageSetup,
    estimate_memory,
    fit_verdict,
    with_batch,
)
from trainer_core.planning.presets import load_catalogue
from trainer_core.planning.recommendations import FitLimits, recommend_length
from trainer_core.system.format import GIB, format_gb
from trainer_core.system.hardware import detect_machine, reserve_bytes
from trainer_core.texts import Text

SHAPES = {known.title: known.architecture for known in load_catalogue().models}
EIGHT = [
    "SmolLM2 135M",
    "Qwen2.5 1.5B",
    "Llama 3.2 3B",
    "Qwen3 4B",
    "Llama 3.1 8B",
    "Qwen3 14B",
    "Qwen3 32B",
    "Llama 3.3 70B",
]
CARDS = [6, 8, 12, 16, 24, 32, 48, 80]


def lengths(seed: int, middle: float, spread: float, most: int) -> LengthQuantiles:
    draw = random.Random(seed)
    return LengthQuantiles.from_counts(
        [max(8, min(most, round(draw.lognormvariate(math.log(middle), spread)))) for _ in range(500)]
    )


def facts(count: int, some: LengthQuantiles) -> DatasetStats:
    return DatasetStats(rows=count, pairs=count, chat=some, pair=some)


DATA = {
    "40 short": facts(40, lengths(1, 60, 0.3, 200)),
    "400 usual": facts(400, lengths(2, 250, 0.7, 4000)),
    "3,000 with one outlier": facts(3000, LengthQuantiles((*lengths(3, 400, 0.5, 2000).points[:-1], (1.0, 30_000)))),
    "30,000 long": facts(30_000, lengths(4, 2500, 0.6, 16_000)),
    "80,000 mixed": facts(80_000, lengths(5, 700, 1.0, 32_000)),
}


def free_on(gib: float) -> int:
    """What is left on a card beside a desktop with a browser, and the reserve."""
    return round((gib - 0.4) * GIB) - reserve_bytes(gib * GIB)  # type: ignore[arg-type]


def setups_of(plan: FittedSettings, shape: Architecture, data: DatasetStats) -> dict[str, StageSetup]:
    stages = {"sft": plan.stages["sft"], "dpo": plan.stages["dpo"]}
    return {
        stage: StageSetup(
            shape,
            plan.lora,
            stages[stage],
            plan.base,
            reference=stage == "dpo" and "sft" in plan.estimates,
            longest=data.length_quantiles(stage).longest,
            skip_layers=plan.skip_layers[stage],
            loads=max(stages[name].max_length for name in plan.estimates),
            offload_embedding=plan.memory.offload_embedding == "on",
        )
        for stage in plan.estimates
    }


def moves(setup: StageSetup) -> list[StageSetup]:
    """One notch more of each lever."""
    found = []
    if setup.training.batch_size < EFFECTIVE_BATCH:
        found.append(with_batch(setup, setup.training.batch_size * 2, EFFECTIVE_BATCH))
    if setup.skip_layers < setup.shape.layers:
        found.append(replace(setup, skip_layers=setup.skip_layers + 1))
    return found


def smallest(shape: Architecture, method: MethodChain) -> int:
    """The least that any plan for this model can take."""
    training = Dpo(batch_size=1, max_length=64) if "dpo" in method.stages else Sft(batch_size=1, max_length=64)
    return estimate_memory(
        StageSetup(shape, Lora(rank=8, alpha=8), training, "nf4", offload_embedding=True, loads=512)
    ).upper


def check_plan(plan: FittedSettings, shape: Architecture, data: DatasetStats, room: MemoryBudget) -> list[str]:
    """Everything a plan must be; what each stage's memory came to, in words."""
    seen = []
    for stage, setup in setups_of(plan, shape, data).items():
        planned = estimate_memory(setup)
        assert planned == plan.estimates[stage]
        assert planned.upper <= room.free
        assert fit_verdict(planned, room.free).level == "fits"
        assert setup.training.effective_batch == EFFECTIVE_BATCH
        assert setup.training.max_length % 64 == 0
        assert setup.training.max_length <= shape.context
        used = planned.upper / room.free
        if used < 0.6:  # then the data has nothing more to put there
            assert not [one for one in moves(setup) if room.fits(one)]
        seen.append("used" if used >= 0.6 else "nothing left to spend on")
    return seen


def check_reasons(plan: FittedSettings) -> None:
    parts = {"lora": plan.lora, "memory": plan.memory, **{stage: plan.stages[stage] for stage in plan.estimates}}
    for part, model in parts.items():
        for name in type(model).model_fields:
            assert plan.reasons[f"{part}.{name}"], f"{part}.{name} has no reason"
    assert plan.reasons["precision"]
    for stage in plan.estimates:
        training = plan.stages[stage]
        assert f"batch {training.batch_size}:" in plan.reasons[f"{stage}.batch_size"]
        assert f"length {training.max_length:,}:" in plan.reasons[f"{stage}.max_length"]
        assert f"= {EFFECTIVE_BATCH}" in plan.reasons[f"{stage}.accumulation"]
        assert plan.reasons[f"{stage}.skip_layers"]
    assert f"rank {plan.lora.rank}:" in plan.reasons["lora.rank"]


def test_every_card_model_method_and_data() -> None:
    outcomes: Counter[str] = Counter()
    grid = itertools.product(CARDS, (1.0, 0.75), EIGHT, (MethodChain("sft"), MethodChain("sft+dpo")), DATA)
    for gib, share, model, method, name in grid:
        room, shape, data = MemoryBudget("cuda", round(free_on(gib) * share)), SHAPES[model], DATA[name]
        try:
            plan = fit_settings(room, shape, method, data)
        except DeviceError:
            assert smallest(shape, method) > SAFE_SHARE * room.free
            outcomes["too big"] += 1
            continue
        outcomes.update(check_plan(plan, shape, data, room))
        check_reasons(plan)
        outcomes["planned"] += 1
    assert outcomes["planned"] >= 600
    assert outcomes["used"] > 2 * outcomes["nothing left to spend on"]


@settings(max_examples=150, deadline=None)
@given(
    gib=st.floats(1, 140),
    model=st.sampled_from(sorted(SHAPES)),
    method=st.sampled_from(METHOD_CHAINS),
    counts=st.lists(st.integers(1, 60_000), min_size=1, max_size=40),
    rows=st.integers(1, 200_000),
    device=st.sampled_from(["cuda", "cpu"]),
)
def test_any_data_on_any_card(
    gib: float, model: str, method: MethodChain, counts: list[int], rows: int, device: str
) -> None:
    room, shape, data = (
        MemoryBudget(device, round(gib * GIB)),
        SHAPES[model],
        facts(rows, LengthQuantiles.from_counts(counts)),
    )  # type: ignore[arg-type]
    try:
        plan = fit_settings(room, shape, method, data)
    except DeviceError as error:
        assert format_gb(room.free) in str(error)
        return
    check_reasons(plan)
    for stage, planned in plan.estimates.items():
        assert planned.upper <= room.free
        assert plan.stages[stage].effective_batch == EFFECTIVE_BATCH


RANKS = [  # pairs -> rank, rank-stabilised, dropout, beta
    (30, 16, False, 0.05, 0.3),
    (999, 16, False, 0.05, 0.3),
    (1_000, 32, False, 0.0, 0.1),
    (1_999, 32, False, 0.0, 0.1),
    (2_000, 64, False, 0.0, 0.1),
    (5_000, 64, False, 0.0, 0.1),
    (5_001, 64, False, 0.0, 0.1),
    (20_000, 128, True, 0.1, 0.1),
    (50_000, 128, True, 0.1, 0.1),
    (50_001, 128, True, 0.1, 0.1),
]


@pytest.mark.parametrize(("pairs", "rank", "stabilised", "dropout", "beta"), RANKS)
def test_rank_and_regularisation_by_pairs(pairs: int, rank: int, stabilised: bool, dropout: float, beta: float) -> None:
    data = replace(DATA["400 usual"], rows=pairs, pairs=pairs)
    plan = fit_settings(MemoryBudget("cuda", 22 * GIB), SHAPES["Qwen3 4B"], MethodChain("sft+dpo"), data)
    assert (plan.lora.rank, plan.lora.alpha, plan.lora.rslora) == (rank, rank, stabilised)
    assert (plan.lora.dropout, plan.stages["dpo"].beta) == (dropout, beta)
    assert (plan.stages["dpo"].learning_rate, plan.stages["sft"].learning_rate) == (
        (1e-6, 5e-5) if stabilised else (5e-6, 2e-4)
    )
    assert f"{pairs:,} pairs" in plan.reasons["lora.rank"]


def test_rank_by_rows_without_dpo() -> None:
    for rows, rank in ((500, 16), (5_000, 32), (50_000, 64)):
        plan = fit_settings(
            MemoryBudget("cuda", 22 * GIB),
            SHAPES["Qwen3 4B"],
            MethodChain("sft"),
            replace(DATA["400 usual"], rows=rows),
        )
        assert (plan.lora.rank, plan.lora.dropout) == (rank, 0.0)
        assert plan.reasons["lora.rank"].startswith(f"rank {rank}: ")
        assert not [key for key in plan.reasons if key.startswith("dpo")]


def test_a_small_base_for_few_steps_gets_higher_rates_and_says_so() -> None:
    few, many = DATA["400 usual"], replace(DATA["400 usual"], rows=5000, pairs=5000)
    small = fit_settings(
        MemoryBudget("cpu", 20 * GIB, bfloat16=True), SHAPES["SmolLM2 135M"], MethodChain("sft+dpo"), few
    )
    assert (small.stages["sft"].learning_rate, small.stages["dpo"].learning_rate, small.base) == (5e-4, 5e-5, "bf16")
    assert small.reasons["sft.learning_rate"] == "0.0005: a base under 1B hardly moves in 75 steps at the usual 0.0002"
    longer = fit_settings(MemoryBudget("cpu", 20 * GIB), SHAPES["SmolLM2 135M"], MethodChain("sft+dpo"), many)
    assert (longer.stages["sft"].learning_rate, longer.stages["dpo"].learning_rate, longer.base) == (2e-4, 5e-6, "fp32")


def test_surplus_is_spent_in_order() -> None:
    """Tokens up to 8,192, then a 16-bit base, then kept layers, and only then more tokens."""
    data = DATA["3,000 with one outlier"]  # rows of about 1,000 tokens
    seen = []
    for gib in (9, 11, 14, 24, 60, 120):
        plan = fit_settings(MemoryBudget("cuda", gib * GIB), SHAPES["Llama 3.1 8B"], MethodChain("sft"), data)
        seen.append((plan.stages["sft"].batch_size * plan.stages["sft"].max_length, plan.base, plan.skip_layers["sft"]))
    assert seen == [
        (4096, "nf4", 0),
        (8192, "nf4", 0),
        (8192, "nf4", 2),
        (8192, "bf16", 1),
        (8192, "bf16", 30),
        (16_384, "bf16", 32),
    ]


def test_what_is_given_up_first() -> None:
    """The longest 2 % of the rows, then rank, then more rows, of pairs more than of chats; rate and dropout follow the rank."""
    seen = []
    for gib in (12, 10, 8, 6.5, 5.6):
        plan = fit_settings(
            MemoryBudget("cuda", round(gib * GIB)), SHAPES["Qwen3 4B"], MethodChain("sft+dpo"), DATA["30,000 long"]
        )
        lengths = plan.stages["sft"].max_length, plan.stages["dpo"].max_length
        seen.append((lengths, plan.lora.rank, plan.lora.rslora, plan.lora.dropout, plan.stages["dpo"].learning_rate))
    assert seen == [
        ((8512, 8512), 128, True, 0.1, 1e-6),
        ((8512, 8512), 64, False, 0.0, 5e-6),
        ((8512, 7040), 32, False, 0.0, 5e-6),
        ((8512, 5760), 8, False, 0.0, 5e-6),
        ((5760, 2496), 8, False, 0.0, 5e-6),
    ]
    assert plan.reasons["lora.rank"] == "rank 8: memory is short; 30,000 pairs suggest 128"
    longest = f"the longest has {DATA['30,000 long'].length_quantiles('dpo').longest:,} tokens"
    assert plan.reasons["dpo.max_length"] == (
        f"length 2,496: covers 50% of your rows; {longest}, and more does not fit"
    )


def test_the_token_table_leaves_the_card_before_anything_that_changes_the_result() -> None:
    seen = []
    for gib in (8.8, 8.6, 7.6, 7.5):
        plan = fit_settings(
            MemoryBudget("cuda", round(gib * GIB)), SHAPES["Llama 3.1 8B"], MethodChain("sft"), DATA["400 usual"]
        )
        seen.append((plan.memory.offload_embedding, plan.lora.rank, plan.stages["sft"].max_length))
    assert seen == [("auto", 16, 896), ("on", 16, 896), ("on", 16, 896), ("on", 16, 768)]
    assert plan.reasons["memory.offload_embedding"].startswith("on: the token table's 1.0 GB lie in main memory")
    tied = fit_settings(MemoryBudget("cuda", 5 * GIB), SHAPES["Qwen3 4B"], MethodChain("sft"), DATA["400 usual"])
    assert tied.memory.offload_embedding == "auto"  # its table is the output head as well


def test_short_rows_are_not_cut_where_512_tokens_take_less() -> None:
    """Llama 8B on a card of 8 GB: from 512 tokens on checkpoints lie in main memory, so 512 × 1 fits where 384 × 1 does not."""
    points = ((0.5, 150), (0.75, 220), (0.9, 300), (0.95, 330), (0.97, 360), (0.99, 500), (1.0, 900))
    shape, data = SHAPES["Llama 3.1 8B"], facts(400, LengthQuantiles(points))
    plan = fit_settings(MemoryBudget("cuda", 8 * GIB - reserve_bytes(8 * GIB)), shape, MethodChain("sft+dpo"), data)
    assert (plan.stages["sft"].max_length, plan.stages["dpo"].max_length, plan.stages["dpo"].batch_size) == (
        512,
        512,
        1,
    )
    assert plan.reasons["dpo.max_length"] == (
        "length 512: covers 99% of your rows; the longest has 900 tokens; from 512 tokens on, what lies between the layers "
        "is kept in main memory: that takes less of the card than 384"
    )
    taken, shorter = (
        estimate_memory(replace(setup, training=setup.training.model_copy(update={"max_length": length}), loads=length))
        for setup in [setups_of(plan, shape, data)["dpo"]]
        for length in (512, 384)
    )
    assert taken.upper < shorter.upper


def test_what_was_measured_here_decides() -> None:
    """Rows that were found to take three times as much leave room for fewer of them; other kernels were not measured."""
    shape, data, here = SHAPES["Llama 3.1 8B"], DATA["3,000 with one outlier"], "GPU-1"
    guessed = fit_settings(MemoryBudget("cuda", 11 * GIB), shape, MethodChain("sft"), data)
    setup = setups_of(guessed, shape, data)["sft"]
    heavy = {measurements.measurement_key(here, setup): Measurement(per_token=600_000, rest=GIB)}
    found = fit_settings(
        MemoryBudget("cuda", 11 * GIB, known=MeasuredMemory.for_device(here, heavy)), shape, MethodChain("sft"), data
    )
    assert (guessed.stages["sft"].batch_size, found.stages["sft"].batch_size) == (8, 2)
    assert any("measured" in part.name for part in found.estimates["sft"].parts)
    for other in (
        MeasuredMemory.for_device("GPU-2", heavy),
        MeasuredMemory.for_device(here, {measurements.measurement_key(here, slow(setup)): heavy.popitem()[1]}),
    ):
        assert fit_settings(MemoryBudget("cuda", 11 * GIB, known=other), shape, MethodChain("sft"), data) == guessed


def slow(setup: StageSetup) -> StageSetup:
    return replace(setup, lora=setup.lora.model_copy(update={"dora": True}))


def test_what_is_not_chosen_counts() -> None:
    """DoRA builds whole weights, so less is left for the rest."""
    room, shape, data = MemoryBudget("cuda", 8 * GIB), SHAPES["Qwen3 4B"], DATA["3,000 with one outlier"]
    plain, dora = (
        fit_settings(room, shape, MethodChain("sft"), data, Recipe(lora=Lora(dora=one))) for one in (False, True)
    )
    assert (plain.lora.dora, dora.lora.dora) == (False, True)
    assert dora.skip_layers["sft"] < plain.skip_layers["sft"]


def test_a_model_that_cannot_fit_is_a_sentence_with_numbers() -> None:
    with pytest.raises(DeviceError) as refused:
        fit_settings(MemoryBudget("cuda", 8 * GIB), SHAPES["Qwen3 32B"], MethodChain("sft+dpo"), DATA["400 usual"])
    settings = Text("fitting.offloaded", base="nf4", tokens=512, rank=8)
    assert refused.value.text == Text("fitting.small_card", needed="20.8 GB", free="8.0 GB", settings=settings)


def test_a_processor_takes_a_smaller_format_before_shorter_rows() -> None:
    shape, data = SHAPES["Qwen3 1.7B"], facts(400, lengths(6, 500, 0.3, 900))
    plans = [
        fit_settings(MemoryBudget("cpu", round(gib * GIB)), shape, MethodChain("sft"), data) for gib in (20, 11, 8)
    ]
    assert [plan.base for plan in plans] == ["fp32", "bf16", "nf4"]
    assert {plan.stages["sft"].max_length for plan in plans} == {960}
    assert plans[1].reasons["precision"] == "bf16 base: a larger format does not fit"


def test_a_repository_in_4_bit_stays_in_4_bit() -> None:
    packed = replace(SHAPES["Qwen3 4B"], quantised=True)
    plan = fit_settings(MemoryBudget("cuda", 60 * GIB), packed, MethodChain("sft"), DATA["400 usual"])
    assert (plan.base, plan.reasons["precision"]) == ("nf4", "the model comes in 4 bit")


def test_lengths() -> None:
    some = LengthQuantiles.from_counts([*range(1, 100), 5000])
    assert (some.length_covering(0.5), some.length_covering(0.97), some.longest) == (50, 97, 5000)
    assert (
        some.share_within(50),
        some.share_within(98),
        some.share_within(4999),
        some.share_within(5000),
        some.share_within(3),
    ) == (
        0.5,
        0.97,
        0.99,
        1.0,
        0.0,
    )
    assert recommend_length(some, FitLimits(), 8192) == (
        128,
        "length 128: covers 99% of your rows; the longest has 5,000 tokens",
    )
    assert recommend_length(LengthQuantiles.from_counts([100] * 9 + [120]), FitLimits(), 8192) == (
        128,
        "length 128: covers every row; the longest has 120 tokens",
    )
    assert recommend_length(LengthQuantiles.from_counts([9000]), FitLimits(), 8192)[0] == 8192


def test_a_plan_becomes_a_recipe() -> None:
    plan = fit_settings(MemoryBudget("cuda", 22 * GIB), SHAPES["Qwen3 4B"], MethodChain("sft+dpo"), DATA["400 usual"])
    recipe = plan.apply_to_recipe(Recipe(name="mine", model="unsloth/Qwen3-4B"))
    assert recipe.memory == Recipe().memory
    assert (recipe.name, recipe.precision, recipe.lora, recipe.sft, recipe.dpo) == (
        "mine",
        plan.base,
        plan.lora,
        plan.stages["sft"],
        plan.stages["dpo"],
    )


def test_room_of_a_machine() -> None:
    on_card = MemoryBudget.for_machine(detect_machine(replay(card(24, 22)), environ={}))
    assert (on_card.device, on_card.free) == ("cuda", 22 * GIB - reserve_bytes(24 * GIB))
    without = detect_machine(replay("none"), environ={})
    assert MemoryBudget.for_machine(without) == MemoryBudget("cpu", without.cpu.budget_bytes(), without.cpu.bfloat16)
