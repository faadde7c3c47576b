"""Detects divergence: NaN or infinite losses, or a loss that stays far above its usual level."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from statistics import median

from trainer_core.config.recipe import METHODS
from trainer_core.runs.events import Stage
from trainer_core.texts import NO_TEXT, Text

CONFIRM_STEPS = 3
"""Bad steps in a row that end a run: a run recovers from one odd batch, but from three in a row none recovered that we saw."""
MEDIAN_WINDOW = 8
"""A longer window lags behind a falling loss: with 20, the bound of a run that still learns was up to twice too high."""
SPIKE_FACTOR = 2.5
"""A step is bad if its loss is this many times the median of the last good ones, and beyond the method's later bound."""
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
    """Bad steps in a row, up to the last."""
    wrong_now: Text = NO_TEXT
    """What is wrong with the last step; NO_TEXT if it was good."""
    skipped: int = 0
    """Steps without an update, because the loss scaler was looking for its scale."""

    def check_step(self, loss: float, grad_norm: float, step_skipped: bool = False) -> Text:
        """What is wrong, once it is certain; NO_TEXT as long as the run may be sound.

        Args:
            step_skipped: float16's loss scaler found gradients beyond its range and did not update the weights.
        """
        if step_skipped and math.isfinite(loss) and self.skipped < SCALER_STEPS:
            self.skipped += 1
            return NO_TEXT
        self.wrong_now = wrong = self.describe_fault(loss, grad_norm)
        if not wrong:
            self.bad = 0
            self.good.append(loss)
            self.first = loss if math.isnan(self.first) else self.first
            return NO_TEXT
        self.bad += 1
        return wrong if self.bad >= CONFIRM_STEPS else NO_TEXT

    def describe_fault(self, loss: float, grad_norm: float) -> Text:
        if not math.isfinite(loss):
            return Text("diverged.loss", loss=loss)
        if not math.isfinite(grad_norm):
            return Text("diverged.gradient", norm=grad_norm)
        return Text("diverged.jump", loss=loss, usual=median(self.good)) if loss > self.loss_limit else NO_TEXT

    @property
    def loss_limit(self) -> float:
        """The largest loss, in nats, that may still be noise."""
        if len(self.good) < MIN_GOOD_STEPS:
            return METHODS[self.stage].divergence.early * self.first if self.good else math.inf
        return max(SPIKE_FACTOR * median(self.good), METHODS[self.stage].divergence.later * self.first)
