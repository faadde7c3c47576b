"""When a run that lives does nothing: its process does not run, or its steps do not come. Told, never acted upon."""

from __future__ import annotations

from statistics import median

from trainer_core.events import Phase
from trainer_core.run_view import RunView

SILENT_SECONDS = 12.0
"""A beat comes every 2 s from a thread of its own; six missing ones are no hiccup."""
STEPS_KNOWN = 3
"""Steps of a stage before the next one can be called late; the first one also compiles."""
LATE, LEAST_SECONDS = 20, 60.0
"""A step is late after 20 times the median of the last ones, and not before a minute."""


def stalled(view: RunView, since_beat: float, since_word: float) -> str:
    """Why a living run is called stalled, or nothing.

    Args:
        since_beat: seconds since its last heartbeat.
        since_word: seconds since its last event.
    """
    if since_beat > SILENT_SECONDS:
        return (
            f"No sign of life for {since_beat:.0f} s: its process is there but does not run, as in a computer that sleeps "
            "or a process that was halted. It goes on by itself once it may run; nothing is lost."
        )
    usual = usual_seconds(view)
    if usual is not None and since_word > max(LEAST_SECONDS, LATE * usual):
        return (
            f"No step for {since_word:.0f} s, where one took {usual:.1f} s so far. If none comes, Stop keeps what is saved; "
            "Resume goes on from there."
        )
    return ""


def usual_seconds(view: RunView) -> float | None:
    """What a step takes in the stage at work; None where that is not known yet, or no step is due."""
    if view.phase not in (Phase.SFT, Phase.DPO):
        return None
    seconds = [point.seconds for point in view.points if point.stage == view.phase.value][1:][-20:]
    return median(seconds) if len(seconds) >= STEPS_KNOWN else None
