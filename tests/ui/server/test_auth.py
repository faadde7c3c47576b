"""Access: every route, every host, every origin; only a page of ours with the key gets in. Asked by raw HTTP."""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

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
from trainer_core.system import project
from ui.server import auth

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
