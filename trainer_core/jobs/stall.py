"""When a run that lives does nothing: its process does not run, or its steps do not come. That is told; it is only acted upon
where the run was asked to leave, and does not answer."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice, takewhile
from statistics import median

from trainer_core.runs.run_state import RunState
from trainer_core.texts import NO_TEXT, Text

SILENT_SECONDS = 12.0
"""A beat comes every 2 s from a thread of its own; six missing ones are no hiccup."""
RECENT_STEPS = 20
"""Steps of the stage at work whose median is the usual time of one."""
STEPS_KNOWN = 3
"""Steps of a stage before the next one can be called late; the first one also compiles."""
LATE_FACTOR, MIN_LATE_SECONDS = 20, 60.0
"""A step is late after 20 times the median of the last ones, and not before a minute on the processor."""
CARD_SECONDS = 180.0
"""The least on a card: a step, check or answer of a shape not seen before compiles first, 20 to 90 s for 8B as far as is known
without a measurement, and its process says nothing meanwhile."""
LONG_STEP_FACTOR = 3
"""A run that was asked to leave may be silent for so many times the longest that it was silent before."""


@dataclass(frozen=True)
class StopTimeouts:
    """Seconds of silence after which a run that was asked to leave is ended: between steps, and while it loads or saves or its
    pace is not known yet. card: between steps on a card. kill: after so many more, what has not ended by then is killed."""

    step: float = 60.0
    card: float = CARD_SECONDS
    load: float = 600.0
    kill: float = 10.0


STOP_TIMEOUTS = StopTimeouts()


def stall_reason(view: RunState, since_beat: float, since_word: float) -> Text:
    """Why a living run is called stalled, or nothing.

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
    """Why a run that was asked to leave is ended now, or nothing. silent: seconds since it was asked, or spoke last."""
    steps = step_seconds(view)
    checks, answers = [one.seconds for one in view.evaluated], [one.seconds for one in view.sampled]
    saves = [one.seconds for one in view.checkpoints]
    known = patience.card if view.card else patience.step
    least = known if len(steps) > STEPS_KNOWN else patience.load
    late = silent > max(least, LONG_STEP_FACTOR * max([*steps, *checks, *answers, *saves], default=0))
    return Text("stall.no_answer", seconds=silent) if late else NO_TEXT


def typical_step_seconds(view: RunState) -> float | None:
    """What a step takes in the stage at work; None where that is not known yet, or no step is due."""
    stage = view.training_stage
    newest = list(islice(takewhile(lambda point: point.stage == stage, reversed(view.points)), RECENT_STEPS + 1))
    seconds = [point.seconds for point in newest[:-1]]  # without the stage's first, which also compiles
    return median(seconds) if len(seconds) >= STEPS_KNOWN else None


def step_seconds(view: RunState) -> list[float]:
    """What each step of the stage at work took; none where no step is due."""
    return [point.seconds for point in view.points if point.stage == view.training_stage]
