"""The real app in a process of its own, for as long as a bench looks at it."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.cookiejar import CookieJar
from pathlib import Path

import psutil

from bench.harness.measure import wait_until
from trainer_core.system.project import PROJECT

READY_SECONDS = 120.0


@dataclass
class ServedApp:
    """A running app. `ready_seconds`: from the command to the page, whole, in a browser's hands."""

    process: psutil.Process
    workspace: Path
    ready_seconds: float

    @property
    def link(self) -> str:
        """The link that opens the page; each works once."""
        return (self.workspace / "app.address").read_text(encoding="utf-8").strip()

    @property
    def processor_seconds(self) -> float:
        times = self.process.cpu_times()
        return times.user + times.system


@contextmanager
def start_served_app(workspace: Path) -> Iterator[ServedApp]:
    """The app on a workspace; it is ended with the block."""
    began = time.monotonic()
    command = [sys.executable, "app.py", "--no-browser", "--port", str(free_port()), "--device", "cpu"]
    workspace.mkdir(parents=True, exist_ok=True)
    process = subprocess.Popen([*command, "--workspace", str(workspace)], cwd=PROJECT, stdout=subprocess.DEVNULL)
    try:
        link = workspace / "app.address"
        wait_until(lambda: link.exists() or process.poll() is not None, READY_SECONDS, "the app's link")
        app = ServedApp(psutil.Process(process.pid), workspace, 0.0)
        wait_until(lambda: is_page_ready(app), READY_SECONDS, "the page")
        app.ready_seconds = time.monotonic() - began
        yield app
    finally:
        process.terminate()
        process.wait(30)


def is_page_ready(app: ServedApp) -> bool:
    """Is the whole page given to a newcomer with the link?"""
    browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(CookieJar()))
    try:
        with browser.open(app.link, timeout=20) as page:
            return b"gradio" in page.read()
    except OSError:
        return False


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
