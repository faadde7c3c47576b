"""`python -m reliability [NAME …] [--quick]`: makes the proofs and writes RELIABILITY.md; exit status 1 if one does not hold."""

from __future__ import annotations

import argparse
import importlib
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

from bench.harness.result import describe_machine
from reliability.harness.claim import PAGE, ClaimResult, render_reliability_page, save_results

EXPERIMENTS = {
    "alarms": "divergence",
    "apps": "app_kill",
    "card": "gpu_resume",
    "disks": "full_disk",
    "doors": "access",
    "exports": "export_kill",
    "folders": "folder_fuzz",
    "kills": "worker_kill",
    "paths": "path_traversal",
    "power": "power_cut",
    "saves": "checkpoint_damage",
    "soak": "memory_soak",
    "starts": "concurrent_starts",
    "states": "random_actions",
    "zoo": "hostile_models",
}
"""Name on the command line and of its results → file in reliability/experiments."""


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    if sys.platform == "win32":
        sys.stderr.write("The proofs fork and kill by signals, so they run on Linux and macOS.\n")
        return 2
    held = [run_experiment(name, args.quick) for name in args.names or EXPERIMENTS]
    if not args.quick:
        questions = {name: load_experiment(name).QUESTION for name in EXPERIMENTS}
        PAGE.write_text(render_reliability_page(questions), encoding="utf-8")
    return 0 if all(held) else 1


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="reliability", description="Count what goes wrong when things go wrong.")
    top.add_argument("names", nargs="*", help=f"which; all if none is named: {', '.join(EXPERIMENTS)}")
    top.add_argument("--quick", action="store_true", help="few trials: does the script work? Keeps no figures")
    return top


def load_experiment(name: str) -> ModuleType:
    return importlib.import_module(f"reliability.experiments.{EXPERIMENTS[name]}")


def run_experiment(name: str, quick: bool) -> bool:
    began, proofs = time.monotonic(), list[ClaimResult]()
    with tempfile.TemporaryDirectory(prefix="proof-") as folder:
        for proof in load_experiment(name).run(Path(folder), quick):
            proofs.append(proof)
            other = f"; control {proof.control.failures} of {proof.control.n}" if proof.control else ""
            sys.stdout.write(
                f"{proof.claim}: {proof.ours.failures} of {proof.ours.n} failed{other} {proof.ours.worst}\n"
            )
            sys.stdout.flush()
    if not proofs:
        sys.stdout.write(f"{name}: not measured, this machine has no graphics card\n")
    elif not quick:
        facts = {"machine": describe_machine(), "date": datetime.now(UTC).date().isoformat()}
        save_results(name, proofs, facts | {"seconds": time.monotonic() - began, "torch": version("torch")})
    return all(proof.holds for proof in proofs)


if __name__ == "__main__":
    sys.exit(main())
