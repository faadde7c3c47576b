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
from trainer_core.config.recipe import SAMPLE, Columns, Step
from trainer_core.data import uploads
from trainer_core.data.hub import datasets
from trainer_core.data.preview import Lens, Look, Measure
from trainer_core.data.select import located
from trainer_core.data.stream import Checkup, Progress, Request
from trainer_core.errors import DataError, UserError
from trainer_core.jobs.supervisor import Supervisor
from trainer_core.runs.workspace import Workspace
from trainer_core.schema import Strict, parse
from ui.components import html
from ui.server import path_policy

DATA_JS = "window.tunebench.beginData(element, server, upload);"
SAMPLE_CHATS = "sample chats"
SAMPLES = {SAMPLE: "sample_pairs.jsonl", SAMPLE_CHATS: "sample_chat.jsonl"}
"""What the page calls the bundled files."""


class Wanted(Strict):
    """A file as it is to be read."""

    source: str = Field(min_length=1, max_length=4096, title="Path")  # "path" would make it a file of Gradio's
    columns: Columns = Columns()
    steps: tuple[Step, ...] = ()
    rows: int | None = Field(default=None, ge=1)
    ticket: str = Field(default="", max_length=64)
    """What a page calls this check, to ask how far it is or to stop it."""

    def request(self, file: Path) -> Request:
        columns = self.columns if self.columns.used else None
        return Request(file, columns, self.rows, Checkup(steps=self.steps))


class Mapping(Strict):
    """Columns chosen by hand for a file with these columns."""

    names: tuple[str, ...]
    columns: Columns


class HubPart(Strict):
    """One part of a data set of the Hub."""

    source: str
    config: str
    split: str


class Ticket(Strict):
    ticket: str


def build(supervisor: Supervisor) -> None:
    desk = Desk(supervisor.workspace)
    asks = [
        desk.glance,
        desk.check,
        desk.progress,
        desk.stop,
        desk.keep,
        desk.fetch,
        desk.remember,
        desk.look,
        desk.measure,
    ]
    gr.HTML(
        html_template=html.DATA,
        js_on_load=DATA_JS,
        server_functions=[answering(ask) for ask in asks],
        apply_default_css=False,
        elem_id="data-view",
    )


class Desk:
    """Answers a page's questions about data. Files are read in limited children; here are only the checks going on."""

    def __init__(self, workspace: Workspace):
        self.workspace = workspace
        self.checks: dict[str, data.Reader] = {}
        self.at: dict[str, Progress] = {}
        self.lens = Lens(workspace)

    def file(self, typed: str) -> Path:
        """The file behind what was typed.

        Raises:
            DataError: whoever typed it may not open it.
        """
        path = typed.strip().strip('"')
        path_policy.check_source(self.workspace, path, SAMPLES)
        return located(SAMPLE, SAMPLES[path]) if path in SAMPLES else Path(os.path.expanduser(path))

    def glance(self, asked: Any = None) -> dict[str, Any]:
        """The file's columns and the shape found in them, or the mapping remembered for these columns; a hub id's parts."""
        wanted = parse(Wanted, asked, "")
        if datasets.is_name(wanted.source):
            return {"parts": [asdict(part) for part in datasets.parts(wanted.source)]}
        file = self.file(wanted.source)
        seen = data.glance(file)
        before = uploads.recalled(self.workspace, [column.name for column in seen.columns])
        return {**asdict(seen), "source": str(file), "remembered": before.used if before else None}

    def check(self, asked: Any = None) -> dict[str, Any]:
        """The whole report on a file."""
        wanted = parse(Wanted, asked, "")
        with data.Reader() as reader:
            self.checks[wanted.ticket] = reader
            try:
                return asdict(self.report(reader, wanted))
            finally:
                self.checks.pop(wanted.ticket, None)
                self.at.pop(wanted.ticket, None)

    def report(self, reader: data.Reader, wanted: Wanted) -> data.Report:
        for news in reader.ask(wanted.request(self.file(wanted.source))):
            if isinstance(news, data.Report):
                return news
            self.at[wanted.ticket] = news
        raise RuntimeError(f"{wanted.source}: the check ended without a report")

    def progress(self, asked: Any = None) -> dict[str, Any]:
        """How far a check is; empty before its first word and after its last."""
        at = self.at.get(parse(Ticket, asked, "").ticket)
        return asdict(at) if at else {}

    def stop(self, asked: Any = None) -> dict[str, Any]:
        reader = self.checks.get(parse(Ticket, asked, "").ticket)
        if reader:
            reader.stop()
        return {}

    def keep(self, asked: Any = None) -> dict[str, Any]:
        """A dropped file, put where it stays."""
        upload = Path(parse(Wanted, asked, "").source).resolve()
        if not upload.is_relative_to(Path(get_upload_folder()).resolve()):
            raise DataError(f"{upload} was not dropped into this page. Type its path instead.")
        place = uploads.dropped(self.workspace, upload)
        upload.unlink()
        return {"source": str(place)}

    def fetch(self, asked: Any = None) -> dict[str, Any]:
        """A part of a data set of the Hub, as a file in the workspace."""
        part = parse(HubPart, asked, "")
        return {"source": str(datasets.fetched(self.workspace, part.source, datasets.Part(part.config, part.split)))}

    def remember(self, asked: Any = None) -> dict[str, Any]:
        mapping = parse(Mapping, asked, "")
        uploads.remember(self.workspace, mapping.names, mapping.columns)
        return {}

    def through(self, wanted: Look | Measure) -> dict[str, Any]:
        """What the lens says.

        Raises:
            DataError, ModelError: whoever asks may not open the file or the model.
        """
        path_policy.check_model(self.workspace, wanted.model)
        return self.lens.ask(wanted.model_copy(update={"source": str(self.file(wanted.source))}))

    def look(self, asked: Any = None) -> dict[str, Any]:
        """One row as the model sees it."""
        return self.through(parse(Look, asked, ""))

    def measure(self, asked: Any = None) -> dict[str, Any]:
        """Lengths in tokens, and what the training length does to the rows."""
        return self.through(parse(Measure, asked, ""))


def answering(ask: Callable[[Any], dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """The question as a server function: what a user can mend comes back as a sentence, anything else stays a bug."""

    def answer(asked: Any = None) -> dict[str, Any]:
        try:
            return ask(asked)
        except UserError as error:
            return {"problem": str(error)}

    answer.__name__ = ask.__name__
    return answer
