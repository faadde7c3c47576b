"""Which errors a person can act on. Everything that is not one of these is a bug and keeps its traceback.

UserError
├── ConfigError   a recipe, preset or form holds a value that cannot be
├── DataError     a file cannot be read, or its rows are not what training needs
├── ModelError    a base model or adapter is missing, incomplete or unsafe to load
├── DeviceError   the card, its driver or its memory does not allow what was asked
├── DiskError     there is not enough room, or a folder cannot be written
├── BusyError     the device already has a job
└── TrainingError the run itself went wrong in a way the settings can mend
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from trainer_core.texts import VERBATIM, Text


class UserError(Exception):
    """What is wrong, where, and what to do next, in one or two plain sentences.

    Args:
        code: of the sentence in `assets/texts/en.toml`, or the text itself.
        params: what fills its gaps.
    """

    def __init__(self, code: str | Text, /, **params: Any):
        self.text = code if isinstance(code, Text) else as_text(code, params)
        super().__init__(self.text)


def as_text(code: str, params: Mapping[str, Any]) -> Text:
    return Text(VERBATIM, text=code) if " " in code else Text(code, **params)


class ConfigError(UserError):
    """Names the file or form, the key and the value.

    Args:
        keys: the wrong settings, such as `sft.learning_rate`, one for each line of the message.
    """

    def __init__(self, code: str | Text, /, keys: tuple[str, ...] = (), **params: Any):
        super().__init__(code, **params)
        self.keys = keys


class DataError(UserError):
    """Names the file and, where there is one, the line or row (counted from 1)."""


class ModelError(UserError):
    """Names the model folder or hub id and the file that is missing or refused."""


class DeviceError(UserError):
    """Names the device, with the number that was found and the number that is needed."""


class DiskError(UserError):
    """Names the folder, the bytes needed and the bytes free."""


class BusyError(UserError):
    """Names the run that holds the device."""


class TrainingError(UserError):
    """Names the step and the number that went wrong.

    Args:
        offers: ways out that the page shows as one click each (`trainer_core.runs.events.Suggestion`).
    """

    def __init__(self, code: str | Text, /, offers: tuple[Any, ...] = (), **params: Any):
        super().__init__(code, **params)
        self.offers = offers


def error_chain(error: BaseException) -> Iterator[BaseException]:
    """The error, and what it was raised from or beside, back to the first one."""
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__
