"""The bench runner: rows from a bench, errors in their rows, the table, and the cheapest real benches at their smallest."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

from bench import make, plot, table
from bench.__main__ import BENCHES
from bench.growth import grown
from bench.one import found
from bench.result import Row, Target, one_sided, two_sided
from trainer_core import runs
from trainer_core.events import Phase
from trainer_core.runs import PROJECT
from trainer_core.supervisor import Supervisor


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


def test_the_cheapest_real_ones_run_to_their_end(tmp_path: Path) -> None:
    done = bench("data", "app", "--tiny", "--json", "--results", tmp_path)
    rows = json.loads(done.stdout)
    assert done.returncode == 0, done.stderr
    assert len(rows) == 10 and all(row["ours"] is not None and row["tiny"] for row in rows)
    assert (tmp_path / "data-cpu.json").exists() and "JSONL check" in (tmp_path / "BENCHMARKS.md").read_text()


def test_a_cost_that_grows_is_drawn() -> None:
    row = grown("Rows", "s", (10, 100, 1000), lambda size: size**2 / 1e6)
    assert row.ours and abs(row.ours - 2) < 1e-9 and row.target and row.target.met(row) is False
    drawn = ElementTree.fromstring(plot.svg([row, Row("app", "no points", "s", 1.0)]))
    assert len(drawn.findall(".//{*}circle")) == 3 and "Rows: n^2.00" in "".join(drawn.itertext())


def test_every_bench_says_what_it_asks_and_stands_in_the_table(tmp_path: Path) -> None:
    page = table.text(BENCHES, tmp_path)
    assert all(f"## {name}" in page and found(name).QUESTION in page for name in BENCHES)
    assert len(set(BENCHES)) == len(BENCHES) and "| not measured |" in page
    assert len(found("cuda").OPEN) >= 12


def test_files_and_runs_are_of_the_size_asked_for(tmp_path: Path) -> None:
    assert abs(make.pairs(tmp_path / "pairs.jsonl", 100, 1200) - 0.12) < 0.005
    workspace = runs.Workspace(tmp_path)
    make.copies(make.run(workspace, "first", 10), 4)
    views = Supervisor(workspace, device="cpu").views
    assert [len(view.points) for view in views] == [10] * 5
    assert {view.phase for view in views} == {Phase.DONE}


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
