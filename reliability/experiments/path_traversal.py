"""Paths, names and ids that try to lead out: by every route, every question of the page and every event, with the key."""

from __future__ import annotations

import http.client
import json
import re
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import product
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import gradio as gr

import app as application
from reliability.harness.claim import Proof, TrialCount, count_trials
from tests.browser.conftest import App
from tests.support.web_attacks import PREFIXES
from trainer_core.jobs.supervisor import Supervisor
from trainer_core.models import starter
from trainer_core.runs.workspace import Workspace, default_workspace, ensure_dir

QUESTION = (
    "Spellings of a way out (absolute, up, links, file://, backslashes) in encodings (percent, double, overlong, full width, "
    "NUL) as route, upload name, id and field of all that the app answers, sent by who has the key: does a byte of a canary "
    "outside of the workspace, of the key or of the system come back? The control joins paths as they come; most spellings are "
    "for servers that mend paths badly. A data file and a model that the person opens here by its path is no "
    "attack, and left out; from another address of the network it is one."
)
PASSWORD = "open sesame, please"
CANARY = "CANARY-7f3a19"
BYTES = 300_000
"""Read of an answer; the page itself has 200,000."""
WAIT_SECONDS = 60.0
"""The first look at a row as tokens imports the libraries."""
OPENS = frozenset({"inspect_file", "check_file", "preview_row", "measure_lengths"})
"""Questions about the data file that the person names."""
ENCODINGS: tuple[Callable[[str], str], ...] = (
    lambda text: text,
    lambda text: text.replace("/", "%2f"),
    lambda text: text.replace("/", "%252f").replace(".", "%252e"),
    lambda text: "".join(f"%{byte:02x}" for byte in text.encode()),
    lambda text: text.replace("/", "%c0%af").replace("..", "%c0%ae%c0%ae"),
    lambda text: text.replace("/", "%e0%80%af"),
    lambda text: text.replace("/", "\uff0f").replace("..", "\uff0e\uff0e"),
    lambda text: text + "%00.png",
    lambda text: text.replace("/", "\\"),
    lambda text: text.replace("../", "..;/"),
)
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


def run(quick: bool) -> Iterator[Proof]:
    with tempfile.TemporaryDirectory(prefix="proof-") as name:
        folder = Path(name)
        served = App(folder / "workspace", "50", password=PASSWORD)
        try:
            # or a question about the bundled sample would unpack it first
            ready = starter.ensure_starter(Workspace(default_workspace()))
            shutil.copytree(ready, Workspace(served.workspace).models / starter.NAME)
            marks = plant_secrets(folder, served.workspace)
            attacks = [*by_route(marks), *by_question(marks, served), *by_upload(marks), *by_event(marks)]
            attacks += [*by_neighbour(marks, served), *by_model(marks)]
            ours = [
                try_attack(served, login_cookie(served), marks, attack) for attack in attacks[:: 61 if quick else 1]
            ]
        finally:
            served.close()
        control = naive_control(folder, marks)
    yield Proof(
        "No byte from outside comes out", count_trials(ours), "a server that joins paths as they come", control, 0.03
    )


def plant_secrets(folder: Path, workspace: Path) -> dict[str, bytes]:
    """Places that nobody may read from, each with bytes that must not come out. Links in the workspace lead to the first."""
    outside = folder / "outside"
    outside.mkdir()
    canary = outside / "canary.txt"
    for name in ("canary.txt", "run.json", "events.jsonl", "worker.log", "config.json", "report.html"):
        (outside / name).write_text(CANARY, encoding="utf-8")
    for name in ("runs", "compare", "data", "models"):
        ensure_dir(workspace / name)
        (workspace / name / "link").symlink_to(outside)
    (workspace / "data" / "link.jsonl").symlink_to(canary)
    secret = (workspace / "app.secret").read_bytes()
    places = {str(canary): CANARY.encode(), str(workspace / "app.secret"): secret, "/etc/passwd": b"root:x:"}
    return places | {str(workspace / "data" / "link" / "canary.txt"): CANARY.encode()}


def login_cookie(served: App, kept: dict[int, str] = {}) -> str:  # noqa: B006  (one cookie for each server)
    """The cookie that the link hands out."""
    if served.port not in kept:
        answer, _ = send_attack(served.port, "GET", served.address.removeprefix(served.root), None, {})
        kept[served.port] = (answer.getheader("set-cookie") or "").split(";")[0]
    return kept[served.port]


def send_attack(
    port: int,
    method: str,
    path: str,
    body: bytes | None,
    headers: dict[str, str],
    most: int | None = BYTES,
    host: str = "127.0.0.1",
) -> tuple[http.client.HTTPResponse, bytes]:
    connection = http.client.HTTPConnection(host, port, timeout=WAIT_SECONDS)
    try:
        connection.request(method, quote(path, safe="%/\\:=?&.;@+,~"), body, {"Host": f"{host}:{port}", **headers})
        answer = connection.getresponse()
        try:
            return answer, answer.read(most)
        except http.client.IncompleteRead as cut:
            return answer, cut.partial
    finally:
        connection.close()


def try_attack(served: App, cookie: str, marks: dict[str, bytes], attack: Attack) -> str:
    """What leaked, or nothing."""
    headers = {"Cookie": cookie, "Content-Type": "application/json"}
    body = None if attack.body is None else json.dumps(attack.body).encode()
    if attack.upload:
        headers["Content-Type"] = "multipart/form-data; boundary=x"
        name = f'name="files"; filename="{attack.upload}"'
        body = f"--x\r\nContent-Disposition: form-data; {name}\r\n\r\nours\r\n--x--\r\n".encode()
    answer, said = send_attack(served.port, "POST" if body else "GET", attack.path, body, headers, host=attack.host)
    if attack.session and answer.status == 200:
        _, said = send_attack(
            served.port, "GET", f"/gradio_api/queue/data?session_hash={attack.session}", None, headers
        )
    if attack.path.endswith("component_server") and b"Function not found" in said:
        return f"{attack}: not asked at all"
    leaked = [place for place, mark in marks.items() if mark in said]
    changed = [place for place, mark in marks.items() if mark not in Path(place).read_bytes()]
    return f"{attack}: {leaked or changed}" if leaked or changed else ""


# --- attacks


def spellings(marks: dict[str, bytes]) -> Iterator[str]:
    for place, way, encoding in product(marks, WAYS, ENCODINGS):
        yield encoding(way(place))


def plain_spellings(marks: dict[str, bytes]) -> Iterator[str]:
    """For bodies, where nothing is decoded on the way: the place, its folder, both from inside, and a link of ours."""
    for place in marks:
        for target in (place, str(Path(place).parent)):
            yield from (way(target) for way in WAYS)
        yield place + "\0"
    yield from ("link", "../link", "../outside", "..", ".", "", "~/x", "a/../../outside", "link/../../outside")


def by_route(marks: dict[str, bytes]) -> Iterator[Attack]:
    places = {re.sub(r"{[^}]*}", "{}", path) for path in routes() if "{" in path and not path.startswith(ENDLESS)} | {
        f"{one}{{}}" for one in PREFIXES
    }
    for place, text in product(sorted(places), spellings(marks)):
        yield Attack(place.replace("{}", text))


def routes() -> Iterator[str]:
    return (path for _, path in page_routes())


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


FIELDS = (
    "show",
    "run",
    "run_id",
    "id",
    "source",
    "ticket",
    "name",
    "lane",
    "prompt",
    "config",
    "split",
    "round",
    "adapter",
)


def by_question(marks: dict[str, bytes], served: App) -> Iterator[Attack]:
    for (component, name), text in product(
        [one for one in page_functions(served) if one[1] not in OPENS], plain_spellings(marks)
    ):
        every = {field: text for field in FIELDS}
        for data in (text, every, {"show": text, "chosen": [text], "tab": "runs", "log": True}, {"source": text}):
            body = {"session_hash": "attack", "component_id": component, "fn_name": name, "data": data}
            yield Attack("/gradio_api/component_server", body)


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


def by_upload(marks: dict[str, bytes]) -> Iterator[Attack]:
    for text in spellings(marks):
        yield Attack("/gradio_api/upload", upload=text.replace('"', "%22").replace("\0", "%00"))


def by_event(marks: dict[str, bytes]) -> Iterator[Attack]:
    """Events that a form does not feed: ids and names, in the event's own data and as a file of Gradio's."""
    at = 0
    for number, event in make_blocks().fns.items():
        if len(event.inputs) > 16:
            continue  # the form of a run: its data file and model are what the person opens
        for text in plain_spellings(marks):
            at += 1
            file = {"path": text, "meta": {"_type": "gradio.FileData"}}
            data = [file if at % 2 else text for _ in event.inputs]
            ids = {"run": text, "id": text, "value": text, "stage": text, "name": text}
            body = {"data": data, "event_data": ids, "fn_index": number, "trigger_id": None, "session_hash": f"s{at}"}
            yield Attack("/gradio_api/queue/join", body, session=f"s{at}")


# --- the control


def naive_control(folder: Path, marks: dict[str, bytes]) -> TrialCount:
    """The spellings against a server that takes what comes after the slash as a path."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(NaiveServer, folder / "workspace"))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    texts = list(spellings(marks))
    leaks = 0
    for text in texts:
        _, said = send_attack(server.server_port, "GET", f"/{text}", None, {})
        leaks += any(mark in said for mark in marks.values())
    server.shutdown()
    server.server_close()
    return TrialCount(len(texts), leaks)


class NaiveServer(BaseHTTPRequestHandler):
    def __init__(self, root: Path, *args: Any):
        self.root = root
        super().__init__(*args)

    def do_GET(self) -> None:  # noqa: N802  (the library's name)
        try:
            said = (self.root / unquote(self.path[1:])).read_bytes()
        except (OSError, ValueError):
            said = b"no"
        self.send_response(200)
        self.end_headers()
        self.wfile.write(said)

    def log_message(self, format: str, *args: Any) -> None:
        """Silent."""
