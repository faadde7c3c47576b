"""Ollama's local API, as far as creating a model needs it (its docs/api.md)."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from trainer_core.data import Message
from trainer_core.errors import ModelError

HOST_VARIABLE, LOCAL_HOST = "OLLAMA_HOST", "127.0.0.1:11434"
ANY_ADDRESSES = ("0.0.0.0", "::", "")
"""Where a server may listen; a client asks this computer then."""
LEAST_VERSION = (0, 5, 5)
"""The first with `files` in its create API."""
CONNECT_SECONDS, ANSWER_SECONDS = 2.0, 120.0
"""Loading a model to render a prompt may take a minute."""
CREATE_SECONDS = 3600.0
"""Between two lines of its answer: quantising a large model."""
CHUNK = 1 << 20
MAX_ANSWER_BYTES = 8 << 20


class OllamaClient:
    """Raises ModelError from every call: Ollama does not answer, or refuses, with its own words."""

    def __init__(self, address: str = ""):
        self.http = httpx.Client(
            base_url=address or local_address(os.environ.get(HOST_VARIABLE, "")),
            timeout=httpx.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS),
            trust_env=False,  # a proxy of the user's is for the internet
        )

    def require_version(self) -> None:
        """Raises ModelError if it is older than LEAST_VERSION."""
        version = str(self.ask("GET", "/api/version").get("version", ""))
        numbers = tuple(int(part) for part in version.split("-")[0].split(".")[:3] if part.isdigit())
        if numbers < LEAST_VERSION and any(numbers):  # 0.0.0 is one that its user built
            raise ModelError("ollama.old", version=version, least=".".join(map(str, LEAST_VERSION)))

    def find_model(self, name: str) -> dict[str, Any] | None:
        """What it tells of a model; None: it has none of this name."""
        return self.ask("POST", "/api/show", {"model": name}, missing=True) or None

    def send_blob(self, digest: str, file: Path, progress: Callable[[int, int], None]) -> None:
        """Give it a file, unless it has it."""
        path, size = f"/api/blobs/{digest}", file.stat().st_size
        with explain_errors():
            if self.http.head(path).status_code == httpx.codes.OK:
                return
            self.http.post(path, content=read_chunks(file, lambda done: progress(done, size))).raise_for_status()

    def create_model(self, fields: Mapping[str, Any], progress: Callable[[int, int], None]) -> None:
        """Create a model from files that it has."""
        timeout = httpx.Timeout(CREATE_SECONDS, connect=CONNECT_SECONDS)
        with explain_errors(), self.http.stream("POST", "/api/create", json=dict(fields), timeout=timeout) as answer:
            if answer.is_error:
                answer.read()
            answer.raise_for_status()
            for line in answer.iter_lines():
                said = json.loads(line)
                if "error" in said:
                    raise ModelError("ollama.refused", reason=str(said["error"])[:300])
                if said.get("total"):
                    progress(said.get("completed", 0), said["total"])

    def render_prompt(self, name: str, messages: Sequence[Message]) -> str | None:
        """The prompt that it makes of a conversation; None: this version does not tell."""
        told = [{"role": one.role, "content": one.content} for one in messages]
        fields = {"model": name, "messages": told, "stream": False, "_debug_render_only": True}
        found = self.ask("POST", "/api/chat", fields | {"options": {"num_predict": 1}}).get("_debug_info")
        return found.get("rendered_template") if isinstance(found, dict) else None

    def remove_model(self, name: str) -> None:
        self.ask("DELETE", "/api/delete", {"model": name})

    def ask(
        self, method: str, path: str, fields: Mapping[str, Any] | None = None, missing: bool = False
    ) -> dict[str, Any]:
        """An answer as JSON; empty if there is none, or if it is missing and may be."""
        with explain_errors(), self.http.stream(method, path, json=fields and dict(fields)) as answer:
            content = b""
            for part in answer.iter_bytes():
                content += part
                if len(content) > MAX_ANSWER_BYTES:
                    raise ModelError("ollama.refused", reason="too long an answer")
            if missing and answer.status_code == httpx.codes.NOT_FOUND:
                return {}
            if answer.is_error:
                raise ModelError("ollama.refused", reason=error_text(content))
            found = json.loads(content) if content else {}
            return found if isinstance(found, dict) else {}


@contextmanager
def explain_errors() -> Iterator[None]:
    """Make sentences of the connection's errors."""
    try:
        yield
    except httpx.HTTPStatusError as error:
        raise ModelError("ollama.refused", reason=error_text(error.response.content)) from error
    except httpx.TransportError as error:
        raise ModelError("ollama.down", reason=str(error) or type(error).__name__) from error
    except json.JSONDecodeError as error:
        raise ModelError("ollama.refused", reason=str(error)) from error


def local_address(host: str) -> str:
    """The address that OLLAMA_HOST names, as Ollama's own client reads it."""
    address = host.strip() or LOCAL_HOST
    if "://" not in address:
        address = f"http://{address}"
    url = httpx.URL(address)
    named = "127.0.0.1" if url.host in ANY_ADDRESSES else url.host
    return str(url.copy_with(host=named, port=url.port or (11434 if "://" not in host else None)))


def error_text(content: bytes) -> str:
    """Its own words for an error."""
    try:
        return str(json.loads(content)["error"])[:300]
    except (ValueError, KeyError, TypeError):
        return content[:300].decode("utf-8", "replace")


def read_chunks(file: Path, progress: Callable[[int], None]) -> Iterator[bytes]:
    done = 0
    with file.open("rb") as content:
        while part := content.read(CHUNK):
            yield part
            done += len(part)
            progress(done)
