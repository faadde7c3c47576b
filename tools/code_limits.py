"""Limits that the product's code keeps: names, lengths of functions and of files. `python -m tools.code_limits` names what is
over one, and ends with 1 then."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PRODUCT = ("trainer_core", "ui", "launcher", "app.py", "launch.py")

MAX_ONE_WORD = 0.35
MAX_PARTICIPLES = 0.02
MAX_P90_LINES = 17
"""Nine functions of ten are no longer."""
MAX_FUNCTION_LINES = 60
MAX_FILE_LINES = 350

VAGUE_NAMES = "again bare fate kept look made most named of place reach reaches said settled spelled told words"
"""Say nothing as the whole name of a function."""
IRREGULAR = (
    "begun bought brought built caught chosen done drawn driven fallen felt forgotten found frozen given gone got grown "
    "heard held hidden kept known laid led lost made meant met paid said seen sent shown slept sold spent stood stuck taken "
    "thrown told torn understood woken won worn written"
)
"""Participles that do not end in "ed". Left out are those that are a verb's plain form too, such as read, run and set."""
NOT_PARTICIPLES = "embed exceed feed need proceed seed shed shred speed"
NOUNS = ("held_out_", "staged_write", "finished_adapter", "protected_steps")
"""Beginnings of names whose participle is part of a noun of the field."""

LAYOUT = (
    ("ui/components/sidebar.py", "build_sidebar"),
    ("ui/components/theme.py", "build_theme"),
    ("ui/tabs/compare.py", "wire_handlers"),
)
"""Functions that list elements of the page, and may be as long as the list."""
LONG_FILES = {
    "trainer_core/planning/fitting.py": 365,
    "trainer_core/planning/memory_model.py": 483,
    "trainer_core/runs/checkpoints.py": 411,
    "trainer_core/system/hardware.py": 531,
}
"""Files over the limit, with the lines they had. A number here may only shrink; a file within the limit is taken out."""


@dataclass(frozen=True)
class Breach:
    """A limit, and what is over it."""

    limit: str
    names: tuple[str, ...]


@dataclass(frozen=True)
class Function:
    name: str
    lines: int
    file: str

    @property
    def words(self) -> list[str]:
        return self.name.strip("_").split("_")

    @property
    def has_participle_first(self) -> bool:
        first = self.words[0]
        regular = first.endswith("ed") and first not in NOT_PARTICIPLES.split()
        return (regular or first in IRREGULAR.split()) and not self.name.startswith(NOUNS)


def main() -> int:
    found = find_breaches(ROOT, LONG_FILES, LAYOUT)
    for breach in found:
        print(f"{breach.limit}: {', '.join(breach.names)}")
    return 1 if found else 0


def find_breaches(root: Path, long_files: Mapping[str, int], layout: tuple[tuple[str, str], ...]) -> list[Breach]:
    """What is over a limit, and exceptions that nothing needs any more."""
    texts = {path.relative_to(root).as_posix(): path.read_text(encoding="utf-8") for path in product_files(root)}
    trees = {file: ast.parse(text) for file, text in texts.items()}
    functions = [function for file, tree in trees.items() for function in functions_of(tree, file)]
    lengths = {file: len(text.splitlines()) for file, text in texts.items()}
    limits = {
        "one-word function names": over_share(
            [one for one in functions if len(one.words) == 1], functions, MAX_ONE_WORD
        ),
        "participle first": over_share(
            [one for one in functions if one.has_participle_first], functions, MAX_PARTICIPLES
        ),
        "vague function names": located(one for one in functions if one.name.strip("_") in VAGUE_NAMES.split()),
        "lines of nine functions in ten": long_tail(functions),
        "lines of a function": located(
            one for one in functions if one.lines > MAX_FUNCTION_LINES and (one.file, one.name) not in layout
        ),
        "exceptions for layout": unused_layout(functions, layout),
        "lines of a file": [
            f"{file} ({lines})" for file, lines in lengths.items() if lines > long_files.get(file, MAX_FILE_LINES)
        ],
        "exceptions for files": [file for file in long_files if lengths.get(file, 0) <= MAX_FILE_LINES],
        "class names used twice": repeated_classes(trees),
    }
    return [Breach(limit, tuple(names)) for limit, names in limits.items() if names]


def product_files(root: Path) -> Iterator[Path]:
    for part in PRODUCT:
        path = root / part
        yield from sorted(path.rglob("*.py")) if path.is_dir() else filter(Path.is_file, (path,))


def functions_of(tree: ast.Module, file: str) -> Iterator[Function]:
    """Functions and methods at any depth, without Python's own such as `__init__`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("__"):
            yield Function(node.name, (node.end_lineno or 0) - node.lineno + 1, file)


def located(functions: Iterator[Function]) -> list[str]:
    return [f"{one.file}: {one.name} ({one.lines})" for one in functions]


def over_share(some: list[Function], functions: list[Function], limit: float) -> list[str]:
    """Those functions, if they are more than that share of all."""
    return located(iter(some)) if len(some) > limit * len(functions) else []


def long_tail(functions: list[Function]) -> list[str]:
    """The long functions, if they are more than one in ten."""
    return over_share([one for one in functions if one.lines > MAX_P90_LINES], functions, 0.1)


def unused_layout(functions: list[Function], layout: tuple[tuple[str, str], ...]) -> list[str]:
    long = {(one.file, one.name) for one in functions if one.lines > MAX_FUNCTION_LINES}
    return [f"{file}: {name}" for file, name in layout if (file, name) not in long]


def repeated_classes(trees: Mapping[str, ast.Module]) -> list[str]:
    """Every class whose name stands for another one too, with the files of both."""
    classes = sorted(
        (node.name, file) for file, tree in trees.items() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)
    )
    together = ((name, [file for _, file in same]) for name, same in groupby(classes, key=lambda one: one[0]))
    return [f"{name} ({', '.join(files)})" for name, files in together if len(files) > 1]


if __name__ == "__main__":
    sys.exit(main())
