"""The bench runner: rows from a bench, errors in their rows, the table, and the cheapest real benches at their smallest."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from bench import table
from bench.result import Row, Target, one_sided, two_sided
from trainer_core.runs import PROJECT


def bench(*args: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bench", *map(str, args)]
    return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=300)


def test_one_that_fails_does_not_stop_the_others(tmp_path: Path) -> None:
    done = bench("tests.benches.fails", "tests.benches.trivial", "--tiny", "--json", "--results", tmp_path)
    failed, row = json.loads(done.stdout)
    assert done.returncode == 1
    assert "ZeroDivisionError" in failed["error"] and failed["ours"] is None
    assert (row["ours"], row["peer"], row["ratio"], row["n"]) == (2.0, 8.0, 4.0, 3)
    assert row["device"] == "cpu" and row["tiny"] and row["versions"]["python"] and row["machine"]
    page = (tmp_path / "BENCHMARKS.md").read_text()
    assert "failed" in page and "| 2 s | 8 s | 4 | ratio ≥ 3 | yes | 3 | 25% | cpu |" in page


def test_what_nobody_measured_says_so() -> None:
    line = table.table([Row("G1", "SFT on a card", "tokens/s", target=Target("ratio", "≥", 2.5))])
    assert "| G1 | SFT on a card | not measured | – | – | ratio ≥ 2.5 | – |" in line


def test_rows_are_medians_with_their_spread() -> None:
    row = one_sided("app", "x", "s", [1.0, 4.0, 2.0])
    assert (row.ours, row.n, row.spread) == (2.0, 3, 1.5)
    row = two_sided("app", "x", "steps/s", [1.0, 2.0, 4.0], [2.0, 2.0, 2.0])
    assert (row.ours, row.peer, row.ratio, row.n) == (2.0, 2.0, 1.0, 3)
    assert one_sided("app", "x", "s", [1.0]).spread is None


def test_a_target_is_met_or_not() -> None:
    fast = Target("ours", "≤", 5)
    assert fast.met(Row("app", "x", "s", 5.0)) and fast.met(Row("app", "x", "s", 5.1)) is False
    assert fast.met(Row("app", "x", "s")) is None
