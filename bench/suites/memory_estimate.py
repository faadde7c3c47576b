"""How far is the memory plan from peaks that others have published, and how long does a slider wait for a new plan?"""

from __future__ import annotations

import time
import tomllib
from pathlib import Path
from typing import Any

from bench.harness.result import Device, Row, Target, one_sided
from trainer_core import data
from trainer_core.config.changes import changed
from trainer_core.config.recipe import Lora, Recipe
from trainer_core.methods.sft import Sft
from trainer_core.models.architecture import shape_of
from trainer_core.planning import presets
from trainer_core.planning.forecast import Place, forecast
from trainer_core.planning.memory_model import Prior, Setup, adapted, adapter_numbers, estimate
from trainer_core.system.hardware import GIB, detect
from ui.components import html
from ui.payloads import memory_fit

QUESTION = (
    "The counts that are exact by definition against models that transformers and PEFT build without weights; the memory formula "
    "at the points others have published, with the constants of December 2024 (bench/suites/published.toml); and the time from a "
    "slider's new value to the memory card's new HTML."
)
DEVICES: tuple[Device, ...] = ("cpu",)
OPEN: tuple[Row, ...] = ()
POINTS = Path(__file__).with_name("published.toml")
ARCHITECTURES = Path(__file__).with_name("architectures.toml")
COUNTED = "Models whose weights and adapters are counted exactly"
DECEMBER_2024 = Prior(activation=6, head=0.5 * GIB, context=0.55 * GIB, fragmentation=0)


def run(device: Device, tiny: bool) -> list[Row]:
    points = tomllib.loads(POINTS.read_text(encoding="utf-8"))["points"]
    spent = replanned("unsloth/Llama-3.3-70B-Instruct-bnb-4bit", 3 if tiny else 40)
    moved = one_sided("plan", "New plan after a slider moved", "ms", spent, target=Target("ours", "≤", 200))
    return [counted(2 if tiny else None), *(published(point) for point in points[: 2 if tiny else None]), moved]


def counted(some: int | None) -> Row:
    """How many of the models, one or more of each architecture, have the parameters and adapters that the plan counts."""
    configs = [known.config for known in presets.load_catalogue().models]
    configs += [model["config"] for model in tomllib.loads(ARCHITECTURES.read_text(encoding="utf-8"))["models"]]
    off = {f"{config['model_type']}, {config['hidden_size']} wide": deviation(config) for config in configs[:some]}
    equal, kinds = sum(one == 0 for one in off.values()), {config["model_type"] for config in configs[:some]}
    wrong = "; ".join(f"{name} off by {one:,}" for name, one in off.items() if one) or "no deviation"
    note = f"{len(kinds)} architectures: {', '.join(sorted(kinds))}; {wrong}"
    share, every = Target("ratio", "≥", 1), len(off)
    return Row("plan", COUNTED, f"of {every}", equal, None, equal / every, share, n=1, note=note)


def deviation(config: dict[str, Any]) -> int:
    """By how many numbers the plan's count of weights and of a rank-16 adapter is off, taken together."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoConfig, AutoModelForCausalLM

    shape, lora = shape_of(config), Lora()
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config))
    weights = sum(weight.numel() for weight in model.parameters())
    names = sorted({linear.name for linear in adapted(shape, lora)})
    trained = get_peft_model(model, LoraConfig(r=lora.rank, target_modules=names)).num_parameters(only_trainable=True)
    return abs(shape.parameters - weights) + abs(adapter_numbers(shape, lora) - trained)


def published(point: dict[str, Any]) -> Row:
    """One published peak beside ours."""
    shape = next(known.shape for known in presets.load_catalogue().models if known.title == point["model"])
    training = Sft(batch_size=point["rows"], max_length=point["length"])
    setup = Setup(shape, Lora(rank=point["rank"]), training, "nf4")
    peak = estimate(setup, DECEMBER_2024, DECEMBER_2024).upper / GIB
    what = f"{point['model']} NF4, rank {point['rank']}, {point['rows']} × {point['length']:,} tokens"
    off = peak / point["gb"]
    note = f"published by {point['source']}; off by {off - 1:+.0%}, stated error {point['error']:.0%}"
    return Row("plan", what, "GB", peak, float(point["gb"]), off, Target("ratio", "±", point["error"]), n=1, note=note)


def replanned(model: str, times: int) -> list[float]:
    """Milliseconds from a new value to the card, another value each time."""
    recipe, shape = Recipe(model=model), presets.load_catalogue().shape(model)
    assert shape
    place, found = Place.imagined(80, detect()), data.count(recipe.data, recipe.method)
    spent = []
    for turn in range(times):
        moved = changed(recipe, {"lora.rank": 4 + turn, "dpo.max_length": 64 * (turn + 1)})
        began = time.perf_counter()
        html.memory(forecast(moved, shape, place, found), memory_fit.levers(moved), ("", ""))
        spent.append(1000 * (time.perf_counter() - began))
    return spent
