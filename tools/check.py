"""All checks and tests, as `python launch.py test` runs them in .venv. Knows which they are, and where a browser is.

Without any browser its tests are skipped, and with TUNEBENCH_REQUIRE_BROWSER=1 that is a failure.
"""
# ruff: noqa: T201

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tools.browser import VARIABLE, NoBrowser, chromium

ROOT = Path(__file__).resolve().parents[1]
ON_WINDOWS = ("launch.py", "app.py", "launcher", "tools", "trainer_core", "ui")
"""What also runs there. bench and reliability fork, and count what the kernel says."""


def types(system: str, *paths: str) -> tuple[str, ...]:
    """The type check as on that system (`sys.platform`'s word), whatever this one is. A cache each, for one of another system is
    thrown away."""
    return ("mypy", "--platform", system, "--cache-dir", f".mypy_cache/{system}", *paths)


CHECKS = (
    ("ruff", "check", "."),
    ("ruff", "format", "--check", "."),
    types("linux"),
    types("win32", *ON_WINDOWS),
    types("darwin"),
)


def main(pytest_arguments: list[str]) -> int:
    browser = known_browser()
    environment = {**os.environ, VARIABLE: browser} if browser else dict(os.environ)
    print(f"browser: {browser or 'none, so the tests of the page are skipped'}", flush=True)
    failed = [] if browser or os.environ.get("TUNEBENCH_REQUIRE_BROWSER") != "1" else ["no browser"]
    for check in (*CHECKS, ("pytest", *pytest_arguments)):
        print(f"\n$ {' '.join(check)}", flush=True)
        if subprocess.run([sys.executable, "-m", *check], cwd=ROOT, env=environment).returncode:
            failed.append(" ".join(check))
    if failed:
        print(f"\nfailed: {', '.join(failed)}", flush=True)
    return 1 if failed else 0


def known_browser() -> str | None:
    """A Chromium: the one named, one on the PATH, Playwright's own, which is fetched if it can be."""
    try:
        return chromium()
    except NoBrowser as error:
        if VARIABLE in os.environ:
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
