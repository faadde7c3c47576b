"""Runs a step of the set-up and shows its title, the tool's own output, and its duration or failure."""
# ruff: noqa: T201

from __future__ import annotations

import subprocess
import time
from collections.abc import Mapping

from launcher import SetupError
from launcher.install_steps import InstallStep
from launcher.paths import ROOT, VENV


def perform_step(step: InstallStep, place: str, env: Mapping[str, str]) -> bool:
    """True if the step succeeded, False if it failed but is not needed.

    Raises:
        SetupError: a needed step failed in every way, with each tool's error.
    """
    print(f"{place} {step.title}", flush=True)
    began = time.monotonic()
    failures = []
    for number, command in enumerate(step.ways, start=1):
        problem = run_tool(command, env)
        if not problem:
            print(f"      done in {format_elapsed(began)}", flush=True)
            return True
        failures.append(f"`{command_text(command)}` {problem}.")
        if number < len(step.ways):
            print("      not to be had that way; trying another", flush=True)
    if step.needed:
        raise SetupError("\n".join([f"'{step.title}' failed.", *failures, step.advice]))
    print("      could not be had; going on without it", flush=True)
    return False


def run_tool(command: tuple[str, ...], env: Mapping[str, str]) -> str:
    """How the tool failed; empty if it did not. Its output goes straight to the terminal."""
    folder = VENV if VENV.is_dir() else ROOT  # unsloth writes into the working folder, which must not be the project
    try:
        status = subprocess.run(command, env=env, cwd=folder, stdin=subprocess.DEVNULL).returncode
    except OSError as error:
        return f"cannot be started: {error}"
    return f"ended with status {status}" if status else ""


def format_elapsed(began: float) -> str:
    """Minutes and seconds since `began`, a time.monotonic() value."""
    minutes, seconds = divmod(int(time.monotonic() - began), 60)
    return f"{minutes}:{seconds:02}"


def command_text(command: tuple[str, ...]) -> str:
    return " ".join(command if len(command) < 3 or command[1] != "-c" else ("python -c ...", *command[3:]))
