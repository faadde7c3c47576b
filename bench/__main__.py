"""`python -m bench [NAME…] [--device cpu|cuda] [--tiny] [--json] [--results DIR]`: every bench, one after another.

Each has a process of its own and a time limit; one that fails leaves its error in its row and in the exit status.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

from bench import plot, table
from bench.measure import fixed_work
from bench.one import found
from bench.result import DEVICES, ROWS, Device, Row, stamped

PROJECT = Path(__file__).resolve().parents[1]
RESULTS = PROJECT / "bench" / "results"
BENCHES: tuple[str, ...] = (
    "data",
    "growth",
    "app",
    "live",
    "lanes",
    "training",
    "pairs",
    "plan",
    "probe",
    "picked",
    "checks",
    "cuda",
)
"""In the order in which they run and stand in BENCHMARKS.md."""
LIMIT_SECONDS = 600.0


def main(argv: Sequence[str] | None = None) -> int:
    """0: all went well; 1: at least one failed."""
    args = parser().parse_args(argv)
    device = cast(Device, args.device)
    names = args.names or [name for name in BENCHES if args.tiny or device in found(name).DEVICES]
    results = args.results or (None if args.tiny else RESULTS)
    every, began = list[Row](), time.monotonic()
    for name in names:
        rows = measured(name, device, args.tiny)
        every += rows
        show(name, rows, args.json)
        if results:
            keep(results, f"{name}-{device}", rows)
    sys.stderr.write(f"{len(names)} benches: {minutes(time.monotonic() - began)}\n")
    if results:
        page = PROJECT / "BENCHMARKS.md" if results == RESULTS else results / "BENCHMARKS.md"
        shown = [*BENCHES, *(name for name in names if name not in BENCHES)]
        write(page, table.text(BENCHES if results == RESULTS else shown, results).encode())
    if args.json:
        print(ROWS.dump_json(every, indent=1).decode())
    return int(any(row.error for row in every))


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m bench", description="How fast it is, in figures.")
    top.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHES)}; all of the device if empty")
    top.add_argument("--device", choices=DEVICES, default="cpu")
    top.add_argument("--tiny", action="store_true", help="smallest sizes, to see that it works; writes no results")
    top.add_argument("--json", action="store_true", help="the rows as JSON on stdout")
    top.add_argument("--results", type=Path, help="write results and BENCHMARKS.md there instead")
    return top


def measured(name: str, device: Device, tiny: bool) -> list[Row]:
    """The rows of one bench; if it fails, one row with the error."""
    began, before = time.monotonic(), fixed_work()
    sys.stderr.write(f"{name}: {found(name).QUESTION}\n")
    with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as scratch:
        out = Path(scratch) / "rows.json"
        command = [sys.executable, "-m", "bench.one", name, device, "tiny" if tiny else "full", str(out)]
        error = fault(command, Path(scratch))
        rows = [] if error else ROWS.validate_json(out.read_bytes())
    sys.stderr.write(f"{name}: {minutes(time.monotonic() - began)}\n")
    if error:
        rows = [stamped(Row(name, name, "", error=error), device, tiny)]
    pace = (before + fixed_work()) / 2
    return [replace(row, fixed_work=pace) for row in rows]


def minutes(seconds: float) -> str:
    """`343.2` → `5:43`."""
    whole = round(seconds)
    return f"{whole // 60}:{whole % 60:02}"


def fault(command: Sequence[str], scratch: Path) -> str:
    """Run a bench to its end, in a session of its own; what went wrong, or nothing."""
    log = scratch / "log"
    with log.open("wb") as said:
        process = subprocess.Popen(
            command,
            cwd=PROJECT,
            stdout=said,
            stderr=subprocess.STDOUT,
            env=environment(scratch),
            start_new_session=True,
        )
        try:
            code = process.wait(LIMIT_SECONDS)
        except BaseException as error:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if isinstance(error, subprocess.TimeoutExpired):
                return f"not done after {LIMIT_SECONDS:.0f} s"
            raise
    return "" if code == 0 else f"{log.read_text(encoding='utf-8', errors='replace')[-4000:]}\nexit code {code}"


def environment(scratch: Path) -> dict[str, str]:
    """Nothing is fetched, and what a library compiles stays with the bench."""
    return os.environ | {"HF_HUB_OFFLINE": "1", "TMPDIR": str(scratch), "TOKENIZERS_PARALLELISM": "false"}


def show(name: str, rows: Sequence[Row], json: bool) -> None:
    """On stderr where stdout is for JSON."""
    print(f"\n{name}\n{table.table(rows)}{table.notes(rows)}", file=sys.stderr if json else sys.stdout, flush=True)


def keep(results: Path, stem: str, rows: list[Row]) -> None:
    """The rows of a bench as JSON, and a plot where they have points."""
    write(results / f"{stem}.json", ROWS.dump_json(rows, indent=1))
    if any(row.points for row in rows):
        write(results / f"{stem}.svg", plot.svg(rows).encode())


def write(file: Path, content: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)


if __name__ == "__main__":
    sys.exit(main())
