"""A Hub that takes models, on this machine: as much of its interface as huggingface_hub needs for a commit."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

LARGE = 10_000
"""Bytes from which a file is stored as a large one."""


@dataclass
class UploadHub:
    """files: repository → path → content. large: content by SHA-256.

    refusals: a part of the path → status of every request to such a path. breaks: the line breaks at this many PUTs.
    """

    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    large: dict[str, bytes] = field(default_factory=dict)
    private: dict[str, bool] = field(default_factory=dict)
    refusals: dict[str, int] = field(default_factory=dict)
    breaks: int = 0
    puts: list[dict[str, str]] = field(default_factory=list)
    """Headers of every PUT."""

    def answer(self, method: str, path: str, content: bytes, address: str) -> tuple[int, Any]:
        """Status and JSON."""
        if refused := next((status for part, status in self.refusals.items() if part in path), 0):
            return refused, {"error": f"refused with {refused}"}
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        if path == "/api/repos/create":
            return self.create(json.loads(content))
        if path.startswith("/lfs/"):
            self.large[path.removeprefix("/lfs/")] = content
            return 200, {}
        if path.endswith("/info/lfs/objects/batch"):
            return 200, {"objects": [self.place(one, address) for one in json.loads(content)["objects"]]}
        repo, _, rest = path.removeprefix("/api/models/").partition("/preupload/")
        if rest:
            files = json.loads(content)["files"]
            modes = [
                {"path": one["path"], "uploadMode": "lfs" if one["size"] >= LARGE else "regular", "shouldIgnore": False}
                for one in files
            ]
            return 200, {"files": modes}
        repo, _, rest = path.removeprefix("/api/models/").partition("/commit/")
        if rest:
            return self.commit(repo, content)
        return self.tell(repo.partition("/revision/")[0].partition("?")[0])

    def create(self, asked: dict[str, Any]) -> tuple[int, Any]:
        repo = f"{asked['organization']}/{asked['name']}"
        if repo in self.files:
            return 409, {"error": "You already created this model repo", "url": repo}
        self.files[repo], self.private[repo] = {".gitattributes": b"*"}, asked.get("visibility") == "private"
        return 200, {"url": f"https://huggingface.co/{repo}"}

    def place(self, one: dict[str, Any], address: str) -> dict[str, Any]:
        """Where a large file goes; nowhere if it is here."""
        where = {} if one["oid"] in self.large else {"actions": {"upload": {"href": f"{address}/lfs/{one['oid']}"}}}
        return {"oid": one["oid"], "size": one["size"], **where}

    def commit(self, repo: str, content: bytes) -> tuple[int, Any]:
        for line in content.splitlines():
            said = json.loads(line)
            value = said["value"]
            if said["key"] == "file":
                self.files[repo][value["path"]] = base64.b64decode(value["content"])
            elif said["key"] == "lfsFile":
                self.files[repo][value["path"]] = self.large[value["oid"]]
        return 200, {
            "success": True,
            "commitOid": "a" * 40,
            "commitUrl": f"https://huggingface.co/{repo}/commit/{'a' * 40}",
        }

    def tell(self, repo: str) -> tuple[int, Any]:
        if repo not in self.files:
            return 404, {"error": "Repository not found"}
        held = [
            {"rfilename": name, "size": len(content), "blobId": hashlib.sha1(content).hexdigest()}
            for name, content in self.files[repo].items()
        ]
        return 200, {"id": repo, "sha": "a" * 40, "private": True, "siblings": held}


@contextmanager
def run_hub(hub: UploadHub) -> Iterator[str]:
    """Yields its address."""

    class Handler(BaseHTTPRequestHandler):
        def serve(self) -> None:
            content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.command == "PUT":
                hub.puts.append(dict(self.headers))
                if len(hub.puts) == hub.breaks:
                    self.connection.close()
                    return
            status, told = hub.answer(self.command, self.path, content, f"http://{self.headers['Host']}")
            body = json.dumps(told).encode()
            self.send_response(status)
            if status == 404:
                self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_PUT = do_HEAD = serve

        def log_message(self, format: str, *values: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
