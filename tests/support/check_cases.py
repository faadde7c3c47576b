"""Checks folders of cases against what they expect; `python -m tests.support.cases PATH` calls it.

A folder with `expected.json` or `expected.md` (see `expectations.py`) has data files and recipes. A folder named `hostile` has
inputs made to hurt: each goes to the part that would meet it, and the cases of `hostile_cases.py` run too.
"""

from __future__ import annotations

import contextlib
import io
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from tests.support import case_rows, hostile_cases
from tests.support.expectations import Expectation, read_expectations
from tests.support.hostile_cases import page_opens, run_folder, sentence, time_limit
from tests.support.model_files import pack_safetensors
from trainer_core.cli import commands
from trainer_core.config.recipe import read_recipe
from trainer_core.errors import UserError
from trainer_core.models import resolve, tokenizer_check

NOTES = ("expected.md", "expected.json", "README.md")
SECONDS = 120
Verdict = Literal["ok", "differs", "not stated"]


@dataclass(frozen=True)
class Result:
    name: str
    verdict: Verdict
    text: str

    def __str__(self) -> str:
        return f"{self.verdict:<10}  {self.name}  {self.text}".rstrip()


def is_hostile(folder: Path) -> bool:
    return folder.name == "hostile"


def has_cases(path: Path) -> bool:
    """Does a folder, or one below it, say what is expected?"""
    names = (*path.rglob("expected.*"), *path.rglob("hostile")) if path.is_dir() else ()
    return is_hostile(path) or any(one.name in NOTES or one.is_dir() for one in names)


def check_paths(paths: list[Path]) -> int:
    """One line for each case, then the counts. Returns 0 if there are cases and none differs."""
    verdicts: list[Verdict] = []
    for result in (one for path in paths for one in check_folder(path, path)):
        verdicts.append(result.verdict)
        sys.stdout.write(f"{result}\n")
        sys.stdout.flush()
    counts = ", ".join(f"{verdicts.count(name)} {name}" for name in ("ok", "differs", "not stated"))  # type: ignore[arg-type]
    sys.stdout.write(f"{len(verdicts)} cases: {counts}\n")
    return 0 if verdicts and "differs" not in verdicts else 1


def check_folder(folder: Path, root: Path) -> Iterator[Result]:
    """The cases of a folder and of those below it."""
    if is_hostile(folder):
        yield from check_hostile(folder, root)
        return
    expected = read_expectations(folder)
    for path in sorted(folder.iterdir()):
        name = str(path.relative_to(root))
        if path.is_dir():
            yield from check_folder(path, root)
        elif path.name not in NOTES:
            yield check_file(path, name, expected.get(path.name, Expectation()))


def check_file(path: Path, name: str, expected: Expectation) -> Result:
    found = read_as_recipe(path) if path.suffix == ".toml" else case_rows.read(path)
    if wrong := "; ".join(expected.differences(found)):
        return Result(name, "differs", wrong)
    told = "refused" if found.refused else "read" if path.suffix == ".toml" else f"{len(found.used)} rows"
    return Result(name, "not stated" if expected.is_empty else "ok", told)


def read_as_recipe(path: Path) -> case_rows.Case:
    """A recipe as a case: read, or refused in a sentence."""
    found = case_rows.Case(path)
    try:
        read_recipe(path)
    except UserError as error:
        found.refused = str(error)
    return found


# --- inputs made to hurt


def check_hostile(folder: Path, root: Path) -> Iterator[Result]:
    for path in sorted(folder.iterdir()):
        if check := hostile_check(path):
            yield run_check(str(path.relative_to(root)), check)
    for name, case in hostile_cases.CASES.items():
        yield run_check(f"{folder.relative_to(root)}/{name}", case)


def run_check(name: str, check: Callable[[Path], str]) -> Result:
    with tempfile.TemporaryDirectory() as place:
        try:
            with time_limit(SECONDS):
                wrong = check(Path(place))
        except Exception as error:
            wrong = f"{type(error).__name__}: {error}"
    return Result(name, "differs" if wrong else "ok", wrong[:200])


def hostile_check(path: Path) -> Callable[[Path], str] | None:
    """What to do with an input, by its kind; None if it is none."""
    if path.is_dir():
        checks = {"tokenizer.json": refused_tokenizer, "config.json": refused_model}
        return next((partial(check, path) for name, check in checks.items() if (path / name).exists()), None)
    if path.name.startswith("event") and path.suffix == ".jsonl":
        return partial(events_are_read, path)
    checks = {
        "cookies.txt": cookies_let_us_in,
        ".toml": refused_recipe,
        ".jsonl": terminal_is_safe,
        ".csv": terminal_is_safe,
    }
    check = checks.get(path.name) or checks.get(path.suffix)
    return partial(check, path) if check else None


def events_are_read(path: Path, place: Path) -> str:
    """Lines of a run's events.jsonl: the page opens, with that run and a sound one in its list."""
    run_folder(place, path.read_text(encoding="utf-8").splitlines(), "wrong", done=False)
    run_folder(place, name="good")
    return page_opens(place)


def cookies_let_us_in(path: Path, place: Path) -> str:
    return hostile_cases.cookie_is_found(path.read_text(encoding="utf-8").splitlines(), place)


def refused_recipe(path: Path, place: Path) -> str:
    return sentence(read_recipe, path)


def refused_tokenizer(path: Path, place: Path) -> str:
    return sentence(tokenizer_check.check_growth, path / "tokenizer.json")


def refused_model(path: Path, place: Path) -> str:
    """A config.json beside weights and a tokenizer that are sound."""
    folder = place / "model"
    shutil.copytree(path, folder)
    for name, content in (("model.safetensors", pack_safetensors({"x": [300]})), ("tokenizer.json", b"{}")):
        if not (folder / name).exists():
            (folder / name).write_bytes(content)
    return sentence(resolve.check_model_folder, folder)


def terminal_is_safe(path: Path, place: Path) -> str:
    """What a data file holds is shown without its control characters."""
    told = io.StringIO()
    with contextlib.redirect_stdout(told), contextlib.redirect_stderr(told):
        commands.main(["check", str(path)])
    return "an escape character reaches the terminal" if "\x1b" in told.getvalue() else ""
