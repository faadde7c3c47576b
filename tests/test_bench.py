"""The bench runner: rows from a bench, errors in their rows, the table, and the cheapest real benches at their smallest."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import psutil
import pytest
import torch

from bench.__main__ import BENCHES, main
from bench.harness import fixtures, models, plot, report
from bench.harness.journal import BenchCall, Journal, JournalEntry, JournalError, read_journal
from bench.harness.result import ROWS, BenchRow, Target, row_against_peer, row_against_target
from bench.harness.run_one import load_bench
from bench.harness.trainer_watch import real_tokens
from bench.suites import auto_settings, gpu_reading, held_out_eval_cost, memory_probe
from bench.suites.gpu import LARGE, OPEN, PARTS, PLANNED, SMALL, bare_case, our_case, packed_case
from bench.suites.gpu_case import GpuCase, GpuCaseResult, StageMeasurement
from bench.suites.gpu_session import GpuSession, read_entry
from bench.suites.scaling import growth_row
from trainer_core.jobs.supervisor import Supervisor
from trainer_core.planning import memory_model
from trainer_core.runs.events import Phase
from trainer_core.runs.workspace import Workspace
from trainer_core.system.format import GIB
from trainer_core.system.hardware import Cpu, Gpu, GpuProcess, Machine
from trainer_core.system.project import PROJECT

pytestmark = pytest.mark.real


def bench(*args: object, seconds: float = 300) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bench", *map(str, args)]
    return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=seconds)


def test_one_that_fails_does_not_stop_the_others(tmp_path: Path) -> None:
    done = bench(
        "tests.support.benches.fails", "tests.support.benches.trivial", "--tiny", "--json", "--results", tmp_path
    )
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


@pytest.mark.long
def test_the_cheapest_real_ones_run_to_their_end(tmp_path: Path) -> None:
    done = bench("data", "app", "--tiny", "--json", "--results", tmp_path)
    rows = json.loads(done.stdout)
    assert done.returncode == 0, done.stderr
    assert len(rows) == 10 and all(row["ours"] is not None and row["tiny"] for row in rows)
    assert (tmp_path / "data-cpu.json").exists() and "JSONL check" in (tmp_path / "BENCHMARKS.md").read_text()


def test_a_cost_that_grows_is_drawn() -> None:
    row = growth_row("Rows", "s", (10, 100, 1000), lambda size: size**2 / 1e6)
    assert row.ours and abs(row.ours - 2) < 1e-9 and row.target and row.target.is_met(row) is False
    drawn = ElementTree.fromstring(plot.render_plot([row, BenchRow("app", "no points", "s", 1.0)]))
    assert len(drawn.findall(".//{*}circle")) == 3 and "Rows: n^2.00" in "".join(drawn.itertext())


QUICK_PARTS = "kernel,recipe,sft"


def cuda_tiny(file: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "bench", "cuda", "--tiny", "--json", "--results", str(file), *more]


def keys_in(file: Path) -> list[str]:
    """What the whole lines of a results file measured."""
    lines = file.read_bytes().split(b"\n")[:-1] if file.exists() else []
    return [json.dumps(json.loads(line)["key"], sort_keys=True) for line in lines]


def cut(file: Path, enough: Callable[[], bool], *more: str) -> None:
    """Begin a call, and kill it with -9 when that is so; nothing of it is left at work."""
    process = subprocess.Popen(cuda_tiny(file, *more), cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    while not enough() and process.poll() is None:
        time.sleep(0.05)
    started = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    process.kill()
    process.communicate()
    _, alive = psutil.wait_procs(started, timeout=20)
    assert not alive


@pytest.mark.long
def test_a_cut_call_is_gone_on_with_by_the_next(tmp_path: Path) -> None:
    """Its figures say nothing. The half of a line is what a power cut leaves."""
    file = tmp_path / "card.jsonl"
    cut(file, lambda: bool(keys_in(file)), "--parts", QUICK_PARTS)
    before = keys_in(file)
    with file.open("ab") as out:
        out.write(b'{"key": {"cuda": {"way"')
    done = subprocess.run(cuda_tiny(file, "--parts", QUICK_PARTS), cwd=PROJECT, capture_output=True, timeout=1500)
    after, rows = keys_in(file), {row["what"]: row for row in json.loads(done.stdout)}
    assert done.returncode == 0, done.stderr
    assert before and after[: len(before)] == before and len(set(after)) == len(after) == 3
    assert list(rows) == [row.what for row in OPEN]
    recipe, beside_bare = (rows[PARTS[part][at].what] for part, at in (("recipe", 0), ("sft", 2)))
    assert recipe["ours"] == 1 and beside_bare["ours"] > 0 and beside_bare["peer"] > 0 and beside_bare["ratio"]
    assert recipe["versions"]["torch"] == torch.__version__ and recipe["card"] and "driver none" in recipe["machine"]
    assert "needs Triton" in rows[PARTS["sft"][0].what]["note"] and rows[PARTS["dpo"][0].what]["ours"] is None
    page = file.with_suffix(".md").read_text()
    assert f"torch {torch.__version__}" in page and page.count("| not measured |") > 40


@pytest.mark.long
def test_the_script_for_a_card_runs_whole_on_a_tiny_model(tmp_path: Path) -> None:
    """Its figures say nothing; what cannot be on a processor says why."""
    file = tmp_path / "card.jsonl"
    done = subprocess.run(cuda_tiny(file), cwd=PROJECT, capture_output=True, timeout=3600)
    rows = {row["what"]: row for row in json.loads(done.stdout)}
    assert done.returncode == 0, done.stderr
    assert_whole(rows)


def assert_whole(rows: dict[str, dict[str, Any]]) -> None:
    """Every row says a figure, or why there can be none on a processor."""
    lacking = (
        "needs Triton",
        "there is no card",
        "is not installed",
        "named in BENCH_PYTHONS",
        "is not known",
        "says nothing",
    )
    memory = ("GiB", "%", "numbers", "layers")
    silent = [
        what
        for what, row in rows.items()
        if row["ours"] is None and row["unit"] not in memory and not any(why in row["note"] for why in lacking)
    ]
    assert silent == [] and list(rows) == [row.what for row in OPEN]
    resumed, proof = (rows[PARTS[part][0].what] for part in ("resume", "proof"))
    assert resumed["ours"] == 0 and resumed["n"] == 6 and proof["ours"] == 1
    assert all(rows[figure.what]["note"].startswith("6 of 6 answers") for figure in PARTS["lanes"])


@pytest.mark.long
def test_nothing_measured_is_lost_whenever_it_is_cut(tmp_path: Path) -> None:
    """Twenty times at a random second of a measurement or two, as long as they take on this machine; then to the end, and nothing
    was measured twice."""
    file, dice, kept = tmp_path / "card.jsonl", random.Random(20), list[str]()
    began = time.monotonic()
    cut(tmp_path / "pace.jsonl", lambda: bool(keys_in(tmp_path / "pace.jsonl")))
    usual = time.monotonic() - began
    for number in range(20):
        spent = dice.uniform(0, 1.8 * usual)
        due = time.monotonic() + spent
        cut(file, lambda due=due: time.monotonic() > due)  # type: ignore[misc]
        now = keys_in(file)
        print(f"cut {number + 1} after {spent:.1f} s: {len(kept)} measured before, {len(now)} after", flush=True)
        assert now[: len(kept)] == kept
        kept = now
    done = subprocess.run(cuda_tiny(file), cwd=PROJECT, capture_output=True, timeout=3600)
    assert done.returncode == 0, done.stderr
    every = keys_in(file)
    print(
        f"at the end: {len(every)} measured, {len(set(every))} different, {len(kept)} of them in the calls that were cut"
    )
    assert every[: len(kept)] == kept and len(set(every)) == len(every)
    assert_whole({row["what"]: row for row in json.loads(done.stdout)})


@pytest.mark.gpu
@pytest.mark.long
def test_the_first_parts_hold_on_a_card(tmp_path: Path) -> None:
    pytest.skip("no CUDA device") if not torch.cuda.is_available() else None
    file = tmp_path / "card.jsonl"
    parts = ("kernel", "recipe", "samples")
    done = bench("cuda", "--device", "cuda", "--json", "--parts", ",".join(parts), "--results", file, seconds=900)
    rows = {row.what: row for row in ROWS.validate_json(done.stdout)}
    first = [rows[figure.what] for part in parts for figure in PARTS[part]]
    assert done.returncode == 0 and all(row.ours for row in first), done.stderr
    assert [row.what for row in first if row.target and not row.target.met(row)] == []


HERE = {"card": "RTX 4090", "torch": "2.13.0+cu130"}


def test_a_results_file_cut_at_any_byte_keeps_its_whole_lines(tmp_path: Path) -> None:
    file = tmp_path / "card.jsonl"
    first, second = (JournalEntry({"at": at}, {"seconds": at}, HERE, "2026-01-01") for at in (1, 2))
    with Journal(file) as journal:
        journal.add(first)
        whole = len(file.read_bytes())
        journal.add(second)
    content = file.read_bytes()
    for end in range(whole, len(content)):
        file.write_bytes(content[:end])
        assert read_journal(file) == [first]
        with Journal(file) as journal:
            assert journal.entries == [first]
            journal.add(second)
        assert file.read_bytes() == content


def test_a_measurement_counts_for_its_card_and_its_torch(tmp_path: Path) -> None:
    file = tmp_path / "card.jsonl"
    with Journal(file) as journal:
        journal.add(JournalEntry({"at": 1}, {"seconds": 1}, HERE))
        with pytest.raises(JournalError, match="in use"):
            Journal(file)
    with Journal(file) as journal:
        assert journal.find({"at": 1}, "RTX 4090", "2.13.0") == journal.entries[0]
        assert not journal.find({"at": 1}, "RTX 4090", "2.11.0+cu130")
        assert not journal.find({"at": 1}, "H200", "2.13.0") and not journal.find({"at": 2}, "RTX 4090", "2.13.0")
    with Journal(file, again=True) as journal:
        assert not journal.find({"at": 1}, "RTX 4090", "2.13.0")
    file.write_text("key,value\n1,2\n")
    with pytest.raises(JournalError, match="line 1"):
        Journal(file)


def test_a_results_file_that_is_something_else_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "rows.jsonl").write_text("one\ntwo\n")
    assert main(["cuda", "--tiny", "--results", str(tmp_path / "rows.jsonl")]) == 2
    assert "line 1" in capsys.readouterr().err and (tmp_path / "rows.jsonl").read_text() == "one\ntwo\n"


def test_what_failed_is_tried_again_by_the_next_call_and_what_did_not_is_not(tmp_path: Path) -> None:
    file, fine, bad = tmp_path / "card.jsonl", packed_case(LARGE), bare_case(LARGE)
    gpu = Gpu(0, "GPU-1", "RTX 4090", 24 * GIB, 20 * GIB)
    where = {"card": "RTX 4090", "torch": torch.__version__}
    measured = list[GpuCase]()

    class Untrained(GpuSession):
        """There is no card to train on."""

        def run(self, case: GpuCase) -> GpuCaseResult:
            measured.append(case)
            entry = JournalEntry(self.key(case), {"failed": "again", "log": ""}, where)
            self.call.journal.add(entry)
            return read_entry(entry)

    with Journal(file) as journal:
        session = Untrained(BenchCall(journal), tmp_path, False, gpu)
        journal.add(JournalEntry(session.key(fine), {"result": GpuCaseResult().model_dump(mode="json")}, where))
        journal.add(JournalEntry(session.key(bad), {"failed": "out of memory", "log": ""}, where))
        for case in (fine, bad, bad):
            session.measure(case)
        assert measured == [bad]
        spent = Untrained(BenchCall(journal, until=time.monotonic() + 10), tmp_path, False, gpu)
        spent.measure(our_case(SMALL))
        assert measured == [bad] and spent.find_result(our_case(SMALL)) == GpuCaseResult(missing=True)


def test_real_tokens_are_counted_alike_for_padded_and_flat_batches() -> None:
    ids = torch.ones(2, 5, dtype=torch.int64)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]])
    assert int(real_tokens({"input_ids": ids, "attention_mask": mask})) == 7
    assert real_tokens({"input_ids": torch.ones(1, 7), "position_ids": torch.arange(7)}) == 7


def test_a_pace_is_read_off_the_steps_after_the_warm_up() -> None:
    case = packed_case(LARGE)
    slow, fast = (10.0,) * case.warm, (2.0,) * (case.steps - case.warm)
    result = GpuCaseResult(stages={"sft": StageMeasurement(seconds=slow + fast, tokens=(100,) * case.steps)})
    assert gpu_reading.tokens_per_second(case, result) == [50.0] * 5
    assert gpu_reading.pairs_per_second(case, result) == []


@pytest.mark.long
def test_picked_settings_run_where_they_were_picked(tmp_path: Path) -> None:
    done = bench("picked", "--tiny", "--json", "--results", tmp_path / "picked.jsonl")
    rows = json.loads(done.stdout)
    assert done.returncode == 0, done.stderr
    assert [row["ours"] for row in rows] == [100.0, 1.0] and rows[0]["note"].startswith("1 of 1 runs")
    again = bench("picked", "--tiny", "--json", "--budget", "0", "--results", tmp_path / "picked.jsonl")
    assert [row["ours"] for row in json.loads(again.stdout)] == [100.0, 1.0] and len(
        keys_in(tmp_path / "picked.jsonl")
    ) == 2


def test_a_hundred_runs_are_picked_for_the_emulated_cards(tmp_path: Path) -> None:
    made = {name: tmp_path / name for name in models.SHAPES}
    with Journal(tmp_path / "picked.jsonl") as journal:
        stand = auto_settings.SuiteContext(tmp_path, "cuda", False, BenchCall(journal), HERE, made)
        keys = [json.dumps(key) for gib in auto_settings.SIZES for key, _ in stand.picks(gib)]
    assert len(set(keys)) == len(keys) >= 100


HOLD = """
import sys, time
from pathlib import Path
from bench.harness.capped_worker import use_home
use_home(sys.argv[1])
from trainer_core.worker import device_lock
with device_lock.hold_device(Path(sys.argv[2]), "GPU-1", seconds=0.2):
    print("held", flush=True)
    time.sleep(float(sys.argv[3]))
"""


def test_emulated_cards_do_not_wait_for_each_other(tmp_path: Path) -> None:
    """The control is one card for both."""

    def hold(home: str, run: str, seconds: str) -> subprocess.Popen[str]:
        for folder in (tmp_path / home, tmp_path / run / "runs" / "one"):
            folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-c", HOLD, str(tmp_path / home), str(tmp_path / run / "runs" / "one"), seconds]
        return subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    first = hold("8", "first", "60")
    assert first.stdout and first.stdout.readline() == "held\n"
    other, same = hold("12", "second", "0"), hold("8", "third", "0")
    assert other.communicate(timeout=60)[0] == "held\n" and "BusyError" in same.communicate(timeout=60)[1]
    first.kill()
    first.communicate()


def test_the_plans_constants_are_found_again_in_peaks_made_with_them() -> None:
    truth, told = (
        memory_model.MemoryCoefficients(activation=4.3, head=0.4 * GIB, context=0.6 * GIB, fragmentation=0.055),
        list[GpuCaseResult](),
    )
    for case in PLANNED:
        peak = memory_model.estimate_memory(gpu_reading.case_setup(case), truth, truth).middle / GIB - 0.6
        stage = StageMeasurement(seconds=(1,), tokens=(1,), peak_gib=peak)
        told.append(GpuCaseResult(stages={"sft": stage}, context_gib=0.6))
    rows = [figure.read(figure, told, "RTX 4090") for figure in PARTS["memory"]]
    before, activation, head, context, after = rows
    assert activation.ours == pytest.approx(4.3, rel=1e-3) and head.ours == pytest.approx(0.4, rel=1e-2)
    assert context.ours == pytest.approx(0.6) and after.ours is not None and after.ours < 0.1 < (before.ours or 0)
    assert (before.n, after.n) == (6, 1)


def test_what_a_card_can_do_is_counted_in_operations_for_a_token() -> None:
    """The design's 46.1 GFLOP for 8B at 2,048 tokens."""
    assert gpu_reading.flops_per_token(LARGE) == pytest.approx(46.1e9, rel=0.01)


def test_a_check_costs_what_lies_between_its_step_and_its_end_and_the_save_of_a_new_best() -> None:
    said = [
        *((f"{second:02}.000", {"kind": "TrainStep"}) for second in (0, 1)),
        ("01.250", {"kind": "Evaluation", "step": 2, "rows": 4}),
        ("01.500", {"kind": "CheckpointSaved", "step": 2, "seconds": 0.125}),
        *((f"{second:02}.000", {"kind": "TrainStep"}) for second in (3, 4, 5, 6, 7, 8, 9, 10)),
        ("11.000", {"kind": "AdapterSaved"}),
    ]
    found = held_out_eval_cost.read_check_costs(
        "\n".join(json.dumps({"at": f"2026-01-01T00:00:{at}Z", **more}) for at, more in said)
    )
    assert found.checks == {1: 0.25} and found.gaps[:3] == (1, 2, 1) and found.rows == 4
    unplanned = [(at, more | ({"step": 3} if "step" in more else {})) for at, more in said]
    found = held_out_eval_cost.read_check_costs(
        "\n".join(json.dumps({"at": f"2026-01-01T00:00:{at}Z", **more}) for at, more in unplanned)
    )
    assert found.checks[2] == pytest.approx(0.25 - 2 + 0.125)


def test_a_card_that_does_not_say_who_holds_what_is_read_as_a_whole(tmp_path: Path) -> None:
    """As in a container, where NVML sees no process ids."""
    for holders, seen in (
        ((), 3 * GIB),
        ((GpuProcess("python", 7, 2 * GIB),), 2 * GIB),
        ((GpuProcess("python", 7, None),), 3 * GIB),
    ):
        card = Gpu(0, "GPU-1", "RTX 4090", 24 * GIB, 20 * GIB, holders=holders)
        machine = Machine(Cpu("x", 2, 8 * GIB, 8 * GIB), (card,))
        supervisor = Supervisor(
            Workspace(tmp_path), device="cuda", read_machine=partial(Machine, machine.cpu, machine.gpus)
        )
        assert (
            memory_probe.bytes_in_use(supervisor) == 4 * GIB
            and memory_probe.worker_memory(supervisor, 7, taken=1 * GIB) == seen
        )
        supervisor.close()


def test_every_bench_says_what_it_asks_and_stands_in_the_table(tmp_path: Path) -> None:
    page = report.render_benchmarks(BENCHES, tmp_path)
    assert all(f"## {name}" in page and load_bench(name).QUESTION in page for name in BENCHES)
    assert len(set(BENCHES)) == len(BENCHES) and "| not measured |" in page
    assert len(load_bench("cuda").OPEN) >= 12


def test_files_and_runs_are_of_the_size_asked_for(tmp_path: Path) -> None:
    assert abs(fixtures.write_pair_file(tmp_path / "pairs.jsonl", 100, 1200) - 0.12) < 0.005
    workspace = Workspace(tmp_path)
    fixtures.copy_run(fixtures.make_run(workspace, "first", 10), 4)
    views = Supervisor(workspace, device="cpu").registry.run_states
    assert [len(view.points) for view in views] == [10] * 5
    assert {view.phase for view in views} == {Phase.DONE}


def test_what_nobody_measured_says_so() -> None:
    line = report.rows_table([BenchRow("G1", "SFT on a card", "tokens/s", target=Target("ratio", "≥", 2.5))])
    assert "| G1 | SFT on a card | not measured | – | – | ratio ≥ 2.5 | – |" in line


def test_rows_are_medians_with_their_spread() -> None:
    row = row_against_target("app", "x", "s", [1.0, 4.0, 2.0])
    assert (row.ours, row.n, row.spread) == (2.0, 3, 1.5)
    row = row_against_peer("app", "x", "steps/s", [1.0, 2.0, 4.0], [2.0, 2.0, 2.0])
    assert (row.ours, row.peer, row.ratio, row.n) == (2.0, 2.0, 1.0, 3)
    assert row_against_target("app", "x", "s", [1.0]).spread is None


def test_a_target_is_met_or_not() -> None:
    fast = Target("ours", "≤", 5)
    assert fast.is_met(BenchRow("app", "x", "s", 5.0)) and fast.is_met(BenchRow("app", "x", "s", 5.1)) is False
    assert fast.is_met(BenchRow("app", "x", "s")) is None
