"""The memory-limited process that reads untrusted files: `python -m trainer_core.data.sandbox.child`.

Requests come from the app itself and need no validation, so it starts without pydantic and the settings, whose import takes
longer than most files.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from trainer_core.data import stream
from trainer_core.data.files.limits import CHILD_LIMITS
from trainer_core.data.quality import analysis
from trainer_core.data.select import count_selected_rows
from trainer_core.system.child_process import limit_memory, serve_requests


def read_rows(
    path: str, columns: dict[str, Any] | None, rows: int | None, checkup: dict[str, Any] | None, encoding: str
) -> Iterable[Any]:
    if columns:
        from trainer_core.config.recipe import Columns
    request = stream.ReadRequest(
        Path(path),
        Columns(**columns) if columns else None,
        rows,
        decode_check_options(**checkup) if checkup else None,
        encoding,
    )
    return analysis.analyse_data(request) if request.checkup else stream.stream_rows(request)


def decode_check_options(held_out: str | None, steps: list[str]) -> stream.CheckOptions:
    return stream.CheckOptions(optional_path(held_out), tuple(steps))


def preview_columns(path: str, encoding: str) -> Iterable[stream.Preview]:
    return [stream.read_preview(stream.PreviewRequest(Path(path), encoding))]


def count_rows(data: dict[str, Any], method: str, tokenizer: str | None) -> Iterable[stream.RowCounts]:
    from trainer_core.config.recipe import Data, MethodChain

    return [count_selected_rows(stream.CountRequest(Data(**data), MethodChain(method), optional_path(tokenizer)))]


def optional_path(path: str | None) -> Path | None:
    return None if path is None else Path(path)


if __name__ == "__main__":
    limit_memory(CHILD_LIMITS.memory_bytes)
    serve_requests(
        {"ReadRequest": read_rows, "PreviewRequest": preview_columns, "CountRequest": count_rows},
        progress="ReadProgress",
    )
