"""A judge's endpoint: its address, its key, and one question to it, with bounds on what it may send."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

import httpx
from pydantic import Field, field_validator

from trainer_core.errors import ConfigError, UserError
from trainer_core.runs.compare_requests import ChatMessage
from trainer_core.schema import StrictModel
from trainer_core.system import redact
from trainer_core.texts import Text

ANSWER_SECONDS, TOTAL_SECONDS = 120.0, 180.0
"""Longest wait for the next piece of an answer, and for all of it."""
MAX_ANSWER_BYTES = 1 << 20
MAX_JUDGE_TOKENS = 16
KEY_VARIABLE_PATTERN = re.compile(r"[A-Z0-9_]*API_KEY|TUNEBENCH_JUDGE_KEY")
"""Environment variables that may be sent to a judge."""


class JudgeError(UserError):
    """The judge cannot be asked, or its answer contains no verdict."""


class JudgeEndpoint(StrictModel):
    """A judge's address, and the name of the environment variable that holds its key."""

    url: str = Field(default="", max_length=2_000, title="Judge's URL")
    """Such as http://127.0.0.1:11434/v1 or https://api.openai.com/v1. Unless it is local, conversations leave this computer."""
    model: str = Field(default="", max_length=200, title="Judge's model")
    """The model's name at that endpoint."""
    variable: str = Field(default="OPENAI_API_KEY", max_length=100, title="Variable with its key")
    """The name of an environment variable that ends in API_KEY, or TUNEBENCH_JUDGE_KEY. The key itself is never typed here or
    written to disk."""

    @field_validator("variable")
    @classmethod
    def holds_a_judges_key(cls, name: str) -> str:
        """Refuses other variables: the page also picks the address, and a password or the Hub's token must never go there."""
        if not KEY_VARIABLE_PATTERN.fullmatch(name):
            raise ValueError(Text("judge.wrong_variable", name=name))
        return name

    @property
    def completions_url(self) -> str:
        """The address of chat completions.

        Raises:
            ConfigError: the URL is invalid, or there is no model name.
        """
        try:
            parts = urlsplit(self.url)
            sound = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0 and self.url.isprintable()
        except ValueError:  # such as a port that is not a number
            sound = False
        if not sound:
            raise ConfigError("judge.bad_url", url=self.url)
        if "@" in parts.netloc:  # would be sent in place of the key, and shown in every error
            raise ConfigError("judge.url_with_password", variable=self.variable)
        if not self.model.strip():
            raise ConfigError("judge.no_model")
        return self.url.rstrip("/").removesuffix("/chat/completions") + "/chat/completions"

    @property
    def api_key(self) -> str:
        """The variable's value without surrounding whitespace; empty if it is not set.

        Raises:
            ConfigError: it contains a character that a header cannot hold. The message does not contain the key.
        """
        key = os.environ.get(self.variable, "").strip()
        if odd := [at for at, one in enumerate(key, 1) if not "!" <= one <= "~"]:
            raise ConfigError("judge.bad_key", variable=self.variable, at=odd[0], length=len(key))
        return key


AskJudge = Callable[[tuple[ChatMessage, ...]], str]
"""Answers a conversation."""


def make_ask_function(endpoint: JudgeEndpoint, client: httpx.Client, seconds: float = TOTAL_SECONDS) -> AskJudge:
    """A function that asks the endpoint, without an Authorization header if the key is empty. Its answer never contains the key.

    Args:
        seconds: for one answer.

    Raises:
        ConfigError: the endpoint or its key is invalid.
    """
    place, key = endpoint.completions_url, endpoint.api_key
    headers = {"Authorization": f"Bearer {key}"} if key else {}

    def ask(messages: tuple[ChatMessage, ...]) -> str:
        body = {
            "model": endpoint.model,
            "messages": [one.model_dump() for one in messages],
            "temperature": 0,
            "max_tokens": MAX_JUDGE_TOKENS,
        }
        try:
            return redact.redact_secret(completion_text(read_answer(client, place, body, headers, seconds), place), key)
        except httpx.HTTPStatusError as error:
            status = error.response.status_code
            if status in (401, 403):
                raise JudgeError("judge.key_refused", url=place, status=status, variable=endpoint.variable) from error
            raise JudgeError("judge.refused", url=place, status=status) from error
        except (httpx.HTTPError, ValueError, RecursionError) as error:
            reason = redact.redact_secret(str(error), key) or type(error).__name__
            raise JudgeError("judge.silent", url=place, reason=reason) from error

    return ask


def read_answer(
    client: httpx.Client, place: str, body: Mapping[str, Any], headers: Mapping[str, str], seconds: float
) -> Any:
    """The endpoint's answer, of bounded size and time. A packed one, which could unpack to any size, is not asked for.

    Raises:
        JudgeError: it is too long, takes too long, or is packed.
        httpx.HTTPError, ValueError, RecursionError: there is none, or it is not JSON.
    """
    end, content = time.monotonic() + seconds, b""
    plain = {**headers, "Accept-Encoding": "identity"}
    with client.stream("POST", place, json=body, headers=plain, timeout=ANSWER_SECONDS) as answer:
        answer.raise_for_status()
        if answer.headers.get("Content-Encoding", "identity") != "identity":
            raise JudgeError("judge.packed", url=place)
        for piece in answer.iter_raw():
            content += piece
            if len(content) > MAX_ANSWER_BYTES:
                raise JudgeError("judge.too_long", url=place, limit=MAX_ANSWER_BYTES >> 20)
            if time.monotonic() > end:
                raise JudgeError("judge.too_slow", url=place, seconds=seconds)
    return json.loads(content)


def completion_text(answer: Any, place: str) -> str:
    """The text of a chat completion.

    Raises:
        JudgeError: `answer` is not a chat completion.
    """
    try:
        return str(answer["choices"][0]["message"]["content"] or "")
    except (KeyError, IndexError, TypeError) as error:
        raise JudgeError("judge.no_completion", url=place) from error
