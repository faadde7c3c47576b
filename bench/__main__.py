"""`python -m bench [NAME …] [--device cpu|cuda] [--tiny] [--json]`: runs the benches, each in a process of its own.

A process of its own, because what one imports or patches (unsloth above all) must not be in the next. A bench that fails does
not stop the others; its error goes into its row, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import importlib
import json
import pkgutil
import subprocess
import sys
import time
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import bench
from bench.result import RESULTS, TABLE, Device, Result, Row, machine, now, table, versions, write
from trainer_core.runs import PROJECT

NO_BENCH = ("__main__", "result", "parts")


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    if args.here:
        return measured(args.names[0], args.device, args.tiny)
    names = args.names or [name for name in found() if args.device in load(name).DEVICES]
    failed = [name for name in names if not apart(name, args.device, args.tiny)]
    results = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(RESULTS.glob("*.json"))]
    if not args.tiny:
        TABLE.write_text(table(results, questions()), encoding="utf-8")
    if args.json:
        sys.stdout.write(json.dumps([one for one in results if one["name"] in names], indent=1) + "\n")
    return 1 if failed else 0


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="bench", description="Measure Tunebench, as ratios in one run.")
    top.add_argument("names", nargs="*", help=f"which; all of the device's if none is named: {', '.join(found())}")
    top.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    top.add_argument("--tiny", action="store_true", help="smallest sizes: does the script work? Writes no table")
    top.add_argument("--json", action="store_true", help="print the results")
    top.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    return top


def found() -> list[str]:
    return [one.name for one in pkgutil.iter_modules(bench.__path__) if one.name not in NO_BENCH]


def load(name: str) -> ModuleType:
    return importlib.import_module(f"bench.{name}")


def questions() -> dict[str, dict[Device, str]]:
    return {name: {device: load(name).QUESTION for device in load(name).DEVICES} for name in found()}


def apart(name: str, device: Device, tiny: bool) -> bool:
    """One bench in its own process; its rows come out as they are found. Did it go well?"""
    command = [sys.executable, "-m", "bench", name, "--here", "--device", device, *(["--tiny"] if tiny else [])]
    return subprocess.run(command, cwd=PROJECT).returncode == 0


def measured(name: str, device: Device, tiny: bool) -> int:
    one, began, rows, error = load(name), time.monotonic(), [], None
    try:
        rows = list(told(one.run(device, tiny)))
    except Exception as failure:  # the others shall run; the traceback is printed, and the row and exit status say so
        error = failure
        rows.append(Row(name, note=f"{type(failure).__name__}: {failure}"))
    write(
        Result(
            name, one.QUESTION, device, machine(device), now(), time.monotonic() - began, tuple(rows), versions(), tiny
        )
    ) if not tiny else None
    if error:
        import traceback

        traceback.print_exception(error)
    return 1 if error else 0


def told(rows: Any) -> Any:
    for row in rows:
        value = "" if row.value is None else f"{row.value:.4g}"
        sys.stdout.write(f"{row.what}: {value} ({row.goal}) {row.note}\n")
        sys.stdout.flush()
        yield row


if __name__ == "__main__":
    sys.exit(main())
