"""Makes the pictures of the README: the app itself, one click on the starter model. `python -m docs.screenshots [WORKSPACE]`."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from tools.browser import find_chromium

HERE = Path(__file__).resolve().parent
RUN_MINUTES = 20
SIZE = {"width": 1360, "height": 850}


def main() -> int:
    workspace = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.mkdtemp(prefix="tunebench-"))
    command = [sys.executable, str(HERE.parent / "app.py"), "--no-browser", "--workspace", str(workspace)]
    with subprocess.Popen(command, cwd=HERE.parent, stdout=subprocess.PIPE, text=True) as app:
        try:
            take(address(app))
        finally:
            app.terminate()
    return 0


def address(app: subprocess.Popen[str]) -> str:
    """Where the app is, once it says READY."""
    assert app.stdout
    return next(line.split()[1] for line in app.stdout if line.startswith("READY "))


def take(url: str) -> None:
    """Start before the click, Train in the middle of DPO, Compare with three answers, an export with its certificate."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport=SIZE, device_scale_factor=1.5, reduced_motion="reduce", locale="en-GB")
        page.goto(url)
        page.wait_for_function("document.querySelector('#plan')?.textContent.includes('steps of')")
        picture(page, "start")
        page.click("#go")
        until(page, "tunebench.series['dpo.margin']?.length >= 8")
        picture(page, "train")
        until(page, "tunebench.getPart('compare')?.lanes.every(lane => lane.stats)")
        picture(page, "compare")
        page.get_by_role("button", name="Use this model… DPO").click()
        page.locator(".export-form input[value='merged']").check()
        page.get_by_role("button", name="Export", exact=True).click()
        until(page, "document.querySelector('.kept-chart')")
        page.locator("#exports").scroll_into_view_if_needed()
        picture(page, "export")
        browser.close()


def until(page: Page, condition: str) -> None:
    page.wait_for_function(condition, timeout=RUN_MINUTES * 60_000)


def picture(page: Page, name: str) -> None:
    page.wait_for_timeout(1_000)
    page.mouse.move(0, 0)
    page.screenshot(path=HERE / f"{name}.png", animations="disabled", caret="hide")


if __name__ == "__main__":
    sys.exit(main())
