"""Import in the Compare tab: the form, what each import is or does, and the way to the trash."""

from __future__ import annotations

from html import escape
from typing import Any

import gradio as gr

from trainer_core.errors import ConfigError
from trainer_core.jobs.supervisor import Supervisor
from trainer_core.schema import StrictModel
from ui.components.form import QUIET_OPTIONS, Form, bind_handler
from ui.format import page_text
from ui.payloads.imports import import_lines, removable_imports
from ui.server import path_policy


class ImportForm(StrictModel):
    source: str
    name: str = ""
    base: str = ""


def build_imports(supervisor: Supervisor, live: gr.HTML) -> None:
    with gr.Accordion(page_text("imports.title"), open=False, elem_id="imports"):
        gr.HTML(f'<p class="quiet">{escape(page_text("imports.what"))}</p>')
        with gr.Row():
            boxes = {
                "source": make_box(page_text("imports.source"), "import-source"),
                "name": make_box(page_text("imports.name"), "import-name"),
                "base": make_box(page_text("imports.base"), "import-base"),
            }
            start = gr.Button(page_text("imports.start"), elem_id="import-start", min_width=120)
        problem = gr.HTML("", elem_id="import-problem", elem_classes="problem")
        shown = gr.HTML(render_imports(supervisor), elem_id="import-list")
        with gr.Row():
            chosen = gr.Dropdown(
                removable_imports(supervisor.registry),
                value=None,
                label=page_text("imports.chosen"),
                elem_id="import-chosen",
                interactive=True,
            )
            stop = gr.Button(page_text("imports.stop"), elem_id="import-stop", min_width=120)
            remove = gr.Button(page_text("imports.remove"), elem_id="import-remove", min_width=120)
    wire_imports(supervisor, live, Form(ImportForm, None, (), **boxes), [start, stop, remove], (problem, shown, chosen))


def make_box(label: str, elem_id: str) -> gr.Textbox:
    return gr.Textbox("", label=label, max_lines=1, elem_id=elem_id, interactive=True)


def wire_imports(
    supervisor: Supervisor, live: gr.HTML, form: Form, buttons: list[gr.Button], elements: tuple[gr.HTML, gr.HTML, gr.Dropdown]
) -> None:  # fmt: skip
    problem, shown, chosen = elements

    def start_import(asked: ImportForm) -> None:
        for name in filter(None, (asked.source, asked.base)):
            path_policy.check_model_access(supervisor.workspace, name)
        if not asked.source:
            raise ConfigError("imports.no_source", ("source",))
        supervisor.imports.start(asked.source, asked.name, asked.base)

    def stop_imports() -> None:
        for view in supervisor.registry.import_states:
            if view.phase.is_active:
                supervisor.imports.stop(view.id)

    def remove_import(import_id: str | None) -> Any:
        if not import_id:
            raise ConfigError("imports.none_chosen")
        supervisor.imports.remove(import_id)
        return gr.update(choices=removable_imports(supervisor.registry), value=None)

    def refresh() -> tuple[Any, ...]:
        return render_imports(supervisor), gr.update(choices=removable_imports(supervisor.registry))

    start, stop, remove = buttons
    bind_handler(start.click, start_import, form, problem=problem, **QUIET_OPTIONS)
    bind_handler(stop.click, stop_imports, problem=problem, **QUIET_OPTIONS)
    bind_handler(remove.click, remove_import, chosen, outputs=[chosen], problem=problem, **QUIET_OPTIONS)
    bind_handler(live.statechange, refresh, outputs=[shown, chosen], **QUIET_OPTIONS)


def render_imports(supervisor: Supervisor) -> str:
    rows = "".join(f"<li>{escape(line)}</li>" for line in import_lines(supervisor.registry))
    return f'<div role="status"><ul>{rows}</ul></div>' if rows else ""
