"""`import`: what was trained elsewhere, checked and copied, with its progress in the terminal."""

from __future__ import annotations

import argparse
import time

from trainer_core.cli import terminal
from trainer_core.jobs.registry import RunRegistry
from trainer_core.jobs.supervisor import Supervisor
from trainer_core.runs.events import Phase
from trainer_core.runs.run_state import RunState
from trainer_core.texts import Text

REFRESH_SECONDS = 0.3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", help="a folder with an adapter or a whole model, or a Hub id")
    parser.add_argument("--name", default="", help="its name in Compare; without it that of the folder")
    parser.add_argument("--base", default="", help="the base of an adapter; without it the one that the adapter names")


def find_import_id(registry: RunRegistry, name: str) -> str | None:
    """The id of a finished import, by its id or its name."""
    done = (view.id for view in registry.import_states if view.phase is Phase.DONE)
    return next((one for one in done if name in (one, registry.import_name(one))), None)


def run_import(supervisor: Supervisor, args: argparse.Namespace) -> int:
    import_id, shown = supervisor.imports.start(args.source, args.name, args.base), ""
    while True:
        try:
            supervisor.registry.refresh()
            state = supervisor.registry.run_state(import_id)
            if not state.phase.is_active:
                return print_end(supervisor.registry, state)
            if (line := str(state.detail or state.phase.value)) != shown:
                terminal.print_line(shown := line)
            time.sleep(REFRESH_SECONDS)
        except KeyboardInterrupt:
            supervisor.imports.stop(import_id)


def print_end(registry: RunRegistry, state: RunState) -> int:
    if state.phase is Phase.DONE:
        for text in registry.describe_import(state.id):
            terminal.print_line(str(text))
        terminal.print_line(str(Text("imports.done", name=registry.import_name(state.id), id=state.id)))
        return 0
    stopped = Text("imports.stopped")
    terminal.print_error(str(state.error or (state.detail if state.phase is Phase.PAUSED else stopped)))
    return 1
