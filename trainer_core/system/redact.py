"""Redacts secrets: removes the values of tokens, keys and passwords from everything that is written.

Secrets are the values of environment variables whose name matches `SECRET_NAMES`, and the token saved by `hf auth login`.
launcher/info.py runs this file with any Python it finds: standard library only, and Python 3.8 syntax.
"""

from __future__ import annotations

import html
import io
import json
import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, TextIO
from urllib.parse import quote

from trainer_core.system.project import expand_home

SECRET_NAMES = re.compile(r"TOKEN|API_?KEY|SECRET|PASSWORD|CREDENTIAL|(^|_)KEY$", re.IGNORECASE)
MIN_SECRET_LENGTH = 8
"""Shorter values are switches such as "true"; redacting them would make any text unreadable."""
SECRET_PLACEHOLDER = "[secret]"


def find_secrets(environ: Mapping[str, str] = os.environ) -> frozenset[str]:
    """The values that must never be written."""
    named = {value for name, value in environ.items() if SECRET_NAMES.search(name)}
    home = expand_home(environ.get("HF_HOME", "~/.cache/huggingface"))
    file = Path(environ.get("HF_TOKEN_PATH", home / "token"))
    kept = {file.read_text(encoding="utf-8", errors="ignore").strip()} if file.is_file() else set()
    return frozenset(value for value in named | kept if len(value) >= MIN_SECRET_LENGTH)


@lru_cache(maxsize=None)  # noqa: UP033
def secrets_pattern() -> re.Pattern[str] | None:
    """All secrets of this process in all spellings, longest first; None if there are none."""
    found = sorted({spelt for one in find_secrets() for spelt in secret_spellings(one)}, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, found))) if found else None


def secret_spellings(secret: str) -> set[str]:
    """A secret in plain text, in Python and JSON quotes, in HTML and in a URL."""
    quoted = {text[1:-1] for text in (repr(secret), json.dumps(secret), json.dumps(secret, ensure_ascii=False))}
    return quoted | {secret, html.escape(secret), quote(secret, safe="")}


def redact_secret(text: str, secret: str) -> str:
    """The text without one secret, in all its spellings; an empty secret changes nothing."""
    found = sorted(secret_spellings(secret), key=len, reverse=True) if secret else []
    return re.sub("|".join(map(re.escape, found)), SECRET_PLACEHOLDER, text) if found else text


def redact_text(text: str) -> str:
    found = secrets_pattern()
    return found.sub(SECRET_PLACEHOLDER, text) if found else text


def redact_values(values: Any) -> Any:
    """Redact every text in plain values. Needed before JSON encoding, where escaped quotes would hide a secret."""
    if isinstance(values, str):
        return redact_text(values)
    if isinstance(values, dict):
        return {key: redact_values(value) for key, value in values.items()}
    if isinstance(values, (list, tuple)):
        return [redact_values(value) for value in values]
    return values


class RedactingStream(io.TextIOBase):
    """A text stream that redacts secrets in each write."""

    def __init__(self, stream: TextIO):
        self.stream = stream

    def write(self, text: str) -> int:
        self.stream.write(redact_text(text))
        return len(text)

    def flush(self) -> None:
        self.stream.flush()

    def fileno(self) -> int:
        return self.stream.fileno()

    def isatty(self) -> bool:
        return self.stream.isatty()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self.stream.encoding


@contextmanager
def redact_streams() -> Iterator[None]:
    """Redact everything that Python prints in the block: a worker's stdout and stderr become its run's log."""
    usual = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = map(RedactingStream, usual)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = usual
