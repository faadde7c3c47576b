"""The real app in a process of its own, for as long as a bench looks at it."""

from __future__ import annotations

import subprocess
import sys
import time
import urllib.request
from http.cookiejar import CookieJar
from pathlib import Path

import psutil

from bench.harness.measure import process_seconds, wait_until
from tests.support.app_process import AppProcess
from trainer_core.system.project import PROJECT

READY_SECONDS = 120.0


class ServedApp(AppProcess):
    """A running app. `ready_seconds`: from the command to the page, whole, in a browser's hands."""

    process: subprocess.Popen[bytes]

    def __init__(self, workspace: Path):
        super().__init__(workspace)
        began = time.monotonic()
        command = [sys.executable, "app.py", "--no-browser", "--port", str(self.port), "--device", "cpu"]
        workspace.mkdir(parents=True, exist_ok=True)
        command += ["--workspace", str(workspace)]
        self.process = subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.DEVNULL)
        link = workspace / "app.address"
        try:
            wait_until(lambda: link.exists() or self.process.poll() is not None, READY_SECONDS, "the app's link")
            wait_until(self.is_page_ready, READY_SECONDS, "the page")
        except BaseException:
            self.close()
            raise
        self.ready_seconds = time.monotonic() - began

    @property
    def processor_seconds(self) -> float:
        return process_seconds(psutil.Process(self.process.pid))

    def is_page_ready(self) -> bool:
        """Is the whole page given to a newcomer with the link?"""
        browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(CookieJar()))
        try:
            with browser.open(self.address, timeout=20) as page:
                return b"gradio" in page.read()
        except OSError:
            return False
