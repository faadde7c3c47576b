"""`storage`: what takes space, freeing it, and moving models, runs or exports to another drive."""

from __future__ import annotations

import argparse
import shutil
import time
from pathlib import Path

from trainer_core.cli import terminal
from trainer_core.errors import ConfigError
from trainer_core.jobs.storage_control import StorageMove
from trainer_core.jobs.supervisor import Supervisor
from trainer_core.storage.places import KINDS, find_place
from trainer_core.system.format import format_clock, format_file_size
from trainer_core.system.project import expand_home
from trainer_core.texts import Text

REFRESH_SECONDS = 0.3
BACK = "back"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--free", metavar="KEY", help="delete one thing of the list")
    parser.add_argument("--move", choices=KINDS, help="what to move to another drive")
    parser.add_argument("--to", metavar="FOLDER", help=f"a folder there, or '{BACK}' for the workspace")


def run_storage(supervisor: Supervisor, args: argparse.Namespace) -> int:
    if args.free:
        freed = supervisor.storage.free(args.free)
        said = Text("storage.freed", size=format_file_size(freed)) if freed else Text("storage.import_in_trash")
        terminal.print_line(str(said))
        return 0
    if args.move:
        if not args.to:
            raise ConfigError("storage.no_target", kind=args.move)
        to = None if args.to == BACK else Path(expand_home(args.to)).absolute()
        return follow_move(supervisor, supervisor.storage.start_move(args.move, to))
    print_usage(supervisor)
    return 0


def follow_move(supervisor: Supervisor, moving: StorageMove) -> int:
    """Print a move until its end; Ctrl-C stops it."""
    shown = ""
    while moving.is_active:
        try:
            left = moving.progress.seconds_left
            line = f"{moving.progress.share:.0%}" + (f", {format_clock(left)} left" if left else "")
            if line != shown:
                terminal.print_line(shown := line)
            time.sleep(REFRESH_SECONDS)
        except KeyboardInterrupt:
            supervisor.storage.stop_move()
    if moving.problem:
        terminal.print_error(str(moving.problem))
        return 1
    said = Text("storage.moved", folder=str(moving.to)) if moving.to else Text("storage.moved_back")
    terminal.print_line(str(said))
    return 0


def print_usage(supervisor: Supervisor) -> None:
    for item in supervisor.storage.list_usage():
        key = item.key if item.is_freeable else ""
        name = str(Text(f"storage_groups.{item.group}"))
        terminal.print_line(f"{format_file_size(item.bytes):>10}  {key or name}")
    terminal.print_line("")
    for kind in KINDS:
        folder = find_place(supervisor.workspace, kind) or supervisor.workspace.root
        free = format_file_size(shutil.disk_usage(folder).free) if folder.exists() else "?"
        told = {"kind": str(Text(f"storage_kinds.{kind}")), "folder": str(folder), "free": free}
        terminal.print_line(str(Text("storage.place", **told)))
    if interrupted := supervisor.storage.interrupted_move:
        terminal.print_line(str(Text("storage.interrupted", kind=interrupted.kind)))
    terminal.print_line(str(Text("storage.key_help")))
