"""A Hub of one data set or model on this machine: as much of its web interface as `datasets` and `huggingface_hub` ask for."""

from __future__ import annotations

import hashlib
import json
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any, Literal
from urllib.parse import unquote

NAME = "somebody/pairs"
COMMIT = "a" * 40
PIECE = 1 << 16
Fault = Literal["", "breaks off", "redirects", "page"]
"""What happens to requests for files: the line breaks, or the answer leads to the same place once more. Or every request is
answered by a page, as by a hotel's network before one signs in."""


@dataclass(frozen=True)
class Hub:
    """kind: "datasets" or "models". pause: seconds before each 64 KiB, so that a download can be watched.
    tags: headers of files in place of the sound ones. commit: the name of the newest commit."""

    kind: str
    files: Mapping[str, bytes]
    pause: float = 0.0
    tags: Mapping[str, str] = field(default_factory=dict)
    commit: str = COMMIT
    fault: Fault = ""

    def answer(self, path: str) -> tuple[int, bytes, dict[str, str]]:
        """Status, content and headers."""
        api = f"/api/{self.kind}/{NAME}"
        if self.fault == "page":
            return 200, b"<html>Sign in</html>", {}
        if self.fault == "redirects" and "/resolve/" in path:
            return 302, b"", {"Location": path}
        if path in (api, f"{api}/revision/main", f"{api}/revision/{self.commit}"):
            siblings = [{"rfilename": name} for name in self.files]
            info = {"id": NAME, "sha": self.commit, "private": False, "gated": False, "siblings": siblings}
            return 200, json.dumps(info).encode(), {}
        if path.startswith(f"{api}/tree/"):
            return 200, json.dumps([self.entry(name) for name in self.files]).encode(), {}
        if (name := path.rpartition("/")[2]) in self.files and "/resolve/" in path:
            tags = {"ETag": f'"{self.entry(name)["oid"]}"', "X-Repo-Commit": self.commit, **self.tags}
            return 200, self.files[name], tags
        return 404, b"", {"X-Error-Code": "EntryNotFound" if NAME in path else "RepoNotFound"}

    def entry(self, name: str) -> dict[str, Any]:
        content = self.files[name]
        return {"type": "file", "oid": hashlib.sha1(content).hexdigest(), "size": len(content), "path": name}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def do_HEAD(self) -> None:
        path = unquote(self.path.partition("?")[0])
        if self.hub.fault == "breaks off" and "/resolve/" in path:
            self.close_connection = True
            return self.connection.shutdown(socket.SHUT_RDWR)
        return self.send(*self.hub.answer(path))

    do_GET = do_HEAD

    def send(self, status: int, content: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            for at in range(0, len(content), PIECE):
                time.sleep(self.hub.pause)
                self.wfile.write(content[at : at + PIECE])

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing on the test's output."""


@contextmanager
def hub_of(rows: bytes) -> Iterator[str]:
    """The address of a Hub that has the data set NAME with these JSONL rows as its split `train`; gone at the end."""
    with served("datasets", {"train.jsonl": rows}) as address:
        yield address


@contextmanager
def served(kind: str, files: Mapping[str, bytes], **options: Any) -> Iterator[str]:
    """The address of a Hub that has NAME with these files; see `Hub` for the options."""
    handler = type("HubHandler", (Handler,), {"hub": Hub(kind, files, **options)})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
