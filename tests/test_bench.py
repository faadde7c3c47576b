"""The bench runner: rows from a bench, errors in their rows, the table, and the cheapest real benches at their smallest."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

import pytest

from bench import checks, cuda, make, models, plot, probe, table
from bench.__main__ import BENCHES
from bench.cuda_child import Result
from bench.growth import grown
from bench.one import found
from bench.result import Row, Target, one_sided, two_sided
from trainer_core import runs, vram
from trainer_core.events import Phase
from trainer_core.hardware import GIB, Cpu, Gpu, Holder, Machine
from trainer_core.runs import PROJECT
from trainer_core.supervisor import Supervisor


def bench(*args: object, seconds: float = 300) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bench", *map(str, args)]
    return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=seconds)


def test_one_that_fails_does_not_stop_the_others(tmp_path: Path) -> None:
    done = bench("tests.benches.fails", "tests.benches.trivial", "--tiny", "--json", "--results", tmp_path)
    failed, row = json.loads(done.stdout)
    assert done.returncode == 1
    assert "ZeroDivisionError" in failed["error"] and failed["ours"] is None
    assert (row["ours"], row["peer"], row["ratio"], row["n"]) == (2.0, 8.0, 4.0, 3)
    assert row["device"] == "cpu" and row["tiny"] and row["versions"]["python"] and row["machine"]
    page = (tmp_path / "BENCHMARKS.md").read_text()
    assert (
        "failed: ZeroDivisionError: division by zero · exit code 1" in page
        and "| 2 s | 8 s | 4 | ratio ≥ 3 | yes | 3 | 25% | cpu |" in page
    )
    assert row["fixed_work"] > 1 and f"The fixed work took {row['fixed_work']:.0f} ms (cpu)." in page


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


def test_the_script_for_a_card_runs_whole_on_a_tiny_model(tmp_path: Path) -> None:
    """Its figures say nothing; what cannot be on a processor says why."""
    done = bench("cuda", "--tiny", "--json", "--results", tmp_path, seconds=600)
    rows = {row["what"]: row for row in json.loads(done.stdout)}
    assert done.returncode == 0, done.stderr
    assert list(rows) == list(cuda.ROWS)
    measured = {what for what, row in rows.items() if row["ours"] is not None}
    beside = {what for what in measured if row_ratio(rows[what])}
    trained = [
        one
        for part in cuda.COMPARED.values()
        for one in part
        if one.ours.way == "ours" and not one.ours.settings.get("torch")
    ]
    assert {one.what for one in trained if one.read != "peak_gib"} | {cuda.PROVED} <= measured
    assert {one.what for one in trained if one.peer.way in ("ours", "bare")} - {XFORMERS} <= beside
    assert "needs Triton" in rows[cuda.ROWS[1]]["note"] and "xformers is not installed" in rows[XFORMERS]["note"]
    assert all(
        "named in BENCH_PYTHONS" in rows[one.what]["note"] or one.what in beside for one in cuda.COMPARED["torch"]
    )
    assert all(what in beside and rows[what]["note"].startswith("6 of 6 answers") for what in cuda.AT_A_TIME.values())


XFORMERS = f"SFT {cuda.MIDDLE} NF4, packed: torch's kernel ÷ xformers"


def row_ratio(row: dict[str, object]) -> object:
    return row["ratio"]


def test_picked_settings_run_where_they_were_picked(tmp_path: Path) -> None:
    done = bench("picked", "--tiny", "--json", "--results", tmp_path)
    rows = json.loads(done.stdout)
    assert done.returncode == 0, done.stderr
    assert [row["ours"] for row in rows] == [100.0, 1.0] and rows[0]["note"] == "1 of 1 runs. "


def test_the_plans_constants_are_found_again_in_peaks_made_with_them(tmp_path: Path) -> None:
    session = cuda.Session(tmp_path, tiny=False)
    session.made = {
        cuda.MIDDLE: shaped(tmp_path / "middle", cuda.MIDDLE),
        cuda.LARGE: shaped(tmp_path / cuda.LARGE, cuda.LARGE),
    }
    truth = vram.Prior(activation=4.3, head=0.4 * GIB, context=0.6 * GIB, fragmentation=0.055)
    for side in (*map(cuda.swept, cuda.SWEEP), cuda.packed(cuda.LARGE)):
        case = session.case(side)
        peak = vram.estimate(cuda.setup(case), truth, truth).middle / GIB - 0.6
        session.found[case] = Result(tokens_per_second=(1,), rows_per_second=(1,), peak_gib=peak, context_gib=0.6)
    before, activation, head, context, after = cuda.memory(session, "RTX 4090")
    assert activation.ours == pytest.approx(4.3, rel=1e-3) and head.ours == pytest.approx(0.4, rel=1e-2)
    assert context.ours == pytest.approx(0.6) and after.ours is not None and after.ours < 0.1 < (before.ours or 0)
    assert (before.n, after.n) == (6, 1)


def test_what_a_card_can_do_is_counted_in_operations_for_a_token() -> None:
    """The design's 46.1 GFLOP for 8B at 2,048 tokens."""
    assert cuda.operations(cuda.LARGE) == pytest.approx(46.1e9, rel=0.01)


def test_a_check_costs_what_lies_between_its_step_and_its_end_and_the_save_of_a_new_best() -> None:
    said = [
        *((f"{second:02}.000", {"kind": "Step"}) for second in (0, 1)),
        ("01.250", {"kind": "Evaluated", "step": 2, "rows": 4}),
        ("01.500", {"kind": "Checkpointed", "step": 2, "seconds": 0.125}),
        *((f"{second:02}.000", {"kind": "Step"}) for second in (3, 4, 5, 6, 7, 8, 9, 10)),
        ("11.000", {"kind": "Saved"}),
    ]
    found = checks.read("\n".join(json.dumps({"at": f"2026-01-01T00:00:{at}Z", **more}) for at, more in said))
    assert found.checks == {1: 0.25} and found.gaps[:3] == (1, 2, 1) and found.rows == 4
    unplanned = [(at, more | ({"step": 3} if "step" in more else {})) for at, more in said]
    found = checks.read("\n".join(json.dumps({"at": f"2026-01-01T00:00:{at}Z", **more}) for at, more in unplanned))
    assert found.checks[2] == pytest.approx(0.25 - 2 + 0.125)


def test_a_card_that_does_not_say_who_holds_what_is_read_as_a_whole(tmp_path: Path) -> None:
    """As in a container, where NVML sees no process ids."""
    for holders, seen in (
        ((), 3 * GIB),
        ((Holder("python", 7, 2 * GIB),), 2 * GIB),
        ((Holder("python", 7, None),), 3 * GIB),
    ):
        card = Gpu(0, "GPU-1", "RTX 4090", 24 * GIB, 20 * GIB, holders=holders)
        machine = Machine(Cpu("x", 2, 8 * GIB, 8 * GIB), (card,))
        supervisor = Supervisor(
            runs.Workspace(tmp_path), device="cuda", read_machine=partial(Machine, machine.cpu, machine.gpus)
        )
        assert probe.in_use(supervisor) == 4 * GIB and probe.held(supervisor, 7, taken=1 * GIB) == seen
        supervisor.close()


def shaped(folder: Path, name: str) -> Path:
    """A folder with that model's config.json and nothing else."""
    kind, shape = models.SHAPES[name]
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": kind} | shape))
    return folder


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
