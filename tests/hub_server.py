"""A Hub of one data set on this machine: as much of its web interface as `datasets` asks for."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

NAME = "somebody/pairs"
COMMIT = "a" * 40
API = f"/api/datasets/{NAME}"


def handler(rows: bytes) -> type[BaseHTTPRequestHandler]:
    digest = hashlib.sha1(rows).hexdigest()
    info = {"id": NAME, "sha": COMMIT, "private": False, "gated": False, "siblings": [{"rfilename": "train.jsonl"}]}
    tree = [{"type": "file", "oid": digest, "size": len(rows), "path": "train.jsonl"}]

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            path = self.path.partition("?")[0]
            if path in (API, f"{API}/revision/main", f"{API}/revision/{COMMIT}"):
                self.send(json.dumps(info).encode())
            elif path.startswith(f"{API}/tree/"):
                self.send(json.dumps(tree).encode())
            elif path.endswith("/train.jsonl"):
                self.send(rows, ETag=f'"{digest}"', **{"X-Repo-Commit": COMMIT})
            else:
                self.send(b"", 404, **{"X-Error-Code": "EntryNotFound"})

        do_GET = do_HEAD

        def send(self, content: bytes, status: int = 200, **headers: str) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(content)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing on the test's output."""

    return Handler


@contextmanager
def hub_of(rows: bytes) -> Iterator[str]:
    """The address of a Hub that has the data set NAME with these JSONL rows as its split `train`; gone at the end."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(rows))
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
