"""The app in a process of its own: with a scripted worker, or as a user starts it; and the browser that opens its page."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

import psutil

from tests.support.app_forks import start_app
from tools.browser import find_chromium

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Playwright

START_SECONDS = 60


def launch_chromium(playwright: Playwright, *flags: str) -> Browser:
    """Raises NoBrowser where there is none."""
    return playwright.chromium.launch(executable_path=find_chromium(), args=["--no-sandbox", "--disable-gpu", *flags])


class AppProcess:
    """A server on a workspace and a port; as a block's context it ends with the block."""

    process: subprocess.Popen[bytes] | psutil.Process

    def __init__(self, workspace: Path):
        self.workspace, self.port = workspace, find_free_port()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def address(self) -> str:
        """The link that opens the page; each works once."""
        return (self.workspace / "app.address").read_text(encoding="utf-8").strip()

    @property
    def root(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def close(self) -> None:
        try:
            self.process.terminate()
            self.process.wait(20)
        except (subprocess.TimeoutExpired, psutil.TimeoutExpired):
            self.kill()
        except psutil.NoSuchProcess:  # it has ended
            pass
        for left in psutil.process_iter(["cmdline"]):  # a run goes on without its app
            if any(str(self.workspace) in part for part in left.info["cmdline"] or ()):
                left.kill()


class App(AppProcess):
    """The app with a scripted worker; it can be killed and started again on the same workspace."""

    def __init__(
        self, workspace: Path, worker: str, gpu: float = 0, reading: str = "", password: str = "", own: str = ""
    ):
        super().__init__(workspace)
        self.worker, self.gpu, self.password, self.own = worker, gpu, password, own
        self.reading = workspace.with_suffix(".reading") if reading else None
        self.take(reading)
        self.start()

    def take(self, reading: str) -> None:
        """Let the hardware be another recorded reading from the next second on."""
        if self.reading:
            self.reading.write_text(reading)

    def start(self) -> None:
        args = ["--workspace", self.workspace, "--port", self.port, "--worker", self.worker, "--gpu", self.gpu]
        args += ["--reading", self.reading] if self.reading else []
        args += ["--password", self.password] if self.password else []
        args += ["--own", self.own] if self.own else []
        self.log = self.workspace.with_suffix(".log")
        home = {"HOME": str(self.workspace.parent)}  # where the leases of the pretended cards lie
        self.process = start_app([*map(str, args)], os.environ | home, self.log)
        end = time.monotonic() + START_SECONDS
        while not answers(self.port):
            if not self.process.is_running() or time.monotonic() > end:
                self.close()
                raise AssertionError(self.log.read_text())
            time.sleep(0.1)


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def find_free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
