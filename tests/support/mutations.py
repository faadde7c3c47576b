"""Mutations: changes to code that guards something, each with the tests or the proof that must fail then.

They stand in mutations.toml. `judge_mutation` makes one in a copy of the project, runs its tests there, and takes it back.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from importlib.util import cache_from_source
from pathlib import Path
from typing import Literal

from trainer_core.system.project import PROJECT

LIST = Path(__file__).with_name("mutations.toml")
SECONDS = 1800
"""For the tests of one mutation, on a busy machine."""
FAILED_CLAIM = re.compile(r": [1-9][0-9,]* of [0-9,]+ failed")
"""In the words of a proof."""
Outcome = Literal["caught", "stays green", "out of date", "no test failed"]
"""The last one: the tests ended otherwise than by a failure, such as an error on import."""


@dataclass(frozen=True)
class Mutation:
    """A change of one place in a file, and what must see it: tests by their ids, or a proof of `reliability`."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...] = ()
    proof: str = ""

    @property
    def command(self) -> tuple[str, ...]:
        return proof_command(self.proof) if self.proof else test_command(self.tests)

    def apply(self, text: str) -> str:
        """The file's text with the change.

        Raises:
            ValueError: the old text is not there, or several times.
        """
        if (count := text.count(self.old)) != 1:
            raise ValueError(f"{self.file} has the old text {count} times")
        return text.replace(self.old, self.new)


@dataclass(frozen=True)
class MutationResult:
    outcome: Outcome
    output: str = ""
    """The end of what the tests said, or why there is none."""


def read_mutations() -> list[Mutation]:
    found = tomllib.loads(LIST.read_text(encoding="utf-8"))["mutation"]
    return [Mutation(**{**one, "tests": tuple(one.get("tests", ()))}) for one in found]


def test_command(tests: tuple[str, ...]) -> tuple[str, ...]:
    return ("pytest", "-x", "-q", "-rf", "--tb=line", "-p", "no:cacheprovider", *tests)


def proof_command(name: str) -> tuple[str, ...]:
    return ("reliability", name, "--quick")


def copy_project(tree: Path, source: Path = PROJECT) -> None:
    """A copy without what git ignores."""
    ignored = [line.strip("/") for line in (source / ".gitignore").read_text(encoding="utf-8").splitlines() if line]
    shutil.copytree(source, tree, ignore=shutil.ignore_patterns(".git", *ignored))


def judge_mutation(mutation: Mutation, tree: Path) -> MutationResult:
    """Make the change in `tree`, run the tests, and take it back."""
    file = tree / mutation.file
    before = file.read_text(encoding="utf-8")
    try:
        after = mutation.apply(before)
    except ValueError as error:
        return MutationResult("out of date", str(error))
    write_source(file, after)
    try:
        done = run_module(mutation.command, tree)
    finally:
        write_source(file, before)
    return MutationResult(describe_end(mutation, done), (done.stdout + done.stderr)[-3000:])


def write_source(file: Path, text: str) -> None:
    """Python takes compiled code for that of a file with the same size and second; so it is removed."""
    file.write_text(text, encoding="utf-8")
    Path(cache_from_source(str(file))).unlink(missing_ok=True)


def run_module(command: tuple[str, ...], tree: Path, seconds: float = SECONDS) -> subprocess.CompletedProcess[str]:
    """A module of the project in the copy, without pytest's plugins, whose import takes half a second."""
    ours = {"PYTHONPATH": str(tree), "CUDA_VISIBLE_DEVICES": "", "UNSLOTH_FORCE_CPU": "1", "HF_HUB_OFFLINE": "1"}
    others = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    others["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    return subprocess.run(
        [sys.executable, "-P", "-m", *command],
        cwd=tree,
        env=others | ours,
        capture_output=True,
        text=True,
        timeout=seconds,
    )


def describe_end(mutation: Mutation, done: subprocess.CompletedProcess[str]) -> Outcome:
    if done.returncode == 0:
        return "stays green"
    failed = FAILED_CLAIM.search(done.stdout) if mutation.proof else re.search("^FAILED ", done.stdout, re.MULTILINE)
    return "caught" if done.returncode == 1 and failed else "no test failed"
