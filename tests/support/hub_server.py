"""A Hub of one data set or model on this machine: as much of its web interface as `datasets` and `huggingface_hub` ask for."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from types import MappingProxyType
from typing import Any

NAME = "somebody/pairs"
COMMIT = "a" * 40
PIECE = 1 << 16


def handler(
    kind: str, files: Mapping[str, bytes], pause: float, tags: Mapping[str, str]
) -> type[BaseHTTPRequestHandler]:
    """kind: "datasets" or "models". pause: seconds before each 64 KiB, so that a download can be watched.
    tags: headers of files in place of the sound ones."""
    api = f"/api/{kind}/{NAME}"
    digests = {name: hashlib.sha1(content).hexdigest() for name, content in files.items()}
    siblings = [{"rfilename": name} for name in files]
    info = {"id": NAME, "sha": COMMIT, "private": False, "gated": False, "siblings": siblings}
    tree = [{"type": "file", "oid": digests[name], "size": len(files[name]), "path": name} for name in files]

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            path = self.path.partition("?")[0]
            if path in (api, f"{api}/revision/main", f"{api}/revision/{COMMIT}"):
                self.send(json.dumps(info).encode())
            elif path.startswith(f"{api}/tree/"):
                self.send(json.dumps(tree).encode())
            elif (name := path.rpartition("/")[2]) in files and "/resolve/" in path:
                self.send(files[name], **{"ETag": f'"{digests[name]}"', "X-Repo-Commit": COMMIT, **tags})
            else:
                self.send(b"", 404, **{"X-Error-Code": "EntryNotFound" if NAME in path else "RepoNotFound"})

        do_GET = do_HEAD

        def send(self, content: bytes, status: int = 200, **headers: str) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(content)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                for at in range(0, len(content), PIECE):
                    time.sleep(pause)
                    self.wfile.write(content[at : at + PIECE])

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing on the test's output."""

    return Handler


@contextmanager
def hub_of(rows: bytes) -> Iterator[str]:
    """The address of a Hub that has the data set NAME with these JSONL rows as its split `train`; gone at the end."""
    with served("datasets", {"train.jsonl": rows}) as address:
        yield address


@contextmanager
def served(
    kind: str, files: Mapping[str, bytes], pause: float = 0.0, tags: Mapping[str, str] = MappingProxyType({})
) -> Iterator[str]:
    """The address of a Hub that has NAME with these files."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(kind, files, pause, tags))
    server.daemon_threads = True
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
