"""`python -m reliability [NAME …] [--quick]`: makes the proofs and writes RELIABILITY.md; exit status 1 if one does not hold."""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from types import ModuleType

from bench.harness.result import describe_machine
from reliability.harness.claim import PAGE, ClaimResult, render_reliability_page, save_results

EXPERIMENTS = {
    "alarms": "divergence",
    "apps": "app_kill",
    "card": "gpu_resume",
    "disks": "full_disk",
    "doors": "access",
    "kills": "worker_kill",
    "paths": "path_traversal",
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
    held = [run_experiment(name, args.quick) for name in args.names or experiment_names()]
    if not args.quick:
        PAGE.write_text(
            render_reliability_page({name: load_experiment(name).QUESTION for name in experiment_names()}),
            encoding="utf-8",
        )
    return 0 if all(held) else 1


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="reliability", description="Count what goes wrong when things go wrong.")
    top.add_argument("names", nargs="*", help=f"which; all if none is named: {', '.join(experiment_names())}")
    top.add_argument("--quick", action="store_true", help="few trials: does the script work? Keeps no figures")
    return top


def experiment_names() -> list[str]:
    return list(EXPERIMENTS)


def load_experiment(name: str) -> ModuleType:
    return importlib.import_module(f"reliability.experiments.{EXPERIMENTS[name]}")


def run_experiment(name: str, quick: bool) -> bool:
    began, proofs = time.monotonic(), list[ClaimResult]()
    for proof in load_experiment(name).run(quick):
        proofs.append(proof)
        other = f"; control {proof.control.failures} of {proof.control.n}" if proof.control else ""
        sys.stdout.write(f"{proof.claim}: {proof.ours.failures} of {proof.ours.n} failed{other} {proof.ours.worst}\n")
        sys.stdout.flush()
    if not proofs:
        sys.stdout.write(f"{name}: not measured, this machine has no graphics card\n")
    elif not quick:
        facts = {
            "machine": describe_machine(),
            "date": today(),
            "seconds": time.monotonic() - began,
            "torch": version("torch"),
        }
        save_results(name, proofs, facts)
    return all(proof.holds for proof in proofs)


def today() -> str:
    return datetime.now(UTC).date().isoformat()


if __name__ == "__main__":
    sys.exit(main())
