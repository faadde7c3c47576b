"""All checks and tests, as `python launch.py test` runs them in .venv. Knows which they are, and where a browser is.

Without any browser its tests are skipped, and with TUNEBENCH_REQUIRE_BROWSER=1 that is a failure.
"""
# ruff: noqa: T201

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tools.browser import CHROMIUM_VARIABLE, NoBrowser, find_chromium

ROOT = Path(__file__).resolve().parents[1]
ON_WINDOWS = ("launch.py", "app.py", "launcher", "tools", "trainer_core", "ui")
"""What also runs there. bench and reliability fork, and count what the kernel says."""


def type_check_command(system: str, *paths: str) -> tuple[str, ...]:
    """The type check as on that system (`sys.platform`'s word), whatever this one is. A cache each, for one of another system is
    thrown away."""
    return ("mypy", "--platform", system, "--cache-dir", f".mypy_cache/{system}", *paths)


FAST_FLAG = "--fast"
STYLE = (("ruff", "check", "."), ("ruff", "format", "--check", "."), ("tools.code_limits",))
CHECKS = (*STYLE, type_check_command("linux"), type_check_command("win32", *ON_WINDOWS), type_check_command("darwin"))
WORKERS = ("-n", "2", "--dist", "loadfile", "--no-loadscope-reorder")
"""Tests run in two processes. Each takes a file at a time, so what the tests of a file share is made once, in the order of
tests/conftest.py. Arguments that are given come later and win: `-n 0` is one process."""
THREADS = {"OMP_NUM_THREADS": "1"}
"""Of torch, in each of the two and in what they start."""


def main(pytest_arguments: list[str]) -> int:
    found, failed = ({}, []) if FAST_FLAG in pytest_arguments else browser_environment()
    *checks, tests = check_commands(pytest_arguments)
    with ThreadPoolExecutor(2) as pool:  # a type check without a cache takes a processor for a minute
        for check, done in zip(checks, pool.map(run_quietly, checks), strict=True):
            print(f"\n$ {' '.join(check)}\n{done.stdout}", end="", flush=True)
            failed += [" ".join(check)] if done.returncode else []
    print(f"\n$ {' '.join(tests)}", flush=True)
    if subprocess.run([sys.executable, "-m", *tests], cwd=ROOT, env={**os.environ, **THREADS, **found}).returncode:
        failed.append(" ".join(tests))
    if failed:
        print(f"\nfailed: {', '.join(failed)}", flush=True)
    return 1 if failed else 0


def run_quietly(check: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    """Runs it, and keeps all that it prints."""
    command, pipe = [sys.executable, "-m", *check], subprocess.PIPE
    return subprocess.run(command, cwd=ROOT, stdout=pipe, stderr=subprocess.STDOUT, text=True, encoding="utf-8")


def check_commands(pytest_arguments: list[str]) -> list[tuple[str, ...]]:
    """What runs, the tests last. The fast tests are for while one writes, and come without the type checks."""
    return [*(STYLE if FAST_FLAG in pytest_arguments else CHECKS), ("pytest", *WORKERS, *pytest_arguments)]


def browser_environment() -> tuple[dict[str, str], list[str]]:
    """The variable that names one to the tests, and what failed: there is none, though one is required."""
    found = find_browser()
    print(f"browser: {found or 'none, so the tests of the page are skipped'}", flush=True)
    required = os.environ.get("TUNEBENCH_REQUIRE_BROWSER") == "1"
    return ({CHROMIUM_VARIABLE: found} if found else {}), (["no browser"] if required and not found else [])


def find_browser() -> str | None:
    """A Chromium: the one named, one on the PATH, Playwright's own, which is fetched if it can be."""
    try:
        return find_chromium()
    except NoBrowser as error:
        if CHROMIUM_VARIABLE in os.environ:
            sys.exit(f"{error}.")
        return playwright_browser()


def playwright_browser() -> str | None:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        path = Path(playwright.chromium.executable_path)
    if not path.is_file():
        print("No browser found; asking Playwright to fetch one.", flush=True)
        subprocess.run([sys.executable, "-m", "playwright", "install", "chromium"])
    return str(path) if path.is_file() else None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
