"""Every limit of tools/code_limits.py is seen to be missed, by a small tree of sound code with one thing wrong in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.code_limits import LAYOUT, LONG_FILES, ROOT, find_breaches

SOUND = "".join(f"def count_rows_{number}():\n    return {number}\n" for number in range(100))
"""A hundred functions, so that one more moves no share beyond its limit."""


def function(name: str, lines: int = 2) -> str:
    return f"def {name}():\n" + "    pass\n" * (lines - 1)


def functions(name: str, count: int, lines: int = 2) -> str:
    return "".join(function(name.format(number), lines) for number in range(count))


def limits_missed(
    root: Path, text: str, long_files: dict[str, int] | None = None, layout: tuple[tuple[str, str], ...] = ()
) -> dict[str, tuple[str, ...]]:
    for folder in ("trainer_core", "ui"):
        (root / folder).mkdir(exist_ok=True)
    (root / "trainer_core" / "sound.py").write_text(SOUND, encoding="utf-8")
    (root / "ui" / "page.py").write_text(text, encoding="utf-8")
    return {breach.limit: breach.names for breach in find_breaches(root, long_files or {}, layout)}


@pytest.mark.parametrize(
    ("limit", "within", "beyond"),
    [
        ("one-word function names", functions("row{}", 50), functions("row{}", 60)),
        ("participle first", functions("cached_row_{}", 2), functions("cached_row_{}", 3)),
        ("participle first", functions("taken_row_{}", 2), functions("taken_row_{}", 3)),
        ("vague function names", function("kept_rows"), function("kept")),
        ("lines of nine functions in ten", functions("read_{}", 11, 18), functions("read_{}", 12, 18)),
        ("lines of a function", function("read_all", 60), function("read_all", 61)),
        ("lines of a file", "\n" * 350, "\n" * 351),
        ("class names used twice", "class Row: ...\nclass Column: ...\n", "class Row: ...\n" * 2),
    ],
)
def test_each_limit_is_held_up_to_its_number(tmp_path: Path, limit: str, within: str, beyond: str) -> None:
    assert not limits_missed(tmp_path, within)
    assert set(limits_missed(tmp_path, beyond)) == {limit}


def test_the_breach_names_the_place(tmp_path: Path) -> None:
    assert limits_missed(tmp_path, function("read_all", 61)) == {"lines of a function": ("ui/page.py: read_all (61)",)}


def test_a_noun_of_the_field_is_no_participle(tmp_path: Path) -> None:
    assert not limits_missed(tmp_path, functions("held_out_rows_{}", 9) + functions("feed_rows_{}", 9))


def test_a_long_file_may_shrink_and_not_grow(tmp_path: Path) -> None:
    bound = {"ui/page.py": 400}
    assert not limits_missed(tmp_path, "\n" * 400, bound)
    assert set(limits_missed(tmp_path, "\n" * 401, bound)) == {"lines of a file"}
    assert set(limits_missed(tmp_path, "\n" * 350, bound)) == {"exceptions for files"}


def test_layout_may_be_long_and_is_listed_only_then(tmp_path: Path) -> None:
    listed = (("ui/page.py", "build_tab"),)
    assert not limits_missed(tmp_path, function("build_tab", 61), layout=listed)
    assert set(limits_missed(tmp_path, function("build_tab", 60), layout=listed)) == {"exceptions for layout"}


def test_the_product_holds_them() -> None:
    assert find_breaches(ROOT, LONG_FILES, LAYOUT) == []
