"""Access from other computers by the password, without an app: what a wrong one costs, and what a right one gives."""

from __future__ import annotations

import ast
import asyncio
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope

from ui.server import auth

PASSWORD = "open sesame, please"


async def no_app(*_: object) -> None: ...


def make_guard(folder: Path, password: str = PASSWORD) -> auth.AuthMiddleware:
    return auth.AuthMiddleware(no_app, auth.AccessKeys(folder, "http://127.0.0.1:1", password))


def login_request(password: str, address: str = "10.0.0.1") -> Request:
    body = f"password={password}".encode()

    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": body, "more_body": False}

    headers = [(b"content-length", str(len(body)).encode())]
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/tunebench/enter",
        "headers": headers,
        "client": (address, 1),
    }
    return Request(scope, receive)


def run_in_thread(make: Callable[[], Coroutine[Any, Any, list[Response]]]) -> list[Response]:
    with ThreadPoolExecutor() as threads:  # this one may have Playwright's event loop
        return threads.submit(lambda: asyncio.run(make())).result()


@pytest.mark.real
def test_each_wrong_password_costs_a_second(tmp_path: Path) -> None:
    """Also when one address sends several at once."""
    guard = make_guard(tmp_path)

    async def guess() -> list[Response]:
        return list(await asyncio.gather(*(guard.log_in(login_request(one)) for one in ("open barley", ""))))

    began = time.monotonic()
    answers = run_in_thread(guess)
    assert time.monotonic() - began >= 2.0
    assert [one.status_code for one in answers] == [401, 401] and not any(
        "set-cookie" in one.headers for one in answers
    )


def test_one_address_that_guesses_keeps_no_other_waiting(tmp_path: Path) -> None:
    guard = make_guard(tmp_path)

    async def try_both() -> list[Response]:
        async with guard.login_locks.setdefault("10.0.0.1", asyncio.Lock()):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(guard.log_in(login_request(PASSWORD)), 0.1)
            return [await asyncio.wait_for(guard.log_in(login_request(PASSWORD, "10.0.0.2")), 10)]

    assert [answer.status_code for answer in run_in_thread(try_both)] == [303]


def test_a_password_that_never_arrives_is_not_waited_for(tmp_path: Path) -> None:
    guard = auth.AuthMiddleware(no_app, auth.AccessKeys(tmp_path, "http://127.0.0.1:1", PASSWORD), 0.1)

    async def receive_nothing() -> dict[str, object]:
        await asyncio.sleep(60)
        return {"type": "http.disconnect"}

    async def send_half() -> list[Response]:
        request = Request({**login_request(PASSWORD).scope}, receive_nothing)
        with pytest.raises(auth.RequestRejected) as refused:
            await asyncio.wait_for(guard.log_in(request), 10)
        return [Response(status_code=refused.value.status)]

    assert [answer.status_code for answer in run_in_thread(send_half)] == [408]


def test_the_right_password_gives_a_cookie_that_ends_with_it(tmp_path: Path) -> None:
    guard = make_guard(tmp_path)

    async def enter() -> list[Response]:
        return [await guard.log_in(login_request("open+sesame%2C+please"))]

    (answer,) = run_in_thread(enter)
    sent = answer.headers["set-cookie"].partition(";")[0]
    assert answer.status_code == 303 and sent.partition("=")[2] not in ("", guard.keys.secret)
    assert is_let_in(guard, sent)
    assert not is_let_in(make_guard(tmp_path, "open barley, please"), sent) and not is_let_in(
        make_guard(tmp_path, ""), sent
    )
    with pytest.raises(auth.RequestRejected):
        guard.sign_out(Request({"type": "http", "headers": [(b"cookie", sent.encode())]}).headers)


def test_the_cookie_is_for_our_page_alone(tmp_path: Path) -> None:
    guard = make_guard(tmp_path)
    for led in (False, True):
        flags = guard.set_cookie("x", led).headers["set-cookie"].lower().split("; ")[1:]
        assert {"httponly", "samesite=strict", "max-age=2592000"} <= set(flags)


def test_a_login_form_is_read_up_to_a_kilobyte(tmp_path: Path) -> None:
    guard = make_guard(tmp_path)

    async def enter() -> list[Response]:
        return [await guard.log_in(login_request("x" * 1024))]

    with pytest.raises(auth.RequestRejected) as refused:
        run_in_thread(enter)
    assert refused.value.status == 413


def test_no_web_socket_is_opened(tmp_path: Path) -> None:
    guard = make_guard(tmp_path)
    headers = [(b"host", b"127.0.0.1:1"), (b"cookie", f"tunebench-1={guard.keys.secret}".encode())]
    with pytest.raises(auth.RequestRejected) as refused:
        guard.check_request({"type": "websocket", "path": "/config", "query_string": b"", "headers": headers})
    assert refused.value.status == 403


def is_let_in(guard: auth.AuthMiddleware, cookie: str) -> bool:
    headers = [(b"host", b"127.0.0.1:1"), (b"cookie", cookie.encode())]
    scope: Scope = {"type": "http", "path": "/config", "method": "GET", "query_string": b"", "headers": headers}
    try:
        return guard.check_request(scope) is None
    except auth.RequestRejected:
        return False


SECRETS = {"secret", "network_secret", "password", "token", "given", "current", "value", "right", "one", "other"}
"""Names that hold a key, a part of one or what is compared with one."""


def compared_names(tree: ast.AST) -> set[str]:
    """All names in comparisons by ==, in, is and match, which end at the first letter that differs."""
    found = [node for node in ast.walk(tree) if isinstance(node, ast.Compare | ast.match_case | ast.Match)]
    inner = [node for one in found for node in ast.walk(one.subject if isinstance(one, ast.Match) else one)]
    return {getattr(node, "id", getattr(node, "attr", "")) for node in inner}


def test_keys_are_compared_in_constant_time_alone() -> None:
    """No measurement of time can show it on a busy machine, so the source is read."""
    tree = ast.parse(Path(auth.__file__).read_text(encoding="utf-8"))
    assert not compared_names(tree) & SECRETS
    functions = {node.name: node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    calls = {
        name: {ast.unparse(one.func) for one in ast.walk(node) if isinstance(one, ast.Call)}
        for name, node in functions.items()
    }
    assert "hmac.compare_digest" in calls["is_same_secret"]
    asking = {name for name, called in calls.items() if "is_same_secret" in called}
    assert asking == {"redeem_token", "log_in", "find_cookie", "sign_out"}


@pytest.mark.parametrize("unsafe", ["given == self.keys.password", "value in right", "token != current"])
def test_an_ordinary_comparison_would_be_seen(unsafe: str) -> None:
    assert compared_names(ast.parse(unsafe)) & SECRETS
