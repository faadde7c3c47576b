"""The process with the tokenizer. `python -m trainer_core.data.preview.child WORKSPACE` answers requests on stdin.

It caches the latest rows and tokenizers, so that paging is quick. A limited child of its own reads the files.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

from trainer_core import data
from trainer_core.config.recipe import STARTER, Template
from trainer_core.data.preview.protocol import (
    MeasuredLengths,
    MeasureRequest,
    NoTemplate,
    RowPreview,
    RowsRequest,
    TokenRowRequest,
)
from trainer_core.data.preview.token_view import RowExtent, length_findings, row_extents, view_row
from trainer_core.data.quality.remedies import RemedyPipeline
from trainer_core.data.read_events import UsableRow
from trainer_core.data.render import render_chat
from trainer_core.data.select import data_path
from trainer_core.data.stream import ReadRequest
from trainer_core.data.tokenizer import load_tokenizer
from trainer_core.errors import DataError, ModelError
from trainer_core.models import hub, resolve, starter
from trainer_core.runs.workspace import Workspace
from trainer_core.system.child_process import serve_requests

load_once = lru_cache(maxsize=4)(load_tokenizer)
MAX_PREVIEW_ROWS = 20_000
"""Cached rows per data set, from the top."""
MAX_MEASURED_ROWS = 5_000
"""Rows to measure, an evenly spaced sample of the cached ones: about five seconds on one core."""


class RowsKey(NamedTuple):
    """The identity of rows: their request, and when the file last changed."""

    request: ReadRequest
    steps: tuple[str, ...]
    stamp: float


def serve_tokens(kind: type[TokenRowRequest | MeasureRequest], /, **fields: Any) -> Iterator[Any]:
    request = kind(**fields)
    if not request_tokenizer(request).chat_template:
        yield NoTemplate(template_examples(request))
    else:
        yield preview_row(request) if isinstance(request, TokenRowRequest) else measure_row_lengths(request)


def preview_row(request: TokenRowRequest) -> RowPreview:
    kept = preview_rows(request)
    if not kept:
        raise DataError("preview.no_rows")
    at = min(request.at, len(kept) - 1)
    item = kept[at].item
    found = view_row(request_tokenizer(request), item, request.length)
    return RowPreview(at, len(kept), item, found.sides, found.left_out, found.differ)


def measure_row_lengths(request: MeasureRequest) -> MeasuredLengths:
    kept = sample_extents(rows_cache_key(request), resolve_model_folder(request.model), request.template)
    lengths = sorted(row.end for _, row in kept)
    return MeasuredLengths(lengths, len(preview_rows(request)), tuple(length_findings(kept, request.length)))


@lru_cache(maxsize=2)
def sample_extents(rows: RowsKey, model: str, template: Template) -> tuple[tuple[UsableRow, RowExtent], ...]:
    """An evenly spaced sample of the rows, with their extents."""
    kept = load_usable_rows(rows)
    some = kept[:: -(-len(kept) // MAX_MEASURED_ROWS) or 1]
    return tuple(zip(some, row_extents(load_once(model, template), [one.item for one in some]), strict=True))


def preview_rows(request: RowsRequest) -> tuple[UsableRow, ...]:
    return load_usable_rows(rows_cache_key(request))


def rows_cache_key(request: RowsRequest) -> RowsKey:
    path = data_path(request.source, "sample_pairs.jsonl")
    columns = request.columns if request.columns.column_by_part else None
    stamp = path.stat().st_mtime if os.path.exists(path) else 0.0
    return RowsKey(ReadRequest(path, columns, encoding=request.encoding), request.steps, stamp)


@lru_cache(maxsize=2)
def load_usable_rows(rows: RowsKey) -> tuple[UsableRow, ...]:
    """The rows that training gets from a file, in file order, after the steps."""
    treatment, kept = RemedyPipeline(rows.steps), list[UsableRow]()
    with data.SandboxReader() as reader:
        for news in reader.ask(rows.request):
            if isinstance(news, UsableRow) and not (outcome := treatment.apply(news)).left_out:
                kept.append(UsableRow(news.file, news.row, news.line, outcome.item))
            if len(kept) == MAX_PREVIEW_ROWS:
                break
    return tuple(kept)


def template_examples(request: RowsRequest) -> dict[str, str]:
    """The first row in every template on offer."""
    messages = next(iter(preview_rows(request))).item
    said = messages.messages if isinstance(messages, data.Chat) else messages.prompt + messages.chosen
    names: list[Template] = ["plain", "alpaca", "chatml"]
    return {name: render_chat(load_once(resolve_model_folder(request.model), name), said) for name in names}


def request_tokenizer(request: RowsRequest):  # type: ignore[no-untyped-def]
    return load_once(resolve_model_folder(request.model), request.template)


@lru_cache(maxsize=8)
def resolve_model_folder(model: str) -> str:
    """The checked folder of a model, also of a Hub model."""
    workspace = Workspace(Path(sys.argv[1]))
    if model == STARTER and not starter.is_starter_ready(workspace):
        convert_starter(workspace)
    found = resolve.resolve_model(model, workspace)
    return str(hub.fetch_tokenizer(found)) if resolve.is_hub_id(found) else found


def convert_starter(workspace: Workspace) -> None:
    """Convert the starter in a process of its own, because this one has no torch.

    Raises:
        ModelError: with that process's last line.
    """
    command = (sys.executable, "-m", "trainer_core", "--workspace", str(workspace.root), "starter")
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise ModelError("verbatim", text=(done.stderr.strip() or "?").splitlines()[-1])


if __name__ == "__main__":
    sys.modules["torch"] = None  # type: ignore[assignment]  # absent: tokenizers work without it, and load in a third of the time
    serve_requests({kind.__name__: partial(serve_tokens, kind) for kind in (TokenRowRequest, MeasureRequest)})
