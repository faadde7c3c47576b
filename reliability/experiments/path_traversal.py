"""Paths, names and ids that try to lead out: by every route, every question of the page and every event, with the key."""

from __future__ import annotations

import json
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import product
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from reliability.harness.claim import Proof, TrialCount, count_trials
from tests.support.app_process import App
from tests.support.web_attacks import (
    ENDLESS,
    OPENS,
    PASSWORD,
    PREFIXES,
    WAYS,
    Attack,
    by_model,
    by_neighbour,
    login_cookie,
    make_blocks,
    page_functions,
    page_routes,
    plain_spellings,
    send_attack,
)
from trainer_core.models import starter
from trainer_core.runs.workspace import Workspace, default_workspace, ensure_dir

QUESTION = (
    "Spellings of a way out (absolute, up, links, file://, backslashes) in encodings (percent, double, overlong, full width, "
    "NUL) as route, upload name, id and field of all that the app answers, sent by who has the key: does a byte of a canary "
    "outside of the workspace, of the key or of the system come back? The control joins paths as they come; most spellings are "
    "for servers that mend paths badly. A data file and a model that the person opens here by its path is no "
    "attack, and left out; from another address of the network it is one."
)
CANARY = "CANARY-7f3a19"
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


def run(folder: Path, quick: bool) -> Iterator[Proof]:
    with App(folder / "workspace", "50", password=PASSWORD) as served:
        # or a question about the bundled sample would unpack it first
        ready = starter.ensure_starter(Workspace(default_workspace()))
        shutil.copytree(ready, Workspace(served.workspace).models / starter.NAME)
        marks = plant_secrets(folder, served.workspace)
        attacks = [*by_route(marks), *by_question(marks, served), *by_upload(marks), *by_event(marks)]
        attacks += [*by_neighbour(marks, served), *by_model(marks)]
        ours = [try_attack(served, login_cookie(served), marks, attack) for attack in attacks[:: 61 if quick else 1]]
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


def by_route(marks: dict[str, bytes]) -> Iterator[Attack]:
    places = {
        re.sub(r"{[^}]*}", "{}", path) for _, path in page_routes() if "{" in path and not path.startswith(ENDLESS)
    } | {f"{one}{{}}" for one in PREFIXES}
    for place, text in product(sorted(places), spellings(marks)):
        yield Attack(place.replace("{}", text))


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
