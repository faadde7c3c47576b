"""Apps with a scripted worker as forks of one process: importing Gradio for each takes five seconds."""

from __future__ import annotations

import atexit
import gc
import json
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import psutil

from trainer_core.system.project import PROJECT


def start_app(arguments: Sequence[str], environment: Mapping[str, str], log: Path) -> psutil.Process:
    """`python -m tests.support.serve arguments`; what it prints is added to `log`."""
    if not hasattr(os, "fork"):
        with log.open("ab") as out:
            command = [sys.executable, "-m", "tests.support.serve", *arguments]
            return psutil.Popen(command, cwd=PROJECT, env=dict(environment), stdout=out, stderr=out)
    parent = fork_parent()
    assert parent.stdin and parent.stdout
    parent.stdin.write(json.dumps([[*arguments], dict(environment), str(log)]) + "\n")
    parent.stdin.flush()
    return psutil.Process(int(parent.stdout.readline()))


@cache
def fork_parent() -> subprocess.Popen[str]:
    """It ends with its standard input, so with this process."""
    command, pipe = [sys.executable, "-m", "tests.support.app_forks"], subprocess.PIPE
    parent = subprocess.Popen(command, cwd=PROJECT, stdin=pipe, stdout=pipe, text=True)
    atexit.register(parent.kill)
    return parent


def answer_requests() -> None:
    """One line for each app: its process id."""
    from tests.support import serve

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the system reaps
    gc.freeze()  # what was imported stays shared
    for line in sys.stdin:
        arguments, environment, log = json.loads(line)
        if pid := os.fork():
            print(pid, flush=True)
            continue
        code = 1
        try:
            become_app(environment, Path(log))
            code = serve.main(arguments)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)


def become_app(environment: Mapping[str, str], log: Path) -> None:
    """Nothing of the parent's pipes and signals is left."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    gradio = {
        name: value for name, value in os.environ.items() if name.startswith("GRADIO_")
    }  # as it was imported with
    os.environ.clear()
    os.environ.update({**environment, **gradio})
    with log.open("ab") as out, open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
        os.dup2(out.fileno(), 1)
        os.dup2(out.fileno(), 2)


if __name__ == "__main__":
    answer_requests()
