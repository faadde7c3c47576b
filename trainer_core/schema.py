"""Pydantic base class for all parsed values, and validation messages that name field, bound and value."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo

from trainer_core.errors import ConfigError
from trainer_core.texts import Text, verbatim


class StrictModel(BaseModel):
    """Refuses unknown keys, so that a typo never silently trains with a default."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, protected_namespaces=())

    @classmethod
    def group_label(cls) -> str:
        """Prefix for the labels of its fields, where another part of the recipe has the same labels."""
        return ""


M = TypeVar("M", bound=BaseModel)


def parse_values(model: type[M], values: Any, where: str) -> M:
    """Validate values from outside.

    Raises:
        ConfigError: every invalid key with its value, one per line, each prefixed by `where`.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        wrong = error.errors()
        lines = "\n".join(describe_validation_error(model, where, one) for one in wrong)
        raise ConfigError(verbatim(lines), tuple(".".join(map(str, one["loc"])) for one in wrong)) from error


def describe_validation_error(model: type[BaseModel], where: str, error: Any) -> str:
    """One pydantic error as text: `SFT learning rate: "banana" is not a number.` If `where` names a file, with the key:
    `recipe.toml: sft.learning_rate (SFT learning rate): …`."""
    path = [str(part) for part in error["loc"]]
    key, label = ".".join(path), field_label(model, path)
    named = f"{key} ({label})" if label and where else label or key
    problem = str(describe_value_error(error, find_field(model, path)))
    return ": ".join(part for part in (where, named, problem) if part)


def describe_value_error(error: Any, field: FieldInfo | None) -> Text:
    value, kind = error["input"], error["type"]
    if kind.startswith(("int_", "float_")):
        whole = kind.startswith("int_")
        if value in ("", None):
            return Text("values.empty_whole" if whole else "values.empty_number")
        return Text("values.not_whole" if whole else "values.not_number", value=f"{value!s:.80}")
    if kind in BOUNDS and field:
        return Text("values.out_of_bounds", bounds=describe_bounds(field), value=f"{value!s:.80}")
    if kind in ("missing", "value_error"):
        return verbatim(error["msg"].removeprefix("Value error, "))
    return Text("values.refused", reason=error["msg"], value=f"{value!r:.80}")


BOUNDS = {"greater_than_equal": "ge", "greater_than": "gt", "less_than_equal": "le", "less_than": "lt"}
BOUND_CODES = {"ge": "values.at_least", "gt": "values.above", "le": "values.at_most", "lt": "values.below"}


def describe_bounds(field: FieldInfo) -> Text:
    """`between 1 and 512`, `above 0 and at most 1`, `at least 1`."""
    found = {
        name: one for part in field.metadata for name in BOUND_CODES if (one := getattr(part, name, None)) is not None
    }
    if {"ge", "le"} <= set(found):
        return Text("values.between", least=found["ge"], most=found["le"])
    bounds = [Text(code, bound=found[name]) for name, code in BOUND_CODES.items() if name in found]
    return Text("values.both", lower=bounds[0], upper=bounds[1]) if len(bounds) == 2 else bounds[0]


def find_field(model: type[BaseModel], path: list[str]) -> FieldInfo | None:
    """The field at `path`, or None."""
    field = model.model_fields.get(path[0]) if path else None
    inner = field.annotation if field else None
    if len(path) > 1 and isinstance(inner, type) and issubclass(inner, BaseModel):
        return find_field(inner, path[1:])
    return field


def field_label(model: type[BaseModel], path: list[str]) -> str:
    """The label of the field at `path`, prefixed by its part: SFT learning rate. Empty if there is no field."""
    field = find_field(model, path)
    title = (field.title if field else None) or ""
    part = find_field(model, path[:1]) if len(path) > 1 else None
    inner = part.annotation if part else None
    group = inner.group_label() if isinstance(inner, type) and issubclass(inner, StrictModel) else ""
    return prefix_label(group, title)


def prefix_label(group: str, label: str) -> str:
    return f"{group} {label[0].lower()}{label[1:]}" if group and label else label


MAX_KEY_PARTS = 50
"""The parser takes memory with the square of a key's parts: of 100,000, in a file of 200 KB, it takes all."""
STRING_OR_COMMENT = re.compile(r'''"""(?s:.*?)"""|\'{3}(?s:.*?)\'{3}|"(?:\\.|[^"\\\n])*"|\'[^\'\n]*\'|#[^\n]*''')
LONG_KEY = re.compile(rf"""(?:\.[ \t]*[\w"-]+[ \t]*){{{MAX_KEY_PARTS}}}""")


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file as plain values.

    Raises:
        ConfigError: the file is missing, unreadable, not TOML, with the line the parser names, or has too long a key.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")  # Windows editors prepend a BOM
    except OSError as error:
        raise ConfigError("toml.not_read", path=str(path), reason=error.strerror or str(error)) from error
    except UnicodeDecodeError as error:
        raise ConfigError("toml.not_utf8", name=path.name, reason=error.reason) from error
    if LONG_KEY.search(STRING_OR_COMMENT.sub('""', text)):
        raise ConfigError("toml.long_key", name=path.name, most=MAX_KEY_PARTS)
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        windows_path = is_windows_path(text, error)
        raise ConfigError(
            "toml.backslash" if windows_path else "toml.not_valid", name=path.name, reason=str(error)
        ) from error


def is_windows_path(text: str, error: Exception) -> bool:
    """Did the parser fail at a Windows path with backslashes?"""
    found = re.search(r"at line (\d+)", str(error))
    line = "\n".join(text.splitlines()[: int(found[1])][-1:]) if found else ""
    return bool(re.search(r'"[^"]*\\', line))
