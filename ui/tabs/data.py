"""Endpoints of the Data tab: answers about a file in plain values, drawn by data.js."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TypedDict

import gradio as gr
from gradio.utils import get_upload_folder
from pydantic import Field

from trainer_core import data
from trainer_core.config.recipe import SAMPLE, Columns, Data, EncodingName, RemedyName
from trainer_core.data import uploads
from trainer_core.data.files.encoding import ROW_SEPARATOR
from trainer_core.data.hub import datasets
from trainer_core.data.preview import MeasureRequest, TokenPreview, TokenRowRequest
from trainer_core.data.read_events import ReadProgress
from trainer_core.data.select import data_path, held_out_file
from trainer_core.data.stream import CheckOptions, ReadRequest
from trainer_core.errors import DataError
from trainer_core.jobs.supervisor import Supervisor
from trainer_core.runs.workspace import Workspace
from trainer_core.schema import StrictModel
from trainer_core.system.project import expand_home
from ui.components.html_data import render_data_tab
from ui.server import path_policy
from ui.server.endpoints import Reply, public_endpoints

DATA_JS = "window.tunebench.initData(element, server, upload);"
SAMPLE_CHATS = "sample chats"
SAMPLE_FILES = {SAMPLE: "sample_pairs.jsonl", SAMPLE_CHATS: "sample_chat.jsonl"}
"""The page's names of the bundled files."""


class DataQuery(StrictModel):
    """A file and how to read it."""

    source: str = Field(min_length=1, max_length=4096, title="Path")  # Gradio would treat "path" as one of its files
    columns: Columns = Columns()
    steps: tuple[RemedyName, ...] = ()
    held_out: str | None = Field(default=None, max_length=4096, title="Held-out pairs")
    rows: int | None = Field(default=None, ge=1)
    encoding: EncodingName = ""
    ticket: str = Field(default="", max_length=64)
    """The page's id for this check, to query its progress or stop it."""

    def read_request(self, file: Path, held_out: Path | None) -> ReadRequest:
        columns = self.columns if self.columns.column_by_part else None
        return ReadRequest(file, columns, self.rows, CheckOptions(held_out, self.steps), self.encoding)


class ColumnMapping(StrictModel):
    """The user's columns for a file with these column names."""

    names: tuple[str, ...]
    columns: Columns


class HubPart(StrictModel):
    source: str
    config: str
    split: str


class CheckTicket(StrictModel):
    ticket: str


class SavedFile(TypedDict):
    source: str


def build_data_tab(supervisor: Supervisor) -> None:
    gr.HTML(
        html_template=render_data_tab(),
        js_on_load=DATA_JS,
        server_functions=public_endpoints(DataActions(supervisor.workspace)),
        apply_default_css=False,
        elem_id="data-view",
    )


class DataActions:
    """Its public methods are endpoints. Files are read in limited child processes; only running checks are held here."""

    def __init__(self, workspace: Workspace):
        self.workspace = workspace
        self.readers: dict[str, data.SandboxReader] = {}
        self.progress: dict[str, ReadProgress] = {}
        self.preview = TokenPreview(workspace)

    def inspect_file(self, query: DataQuery) -> Reply:
        """The columns and detected format, and the mapping saved for these columns. For a Hub data set, its parts. For a file
        whose encoding is not clear, how each likely one reads it."""
        if datasets.is_dataset_name(query.source):
            return {"parts": [asdict(part) for part in datasets.list_splits(query.source)]}
        file = self._resolve_file(query.source)
        try:
            seen = data.preview_dataset(file, query.encoding)
        except DataError as error:
            if error.text.code != "encoding.unsure":
                raise
            readings = [line.partition(": ") for line in error.text.params["choices"].splitlines()]
            return {"encodings": [{"name": name, "rows": rows.split(ROW_SEPARATOR)} for name, _, rows in readings]}
        known = uploads.load_mapping(self.workspace, [column.name for column in seen.columns])
        return {**asdict(seen), "source": str(file), "remembered": known.column_by_part if known else None}

    def check_file(self, query: DataQuery) -> Reply:
        """The full report on a file."""
        with data.SandboxReader() as reader:
            self.readers[query.ticket] = reader
            try:
                return asdict(self._run_check(reader, query))
            finally:
                self.readers.pop(query.ticket, None)
                self.progress.pop(query.ticket, None)

    def check_progress(self, check: CheckTicket) -> Reply:
        """Progress of a check; empty before its first and after its last event."""
        progress = self.progress.get(check.ticket)
        return asdict(progress) if progress else {}

    def stop_check(self, check: CheckTicket) -> None:
        if reader := self.readers.get(check.ticket):
            reader.stop()

    def keep_upload(self, query: DataQuery) -> SavedFile:
        """Move an uploaded file into the workspace."""
        upload = Path(query.source).resolve()
        if not upload.is_relative_to(Path(get_upload_folder()).resolve()):
            raise DataError("data_tab.not_dropped", path=upload)
        path = uploads.store_upload(self.workspace, upload)
        upload.unlink()
        return {"source": str(path)}

    def fetch_part(self, part: HubPart) -> SavedFile:
        """Save a part of a Hub data set in the workspace."""
        split = datasets.HubSplit(part.config, part.split)
        return {"source": str(datasets.ensure_split_file(self.workspace, part.source, split))}

    def remember_columns(self, mapping: ColumnMapping) -> None:
        uploads.save_mapping(self.workspace, mapping.names, mapping.columns)

    def preview_row(self, request: TokenRowRequest) -> Reply:
        """One row as the model sees it."""
        return self._ask_preview(request)

    def measure_lengths(self, request: MeasureRequest) -> Reply:
        """Lengths in tokens, and the effect of the training length on the rows."""
        return self._ask_preview(request)

    def _resolve_file(self, typed: str) -> Path:
        """The file at an entered path; raises DataError if the user may not open it."""
        path = typed.strip().strip('"')
        path_policy.check_source(self.workspace, path, SAMPLE_FILES)
        return data_path(SAMPLE, SAMPLE_FILES[path]) if path in SAMPLE_FILES else expand_home(path)

    def _resolve_held_out(self, query: DataQuery) -> Path | None:
        """The held-out file of a run on this data; raises DataError if the user may not open it."""
        path_policy.check_source(self.workspace, query.held_out, (SAMPLE,))
        return held_out_file(Data(pairs=query.source, held_out=query.held_out))

    def _run_check(self, reader: data.SandboxReader, query: DataQuery) -> data.DataReport:
        request = query.read_request(self._resolve_file(query.source), self._resolve_held_out(query))
        for event in reader.ask(request):
            if isinstance(event, data.DataReport):
                return event
            self.progress[query.ticket] = event
        raise RuntimeError(f"{query.source}: the check ended without a report")

    def _ask_preview(self, request: TokenRowRequest | MeasureRequest) -> Reply:
        """Raises DataError or ModelError if the user may not open the file or the model."""
        path_policy.check_model_access(self.workspace, request.model)
        return self.preview.ask(request.model_copy(update={"source": str(self._resolve_file(request.source))}))
