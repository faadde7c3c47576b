"""Detects stalled runs: the process is alive but silent, or its steps are late. A stall is shown; only a run that ignores a stop
request is ended."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice, takewhile
from statistics import median

from trainer_core.runs.run_state import RunState
from trainer_core.texts import NO_TEXT, Text

SILENT_SECONDS = 12.0
"""The heartbeat thread beats every 2 s; six missed beats are no coincidence."""
RECENT_STEPS = 20
"""Steps of the current stage whose median is the usual step time."""
STEPS_KNOWN = 3
"""Steps needed before the next one can be late; the first one also compiles."""
LATE_FACTOR, MIN_LATE_SECONDS = 20, 60.0
"""A step is late after 20 times the median, and after at least a minute on the processor."""
CARD_SECONDS = 180.0
"""The minimum on a card: a step, evaluation or answer of a new shape compiles first (about 20 to 90 s for 8B; not measured
here), and the process is silent meanwhile."""
LONG_STEP_FACTOR = 3
"""A run that ignores a stop request may be silent for this multiple of its longest silence so far."""


@dataclass(frozen=True)
class StopTimeouts:
    """Seconds of silence until a run that ignores a stop request is ended. step: between steps, and while it loads, saves or has
    no known pace. card: between steps on a card. kill: until what is still alive is killed."""

    step: float = 60.0
    card: float = CARD_SECONDS
    load: float = 600.0
    kill: float = 10.0


STOP_TIMEOUTS = StopTimeouts()


def stall_reason(view: RunState, since_beat: float, since_word: float) -> Text:
    """Why a live run counts as stalled; empty if it does not.

    Args:
        since_beat: seconds since its last heartbeat.
        since_word: seconds since its last event.
    """
    if since_beat > SILENT_SECONDS:
        return Text("stall.silent", seconds=since_beat, hint=view.resume_hint)
    usual = typical_step_seconds(view)
    if usual is not None and since_word > max(CARD_SECONDS if view.card else MIN_LATE_SECONDS, LATE_FACTOR * usual):
        return Text("stall.late_step", seconds=since_word, usual=usual, hint=view.resume_hint)
    return NO_TEXT


def stop_timeout_reason(view: RunState, silent: float, patience: StopTimeouts = STOP_TIMEOUTS) -> Text:
    """Why a run that ignores a stop request is ended now, or empty. silent: seconds since the request or its last event."""
    steps = step_seconds(view)
    checks, answers = [one.seconds for one in view.evaluated], [one.seconds for one in view.sampled]
    saves = [one.seconds for one in view.checkpoints]
    known = patience.card if view.card else patience.step
    least = known if len(steps) > STEPS_KNOWN else patience.load
    late = silent > max(least, LONG_STEP_FACTOR * max([*steps, *checks, *answers, *saves], default=0))
    return Text("stall.no_answer", seconds=silent) if late else NO_TEXT


def typical_step_seconds(view: RunState) -> float | None:
    """Usual seconds per step of the current stage; None if unknown or no step is due."""
    stage = view.training_stage
    newest = list(islice(takewhile(lambda point: point.stage == stage, reversed(view.points)), RECENT_STEPS + 1))
    seconds = [point.seconds for point in newest[:-1]]  # without the stage's first, which also compiles
    return median(seconds) if len(seconds) >= STEPS_KNOWN else None


def step_seconds(view: RunState) -> list[float]:
    """Seconds of each step of the current stage; empty if no step is due."""
    return [point.seconds for point in view.points if point.stage == view.training_stage]
