"""Every sentence shown to the user, by its code. `assets/texts/en.toml` holds the sentences; another language is another file.

Code and parameters are stored and tested; the sentence is rendered where it is shown.
"""

from __future__ import annotations

import string
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

TEXT_DIR = Path(__file__).resolve().parents[1] / "assets" / "texts"
VERBATIM = "verbatim"
"""The code of a text without its own code, such as the message of a library or an earlier version."""
MAX_PARAMS, MAX_DEPTH = 20, 4
"""Limits for a stored text. Ours have at most eight parameters and one nested text."""


@dataclass(frozen=True, init=False)
class Text:
    """A sentence by its code, with values for its placeholders: numbers, names or other texts."""

    code: str
    params: Mapping[str, Any] = field(hash=False)

    def __init__(self, code: str, /, **params: Any):
        object.__setattr__(self, "code", code)
        object.__setattr__(self, "params", params)

    def __str__(self) -> str:
        return render_text(self.code, self.params)

    def __bool__(self) -> bool:
        return self != NO_TEXT

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        from pydantic_core import core_schema  # heavy, and not needed to read data files

        return core_schema.no_info_plain_validator_function(parse_text)


NO_TEXT = Text(VERBATIM, text="")


def render_text(code: str, params: Mapping[str, Any]) -> str:
    """The sentence. An unknown code, or one with other parameters (of a later version), renders as code and parameters."""
    template = templates().get(code)
    try:
        return code_and_params(code, params) if template is None else FORMATTER.vformat(template, (), params)
    except (LookupError, ValueError, TypeError, AttributeError):
        return code_and_params(code, params)


def code_and_params(code: str, params: Mapping[str, Any]) -> str:
    return f"{code} ({', '.join(f'{name}: {value}' for name, value in params.items())})" if params else code


class PluralFormatter(string.Formatter):
    """str.format plus `{rows:# row|# rows}`: the first form for 1, the second for any other number; # is the number."""

    def format_field(self, value: Any, format_spec: str) -> str:
        if "|" not in format_spec:
            return str(super().format_field(value if format_spec else str(value), format_spec))
        one, other = format_spec.split("|")
        return (one if value == 1 else other).replace("#", f"{value:,}")


FORMATTER = PluralFormatter()


@cache
def templates(language: str = "en") -> Mapping[str, str]:
    """Code → sentence with placeholders."""
    with open(TEXT_DIR / f"{language}.toml", "rb") as file:
        return dict(flatten_tables(tomllib.load(file)))


def flatten_tables(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from flatten_tables(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def parse_text(value: object, depth: int = 0) -> Text:
    """A stored text. Earlier versions stored the finished sentence.

    Raises:
        ValueError: neither.
    """
    if isinstance(value, Text):
        return value
    if isinstance(value, str):
        return verbatim(value)
    if not isinstance(value, Mapping) or depth > MAX_DEPTH:
        raise ValueError("no text")
    code, params = value.get("code"), value.get("params", {})
    if not isinstance(code, str) or not isinstance(params, Mapping) or len(params) > MAX_PARAMS:
        raise ValueError("no text")
    return Text(code[:100], **{str(name): parse_param(param, depth) for name, param in params.items()})


def verbatim(text: str) -> Text:
    """A text in someone else's words: of a library, a file or an earlier version."""
    return Text(VERBATIM, text=text)


def stage_text(stage: str, text: Text) -> Text:
    """A text about one stage of a run: "SFT: …"."""
    return Text("stage.about", stage=stage.upper(), text=text)


def parse_param(value: object, depth: int) -> Any:
    return value if value is None or isinstance(value, str | int | float) else parse_text(value, depth + 1)
