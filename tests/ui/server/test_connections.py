"""Strangers who open connections and ask nothing: bounded in time and number, and in what they make the app log."""

from __future__ import annotations

import asyncio
import http.client
import logging
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from ui.server import connections
from ui.server.connections import BoundedProtocol, LogLimit

MOST, SECONDS, SLOW = 10, 1.0, 2.5
"""Bounds of the server below, and how long its page `/slow` takes."""


async def answer(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] != "http":
        return
    while scope["method"] == "POST" and (await receive()).get("more_body"):
        pass
    if scope["path"] == "/slow":
        await asyncio.sleep(SLOW)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    server = uvicorn.Server(uvicorn.Config(answer, port=0, log_level="warning", lifespan="off"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    connections.limit_connections(server, MOST, SECONDS)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    thread.join(10)


@contextmanager
def open_sockets(port: int, *said: bytes) -> Iterator[list[socket.socket]]:
    """Connections that have sent these bytes each."""
    several = []
    for words in said:
        one = socket.create_connection(("127.0.0.1", port), timeout=10)
        if words:
            one.sendall(words)
        several.append(one)
    try:
        yield several
    finally:
        for one in several:
            one.close()


def read_answers(one: socket.socket, answers: int) -> bytes:
    """All bytes up to the last of these answers; a head and its body may come apart."""
    found = b""
    while found.count(b"ok") < answers and (more := one.recv(1000)):
        found += more
    return found


def is_closed(one: socket.socket, seconds: float) -> bool:
    one.settimeout(seconds)
    try:
        return one.recv(1) == b""
    except TimeoutError:
        return False
    except ConnectionError:
        return True


def ask(port: int, path: str = "/", method: str = "GET", body: bytes | None = None) -> int:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=10)) as client:
        client.request(method, path, body)
        return client.getresponse().status


HALVES = [b"", b"GET / HTTP/1.1\r\nHo", b"GET / HTTP/1.1\r\nHost: x\r\n", b"P"]


@pytest.mark.parametrize("words", HALVES)
def test_half_a_head_has_a_time_limit(port: int, words: bytes) -> None:
    began = time.monotonic()
    with open_sockets(port, words) as (one,):
        assert is_closed(one, 10) and time.monotonic() - began >= SECONDS * 0.9


def test_a_line_now_and_then_is_no_way_to_stay(port: int) -> None:
    with open_sockets(port, b"GET / HTTP/1.1\r\n") as (one,):
        for number in range(20):
            time.sleep(SECONDS / 5)
            try:
                one.sendall(f"X-{number}: y\r\n".encode())
            except ConnectionError:
                return
    raise AssertionError("it stayed for four times the limit")


def test_the_page_is_there_beside_many_who_hold_a_line(port: int) -> None:
    with open_sockets(port, *[b"GET / HTTP/1.1\r\n"] * (4 * MOST)) as several:
        assert [ask(port) for _ in range(5)] == [200] * 5
        assert all(is_closed(one, 0.3) for one in several[: 3 * MOST])


def test_a_request_in_progress_takes_its_time(port: int) -> None:
    assert SLOW > SECONDS
    assert ask(port, "/slow") == 200
    slow = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n"
    with open_sockets(port, slow) as (one,):
        assert not is_closed(one, SLOW)
        one.sendall(b"ab")
        assert read_answers(one, 1).startswith(b"HTTP/1.1 200")


def test_after_an_answer_the_wait_begins_again(port: int) -> None:
    whole = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
    with open_sockets(port, whole) as (one,):
        assert read_answers(one, 1).endswith(b"ok")
        one.sendall(whole)
        assert read_answers(one, 1).endswith(b"ok")
        one.sendall(b"GET / HT")
        assert is_closed(one, SECONDS * 4)


def test_two_requests_at_once_are_answered(port: int) -> None:
    with open_sockets(port, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 2) as (one,):
        assert read_answers(one, 2).count(b"HTTP/1.1 200") == 2


def test_nobody_is_counted_who_has_left(port: int) -> None:
    for _ in range(5):
        with open_sockets(port, *[b"G"] * MOST):
            pass
    assert ask(port) == 200


def log_record(number: int) -> logging.LogRecord:
    return logging.LogRecord("uvicorn.error", logging.WARNING, "x", 1, f"line {number}", None, None)


def test_lines_of_a_log_are_bounded_and_the_others_counted() -> None:
    limit = LogLimit(lines=3, seconds=0.2)
    assert sum(limit.filter(log_record(at)) for at in range(1000)) == 3
    time.sleep(0.25)
    later = log_record(1000)
    assert limit.filter(later) and "997" in later.getMessage()
    assert limit.filter(next_one := log_record(1001)) and next_one.getMessage() == "line 1001"


def test_the_app_bounds_its_own_server(tmp_path: Path) -> None:
    import gradio as gr

    import app
    from trainer_core.runs.workspace import Workspace

    with gr.Blocks(analytics_enabled=False) as page:
        gr.HTML("x")
    app.open_page(page, app.find_free_port(), Workspace(tmp_path))
    try:
        made = page.server.config.http_protocol_class
        assert made.func is BoundedProtocol  # type: ignore[union-attr]
        assert made.keywords["waiting"].most == connections.MAX_WAITING  # type: ignore[union-attr]
        assert any(isinstance(one, LogLimit) for one in logging.getLogger("uvicorn.error").filters)
    finally:
        page.close()
