"""How far is the memory plan from peaks that others have published, and how long does a slider wait for a new plan?"""

from __future__ import annotations

import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.result import Device, Row, Sample, figure
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
DEVICES = ("cpu",)
POINTS = Path(__file__).with_name("published.toml")
DECEMBER_2024 = Prior(activation=6, head=0.5 * GIB, context=0.55 * GIB, fragmentation=0)


def run(device: Device, tiny: bool) -> Iterator[Row]:
    points = tomllib.loads(POINTS.read_text(encoding="utf-8"))["points"]
    yield from (published(point) for point in points[: 2 if tiny else None])
    seconds = replanned("unsloth/Llama-3.3-70B-Instruct-bnb-4bit", 3 if tiny else 40)
    yield figure("New plan after a slider moved", "≤ 200 ms", "ms", seconds, lambda value: value <= 200)


def published(point: dict[str, Any]) -> Row:
    """One published peak beside ours."""
    shape = next(known.shape for known in presets.load_catalogue().models if known.title == point["model"])
    training = Sft(batch_size=point["rows"], max_length=point["length"])
    setup = Setup(shape, Lora(rank=point["rank"]), training, "nf4")
    peak = estimate(setup, DECEMBER_2024, DECEMBER_2024).upper / GIB
    what = f"{point['model']} NF4, rank {point['rank']}, {point['rows']} × {point['length']:,} tokens"
    off = peak / point["gb"]
    met = abs(off - 1) <= point["error"]
    ours, theirs = Sample.of([peak]), Sample.of([float(point["gb"])])
    return Row(what, f"± {point['error']:.0%}", "GB", ours, theirs, point["source"], off, met)


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
