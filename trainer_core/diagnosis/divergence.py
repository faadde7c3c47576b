"""Detects divergence: NaN or infinite losses, or a loss that stays far above its usual level."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from statistics import median

from trainer_core.config.recipe import METHODS
from trainer_core.runs.events import Stage

CONFIRM_STEPS = 3
"""Bad steps in a row that end a run: one odd batch recovers by itself, three in a row did not in any run we looked at."""
MEDIAN_WINDOW = 8
"""A falling loss leaves a longer window behind: with 20, the bound of a run that still learns was up to twice too high."""
SPIKE_FACTOR = 2.5
"""A step is bad whose loss is this many times the median of the last good ones, and beyond the method's later bound."""
MIN_GOOD_STEPS = 5
"""Good steps before a spike can be told from noise; until then the method's early bound holds."""
SCALER_STEPS = 10
"""Steps that a loss scaler may skip without a strike. It starts at 65,536 (torch.amp.GradScaler) and halves at each skip: after
ten it is 64, where the gradients of a sound run fit into float16."""


@dataclass
class DivergenceDetector:
    """Judges one stage step by step."""

    stage: Stage
    good: deque[float] = field(default_factory=lambda: deque(maxlen=MEDIAN_WINDOW))
    first: float = math.nan
    bad: int = 0
    """Bad steps in a row, up to now."""
    wrong_now: str = ""
    """What is wrong with the last step; nothing if it was good."""
    skipped: int = 0
    """Steps that changed nothing because the loss scaler was looking for its scale."""

    def check_step(self, loss: float, grad_norm: float, step_skipped: bool = False) -> str:
        """What is wrong, once it is certain; nothing as long as the run may be sound.

        Args:
            step_skipped: the loss scaler of float16 found gradients beyond its range and left the weights alone.
        """
        if step_skipped and math.isfinite(loss) and self.skipped < SCALER_STEPS:
            self.skipped += 1
            return ""
        self.wrong_now = wrong = self.describe_fault(loss, grad_norm)
        if not wrong:
            self.bad = 0
            self.good.append(loss)
            self.first = loss if math.isnan(self.first) else self.first
            return ""
        self.bad += 1
        return wrong if self.bad >= CONFIRM_STEPS else ""

    def describe_fault(self, loss: float, grad_norm: float) -> str:
        if not math.isfinite(loss):
            return f"the loss is {loss}"
        if not math.isfinite(grad_norm):
            return f"the gradient norm is {grad_norm}"
        bound = self.loss_limit
        return f"the loss is {loss:.3g}, and was about {median(self.good):.3g} before" if loss > bound else ""

    @property
    def loss_limit(self) -> float:
        """The largest loss, in nats, that still passes for noise."""
        if len(self.good) < MIN_GOOD_STEPS:
            return METHODS[self.stage].divergence.early * self.first if self.good else math.inf
        return max(SPIKE_FACTOR * median(self.good), METHODS[self.stage].divergence.later * self.first)
