"""Prompts for a comparison: the bundled ones, those of a run's held-out pairs, or the user's own file."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from trainer_core.config.recipe import Sampling
from trainer_core.errors import DataError
from trainer_core.runs.compare_requests import ChatMessage, ScoreRequest
from trainer_core.system import project, untrusted_files

PROMPT_SET_NAMES = BUNDLED, HELD_OUT = "bundled", "held-out"
BUNDLED_PROMPTS_FILE = project.PROJECT / "assets" / "prompts" / "compare_prompts.jsonl"
MAX_PROMPT_BYTES = 20_000_000
MAX_PROMPTS = 2_000
MESSAGES_ADAPTER: TypeAdapter[tuple[ChatMessage, ...]] = TypeAdapter(tuple[ChatMessage, ...])


@dataclass(frozen=True)
class Prompt:
    """A conversation that ends with a question, and the tag of its kind."""

    messages: tuple[ChatMessage, ...]
    tag: str = ""

    @property
    def text(self) -> str:
        """The last user message."""
        return self.messages[-1].content


def load_prompts(run_dir: Path, source: str) -> list[Prompt]:
    """The prompts of a set: "bundled", "held-out", or the path of a file with one prompt per line, as text or as JSON with
    "prompt" (text or messages) and optionally "tag".

    Raises:
        DataError: the run has no held-out pairs, or the file cannot be used; with file and line.
    """
    if source == HELD_OUT:
        path = run_dir / "held-out.jsonl"
        if not untrusted_files.regular_file_size(run_dir, path.name):
            raise DataError("prompts.nothing_held", run=run_dir.name)
        return read_prompt_file(path)
    return read_prompt_file(BUNDLED_PROMPTS_FILE if source == BUNDLED else project.expand_home(source))


def read_prompt_file(path: Path) -> list[Prompt]:
    """The prompts of a file, at most MAX_PROMPTS.

    Raises:
        DataError: the file cannot be read, is empty, or a line is not a prompt.
    """
    try:
        if path.stat().st_size > MAX_PROMPT_BYTES:
            raise DataError(
                "prompts.too_large", name=path.name, size=path.stat().st_size / 1e6, most=MAX_PROMPT_BYTES / 1e6
            )
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError("prompts.not_read", path=str(path), reason=str(error)) from error
    rows = path.suffix.lower() in (".jsonl", ".ndjson")
    found = [
        parse_prompt(line, path.name, number) if rows else Prompt((ChatMessage(role="user", content=line.strip()),))
        for number, line in enumerate(lines, 1)
        if line.strip()
    ]
    if not found:
        raise DataError("prompts.empty", name=path.name)
    return found[:MAX_PROMPTS]


def parse_prompt(line: str, name: str, number: int) -> Prompt:
    try:
        row: dict[str, Any] = untrusted_files.parse_json(line.encode())
        asked = row["prompt"]
        messages = (
            (ChatMessage(role="user", content=asked),)
            if isinstance(asked, str)
            else MESSAGES_ADAPTER.validate_python(asked)
        )
        if messages[-1].role != "user":
            raise DataError("prompts.no_question", name=name, line=number)
        return Prompt(messages, str(row.get("tag") or ""))
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise DataError("prompts.bad_line", name=name, line=number) from error


SCORED_PROMPT_COUNT = 8
"""Prompts whose answer length is measured."""
SAMPLE_PROMPT_COUNT = 4
"""Prompts answered during training: enough to show the style, few enough to read."""
DEMO_SAMPLING = Sampling(temperature=0.0, max_new_tokens=64)
"""Greedy, so that the demo gives the same answers on every machine of a kind."""


def score_request(pairs: Path) -> ScoreRequest:
    """Every measure of all lanes; the result is also written beside the pairs."""
    into = str(pairs.with_name("scores.json"))
    return ScoreRequest(
        pairs=str(pairs), prompts=tuple(read_bundled_prompts()[:SCORED_PROMPT_COUNT]), sampling=DEMO_SAMPLING, into=into
    )


def sample_prompts() -> list[str]:
    """A few bundled prompts of different kinds, answered repeatedly during training."""
    return read_bundled_prompts()[:: len(read_bundled_prompts()) // SAMPLE_PROMPT_COUNT][:SAMPLE_PROMPT_COUNT]


def read_bundled_prompts() -> list[str]:
    """The bundled prompts; no sample row contains them."""
    lines = BUNDLED_PROMPTS_FILE.read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["prompt"] for line in lines if line.strip()]
