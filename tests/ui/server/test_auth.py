"""Access: every route, every host, every origin; only a page of ours with the key gets in. Asked by raw HTTP."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import stat
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response

import app as application
from tests.support.app_process import App
from tests.support.web_attacks import (
    HOSTS,
    OPENS,
    ORIGINS,
    PASSWORD,
    PREFIXES,
    TYPES,
    Attack,
    by_model,
    by_neighbour,
    is_own_request,
    login_cookie,
    page_functions,
    page_routes,
    request_headers,
    send_attack,
)
from trainer_core.config.recipe import STARTER
from trainer_core.system import app_secret, project
from ui.server import address, auth

pytestmark = pytest.mark.real

SITES = ("cross-site", "same-site")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    with App(tmp_path_factory.mktemp("door") / "workspace", "50") as app:
        yield app


@pytest.fixture(scope="module")
def cookie(served: App) -> str:
    status, headers, _ = ask(served, path=served.address.removeprefix(served.root))
    assert status == 303 and headers["location"] == "/"
    return headers["set-cookie"]


def ask(
    served: App, method: str = "GET", path: str = "/", body: str = "", **headers: str | None
) -> tuple[int, dict[str, str], bytes]:
    sent = {name.replace("_", "-"): value for name, value in headers.items() if value}
    answer, said = send_attack(served.port, method, path, body.encode() or None, sent, 2000)
    return answer.status, {name.lower(): value for name, value in answer.getheaders()}, said


def test_the_cookie_cannot_be_read_or_sent_by_others(cookie: str, served: App) -> None:
    assert "HttpOnly" in cookie and "samesite=strict" in cookie.lower() and f"tunebench-{served.port}=" in cookie
    for name in ("app.secret", "app.address"):
        assert stat.S_IMODE((served.workspace / name).stat().st_mode) & 0o077 == 0, name


def test_a_link_works_once_and_the_next_is_ready(served: App, cookie: str) -> None:
    link = served.address.removeprefix(served.root)
    assert ask(served, path=link)[0] == 303
    assert ask(served, path=link)[0] == 401
    assert served.address.removeprefix(served.root) != link
    assert ask(served, path="/?token=")[0] == 401


def test_with_the_key_the_page_comes_with_its_headers(served: App, cookie: str) -> None:
    status, headers, body = ask(served, Cookie=cookie.split(";")[0])
    assert status == 200 and b"Tunebench" in body
    assert {name.lower() for name in auth.HEADERS} <= headers.keys()
    assert "frame-ancestors 'none'" in headers["content-security-policy"]


def test_no_route_is_open_without_the_key(served: App) -> None:
    found = [(method, re.sub(r"{[^}]*}", "x", path)) for method, path in page_routes()]
    assert len(found) > 40
    open_ones = {
        path for method, path in found if method != "OPTIONS" and ask(served, method, path)[0] not in (401, 400, 403)
    }
    assert open_ones <= auth.OPEN_PATHS


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("origin", ORIGINS)
def test_only_our_own_page_gets_in(served: App, cookie: str, origin: str | None, host: str) -> None:
    """8 origins × 6 hosts × 5 content types, each with the key, on a route that does something."""
    body = json.dumps({"data": [], "session_hash": "x"})
    for kind in TYPES:
        headers = request_headers(served.port, cookie.split(";")[0], origin, host, kind)
        status, sent, _ = ask(served, "POST", "/gradio_api/queue/join", body, **headers)
        assert (
            (status not in (400, 403) or sent.get("content-type") == "application/json")
            if is_own_request(origin, host)
            else status in (400, 403)
        )


@pytest.mark.parametrize("site", SITES)
def test_a_request_that_another_site_began_is_refused(served: App, cookie: str, site: str) -> None:
    assert ask(served, Cookie=cookie.split(";")[0], Sec_Fetch_Site=site)[0] == 403


def cookie_of(keys: auth.AccessKeys, secret: str) -> dict[str, str]:
    return {"cookie": f"tunebench-1={secret}"}


def entered(
    keys: auth.AccessKeys, method: str = "GET", path: str = "/", query: str = "", **headers: str
) -> Response | None:
    """What the door says to a request; None: it is let in."""
    sent = {name.replace("_", "-"): value for name, value in {"host": "127.0.0.1:1", **headers}.items()}
    raw = [(name.encode(), value.encode()) for name, value in sent.items()]
    scope = {"type": "http", "path": path, "method": method, "query_string": query.encode(), "headers": raw}
    return auth.AuthMiddleware(None, keys).check_request(scope)  # type: ignore[arg-type]


NAVIGATES = {"sec_fetch_mode": "navigate", "sec_fetch_dest": "document"}


def test_the_page_on_the_disk_is_another_site_and_gets_in_once(tmp_path: Path) -> None:
    """A redirect would be that site's, to which a strict cookie is not sent; so the answer is a page of ours that goes on."""
    keys = auth.AccessKeys(tmp_path, "http://127.0.0.1:1")
    query = keys.link.read_text().partition("?")[2]
    for more in (
        {},
        {"sec_fetch_mode": "no-cors", "sec_fetch_dest": "image"},
        NAVIGATES | {"sec_fetch_dest": "iframe"},
    ):
        with pytest.raises(auth.RequestRejected):
            entered(keys, query=query, sec_fetch_site="cross-site", **more)
    with pytest.raises(auth.RequestRejected):
        entered(keys, path="/config", query=query, sec_fetch_site="cross-site", **NAVIGATES)
    led = entered(keys, query=query, sec_fetch_site="cross-site", **NAVIGATES)
    assert led and led.status_code == 200 and "samesite=strict" in led.headers["set-cookie"].lower()
    with pytest.raises(auth.RequestRejected):
        entered(keys, query=query, sec_fetch_site="cross-site", **NAVIGATES)


def test_cookies_of_others_with_our_name_lock_nobody_out(tmp_path: Path) -> None:
    keys = auth.AccessKeys(tmp_path, "http://127.0.0.1:1")
    right, wrong = f"tunebench-1={keys.secret}", "tunebench-1=" + "0" * 64
    for sent in (
        f"{wrong}; {right}",
        f"{right}; {wrong}",
        f'tunebench-1="{keys.secret}"',
        f"tunebench-1={keys.secret};",
    ):
        assert entered(keys, path="/config", cookie=sent) is None, sent
    for sent in (
        wrong,
        "tunebench-1",
        "tunebench-1=",
        f"tunebench-12={keys.secret}",
        f"x=tunebench-1={keys.secret}",
        keys.secret,
    ):
        with pytest.raises(auth.RequestRejected):
            entered(keys, path="/config", cookie=sent)


def test_signed_out_everywhere(tmp_path: Path) -> None:
    """By the page's button, or by another process; who came in by the password alone cannot throw the others out."""
    keys = auth.AccessKeys(tmp_path, "http://127.0.0.1:1", "open sesame")
    guard, owner, guest = auth.AuthMiddleware(None, keys), keys.secret, keys.network_secret  # type: ignore[arg-type]
    link = keys.link.read_text()
    for wrong in (guest, "", "0" * 64):
        with pytest.raises(auth.RequestRejected):
            guard.sign_out(Headers(cookie_of(keys, wrong)))
    assert keys.secret == owner
    answer = guard.sign_out(Headers(cookie_of(keys, owner)))
    assert 'tunebench-1=""; ' in answer.headers["set-cookie"] and b"Signed out" in answer.body
    for before in (owner, guest):
        with pytest.raises(auth.RequestRejected):
            entered(keys, path="/config", **cookie_of(keys, before))
    assert keys.link.read_text() != link and keys.link.read_text().partition("token=")[2] in keys.opener.read_text()
    assert stat.S_IMODE((tmp_path / "app.secret").stat().st_mode) == 0o600
    newer = keys.secret
    app_secret.renew_secret(tmp_path)
    assert keys.secret != newer != owner


def test_a_name_of_our_own_is_let_in_and_no_other(tmp_path: Path) -> None:
    name = address.own_name(tmp_path)
    assert re.fullmatch(r"tunebench-[0-9a-f]{8}\.localhost", name) and address.own_name(tmp_path) == name
    keys = auth.AccessKeys(tmp_path, "http://127.0.0.1:1", own=f"http://{name}:1")
    sent = cookie_of(keys, keys.secret)
    assert entered(keys, path="/config", host=f"{name}:1", origin=f"http://{name}:1", **sent) is None
    for host in ("localhost.evil.example:1", "x.localhost:1", f"{name}:2", f"{name}.evil.example:1", name):
        with pytest.raises(auth.RequestRejected):
            entered(keys, path="/config", host=host, **sent)
    with pytest.raises(auth.RequestRejected):
        entered(keys, path="/config", host=f"{name}:1", origin="http://127.0.0.1:1", **sent)


@pytest.mark.parametrize(
    ("found", "here"),
    [
        (["127.0.0.1"], True),
        (["::1", "127.0.0.1"], True),
        (["127.0.0.1", "10.0.0.1"], False),
        ([], False),
        (None, False),
    ],
)
def test_our_name_is_shown_where_it_leads_here(found: list[str] | None, here: bool) -> None:
    def look_up(name: str, port: None) -> list[tuple[object, ...]]:
        if found is None:
            raise OSError("Name or service not known")
        return [(0, 0, 0, "", (one, 0)) for one in found]

    assert address.is_own_name("tunebench-1.localhost", look_up) is here


def test_nobody_else_is_found_under_our_name(tmp_path: Path) -> None:
    """Browsers try ::1 first: it is held, not answered; where somebody has it, the name is not used."""
    with socket.socket(socket.AF_INET6) as probe:
        try:
            probe.bind(("::1", 0))
        except OSError:
            pytest.skip("no ::1 here")
        port = probe.getsockname()[1]
        assert address.hold_port(port) is None
    held = address.hold_port(port)
    assert held and held.getsockname()[:2] == ("::1", port)
    with held, socket.socket(socket.AF_INET6) as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with pytest.raises(OSError):  # noqa: PT011  (any)
            other.bind(("::1", port))
        with pytest.raises(ConnectionRefusedError), socket.create_connection(("::1", port), 5):
            pass


def test_a_new_password_throws_the_network_out_and_nobody_else(tmp_path: Path) -> None:
    first, second = (
        auth.AccessKeys(tmp_path, "http://127.0.0.1:1", password) for password in ("open sesame", "open barley")
    )
    alone = auth.AccessKeys(tmp_path, "http://127.0.0.1:1")

    def lets_in(keys: auth.AccessKeys, secret: str) -> bool:
        scope = {"type": "http", "path": "/config", "method": "GET", "query_string": b""}
        try:
            return (
                auth.AuthMiddleware(None, keys).authenticate(scope, Headers({"cookie": f"tunebench-1={secret}"}))
                is None
            )  # type: ignore[arg-type]
        except auth.RequestRejected:
            return False

    given = auth.AuthMiddleware(None, first).set_cookie(first.network_secret).headers["set-cookie"]  # type: ignore[arg-type]
    secret = given.split(";")[0].split("=")[1]
    assert lets_in(first, secret) and not lets_in(second, secret) and not lets_in(alone, secret)
    assert all(lets_in(keys, first.secret) for keys in (first, second, alone)) and not lets_in(alone, "")


def test_the_network_opens_no_files_by_their_paths(tmp_path: Path) -> None:
    """The same questions from this computer's address in the network, and from this computer."""
    with App(tmp_path / "workspace", "50", password=PASSWORD) as app:
        sent = {"Cookie": login_cookie(app), "Content-Type": "application/json"}
        attacks = [
            one for one in by_neighbour({"/etc/passwd": b""}, app) if one.body["data"]["source"] == "/etc/passwd"
        ]
        assert {one.body["fn_name"] for one in attacks} == OPENS

        def says(attack: Attack, **changes: str) -> bytes:
            body = attack.body | {"data": attack.body["data"] | changes}
            return send_attack(app.port, "POST", attack.path, json.dumps(body).encode(), sent, host=attack.host)[1]

        for one in attacks:
            assert b"/etc/passwd cannot be opened from another computer" in says(one), one
        glance = next(one for one in attacks if one.body["fn_name"] == "inspect_file")
        assert b"chosen" in says(glance, source="sample")
        assert b"cannot be opened from" not in says(replace(glance, host="127.0.0.1"))


def test_the_network_opens_no_models_by_their_paths_and_names_no_judge(tmp_path: Path) -> None:
    """By an event of the form and a question of Compare, from an address in the network and from this computer."""
    (tmp_path / "model").mkdir()
    with App(tmp_path / "workspace", "50", password=PASSWORD) as app:
        sent, afar = {"Cookie": login_cookie(app), "Content-Type": "application/json"}, application.lan_names()[0]

        def says(host: str, path: str, body: dict[str, object]) -> str:
            told = json.dumps({"session_hash": "neighbour", **body}).encode()
            return send_attack(app.port, "POST", f"/gradio_api/{path}", told, sent, host=host)[1].decode()

        (event,) = {one.body["fn_index"] for one in by_model({"/etc": b""})}

        def opened(host: str, model: str) -> str:
            return says(host, "run/predict", {"data": [{"model": model}], "fn_index": event})

        for model in (str(tmp_path / "model"), "/etc", "~"):
            assert "cannot be opened from another computer" in opened(afar, model), model
            assert "cannot be opened from" not in opened("127.0.0.1", model), model
        (app.workspace / "models" / "own").mkdir(parents=True)
        for model in (STARTER, "owner/name", str(app.workspace / "models" / "own")):
            assert "cannot be opened from" not in opened(afar, model), model

        for eyes in (
            one for one in by_neighbour({"/etc": b""}, app) if one.body["fn_name"] in ("preview_row", "measure_lengths")
        ):
            seen = eyes.body | {"data": eyes.body["data"] | {"source": "sample", "model": "/etc"}}
            assert "cannot be opened from another computer" in says(afar, "component_server", seen)

        (judge,) = ((component, name) for component, name in page_functions(app) if name == "start_judge")
        endpoint = {"url": "http://127.0.0.1:9/v1", "model": "judge"}
        wanted = {"lanes": ["Base", "SFT"], "endpoint": endpoint}
        question = {"component_id": judge[0], "fn_name": judge[1], "data": wanted}
        assert "can only be set on the computer" in says(afar, "component_server", question)
        assert "can only be set on the computer" not in says("127.0.0.1", "component_server", question)


WAYS: tuple[Callable[[str], str], ...] = (
    lambda path: path,
    lambda path: path.replace("/", "%2f"),
    lambda path: path.replace("/", "%252f"),
    lambda path: "../" * 12 + path.lstrip("/"),
    lambda path: "..%2f" * 12 + path.lstrip("/"),
    lambda path: "..\\" * 12 + path.lstrip("/"),
    lambda path: "....//" * 12 + path.lstrip("/"),
    lambda path: "%2e%2e/" * 12 + path.lstrip("/"),
    lambda path: "/./" + path,
    lambda path: path + "%00.png",
    lambda path: "file://" + path,
    lambda path: "//127.0.0.1" + path,
)


def test_no_byte_from_outside_comes_out(served: App, cookie: str, tmp_path: Path) -> None:
    """Canaries: one outside, the key, a run's log, and the system's own files, by every way and prefix, with the key."""
    canary = tmp_path / "canary.txt"
    canary.write_text("CANARY-7f3a")
    secret = (served.workspace / "app.secret").read_text()
    places = [canary, served.workspace / "app.secret", Path("/etc/passwd"), project.PROJECT / "README.md"]
    marks = (b"CANARY-7f3a", secret.encode(), b"root:x:", b"# Tunebench")
    tried = 0
    for place in places:
        for prefix in PREFIXES:
            for way in WAYS:
                _, _, body = ask(served, path=prefix + way(str(place)).replace(" ", "%20"), Cookie=cookie.split(";")[0])
                assert not any(mark in body for mark in marks), (prefix, place)
                tried += 1
    assert tried == len(places) * len(PREFIXES) * len(WAYS)


def login_request(address: str, password: str) -> Request:
    body = f"password={password}".encode()

    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": body, "more_body": False}

    headers = [(b"content-length", str(len(body)).encode())]
    scope = {"type": "http", "method": "POST", "path": auth.LOGIN_PATH, "headers": headers, "client": (address, 1)}
    return Request(scope, receive)


def test_a_password_that_never_arrives_is_not_waited_for(tmp_path: Path) -> None:
    async def nothing(*_: object) -> None: ...

    async def never() -> dict[str, object]:
        await asyncio.sleep(60)
        return {"type": "http.disconnect"}

    async def send_half() -> int:
        guard = auth.AuthMiddleware(nothing, auth.AccessKeys(tmp_path, "http://127.0.0.1:7860", PASSWORD), 0.1)
        request = Request({**login_request("10.0.0.1", PASSWORD).scope}, never)
        with pytest.raises(auth.RequestRejected) as refused:
            await asyncio.wait_for(guard.log_in(request), 10)
        return refused.value.status

    with ThreadPoolExecutor(1) as thread:
        assert thread.submit(asyncio.run, send_half()).result() == 408


def test_one_address_that_guesses_keeps_no_other_waiting(tmp_path: Path) -> None:
    async def nothing(*_: object) -> None: ...

    async def try_both() -> int:
        guard = auth.AuthMiddleware(nothing, auth.AccessKeys(tmp_path, "http://127.0.0.1:1", PASSWORD))
        guessing = guard.login_locks.setdefault("10.0.0.1", asyncio.Lock())
        async with guessing:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(guard.log_in(login_request("10.0.0.1", PASSWORD)), 0.1)
            return (await asyncio.wait_for(guard.log_in(login_request("10.0.0.2", PASSWORD)), 10)).status_code

    with ThreadPoolExecutor() as threads:  # this one may have Playwright's event loop
        assert threads.submit(asyncio.run, try_both()).result() == 303
