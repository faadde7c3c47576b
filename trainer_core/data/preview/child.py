"""The process with the tokenizer. `python -m trainer_core.data.preview.child WORKSPACE` answers requests on stdin.

It keeps the rows and tokenizers it was asked for last, so that turning pages is quick. Files are still read by a limited
child of its own.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

from trainer_core import data
from trainer_core.config.recipe import Columns, Template
from trainer_core.data import tokenize
from trainer_core.data.preview.protocol import (
    REQUEST,
    Broke,
    Look,
    Measure,
    Measured,
    Refused,
    Rows,
    Seen,
    Undressed,
    Working,
    line,
)
from trainer_core.data.preview.token_view import Extent, extents, findings, sight
from trainer_core.data.quality.remedies import Treatment
from trainer_core.data.select import located
from trainer_core.data.stream import Example, Request
from trainer_core.errors import DataError, UserError
from trainer_core.models import hub, resolve
from trainer_core.runs.workspace import Workspace

KEPT = 20_000
"""Rows kept of a data set, from the top."""
MEASURED = 5_000
"""Rows measured, evenly over those kept: about five seconds on one core."""


def main(asked: BinaryIO, said: BinaryIO) -> None:
    for text in asked:
        for answer in answers(text):
            said.write(line(answer))
            said.flush()


def answers(text: bytes) -> Iterator[Any]:
    """Everything said about one request; its last word is no `Working`."""
    try:
        request = REQUEST.validate_json(text)
        if not isinstance(request, Look):
            yield Working("Loading the tokenizer")
        if not eyes(request).chat_template:
            yield Undressed(examples(request))
        else:
            yield looked(request) if isinstance(request, Look) else measured(request)
    except UserError as error:
        yield Refused(str(error))
    except Exception:  # a bug: the app raises it with this traceback
        yield Broke(traceback.format_exc())


def looked(request: Look) -> Seen:
    kept = rows(request)
    if not kept:
        raise DataError("No row can be shown: none is usable.")
    at = min(request.at, len(kept) - 1)
    item = kept[at].item
    found = sight(eyes(request), item, request.length)
    return Seen(at, len(kept), item, found.sides, found.left_out, found.differ)


def measured(request: Measure) -> Measured:
    kept = reaches(*known_by(request), resolved(request.model), request.template)
    lengths = sorted(row.end for _, row in kept)
    return Measured(lengths, len(rows(request)), tuple(findings(kept, request.length)))


@lru_cache(maxsize=2)
def reaches(
    source: str, columns: Columns, steps: tuple[str, ...], stamp: float, model: str, template: Template
) -> tuple[tuple[Example, Extent], ...]:
    """Rows with how far they reach, evenly over all kept."""
    kept = usable(source, columns, steps, stamp)
    some = kept[:: -(-len(kept) // MEASURED) or 1]
    return tuple(zip(some, extents(tokenizer(model, template), [one.item for one in some]), strict=True))


def rows(request: Rows) -> tuple[Example, ...]:
    return usable(*known_by(request))


def known_by(request: Rows) -> tuple[str, Columns, tuple[str, ...], float]:
    """What makes two requests speak of the same rows: all of it, and when the file last changed."""
    path = located(request.source, "sample_pairs.jsonl")
    return str(path), request.columns, request.steps, path.stat().st_mtime if os.path.exists(path) else 0.0


@lru_cache(maxsize=2)
def usable(source: str, columns: Columns, steps: tuple[str, ...], stamp: float) -> tuple[Example, ...]:
    """The rows that training would get from a file, in its order, mended by the steps."""
    treatment, kept = Treatment(steps), list[Example]()
    with data.Reader() as reader:
        for news in reader.ask(Request(Path(source), columns if columns.used else None)):
            if isinstance(news, Example) and not (outcome := treatment.apply(news)).left_out:
                kept.append(Example(news.file, news.row, news.line, outcome.item))
            if len(kept) == KEPT:
                break
    return tuple(kept)


def examples(request: Rows) -> dict[str, str]:
    """The first row in every template that could be chosen."""
    messages = next(iter(rows(request))).item
    said = messages.messages if isinstance(messages, data.Chat) else messages.prompt + messages.chosen
    names: list[Template] = ["plain", "alpaca", "chatml"]
    return {name: tokenize.render(tokenizer(resolved(request.model), name), said) for name in names}


def eyes(request: Rows):  # type: ignore[no-untyped-def]
    return tokenizer(resolved(request.model), request.template)


@lru_cache(maxsize=8)
def resolved(model: str) -> str:
    """The checked folder of a model, also of one of the Hub."""
    found = resolve.resolve(model, Workspace(Path(sys.argv[1])))
    return str(hub.with_tokenizer(found)) if resolve.on_the_hub(found) else found


@lru_cache(maxsize=4)
def tokenizer(model: str, template: Template):  # type: ignore[no-untyped-def]
    return tokenize.load_tokenizer(model, template)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, whose end closes stdin
    said = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    sys.stdout = sys.stderr  # nothing a library prints may get between the lines
    main(sys.stdin.buffer, said)
