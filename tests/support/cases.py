"""Cases: `python -m tests.support.cases PATH …`.

Of paths that say what is expected (see `check_cases.py`) it prints one line for each case and the counts, and exits with 1 if one
differs. Of other data files it prints how many rows are used, how many are left out and why, what else is said of them, and the
first row as it is trained on.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.support import case_rows, check_cases

NOT_DATA = (".md", ".toml", ".py", ".txt", ".jinja")


def main(paths: Sequence[str]) -> int:
    given = [Path(one).resolve() for one in paths]
    if given and all(map(check_cases.has_cases, given)):
        return check_cases.check_paths(given)
    for path in data_files(given):
        sys.stdout.write("\n".join(case_rows.lines(case_rows.read(path))) + "\n\n")
    return 0


def data_files(paths: Sequence[Path]) -> Iterator[Path]:
    for path in paths:
        below = sorted(one for one in path.rglob("*") if one.is_file()) if path.is_dir() else [path]
        yield from (one for one in below if path == one or one.suffix not in NOT_DATA)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
