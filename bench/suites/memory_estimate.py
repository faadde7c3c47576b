"""How far is the memory plan from peaks that others have published, and how long does a slider wait for a new plan?"""

from __future__ import annotations

import time
import tomllib
from pathlib import Path
from typing import Any

from bench.harness.result import BenchRow, Device, Target, row_against_target
from trainer_core import data
from trainer_core.config.changes import with_changes
from trainer_core.config.recipe import Lora, Recipe
from trainer_core.methods.sft import Sft
from trainer_core.models.architecture import parse_architecture
from trainer_core.planning import presets
from trainer_core.planning.forecast import TargetMachine, make_forecast
from trainer_core.planning.memory_model import (
    MemoryCoefficients,
    StageSetup,
    adapter_parameters,
    estimate_memory,
    target_linears,
)
from trainer_core.system.format import GIB
from trainer_core.system.hardware import detect_machine
from ui.components.html_start import render_memory
from ui.payloads import memory_fit

QUESTION = (
    "The counts that are exact by definition against models that transformers and PEFT build without weights; the memory formula "
    "at the points others have published, with the constants of December 2024 (bench/suites/published.toml); and the time from a "
    "slider's new value to the memory card's new HTML."
)
DEVICES: tuple[Device, ...] = ("cpu",)
OPEN: tuple[BenchRow, ...] = ()
POINTS = Path(__file__).with_name("published.toml")
ARCHITECTURES = Path(__file__).with_name("architectures.toml")
COUNTED = "Models whose weights and adapters are counted exactly"
DECEMBER_2024 = MemoryCoefficients(activation=6, head=0.5 * GIB, context=0.55 * GIB, fragmentation=0)


def run(place: Path, device: Device, tiny: bool) -> list[BenchRow]:
    points = tomllib.loads(POINTS.read_text(encoding="utf-8"))["points"]
    spent = time_forecasts("unsloth/Llama-3.3-70B-Instruct-bnb-4bit", 3 if tiny else 40)
    moved = row_against_target("plan", "New plan after a slider moved", "ms", spent, target=Target("ours", "≤", 200))
    return [count_row(2 if tiny else None), *(published_row(point) for point in points[: 2 if tiny else None]), moved]


def count_row(some: int | None) -> BenchRow:
    """How many of the models, one or more of each architecture, have the parameters and adapters that the plan counts."""
    configs = [known.config for known in presets.load_catalogue().models]
    configs += [model["config"] for model in tomllib.loads(ARCHITECTURES.read_text(encoding="utf-8"))["models"]]
    off = {
        f"{config['model_type']}, {config['hidden_size']} wide": count_deviation(config) for config in configs[:some]
    }
    equal, kinds = sum(one == 0 for one in off.values()), {config["model_type"] for config in configs[:some]}
    wrong = "; ".join(f"{name} off by {one:,}" for name, one in off.items() if one) or "no deviation"
    note = f"{len(kinds)} architectures: {', '.join(sorted(kinds))}; {wrong}"
    share, every = Target("ratio", "≥", 1), len(off)
    return BenchRow("plan", COUNTED, f"of {every}", equal, None, equal / every, share, n=1, note=note)


def count_deviation(config: dict[str, Any]) -> int:
    """By how many numbers the plan's count of weights and of a rank-16 adapter is off, taken together."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoConfig, AutoModelForCausalLM

    shape, lora = parse_architecture(config), Lora()
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config))
    weights = sum(weight.numel() for weight in model.parameters())
    names = sorted({linear.name for linear in target_linears(shape, lora)})
    trained = get_peft_model(model, LoraConfig(r=lora.rank, target_modules=names)).num_parameters(only_trainable=True)
    return abs(shape.parameter_count - weights) + abs(adapter_parameters(shape, lora) - trained)


def published_row(point: dict[str, Any]) -> BenchRow:
    """One published peak beside ours."""
    shape = next(known.architecture for known in presets.load_catalogue().models if known.title == point["model"])
    training = Sft(batch_size=point["rows"], max_length=point["length"])
    setup = StageSetup(shape, Lora(rank=point["rank"]), training, "nf4")
    peak = estimate_memory(setup, DECEMBER_2024, DECEMBER_2024).upper / GIB
    what = f"{point['model']} NF4, rank {point['rank']}, {point['rows']} × {point['length']:,} tokens"
    off = peak / point["gb"]
    note = f"published by {point['source']}; off by {off - 1:+.0%}, stated error {point['error']:.0%}"
    return BenchRow(
        "plan", what, "GB", peak, float(point["gb"]), off, Target("ratio", "±", point["error"]), n=1, note=note
    )


def time_forecasts(model: str, times: int) -> list[float]:
    """Milliseconds from a new value to the card, another value each time."""
    recipe, shape = Recipe(model=model), presets.load_catalogue().find_architecture(model)
    assert shape
    place, found = TargetMachine.empty_card(80, detect_machine()), data.count_rows(recipe.data, recipe.method)
    spent = []
    for turn in range(times):
        moved = with_changes(recipe, {"lora.rank": 4 + turn, "dpo.max_length": 64 * (turn + 1)})
        began = time.perf_counter()
        render_memory(make_forecast(moved, shape, place, found), memory_fit.slider_values(moved), ("", ""))
        spent.append(1000 * (time.perf_counter() - began))
    return spent
