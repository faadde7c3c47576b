"""How far is the memory plan from peaks that others have published, and how long does a slider wait for a new plan?"""

from __future__ import annotations

import time
import tomllib
from pathlib import Path
from typing import Any

from bench.result import Device, Row, Target, one_sided
from trainer_core import data, presets
from trainer_core.config import Lora, Recipe, Sft
from trainer_core.forecast import Place, forecast
from trainer_core.hardware import GIB, detect
from trainer_core.ladder import changed
from trainer_core.vram import Prior, Setup, estimate
from ui import cards, fit

QUESTION = (
    "The memory formula at the points others have published, with the constants of December 2024 (bench/published.toml); and "
    "the time from a slider's new value to the memory card's new HTML."
)
DEVICES: tuple[Device, ...] = ("cpu",)
OPEN: tuple[Row, ...] = ()
POINTS = Path(__file__).with_name("published.toml")
DECEMBER_2024 = Prior(activation=6, head=0.5 * GIB, context=0.55 * GIB, fragmentation=0)


def run(device: Device, tiny: bool) -> list[Row]:
    points = tomllib.loads(POINTS.read_text(encoding="utf-8"))["points"]
    spent = replanned("unsloth/Llama-3.3-70B-Instruct-bnb-4bit", 3 if tiny else 40)
    moved = one_sided("plan", "New plan after a slider moved", "ms", spent, target=Target("ours", "≤", 200))
    return [*(published(point) for point in points[: 2 if tiny else None]), moved]


def published(point: dict[str, Any]) -> Row:
    """One published peak beside ours."""
    shape = next(known.shape for known in presets.load_catalogue().models if known.title == point["model"])
    training = Sft(batch_size=point["rows"], max_length=point["length"])
    setup = Setup(shape, Lora(rank=point["rank"]), training, "nf4")
    peak = estimate(setup, DECEMBER_2024, DECEMBER_2024).upper / GIB
    what = f"{point['model']} NF4, rank {point['rank']}, {point['rows']} × {point['length']:,} tokens"
    off = peak / point["gb"]
    note = f"published by {point['source']}; off by {off - 1:+.0%}, stated error {point['error']:.0%}"
    return Row(
        "plan", what, "GB", peak, float(point["gb"]), off, Target("ratio", "≤", 1 + point["error"]), n=1, note=note
    )


def replanned(model: str, times: int) -> list[float]:
    """Milliseconds from a new value to the card, another value each time."""
    recipe, shape = Recipe(model=model), presets.load_catalogue().shape(model)
    assert shape
    place, found = Place.imagined(80, detect()), data.count(recipe.data, recipe.method)
    spent = []
    for turn in range(times):
        moved = changed(recipe, {"lora.rank": 4 + turn, "dpo.max_length": 64 * (turn + 1)})
        began = time.perf_counter()
        cards.memory(forecast(moved, shape, place, found), fit.levers(moved), ("", ""))
        spent.append(1000 * (time.perf_counter() - began))
    return spent
