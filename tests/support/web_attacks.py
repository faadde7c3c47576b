"""What a hostile page or address tries, for the tests of access and for reliability's claims on it."""

from __future__ import annotations

import http.client
import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any
from urllib.parse import quote

import gradio as gr

import app as application
from tests.support.app_process import App
from trainer_core.jobs.supervisor import Supervisor
from trainer_core.runs.workspace import Workspace

ORIGINS = (
    None,
    "own",
    "http://evil.example",
    "null",
    "https://127.0.0.1",
    "http://127.0.0.1",
    "http://localhost:1",
    "file://",
)
HOSTS = ("own", "localhost", "evil.example", "127.0.0.1", "127.0.0.1.evil.example:{port}", "[::1]:1")
TYPES = ("application/json", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "")
PREFIXES = (
    "/gradio_api/file=",
    "/file=",
    "/gradio_api/file/",
    "/assets/",
    "/static/",
    "/theme.css/",
    "/gradio_api/stream/",
)
PASSWORD = "open sesame, please"
BYTES = 300_000
"""Read of an answer; the page itself has 200,000."""
WAIT_SECONDS = 60.0
"""The first look at a row as tokens imports the libraries."""
OPENS = frozenset({"inspect_file", "check_file", "preview_row", "measure_lengths"})
"""Questions about the data file that the person names."""
WAYS: tuple[Callable[[str], str], ...] = (
    lambda path: path,
    lambda path: "../" * 12 + path.lstrip("/"),
    lambda path: "....//" * 12 + path.lstrip("/"),
    lambda path: "./" + path,
    lambda path: "//127.0.0.1" + path,
    lambda path: "file://" + path,
    lambda path: "x/" + "../" * 13 + path.lstrip("/"),
    lambda path: "C:" + path,
)
ENDLESS = "/gradio_api/heartbeat/"
"""Says ALIVE every 15 s, whatever stands behind it, and never ends."""


@dataclass(frozen=True)
class Attack:
    """One request: for a route its path alone, for a question or an event its body too."""

    path: str
    body: Any = None
    upload: str = ""
    """The name of a file that is sent along."""
    session: str = ""
    """Where an event's answer is waited for."""
    host: str = "127.0.0.1"
    """The address that it is sent to, and so comes from."""


def login_cookie(served: App, kept: dict[int, str] = {}) -> str:  # noqa: B006  (one cookie for each server)
    """The cookie that the link hands out."""
    if served.port not in kept:
        answer, _ = send_attack(served.port, "GET", served.address.removeprefix(served.root), None, {})
        kept[served.port] = (answer.getheader("set-cookie") or "").split(";")[0]
    return kept[served.port]


COOKIES = (
    'theme={"dark":true,"sizes":[1,2]}', "name=Jané Doe", "a@b=1", "list=[1]", 'lone="', "spaced key=1", "=", "a,b;;c",
    "x={'y': 1}", "tunebench=old", "Ünicode=ü", "path=/a/b?c=d&e", "tab=a\tb",
)  # fmt: skip
"""Of other programs on this computer, as they stand in a request."""


def send_attack(
    port: int,
    method: str,
    path: str,
    body: bytes | None,
    headers: dict[str, str],
    most: int | None = BYTES,
    host: str = "127.0.0.1",
) -> tuple[http.client.HTTPResponse, bytes]:
    """The answer and its first bytes. most: None for all, 0 where it may never end."""
    connection = http.client.HTTPConnection(host, port, timeout=WAIT_SECONDS)
    try:
        connection.request(method, quote(path, safe="%/\\:=?&.;@+,~"), body, {"Host": f"{host}:{port}", **headers})
        answer = connection.getresponse()
        try:
            return answer, answer.read(most) if most != 0 else b""
        except http.client.IncompleteRead as cut:
            return answer, cut.partial
    finally:
        connection.close()


def is_own_request(origin: str | None, host: str) -> bool:
    """Our own page at our own address?"""
    return host in ("own", "localhost") and (origin is None or (origin == "own" and host == "own"))


def request_headers(port: int, cookie: str, origin: str | None, host: str, kind: str) -> dict[str, str]:
    """Of a request with the key, which says where it comes from and where it goes."""
    own = f"127.0.0.1:{port}"
    name = {"own": own, "localhost": f"localhost:{port}"}.get(host, host).format(port=port)
    sender = {"Origin": f"http://{own}" if origin == "own" else origin} if origin else {}
    return {"Host": name, "Cookie": cookie, "Content-Type": kind, **sender}


def page_routes() -> Iterator[tuple[str, str]]:
    """Every method and path of the real app, its parameters in braces."""
    waiting: list[Any] = list(gr.routes.App.create_app(make_blocks()).routes)
    while waiting:
        route = waiting.pop()
        inner = getattr(route, "original_router", None) or getattr(route, "router", None)
        waiting += inner.routes if inner else []
        if path := getattr(route, "path", ""):
            yield from ((method, path) for method in getattr(route, "methods", None) or {"GET"})


def make_blocks() -> gr.Blocks:
    with tempfile.TemporaryDirectory() as name:
        return application.build_page(Supervisor(Workspace(Path(name)), device="cpu"))


def page_functions(served: App) -> Iterator[tuple[int, str]]:
    """Component and name of everything that a script of the page may ask."""
    _, said = send_attack(served.port, "GET", "/config", None, {"Cookie": login_cookie(served)}, most=None)
    numbers = {one["props"].get("elem_id"): one["id"] for one in json.loads(said)["components"]}
    for block in make_blocks().blocks.values():
        for name in dir(block):
            if getattr(getattr(block, name, None), "_is_server_fn", False):
                yield numbers[block.elem_id], name


def plain_spellings(marks: dict[str, bytes]) -> Iterator[str]:
    """For bodies, where nothing is decoded on the way: the place, its folder, both from inside, and a link of ours."""
    for place in marks:
        for target in (place, str(Path(place).parent)):
            yield from (way(target) for way in WAYS)
        yield place + "\0"
    yield from ("link", "../link", "../outside", "..", ".", "", "~/x", "a/../../outside", "link/../../outside")


def by_neighbour(marks: dict[str, bytes], served: App) -> Iterator[Attack]:
    """The questions about a data file, from another address: a path that the person here may open, the network may not."""
    address, eyes = application.lan_names()[0], {"model": "starter", "length": 64}
    more = {"preview_row": eyes | {"at": 0}, "measure_lengths": eyes}
    for (component, name), text in product(
        [one for one in page_functions(served) if one[1] in OPENS], plain_spellings(marks)
    ):
        data = {"source": text, **more.get(name, {})}
        body = {"session_hash": "attack", "component_id": component, "fn_name": name, "data": data}
        yield Attack("/gradio_api/component_server", body, host=address)


def by_model(marks: dict[str, bytes]) -> Iterator[Attack]:
    """The form of a run with a folder as its model, from another address."""
    address = application.lan_names()[0]
    (restore,) = (
        number for number, event in make_blocks().fns.items() if event.name == "restore" and len(event.inputs) == 1
    )
    for text in plain_spellings(marks):
        body = {"data": [{"model": text}], "fn_index": restore, "session_hash": "attack"}
        yield Attack("/gradio_api/run/predict", body, host=address)
