"""Made-up training histories with noise: sound ones of many kinds, and one for each way to go wrong. Real ones lie beside."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

from trainer_core.config.changes import with_changes
from trainer_core.config.recipe import Recipe
from trainer_core.planning.presets import starter_recipe
from trainer_core.runs.event_log import decode_event
from trainer_core.runs.events import DataPrepared, Evaluation, Event, Stage, TrainStep
from trainer_core.runs.run_state import RunState, apply

LN2 = math.log(2)
FOLDER = Path(__file__).parent
HELD_OUT = 50
RECORDED: dict[str, dict[str, Any]] = {
    "tiny-seed-7": {"seed": 7},
    "tiny-seed-11-rank-4": {"seed": 11, "lora.rank": 4, "lora.alpha": 8},
    "tiny-half-the-rate": {"sft.learning_rate": 2.5e-3, "dpo.learning_rate": 5e-4},
    "tiny-twice-the-rate": {"sft.learning_rate": 1e-2, "dpo.learning_rate": 2e-3},
    "tiny-rank-32-stabilised": {"lora.rank": 32, "lora.alpha": 32, "lora.rslora": True},
    "tiny-first-hundred-pairs": {"data.pair_rows": 100, "seed": 3},
    "tiny-sample-chats": {"data.chat": "sample"},
    "tiny-dpo-alone": {"method": "dpo", "dpo.max_steps": 60},
    "tiny-two-by-four": {"sft.batch_size": 2, "sft.accumulation": 4, "dpo.batch_size": 2, "dpo.accumulation": 4},
    "tiny-strong-beta": {"dpo.beta": 0.3},
}
"""Real runs of a tiny model on the sample data, by what differs from the starter's preset besides TINY; see record.py."""
TINY = {
    "precision": "fp32",
    "sample_tokens": 0,  # a model with random weights babbles, before and after
    **{"sft.max_steps": 60, "sft.max_length": 128, "sft.learning_rate": 5e-3},
    **{"dpo.max_steps": 40, "dpo.max_length": 128, "dpo.learning_rate": 1e-3},
}
Curve = Callable[[int, float], float]
"""A true value by step and by share of the run."""


@dataclass(frozen=True)
class Made:
    """A history to be told step by step.

    loss, margin: the true curves. wobble: the noise of the loss. spikes: step → what is added to its loss.
    held_out: the true held-out loss, accuracy and margin by share of the run, measured eight times.
    passes: over the rows, so the rows come again that often less one.
    """

    stage: Stage = "sft"
    total: int = 200
    loss: Curve = lambda step, way: 1.2 + 1.2 * math.exp(-6 * way)
    wobble: float = 0.1
    margin: Curve = lambda step, way: 2.0 * way
    accuracy: Curve = lambda step, way: 0.5 + 0.3 * (1 - math.exp(-5 * way))
    chosen: Curve = lambda step, way: -100 - 4 * way
    rejected: Curve = lambda step, way: -120 - 20 * way
    spikes: tuple[tuple[int, float], ...] = ()
    norm: float = 1.0
    held_out: Callable[[float], tuple[float, float, float]] | None = None
    recipe: Recipe = Recipe()
    passes: int = 1

    @property
    def rows(self) -> int:
        return self.total * self.recipe.stage_settings(self.stage).effective_batch // self.passes

    def told(self, seed: int) -> Iterator[Event]:
        """Every event, in order."""
        random = Random(seed)
        yield DataPrepared(self.rows, self.rows, HELD_OUT, "0" * 64)
        for step in range(1, self.total + 1):
            yield self.step(step, random)
            if self.held_out and step % max(1, self.total // 8) == 0:
                loss, accuracy, margin = self.held_out(step / self.total)
                loss += random.gauss(0, 0.004)
                pair = {"accuracy": round(accuracy * HELD_OUT) / HELD_OUT, "margin": margin}
                yield Evaluation(self.stage, step, loss, pair if self.stage == "dpo" else {})

    def step(self, at: int, random: Random) -> TrainStep:
        way = (at - 1) / self.total
        loss = self.loss(at, way) + dict(self.spikes).get(at, 0.0)
        loss += random.gauss(0, self.wobble) * (self.stage == "sft" or at > 1)  # DPO begins at ln 2 exactly
        loss = max(loss, 0.3 * abs(self.loss(at, way))) if self.stage == "dpo" and at > 1 else loss
        rate = self.recipe.stage_settings(self.stage).learning_rate
        common = TrainStep(
            self.stage, at, self.total, loss, rate, self.norm * random.uniform(0.8, 1.2), 1.0, 900.0, 0.0
        )
        return replace(common, metrics=self.preference(at, way, random)) if self.stage == "dpo" else common

    def preference(self, at: int, way: float, random: Random) -> dict[str, float]:
        """Margin, accuracy of a batch of 16, and both sides' log-probs, whose noise is that of the answers' lengths."""
        if at == 1:
            return {"margin": 0.0, "accuracy": 0.0, "chosen": -100.0, "rejected": -120.0}
        right = sum(random.random() < self.accuracy(at, way) for _ in range(16)) / 16
        margin = self.margin(at, way)
        noise = random.gauss(0, 0.03 + 0.15 * abs(margin)) if margin else 0.0
        sides = {"chosen": self.chosen(at, way), "rejected": self.rejected(at, way)}
        return {"margin": margin + noise, "accuracy": right} | {
            name: value + random.gauss(0, 8) for name, value in sides.items()
        }


def views(events: Iterator[Event]) -> Iterator[RunState]:
    """The run after each event."""
    view = RunState("made")
    for event in events:
        view = apply(view, event)
        yield view


def recipe_of(name: str) -> Recipe:
    """The recipe that a recorded history was made with."""
    return with_changes(starter_recipe(), TINY | RECORDED[name])


def recorded(path: Path) -> Iterator[Event]:
    """A real log."""
    return map(decode_event, path.read_bytes().splitlines())
