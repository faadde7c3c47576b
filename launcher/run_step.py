"""Runs a step of the set-up in sight of the user: what the tool says, a clock while it says nothing, why it failed."""
# ruff: noqa: T201

from __future__ import annotations

import queue
import shutil
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping

from launcher import SetupError
from launcher.install_steps import InstallStep
from launcher.paths import ROOT, VENV

QUIET_SECONDS = 30
PROGRESS_PREFIXES = ("Collecting ", "Processing ", "Downloading ", "Building ", "Installing ", "Installed ", "torch ")
"""How the lines of pip, uv and the trial begin that a waiting user wants to see; a failure shows the others."""


def perform_step(step: InstallStep, place: str, env: Mapping[str, str]) -> bool:
    """True where the step was done, False where it is not needed and cannot be.

    Raises:
        SetupError: with every tool's last lines where no way of a needed step leads through.
    """
    print(f"{place} {step.title}", flush=True)
    began = time.monotonic()
    failures = []
    for command in step.ways:
        status, tail = run_tool(command, env)
        if status == 0:
            print(f"      done in {format_elapsed(began)}", flush=True)
            return True
        failures.append(
            "\n".join([f"`{command_text(command)}` ended with status {status}:", *(f"    {line}" for line in tail)])
        )
    if step.needed:
        raise SetupError("\n".join([f"'{step.title}' failed.", *failures, step.advice]))
    print("      could not be had; going on without it", flush=True)
    return False


def run_tool(command: tuple[str, ...], env: Mapping[str, str]) -> tuple[int, list[str]]:
    """The tool's exit status and last 15 lines."""
    tail: deque[str] = deque(maxlen=15)
    screen = StatusLine()
    folder = VENV if VENV.is_dir() else ROOT  # what unsloth writes where it stands must not lie in the project
    try:
        process = subprocess.Popen(
            command,
            env=env,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
        )
    except OSError as error:
        return 127, [str(error)]
    with process:
        for line in stream_lines(process):
            tail.extend([line] if line else [])
            screen.show(line)
    screen.clear()
    return process.returncode, list(tail)


def stream_lines(process: subprocess.Popen[str]) -> Iterator[str]:
    """The process's lines as they come, and an empty one for each second without any."""
    lines: queue.Queue[str | None] = queue.Queue()

    def read() -> None:
        for line in process.stdout or ():
            lines.put(line.rstrip())
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    while True:
        try:
            line = lines.get(timeout=1)
        except queue.Empty:
            yield ""
            continue
        if line is None:
            return
        yield line


class StatusLine:
    """One line that keeps changing on a terminal; in a log file the lines that matter, and a sign of life."""

    def __init__(self) -> None:
        self.began = self.spoke = time.monotonic()
        self.last = ""
        self.terminal = sys.stdout.isatty()

    def show(self, line: str) -> None:
        matters = line.startswith(PROGRESS_PREFIXES)
        self.last = line if matters else self.last
        if self.terminal:
            width = shutil.get_terminal_size().columns - 1
            print("\r" + f"      {format_elapsed(self.began)}  {self.last}"[:width].ljust(width), end="", flush=True)
        elif matters or time.monotonic() - self.spoke > QUIET_SECONDS:
            print(f"      {format_elapsed(self.began)}  {self.last}", flush=True)
            self.spoke = time.monotonic()

    def clear(self) -> None:
        if self.terminal:
            print("\r" + " " * (shutil.get_terminal_size().columns - 1), end="\r", flush=True)


def format_elapsed(began: float) -> str:
    """Minutes and seconds since `began`, a time.monotonic() reading."""
    minutes, seconds = divmod(int(time.monotonic() - began), 60)
    return f"{minutes}:{seconds:02}"


def command_text(command: tuple[str, ...]) -> str:
    return " ".join(command if len(command) < 3 or command[1] != "-c" else ("python -c ...", *command[3:]))
