"""The app as a process: one per workspace, on 127.0.0.1, with a clean end."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit
from urllib.request import url2pathname

import psutil
import pytest

import app
from trainer_core.errors import UserError
from trainer_core.jobs.supervisor import Supervisor, wait_for
from trainer_core.runs.workspace import Workspace, ensure_dir
from trainer_core.system.project import PROJECT
from trainer_core.texts import Text
from ui.server import auth

pytestmark = pytest.mark.real

SECONDS = 60


def start(workspace: Path, *flags: str, **environment: str) -> subprocess.Popen[str]:
    command = [sys.executable, "app.py", "--no-browser", "--device", "cpu", "--workspace", str(workspace), *flags]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, cwd=PROJECT, env={**os.environ, **environment}, text=True, **pipes)


def ready(process: subprocess.Popen[str]) -> str:
    """The address in the READY line."""
    assert process.stdout
    for line in process.stdout:
        if line.startswith("READY "):
            return line.split()[1]
    raise AssertionError(process.communicate()[1])


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[subprocess.Popen[str], str, Path]]:
    workspace = tmp_path_factory.mktemp("workspace")
    process = start(workspace)
    yield process, ready(process), workspace
    process.kill()
    process.communicate()


def test_it_answers_on_127_0_0_1_only(opened: tuple[subprocess.Popen[str], str, Path]) -> None:
    process, address, _ = opened
    name = urlsplit(address).hostname or ""
    assert name == "127.0.0.1" or name.startswith("tunebench-") and name.endswith(".localhost")
    browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
    assert browser.open(address, timeout=10).status == 200
    listening = [c.laddr.ip for c in psutil.Process(process.pid).net_connections("inet") if c.status == "LISTEN"]
    assert listening == ["127.0.0.1"]


def test_a_second_start_points_to_the_first(
    opened: tuple[subprocess.Popen[str], str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    _, _, workspace = opened
    assert app.main(["--no-browser", "--workspace", str(workspace)]) == 0
    assert capsys.readouterr().out == f"{Text('app.already_open', link=(workspace / 'app.address').read_text())}\n"


def command_line(process: psutil.Process) -> str:
    """Empty for one that has just ended, as the program that opens a page does."""
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""


@pytest.mark.skipif(os.name != "posix", reason="a browser that is a script")
def test_no_process_is_started_with_the_key(tmp_path: Path) -> None:
    """The arguments of a process can be read by every user of the computer: a browser gets a file instead."""
    (tmp_path / "browser").write_text(f'#!/bin/sh\nfor one; do echo "$one" >> {tmp_path}/given; done\nexec sleep 30\n')
    (tmp_path / "browser").chmod(0o700)
    workspace = tmp_path / "w"
    command = [sys.executable, "app.py", "--device", "cpu", "--workspace", str(workspace), "--no-warm"]
    variables = {**os.environ, "BROWSER": f"{tmp_path}/browser %s"}
    process = subprocess.Popen(command, cwd=PROJECT, env=variables, text=True, stdout=subprocess.PIPE)
    try:
        token = parse_qs(urlsplit(ready(process)).query)["token"][0]
        assert wait_for((tmp_path / "given").exists, SECONDS)
        told = (tmp_path / "given").read_text()
        assert told.strip() == (workspace / "open-tunebench.html").as_uri()
        assert token in (workspace / "open-tunebench.html").read_text()
        assert (workspace / "open-tunebench.html").stat().st_mode & 0o777 == 0o600
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        assert len(family) > 1 and not [one for one in family if token in command_line(one)]
    finally:
        for one in psutil.Process(process.pid).children(recursive=True):
            one.kill()
        process.kill()
        process.communicate()


@pytest.mark.parametrize("folder", ["w", "Jané Doe’s #1 %41?"])
def test_a_browser_is_given_an_address_without_the_key(tmp_path: Path, folder: str) -> None:
    workspace, given = Workspace(tmp_path / folder), list[str]()
    ensure_dir(workspace.root)
    keys = auth.AccessKeys(workspace.root, "http://127.0.0.1:7860", own="http://tunebench-1.localhost:7860")
    app.show_page(workspace, given.append)
    token = parse_qs(urlsplit(keys.link.read_text()).query)["token"][0]
    assert given[0].startswith("file:///") and token not in given[0]
    assert Path(url2pathname(urlsplit(given[0]).path)).read_text().count(token) == 2


def test_signed_out_by_a_command_while_the_app_is_open(opened: tuple[subprocess.Popen[str], str, Path]) -> None:
    process, _, workspace = opened
    link = (workspace / "app.address").read_text()
    browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
    root = f"http://127.0.0.1:{urlsplit(link).port}"
    assert browser.open(f"{root}/?{urlsplit(link).query}", timeout=10).status == 200
    assert browser.open(f"{root}/config", timeout=10).status == 200
    command = [sys.executable, "-m", "trainer_core", "--workspace", str(workspace), "sign-out"]
    assert subprocess.run(command, cwd=PROJECT, timeout=SECONDS).returncode == 0
    with pytest.raises(urllib.error.HTTPError, match="401"):
        browser.open(f"{root}/config", timeout=10)


def test_a_taken_port_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert app.main(["--workspace", str(tmp_path), "--port", str(port)]) == 1
    assert capsys.readouterr().err == f"{Text('app.port_taken', port=port)}\n"


@pytest.mark.parametrize("port", ["80000", "65536", "0", "-5", "9" * 30])
def test_a_port_that_cannot_be_is_refused_with_a_sentence(port: str) -> None:
    with pytest.raises(UserError) as refused:
        app.check_port(int(port))
    assert refused.value.text == Text("app.bad_port", port=int(port), last=65_535)


def test_it_opens_behind_proxies_that_lead_nowhere_and_ctrl_c_ends_it_cleanly(tmp_path: Path) -> None:
    nowhere = {name: "http://127.0.0.1:9" for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy")}
    process = start(tmp_path, **nowhere, ALL_PROXY="socks5://127.0.0.1:9", NO_PROXY="", no_proxy="")
    try:
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPCookieProcessor())
        assert direct.open(ready(process), timeout=10).status == 200
        if os.name == "posix":
            process.send_signal(signal.SIGINT)
            assert process.wait(SECONDS) == 0
            assert process.stderr and "Traceback" not in process.stderr.read()
    finally:
        process.kill()
        process.wait()


def test_a_workspace_that_cannot_be_is_refused_with_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert app.main(["--workspace", str(tmp_path / ("a" * 300))]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "name too long" in said.lower()


def test_no_wait_for_the_end_is_without_an_end() -> None:
    """Windows hears a Ctrl-C between two waits only."""

    class Ended(threading.Event):
        waits: list[float | None] = []

        def wait(self, timeout: float | None = None) -> bool:
            self.waits.append(timeout)
            return len(self.waits) == 3

    app.wait_for_signal(ended := Ended())
    assert len(ended.waits) == 3 and all(seconds is not None and seconds <= 1 for seconds in ended.waits)


def test_a_free_port_is_found(tmp_path: Path) -> None:
    first = app.find_free_port()
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections just closed may linger on the port
        other.bind(("127.0.0.1", first))
        other.listen()
        assert not app.is_port_free(first)
        assert app.find_free_port() != first


def test_the_page_costs_little_while_idle(tmp_path: Path) -> None:
    """Gradio's queue has the setting that the app relies on, and takes it."""
    supervisor = Supervisor(Workspace(tmp_path))
    page = app.build_page(supervisor)
    assert page._queue.sleep_when_free == app.QUEUE_SLEEP_SECONDS
    fresh = type(page._queue).__init__.__code__.co_names
    assert "sleep_when_free" in fresh, "a new Gradio may have renamed it"


def test_no_handler_is_offered_to_programs(tmp_path: Path) -> None:
    page = app.build_page(Supervisor(Workspace(tmp_path)))
    assert page.get_api_info()["named_endpoints"] == {}


def test_the_network_gets_in_by_the_password_alone(tmp_path: Path) -> None:
    process = start(tmp_path, "--lan", TUNEBENCH_PASSWORD="open sesame, please")
    try:
        assert process.stdout
        told = next(line for line in process.stdout if line.startswith("For your network: "))
        assert "open sesame, please" in told
        there = urlsplit(told.split()[3])
        ready(process)

        def ask(method: str, path: str, body: str = "", **headers: str) -> tuple[int, dict[str, str], str]:
            connection = http.client.HTTPConnection("127.0.0.1", there.port, timeout=20)
            sent = {"Host": there.netloc, "Content-Type": "application/x-www-form-urlencoded"} | headers
            connection.request(method, path, body or None, sent)
            answer = connection.getresponse()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read().decode()

        status, headers, page = ask("GET", "/")
        assert status == 401 and 'type="password"' in page and "set-cookie" not in headers
        assert ask("GET", "/config")[0] == 401
        began = time.monotonic()
        status, headers, page = ask("POST", "/tunebench/enter", "password=open+barley")
        assert status == 401 and "Wrong password" in page and "set-cookie" not in headers
        assert time.monotonic() - began > 0.9
        assert ask("POST", "/tunebench/enter", "password=" + "x" * 5000)[0] == 413
        right = "password=open+sesame%2C+please"
        assert ask("POST", "/tunebench/enter", right, Origin="http://evil.example")[0] == 403
        assert ask("POST", "/tunebench/enter", right, Host="evil.example")[0] == 400
        status, headers, _ = ask("POST", "/tunebench/enter", right)
        assert status == 303 and "httponly" in headers["set-cookie"].lower()
        assert ask("GET", "/", Cookie=headers["set-cookie"].split(";")[0])[0] == 200
    finally:
        process.terminate()
        process.wait(SECONDS)


def test_a_short_password_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNEBENCH_PASSWORD", "1234567")
    assert app.main(["--workspace", str(tmp_path), "--lan"]) == 1
    assert capsys.readouterr().err == f"{Text('app.short_password', length=7, least=8)}\n"
