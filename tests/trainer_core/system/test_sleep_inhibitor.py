"""The machine is kept awake by a process that cannot outlive the worker."""

from __future__ import annotations

import subprocess
import sys

import psutil
import pytest

from trainer_core.jobs.supervisor import wait_for
from trainer_core.system import sleep_inhibitor
from trainer_core.system.project import PROJECT
from trainer_core.texts import Text

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there it is a call, not a process")


def test_the_keeper_lives_as_long_as_the_block() -> None:
    with sleep_inhibitor.keep_awake(["cat"]) as how:
        keeper = next(child for child in psutil.Process().children() if child.name() == "cat")
        assert how == Text("sleep.inhibited_by", program="cat") and keeper.is_running()
    assert not keeper.is_running()


PROGRAM = """
import os, psutil
from trainer_core.system import sleep_inhibitor
keeping = sleep_inhibitor.keep_awake(["cat"])
keeping.__enter__()
print(psutil.Process().children()[0].pid, flush=True)
os.kill(os.getpid(), 9)
"""


def test_the_keeper_goes_when_its_worker_is_killed() -> None:
    worker = subprocess.run([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, cwd=PROJECT)
    assert worker.returncode == -9
    assert wait_for(lambda: not psutil.pid_exists(int(worker.stdout)), 10)


def test_no_such_program_is_said() -> None:
    for asked in (["no-such-program-here"], ["false"], []):
        with sleep_inhibitor.keep_awake(asked) as how:
            assert how == sleep_inhibitor.CANNOT_KEEP_AWAKE


@pytest.mark.parametrize(("platform", "program"), [("linux", "systemd-inhibit"), ("darwin", "caffeinate")])
def test_what_is_asked_of_each_platform(platform: str, program: str) -> None:
    assert sleep_inhibitor.inhibitor_command(platform)[0] == program
