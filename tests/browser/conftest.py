"""A real server and a real browser: the app with a scripted worker, and a page that may talk to nobody else."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest
from playwright.sync_api import Browser, Page, Playwright, sync_playwright

from tools import browser as browsers
from trainer_core.system.project import PROJECT

START_SECONDS = 60


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.browser)


def chromium() -> str:
    """The browser to use. None found is a reason to skip, or a failure where one is required."""
    try:
        return browsers.find_chromium()
    except browsers.NoBrowser as error:
        if os.environ.get("TUNEBENCH_REQUIRE_BROWSER") == "1":
            pytest.fail(str(error))
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def playwright() -> Iterator[Playwright]:
    """The one connection to Playwright: a process can hold no second one."""
    with sync_playwright() as connection:
        yield connection


@pytest.fixture(scope="session")
def browser(playwright: Playwright) -> Iterator[Browser]:
    flags = ["--no-sandbox", "--disable-gpu", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]
    opened = playwright.chromium.launch(executable_path=chromium(), args=flags)
    yield opened
    opened.close()


class App:
    """One server process on one port; it can be killed and started again on the same workspace."""

    def __init__(
        self, workspace: Path, worker: str, gpu: float = 0, reading: str = "", password: str = "", own: str = ""
    ):
        self.password, self.own = password, own
        self.workspace, self.worker, self.gpu, self.port = workspace, worker, gpu, free_port()
        self.reading = workspace.with_suffix(".reading") if reading else None
        self.take(reading)
        self.start()

    def take(self, reading: str) -> None:
        """Let the hardware be another recorded reading from the next second on."""
        if self.reading:
            self.reading.write_text(reading)

    @property
    def address(self) -> str:
        """The link that opens the page; each works once."""
        return (self.workspace / "app.address").read_text()

    @property
    def root(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        args = ["--workspace", self.workspace, "--port", self.port, "--worker", self.worker, "--gpu", self.gpu]
        args += ["--reading", self.reading] if self.reading else []
        args += ["--password", self.password] if self.password else []
        args += ["--own", self.own] if self.own else []
        command = [sys.executable, "-m", "tests.support.serve", *map(str, args)]
        self.log = self.workspace.with_suffix(".log")
        home = {"HOME": str(self.workspace.parent)}  # where the leases of the pretended cards lie
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, cwd=PROJECT, env=os.environ | home, stdout=log, stderr=subprocess.STDOUT
            )
        end = time.monotonic() + START_SECONDS
        while not answers(self.port):
            assert self.process.poll() is None and time.monotonic() < end, self.log.read_text()
            time.sleep(0.1)

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def close(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.kill()
        for left in psutil.process_iter(["cmdline"]):  # a run goes on without its app
            if any(str(self.workspace) in part for part in left.info["cmdline"] or ()):
                left.kill()


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., App]]:
    """Starts servers; all of them end with the module."""
    started: list[App] = []

    def start(worker: str, gpu: float = 0, reading: str = "") -> App:
        started.append(App(tmp_path_factory.mktemp("app") / "workspace", worker, gpu, reading))
        return started[-1]

    yield start
    for app in started:
        app.close()


@pytest.fixture
def visit(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Opens pages in a fresh profile. At the end: no script error, and no request left 127.0.0.1."""
    context = browser.new_context(viewport={"width": 1360, "height": 900}, reduced_motion="reduce", locale="en-GB")
    wrong: list[str] = []
    context.on("request", lambda request: wrong.append(request.url) if is_foreign(request.url) else None)
    context.on("weberror", lambda error: wrong.append(str(error.error)))

    def open_page(app: App) -> Page:
        page = context.new_page()
        page.goto(app.address)
        page.wait_for_selector("#go")
        page.wait_for_function("window.tunebench?.is('gates')")
        if len(context.pages) == 1:  # what is typed before the choices of the last visit are back would be lost
            page.wait_for_function("document.querySelector('#plan')?.textContent.includes('steps of')")
        return page

    yield open_page
    context.close()
    assert wrong == []


def is_foreign(url: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme in ("http", "https", "ws", "wss") and parts.hostname != "127.0.0.1"
