"""Makes the pictures of the README: `python tools/screenshots.py [--workspace DIR] [--folder docs]`.

Opens the real app on a workspace that has a finished run, loads its lanes, and photographs every tab. With `--all` each
tab also in dark and at 820 pixels, to be looked at before a change of the page is committed.
"""
# ruff: noqa: T201

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

ROOT = Path(__file__).resolve().parents[1]
TABS = ("start", "train", "compare", "runs")
LOOKS = {"": (1360, "light"), "-dark": (1360, "dark"), "-820": (820, "light")}
ANSWER_MS = 600_000


def main() -> int:
    top = argparse.ArgumentParser(description="Photographs every tab of the app.")
    top.add_argument("--workspace", type=Path, default=ROOT / "workspace", help="one with a finished run")
    top.add_argument("--folder", type=Path, default=ROOT / "docs", help="where the pictures go")
    top.add_argument("--all", action="store_true", help="also dark, and 820 pixels wide")
    args = top.parse_args()
    args.folder.mkdir(exist_ok=True)
    command = [sys.executable, str(ROOT / "app.py"), "--no-browser", "--workspace", str(args.workspace)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as app:
        assert app.stdout
        address = next(line.split()[1] for line in app.stdout if line.startswith("READY"))
        try:
            photograph(address, args.folder, LOOKS if args.all else {"": LOOKS[""]})
        finally:
            app.terminate()
    return 0


def photograph(address: str, folder: Path, looks: dict[str, tuple[int, str]]) -> None:
    browser_path = os.environ.get("TUNEBENCH_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(reduced_motion="reduce")
        page.goto(address)
        page.wait_for_function("window.tunebench?.is('gates')")
        answer(page)
        for suffix, (width, scheme) in looks.items():
            page.set_viewport_size({"width": width, "height": 900})
            page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
            for name in TABS:
                page.evaluate("name => window.tunebench.open(name)", name)
                page.wait_for_timeout(1500)
                page.screenshot(path=folder / f"{name}{suffix}.png", animations="disabled", caret="hide")
                print(folder / f"{name}{suffix}.png")
        browser.close()


def answer(page: Page) -> None:
    """Let the lanes of the newest run answer the prompt on the Compare tab."""
    page.evaluate("window.tunebench.open('compare')")
    page.wait_for_timeout(1500)
    page.click("#gen")
    page.wait_for_function("window.tunebench.is('compare')?.lanes?.every(lane => lane.end)", timeout=ANSWER_MS)
    page.wait_for_timeout(1500)


if __name__ == "__main__":
    sys.exit(main())
