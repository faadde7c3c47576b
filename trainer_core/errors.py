"""Errors that the user can fix. Any other exception is a bug and keeps its traceback.

UserError
├── ConfigError   a recipe, preset or form holds an invalid value
├── DataError     a file cannot be read, or its rows are not what training needs
├── ModelError    a base model or adapter is missing, incomplete or unsafe to load
├── DeviceError   the device, its driver or its memory does not allow the request
├── DiskError     the disk is too full, or a folder cannot be written
├── BusyError     the device already has a job
└── TrainingError the run failed in a way that other settings can fix
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from trainer_core.texts import Text


class UserError(Exception):
    """States what is wrong, where, and what to do next, in one or two plain sentences.

    Args:
        code: code of the sentence in `assets/texts/en.toml`, or the text itself.
        params: values for its placeholders.
    """

    def __init__(self, code: str | Text, /, **params: Any):
        self.text = code if isinstance(code, Text) else Text(code, **params)
        super().__init__(self.text)


class ConfigError(UserError):
    """Names the file or form, the key and the value.

    Args:
        keys: the invalid settings, such as `sft.learning_rate`, one per line of the message.
    """

    def __init__(self, code: str | Text, /, keys: tuple[str, ...] = (), **params: Any):
        super().__init__(code, **params)
        self.keys = keys


class DataError(UserError):
    """Names the file and, if known, the line or row (counted from 1)."""


class ModelError(UserError):
    """Names the model folder or hub id and the file that is missing or refused."""


class DeviceError(UserError):
    """Names the device, the number found and the number needed."""


class DiskError(UserError):
    """Names the folder, the bytes needed and the bytes free."""


class BusyError(UserError):
    """Names the run that holds the device."""


class TrainingError(UserError):
    """Names the step and the value that failed.

    Args:
        offers: suggested fixes that the page shows as one click each (`trainer_core.runs.events.Suggestion`).
    """

    def __init__(self, code: str | Text, /, offers: tuple[Any, ...] = (), **params: Any):
        super().__init__(code, **params)
        self.offers = offers


def error_chain(error: BaseException) -> Iterator[BaseException]:
    """The error, then its causes and contexts, back to the first."""
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__
