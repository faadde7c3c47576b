"""Sets Tunebench up and starts it. This file has the commands and how each is started; launcher/ does the set-up.

    python launch.py [--no-browser] [--lan] [--port N] [--workspace DIR]   the app
    python launch.py test [pytest arguments]                               all checks and tests
    python launch.py [--workspace DIR] demo | train RECIPE.toml | ...      the command line, `python -m trainer_core`
    python launch.py setup                   set up, start nothing
    python launch.py update                  fetch the newest Tunebench with git, then set up; the workspace stays
    python launch.py info [--trial]          versions, card, driver and the last error in one block to paste
    python launch.py shortcut                a starter with an icon on the desktop

`--device cpu` or `--device cuda` before the command makes .venv for that device. Without it an existing .venv is kept,
and a new one is for CUDA if an NVIDIA GPU answers, else for the CPU. This file and launcher/ need nothing but Python.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from launcher import SetupError, venv
from launcher.paths import ROOT, VENV_PYTHON, WINDOWS
from launcher.version import read_version

SWITCHES = {
    "--no-browser": "print the app's address, open nothing",
    "--lan": "let other computers of your network in, by a password",
    "--no-warm": "import the libraries after the click, not while you read Start",
}
"""The app's own options, passed on to it."""


ISOLATED_FLAG = "-P"  # the user's own folder may contain a torch.py or a trainer_core


def main() -> int:
    options = parse_arguments(sys.argv[1:])
    if options.command in VENVLESS_COMMANDS:
        return run_without_venv(options)
    try:
        stamp = venv.ensure_venv(options.device)
        if options.command == "test":
            venv.add_test_tools(stamp)
        if options.command == "setup":
            print(f"Tunebench {read_version()} is set up for {stamp.device.upper()}. `python launch.py` starts it.")
            return 0
    except (SetupError, OSError) as error:
        print(f"\nTunebench is not set up: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped. The next start goes on from here.", file=sys.stderr)
        return 130
    return replace_process([str(VENV_PYTHON), *target_command(options, stamp.device)], venv.venv_environment(stamp))


def run_without_venv(options: argparse.Namespace) -> int:
    try:
        return VENVLESS_COMMANDS[options.command](options)
    except (SetupError, OSError) as error:
        print(f"`{options.command}` failed: {error}", file=sys.stderr)
        return 1


def print_info(options: argparse.Namespace) -> int:
    from launcher import info  # here, so that a normal start does not import it

    workspace = Path(options.workspace or os.environ.get("TUNEBENCH_WORKSPACE") or ROOT / "workspace")
    print(info.system_report(info.InfoSources(workspace.resolve()), with_trial="--trial" in options.rest))
    return 0


def add_shortcut(options: argparse.Namespace) -> int:
    from launcher.shortcut import make_shortcut

    for file in make_shortcut():
        print(f"A double click on {file} starts Tunebench.")
    return 0


def update_and_set_up(options: argparse.Namespace) -> int:
    """Update, then let the new launch.py set up: this process still runs the old one."""
    from launcher.update import pull_update

    venv.refuse_while_running("Tunebench cannot be updated")
    pull_update()
    device = ["--device", options.device] if options.device != "auto" else []
    return replace_process([sys.executable, str(ROOT / "launch.py"), *device, "setup"], os.environ)


VENVLESS_COMMANDS = {"info": print_info, "shortcut": add_shortcut, "update": update_and_set_up}
"""Commands that need no .venv, and no part of Tunebench but launcher/."""
WITHOUT_WORKSPACE = ("setup", "shortcut", "test", "update")
"""Commands that read and write no workspace."""


def parse_arguments(given: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="launch.py", description="Sets Tunebench up and starts it.")
    parser.add_argument("--version", action="version", version=f"Tunebench {read_version()}")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help="what .venv is made for")
    for switch, told in SWITCHES.items():
        parser.add_argument(switch, action="store_true", help=told)
    parser.add_argument("--port", help="the app's port on 127.0.0.1")
    parser.add_argument("--workspace", help="the folder for runs, votes and exports")
    parser.add_argument("command", nargs="?", help="test, demo, train, compare, ...; without one the app starts")
    parser.add_argument("rest", nargs=argparse.REMAINDER, help="the command's own arguments")
    options = parser.parse_args(given)
    if problem := find_misplaced_option(options):
        parser.error(problem)
    return options


def find_misplaced_option(options: argparse.Namespace) -> str:
    """Which option stands where it has no effect, and where it belongs; empty if none does."""
    command = options.command
    if not command:
        return ""
    if app_flags(options):
        return f"{', '.join(SWITCHES)} and --port are the app's; {command} takes its own options after its name"
    if command in WITHOUT_WORKSPACE:
        return f"{command} uses no workspace; leave --workspace out" if options.workspace else ""
    if any(word.split("=")[0] == "--workspace" for word in options.rest):
        return f"--workspace comes before the command: `python launch.py --workspace DIR {command}`"
    return ""


def target_command(options: argparse.Namespace, device: str) -> list[str]:
    """The arguments for .venv's Python."""
    if options.command == "test":
        return [ISOLATED_FLAG, "-m", "tools.check", *options.rest]
    if options.command:
        return [ISOLATED_FLAG, "-m", "trainer_core", *workspace_flag(options), options.command, *options.rest]
    return [str(ROOT / "app.py"), "--device", device, *app_flags(options), *workspace_flag(options)]


def app_flags(options: argparse.Namespace) -> list[str]:
    given = vars(options)
    flags = [switch for switch in SWITCHES if given[switch.strip("-").replace("-", "_")]]
    return flags + (["--port", options.port] if options.port else [])


def workspace_flag(options: argparse.Namespace) -> list[str]:
    return ["--workspace", options.workspace] if options.workspace else []


def replace_process(command: list[str], env: Mapping[str, str]) -> int:
    """Replace this process with the command; on Windows, which cannot, wait for its end."""
    sys.stdout.flush()
    if not WINDOWS:
        os.execve(command[0], command, env)
    child = subprocess.Popen(command, env=env)
    while True:
        with contextlib.suppress(KeyboardInterrupt):  # the child gets Ctrl-C too, and decides
            return child.wait()


if __name__ == "__main__":
    sys.exit(main())
