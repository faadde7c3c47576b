"""The Data tab: what the page may ask about a file, answered in plain values. data.js draws the answers."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.utils import get_upload_folder
from pydantic import Field

from trainer_core import data
from trainer_core.config.recipe import SAMPLE, Columns, Data, RemedyName
from trainer_core.data import uploads
from trainer_core.data.hub import datasets
from trainer_core.data.preview import MeasureRequest, TokenPreview, TokenRowRequest
from trainer_core.data.read_events import ReadProgress
from trainer_core.data.select import data_path, held_out_file
from trainer_core.data.stream import CheckOptions, ReadRequest
from trainer_core.errors import DataError, UserError
from trainer_core.jobs.supervisor import Supervisor
from trainer_core.runs.workspace import Workspace
from trainer_core.schema import StrictModel, parse_values
from ui.components.html_data import DATA
from ui.server import path_policy

DATA_JS = "window.tunebench.beginData(element, server, upload);"
SAMPLE_CHATS = "sample chats"
SAMPLE_FILES = {SAMPLE: "sample_pairs.jsonl", SAMPLE_CHATS: "sample_chat.jsonl"}
"""What the page calls the bundled files."""


class DataQuery(StrictModel):
    """A file as it is to be read."""

    source: str = Field(min_length=1, max_length=4096, title="Path")  # "path" would make it a file of Gradio's
    columns: Columns = Columns()
    steps: tuple[RemedyName, ...] = ()
    held_out: str | None = Field(default=None, max_length=4096, title="Held-out pairs")
    rows: int | None = Field(default=None, ge=1)
    ticket: str = Field(default="", max_length=64)
    """What a page calls this check, to ask how far it is or to stop it."""

    def read_request(self, file: Path, held_out: Path | None) -> ReadRequest:
        columns = self.columns if self.columns.column_by_part else None
        return ReadRequest(file, columns, self.rows, CheckOptions(held_out, self.steps))


class ColumnMapping(StrictModel):
    """Columns chosen by hand for a file with these columns."""

    names: tuple[str, ...]
    columns: Columns


class HubPart(StrictModel):
    """One part of a data set of the Hub."""

    source: str
    config: str
    split: str


class CheckTicket(StrictModel):
    ticket: str


def build_data_tab(supervisor: Supervisor) -> None:
    desk = DataActions(supervisor.workspace)
    asks = [
        desk.inspect_file,
        desk.check_file,
        desk.check_progress,
        desk.stop_check,
        desk.keep_upload,
        desk.fetch_part,
        desk.remember_columns,
        desk.preview_row,
        desk.measure_lengths,
    ]
    gr.HTML(
        html_template=DATA,
        js_on_load=DATA_JS,
        server_functions=[as_endpoint(ask) for ask in asks],
        apply_default_css=False,
        elem_id="data-view",
    )


class DataActions:
    """Answers a page's questions about data. Files are read in limited children; here are only the checks going on."""

    def __init__(self, workspace: Workspace):
        self.workspace = workspace
        self.checks: dict[str, data.SandboxReader] = {}
        self.progress_by_ticket: dict[str, ReadProgress] = {}
        self.preview = TokenPreview(workspace)

    def resolve_file(self, typed: str) -> Path:
        """The file behind what was typed.

        Raises:
            DataError: whoever typed it may not open it.
        """
        path = typed.strip().strip('"')
        path_policy.check_source(self.workspace, path, SAMPLE_FILES)
        return data_path(SAMPLE, SAMPLE_FILES[path]) if path in SAMPLE_FILES else Path(os.path.expanduser(path))

    def resolve_held_out(self, wanted: DataQuery) -> Path | None:
        """The file of the held-out pairs, as a run on this data would take it.

        Raises:
            DataError: whoever asks may not open it.
        """
        path_policy.check_source(self.workspace, wanted.held_out, (SAMPLE,))
        return held_out_file(Data(pairs=wanted.source, held_out=wanted.held_out))

    def inspect_file(self, asked: Any = None) -> dict[str, Any]:
        """The file's columns and the shape found in them, or the mapping remembered for these columns; a hub id's parts."""
        wanted = parse_values(DataQuery, asked, "")
        if datasets.is_dataset_name(wanted.source):
            return {"parts": [asdict(part) for part in datasets.list_splits(wanted.source)]}
        file = self.resolve_file(wanted.source)
        seen = data.preview_dataset(file)
        before = uploads.load_mapping(self.workspace, [column.name for column in seen.columns])
        return {**asdict(seen), "source": str(file), "remembered": before.column_by_part if before else None}

    def check_file(self, asked: Any = None) -> dict[str, Any]:
        """The whole report on a file."""
        wanted = parse_values(DataQuery, asked, "")
        with data.SandboxReader() as reader:
            self.checks[wanted.ticket] = reader
            try:
                return asdict(self.run_check(reader, wanted))
            finally:
                self.checks.pop(wanted.ticket, None)
                self.progress_by_ticket.pop(wanted.ticket, None)

    def run_check(self, reader: data.SandboxReader, wanted: DataQuery) -> data.DataReport:
        request = wanted.read_request(self.resolve_file(wanted.source), self.resolve_held_out(wanted))
        for news in reader.ask(request):
            if isinstance(news, data.DataReport):
                return news
            self.progress_by_ticket[wanted.ticket] = news
        raise RuntimeError(f"{wanted.source}: the check ended without a report")

    def check_progress(self, asked: Any = None) -> dict[str, Any]:
        """How far a check is; empty before its first word and after its last."""
        at = self.progress_by_ticket.get(parse_values(CheckTicket, asked, "").ticket)
        return asdict(at) if at else {}

    def stop_check(self, asked: Any = None) -> dict[str, Any]:
        reader = self.checks.get(parse_values(CheckTicket, asked, "").ticket)
        if reader:
            reader.stop()
        return {}

    def keep_upload(self, asked: Any = None) -> dict[str, Any]:
        """A dropped file, put where it stays."""
        upload = Path(parse_values(DataQuery, asked, "").source).resolve()
        if not upload.is_relative_to(Path(get_upload_folder()).resolve()):
            raise DataError("data_tab.not_dropped", path=upload)
        place = uploads.store_upload(self.workspace, upload)
        upload.unlink()
        return {"source": str(place)}

    def fetch_part(self, asked: Any = None) -> dict[str, Any]:
        """A part of a data set of the Hub, as a file in the workspace."""
        part = parse_values(HubPart, asked, "")
        return {
            "source": str(
                datasets.ensure_split_file(self.workspace, part.source, datasets.HubSplit(part.config, part.split))
            )
        }

    def remember_columns(self, asked: Any = None) -> dict[str, Any]:
        mapping = parse_values(ColumnMapping, asked, "")
        uploads.save_mapping(self.workspace, mapping.names, mapping.columns)
        return {}

    def ask_preview(self, wanted: TokenRowRequest | MeasureRequest) -> dict[str, Any]:
        """What the lens says.

        Raises:
            DataError, ModelError: whoever asks may not open the file or the model.
        """
        path_policy.check_model_access(self.workspace, wanted.model)
        return self.preview.ask(wanted.model_copy(update={"source": str(self.resolve_file(wanted.source))}))

    def preview_row(self, asked: Any = None) -> dict[str, Any]:
        """One row as the model sees it."""
        return self.ask_preview(parse_values(TokenRowRequest, asked, ""))

    def measure_lengths(self, asked: Any = None) -> dict[str, Any]:
        """Lengths in tokens, and what the training length does to the rows."""
        return self.ask_preview(parse_values(MeasureRequest, asked, ""))


def as_endpoint(ask: Callable[[Any], dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """The question as a server function: what a user can mend comes back as a sentence, anything else stays a bug."""

    def answer(asked: Any = None) -> dict[str, Any]:
        try:
            return ask(asked)
        except UserError as error:
            return {"problem": str(error)}

    answer.__name__ = ask.__name__
    return answer
