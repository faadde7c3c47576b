"""An Ollama on this machine: as much of its API (docs/api.md) as creating a model and asking for its prompts needs.

It cannot run Go templates. `render` stands for them: tests/support/recorded/ollama_prompts.json holds what the real ones write.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

from trainer_core.data import Message

Render = Callable[[Sequence[Message]], str]


@dataclass
class Ollama:
    """render: a conversation as a prompt; None: a version that does not tell. refusal: its error for every creation."""

    render: Render | None
    version: str = "0.33.0"
    refusal: str = ""
    blobs: dict[str, bytes] = field(default_factory=dict)
    models: dict[str, dict[str, Any]] = field(default_factory=dict)

    def answer(self, method: str, path: str, content: bytes) -> tuple[int, bytes]:
        """Status and content."""
        if path.startswith("/api/blobs/"):
            return self.keep_blob(method, path.rpartition("/")[2], content)
        fields = json.loads(content) if content else {}
        match method, path:
            case "GET", "/api/version":
                return 200, json.dumps({"version": self.version}).encode()
            case "POST", "/api/show" if fields["model"] in self.models:
                digests = self.models[fields["model"]]["files"].values()
                modelfile = "".join(f"FROM /blobs/{digest.replace(':', '-')}\n" for digest in digests)
                return 200, json.dumps({"modelfile": modelfile}).encode()
            case "POST", "/api/create":
                return self.create(fields)
            case "POST", "/api/chat" if fields["model"] in self.models:
                return 200, json.dumps(self.chat(fields)).encode()
            case "DELETE", "/api/delete" if fields["model"] in self.models:
                del self.models[fields["model"]]
                return 200, b""
        return 404, json.dumps({"error": f"model '{fields.get('model')}' not found"}).encode()

    def keep_blob(self, method: str, digest: str, content: bytes) -> tuple[int, bytes]:
        if method == "HEAD":
            return (200 if digest in self.blobs else 404), b""
        if f"sha256:{hashlib.sha256(content).hexdigest()}" != digest:
            return 400, b'{"error": "digest mismatch"}'
        self.blobs[digest] = content
        return 201, b""

    def create(self, fields: dict[str, Any]) -> tuple[int, bytes]:
        lines: list[dict[str, Any]] = [{"status": "parsing GGUF"}, {"status": "x", "total": 10, "completed": 5}]
        if self.refusal:
            lines.append({"error": self.refusal})
        else:
            assert all(digest in self.blobs for digest in fields["files"].values())
            self.models[fields["model"]] = fields
            lines.append({"status": "success"})
        return 200, b"".join(json.dumps(line).encode() + b"\n" for line in lines)

    def chat(self, fields: dict[str, Any]) -> dict[str, Any]:
        if self.render is None:
            return {"message": {"role": "assistant", "content": "Hm"}, "done": True}
        system = self.models[fields["model"]].get("system", "")
        messages = [Message(one["role"], one["content"]) for one in fields["messages"]]
        if system and messages[0].role != "system":
            messages.insert(0, Message("system", system))
        return {"_debug_info": {"rendered_template": self.render(messages)}}


@contextmanager
def run_ollama(ollama: Ollama) -> Iterator[str]:
    """Yields its address."""

    class Handler(BaseHTTPRequestHandler):
        def serve(self) -> None:
            length = self.headers.get("Content-Length")
            content = self.rfile.read(int(length)) if length else self.read_pieces()
            status, body = ollama.answer(self.command, self.path, content)
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def read_pieces(self) -> bytes:
            """A body that comes in pieces, each with its length before it."""
            found = b""
            while self.headers.get("Transfer-Encoding") == "chunked" and (size := int(self.rfile.readline(), 16)):
                found += self.rfile.read(size)
                self.rfile.readline()
            return found

        do_GET = do_POST = do_HEAD = do_DELETE = serve

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
