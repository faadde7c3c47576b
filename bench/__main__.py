"""`python -m bench [NAME…] [--device cpu|cuda] [--tiny] [--json] [--results DIR]`: every bench, one after another.

Each has a process of its own and a time limit; one that fails leaves its error in its row and in the exit status.

`cuda` and `picked` can be cut at any time and continued: `python -m bench cuda --parts proof,sft --budget 480 --results X.jsonl`
measures what X.jsonl lacks of these parts and makes X.md from all that it has.
"""

from __future__ import annotations

import argparse
import math
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

from bench.harness import plot, report
from bench.harness.child import ChildError, run_child
from bench.harness.journal import BenchCall, Journal, JournalError
from bench.harness.measure import fixed_work
from bench.harness.result import DEVICES, ROWS, BenchRow, Device, stamp_row
from bench.harness.run_one import SUITES, ResumableBench, load_bench
from bench.suites import auto_settings, gpu

PROJECT = Path(__file__).resolve().parents[1]
RESULTS = PROJECT / "bench" / "results"
BENCHES = tuple(SUITES)
"""In the order in which they run and stand in BENCHMARKS.md."""
LIMIT_SECONDS = 600.0
JOURNAL = ".jsonl"


def main(argv: Sequence[str] | None = None) -> int:
    """0: all went well; 1: at least one failed; 2: the results file cannot be used."""
    args = parser().parse_args(argv)
    device = cast(Device, args.device)
    names = args.names or [name for name in BENCHES if args.tiny or device in load_bench(name).DEVICES]
    results = args.results or (None if args.tiny else RESULTS)
    every, began = list[BenchRow](), time.monotonic()
    for name in names:
        try:
            rows = measure_bench(name, device, args, journal_file(results, name, device), began)
        except JournalError as error:
            sys.stderr.write(f"{error}\n")
            return 2
        every += rows
        print_rows(name, rows, args.json)
        if results and results.suffix != JOURNAL:
            save_rows(results, f"{name}-{device}", rows)
    sys.stderr.write(f"{len(names)} benches: {format_minutes(time.monotonic() - began)}\n")
    if results and results.suffix == JOURNAL:
        write_result(
            results.with_suffix(".md"),
            (report.rows_table(every) + report.row_notes(every) + report.machine_notes(every)).encode(),
        )
    elif results:
        page = PROJECT / "BENCHMARKS.md" if results == RESULTS else results / "BENCHMARKS.md"
        shown = [*BENCHES, *(name for name in names if name not in BENCHES)]
        write_result(page, report.render_benchmarks(BENCHES if results == RESULTS else shown, results).encode())
    if args.json:
        print(ROWS.dump_json(every, indent=1).decode())
    return int(any(row.error for row in every))


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m bench", description="How fast it is, in figures.")
    top.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHES)}; all of the device if empty")
    top.add_argument("--device", choices=DEVICES, default="cpu")
    top.add_argument("--tiny", action="store_true", help="smallest sizes, to see that it works; writes no results")
    top.add_argument("--json", action="store_true", help="the rows as JSON on stdout")
    top.add_argument(
        "--results",
        type=Path,
        help=f"write results and BENCHMARKS.md there instead; cuda, picked: or a file *{JOURNAL}",
    )
    card = top.add_argument_group("cuda and picked")
    card.add_argument("--first", action="store_true", help=f"cuda: these parts: {','.join(gpu.FIRST)}")
    card.add_argument("--parts", type=comma_list(gpu.PARTS), default=(), help=f"cuda: of {','.join(gpu.PARTS)}")
    card.add_argument(
        "--sizes",
        type=comma_list(auto_settings.SIZES),
        default=(),
        help=f"picked: GB, of {','.join(auto_settings.SIZES)}",
    )
    card.add_argument("--budget", type=float, default=math.inf, help="seconds after which nothing is at work any more")
    card.add_argument("--again", action="store_true", help="measure anew what the results file has")
    return top


def comma_list(known: Iterable[str]) -> Callable[[str], tuple[str, ...]]:
    """Reads names with commas between them."""

    def read(text: str) -> tuple[str, ...]:
        asked = tuple(text.split(","))
        if unknown := [one for one in asked if one not in known]:
            raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: not among {', '.join(known)}")
        return asked

    return read


def journal_file(results: Path | None, name: str, device: Device) -> Path | None:
    """Where a bench that can be continued keeps what it measured; None: nowhere for long."""
    if results is None or results.suffix == JOURNAL:
        return results
    return results / f"{name}-{device}{JOURNAL}"


def measure_bench(
    name: str, device: Device, args: argparse.Namespace, file: Path | None, began: float
) -> list[BenchRow]:
    """The rows of one bench; if it fails, one row with the error.

    Raises:
        JournalError: the results file of a bench that can be continued cannot be used.
    """
    start, before, bench = time.monotonic(), fixed_work(), load_bench(name)
    sys.stderr.write(f"{name}: {bench.QUESTION}\n")
    with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as folder:
        if isinstance(bench, ResumableBench):
            rows = run_resumable(name, bench, device, args, file, Path(folder), began)
        else:
            rows = run_isolated(name, device, args.tiny, Path(folder))
    sys.stderr.write(f"{name}: {format_minutes(time.monotonic() - start)}\n")
    pace = (before + fixed_work()) / 2
    return [replace(row, fixed_work=pace) for row in rows]


def run_resumable(
    name: str,
    bench: ResumableBench,
    device: Device,
    args: argparse.Namespace,
    file: Path | None,
    scratch: Path,
    began: float,
) -> list[BenchRow]:
    """In this process, which measures nothing itself: so nothing is at work any more when it is killed."""
    only = {"cuda": args.parts or (tuple(gpu.FIRST) if args.first else ()), "picked": args.sizes}
    with Journal(file or scratch / f"{name}{JOURNAL}", args.again) as journal:
        call = BenchCall(journal, only.get(name, ()), began + args.budget)
        try:
            return bench.resume(scratch, device, args.tiny, call)
        except Exception:
            return [failed_row(name, device, args.tiny, traceback.format_exc())]


def run_isolated(name: str, device: Device, tiny: bool, scratch: Path) -> list[BenchRow]:
    """In a process of its own. Nothing is fetched, and what a library compiles stays with the bench."""
    out, environment = scratch / "rows.json", {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    command = [sys.executable, "-m", "bench.harness.run_one", name, device, "tiny" if tiny else "full", str(out)]
    try:
        run_child(command, scratch / "log", LIMIT_SECONDS, {**environment, "TMPDIR": str(scratch)})
    except ChildError as error:
        return [failed_row(name, device, tiny, f"{error.log}\nexit code {error.code}")]
    except subprocess.TimeoutExpired:
        return [failed_row(name, device, tiny, f"not done after {LIMIT_SECONDS:.0f} s")]
    return ROWS.validate_json(out.read_bytes())


def failed_row(name: str, device: Device, tiny: bool, error: str) -> BenchRow:
    return stamp_row(BenchRow(name, name, "", error=error), device, tiny)


def format_minutes(seconds: float) -> str:
    """`343.2` → `5:43`."""
    whole = round(seconds)
    return f"{whole // 60}:{whole % 60:02}"


def print_rows(name: str, rows: Sequence[BenchRow], json: bool) -> None:
    """On stderr where stdout is for JSON."""
    table = f"\n{name}\n{report.rows_table(rows)}{report.row_notes(rows)}"
    print(table, file=sys.stderr if json else sys.stdout, flush=True)


def save_rows(results: Path, stem: str, rows: list[BenchRow]) -> None:
    """The rows of a bench as JSON, and a plot where they have points."""
    write_result(results / f"{stem}.json", ROWS.dump_json(rows, indent=1))
    if any(row.points for row in rows):
        write_result(results / f"{stem}.svg", plot.render_plot(rows).encode())


def write_result(file: Path, content: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)


if __name__ == "__main__":
    sys.exit(main())
