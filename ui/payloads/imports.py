"""Imports in plain values: those that Compare can open, and what the page says of each."""

from __future__ import annotations

from trainer_core.errors import UserError
from trainer_core.jobs.registry import RunRegistry
from trainer_core.runs.events import Phase
from trainer_core.runs.run_state import RunState
from trainer_core.texts import NO_TEXT
from ui.format import page_text

MAX_SHOWN = 12
"""Newest imports on the page."""


def import_choices(registry: RunRegistry) -> list[tuple[str, str]]:
    """Name and id of each import that Compare can open, newest first."""
    return [
        (page_text("imports.option", name=registry.import_name(view.id)), view.id)
        for view in registry.import_states
        if view.phase is Phase.DONE and registry.find_run_base(view.id)
    ]


def removable_imports(registry: RunRegistry) -> list[tuple[str, str]]:
    """Name and id of each import that is not at work, newest first."""
    done = (view for view in registry.import_states if not view.phase.is_active)
    return [(f"{registry.import_name(view.id)} · {view.id[:8]}", view.id) for view in done]


def import_stamp(registry: RunRegistry) -> list[tuple[str, str, str]]:
    """Changes whenever the list of imports does."""
    return [(view.id, view.phase.value, str(view.detail)) for view in registry.import_states[:MAX_SHOWN]]


def import_lines(registry: RunRegistry) -> list[str]:
    """A line for each of the newest imports: its origin, what it is doing, or why it failed."""
    return [describe_state(registry, view) for view in registry.import_states[:MAX_SHOWN]]


def describe_state(registry: RunRegistry, view: RunState) -> str:
    if view.phase is Phase.DONE:
        try:
            return " ".join(map(str, registry.describe_import(view.id)))
        except UserError as error:
            return str(error)
    paused = view.detail if view.phase in (Phase.PAUSED, Phase.STOPPED) or view.phase.is_active else NO_TEXT
    reason = str(view.error or paused) or page_text("imports.stopped")
    return page_text("imports.line", name=registry.import_name(view.id), reason=reason)
