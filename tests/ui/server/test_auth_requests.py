"""Access by single requests, without an app: the link, cookies, names of this computer, and signing out."""

from __future__ import annotations

import re
import socket
import stat
from pathlib import Path

import pytest
from starlette.datastructures import Headers
from starlette.responses import Response

from trainer_core.system import app_secret
from ui.server import address, auth


def cookie_of(keys: auth.AccessKeys, secret: str) -> dict[str, str]:
    return {"cookie": f"tunebench-1={secret}"}


def check_request(
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
            check_request(keys, query=query, sec_fetch_site="cross-site", **more)
    with pytest.raises(auth.RequestRejected):
        check_request(keys, path="/config", query=query, sec_fetch_site="cross-site", **NAVIGATES)
    led = check_request(keys, query=query, sec_fetch_site="cross-site", **NAVIGATES)
    assert led and led.status_code == 200 and "samesite=strict" in led.headers["set-cookie"].lower()
    with pytest.raises(auth.RequestRejected):
        check_request(keys, query=query, sec_fetch_site="cross-site", **NAVIGATES)


def test_cookies_of_others_with_our_name_lock_nobody_out(tmp_path: Path) -> None:
    keys = auth.AccessKeys(tmp_path, "http://127.0.0.1:1")
    right, wrong = f"tunebench-1={keys.secret}", "tunebench-1=" + "0" * 64
    for sent in (
        f"{wrong}; {right}",
        f"{right}; {wrong}",
        f'tunebench-1="{keys.secret}"',
        f"tunebench-1={keys.secret};",
    ):
        assert check_request(keys, path="/config", cookie=sent) is None, sent
    for sent in (
        wrong,
        "tunebench-1",
        "tunebench-1=",
        f"tunebench-12={keys.secret}",
        f"x=tunebench-1={keys.secret}",
        keys.secret,
    ):
        with pytest.raises(auth.RequestRejected):
            check_request(keys, path="/config", cookie=sent)


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
            check_request(keys, path="/config", **cookie_of(keys, before))
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
    assert check_request(keys, path="/config", host=f"{name}:1", origin=f"http://{name}:1", **sent) is None
    for host in ("localhost.evil.example:1", "x.localhost:1", f"{name}:2", f"{name}.evil.example:1", name):
        with pytest.raises(auth.RequestRejected):
            check_request(keys, path="/config", host=host, **sent)
    with pytest.raises(auth.RequestRejected):
        check_request(keys, path="/config", host=f"{name}:1", origin="http://127.0.0.1:1", **sent)


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
