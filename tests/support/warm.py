"""One process that imports the training libraries for all tests, which takes ten seconds. Its forks run modules as `python -m`.

It computes nothing itself, so that each fork finds the libraries as they are after their import.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import runpy
import select
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import psutil

from trainer_core.system import project
from trainer_core.worker import restart

SECONDS = 600
TEST = "PYTEST_CURRENT_TEST"
"""The one variable that is another in each test."""


def run_module(environment: Mapping[str, str], module: str, *arguments: object, log: Path) -> int:
    """The exit code of `python -m module arguments`; what it prints is added to `log`, and errors to another file beside it."""
    process = warm_process(tuple((name, environment[name]) for name in sorted(environment) if name != TEST))
    assert process.stdin and process.stdout
    asked = {"module": module, "arguments": [*map(str, arguments)], "log": str(log)}
    process.stdin.write(json.dumps(asked) + "\n")
    process.stdin.flush()
    if not select.select([process.stdout], [], [], SECONDS)[0]:
        end(process)
        raise TimeoutError(f"{module} is not done after {SECONDS} s")
    return int(process.stdout.readline())


def errors(log: Path) -> Path:
    return log.with_suffix(".errors.txt")


@cache
def warm_process(environment: tuple[tuple[str, str], ...]) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.support.warm"]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, cwd=project.PROJECT, env=dict(environment), stdin=pipe, stdout=pipe, text=True)
    atexit.register(end, process)
    return process


def end(process: subprocess.Popen[str]) -> None:
    warm_process.cache_clear()
    if process.poll() is None:
        for one in [*psutil.Process(process.pid).children(recursive=True), process]:
            one.kill()
        process.wait()


def serve() -> None:
    """Answers each line of the standard input with an exit code."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the libraries print is no answer
    from trainer_core import training  # noqa: F401

    gc.freeze()  # as a worker does
    for line in sys.stdin:
        asked = json.loads(line)
        print(restart.run_in_fork(lambda asked=asked: fork(**asked)), file=answers, flush=True)  # type: ignore[misc]


def fork(module: str, arguments: list[str], log: str) -> int:
    for file, number in ((Path(log), 1), (errors(Path(log)), 2)):
        with file.open("ab") as out:
            os.dup2(out.fileno(), number)
    sys.argv = [module, *arguments]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        return code_of(end.code)
    return 0


def code_of(word: Any) -> int:
    return word if isinstance(word, int) else int(bool(word))


if __name__ == "__main__":
    serve()
