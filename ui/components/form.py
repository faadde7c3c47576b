"""A pydantic model as Gradio inputs, and handlers that get objects instead of positions. Only this file knows the input order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from itertools import islice
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import gradio as gr
from gradio.blocks import Block
from gradio.components import Component
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from trainer_core.errors import ConfigError, UserError
from trainer_core.schema import parse_values
from trainer_core.system.format import format_number
from ui.components import html

QUIET_OPTIONS: dict[str, Any] = {"show_progress": "hidden", "queue": False, "trigger_mode": "always_last"}
"""For handlers that answer at once: no overlay, no queue, and an event during an answer is not lost."""

ORDERED_OPTIONS: dict[str, Any] = {**QUIET_OPTIONS, "queue": True, "concurrency_id": "ordered"}
"""For events that a user may trigger twice within milliseconds, as by Tab from field to field: Gradio sends both at once, and
without its queue the older answer can arrive last and stay."""

InputFactory = Callable[..., Component]


class Form:
    """The inputs of one model, in field order; reads them into one validated object, and fills them from one.

    Args:
        model: its fields become inputs, with the field's own label, tooltip and bounds.
        value: initial values of the inputs; by default the model's defaults.
        skip: fields without an input, which keep the model's default.
        given: for a field, an existing input or form, or a factory for its input. A field that is itself a
            model gets a form by default.
    """

    def __init__(
        self,
        model: type[BaseModel],
        value: BaseModel | None = None,
        skip: Sequence[str] = (),
        /,
        **given: Form | Component | InputFactory,
    ):
        self.model = model
        self.fields = [name for name in model.model_fields if name not in skip]
        start = value or model.model_construct()
        self.parts = {name: self.build_part(name, getattr(start, name, None), given.get(name)) for name in self.fields}

    def build_part(self, name: str, value: Any, given: Form | Component | InputFactory | None) -> Form | Component:
        if isinstance(given, Form | Component):
            return given
        info = self.model.model_fields[name]
        if given is None and isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            return Form(info.annotation, value)
        words = {"label": info.title, "info": info.description, "elem_id": f"{self.model.__name__}-{name}".lower()}
        return (given or input_factory(info))(value=format_input(value, info), interactive=True, **words)

    @property
    def inputs(self) -> list[Component]:
        """All inputs, those of inner forms included, in the order of `read` and `show`."""
        return [one for part in self.parts.values() for one in (part.inputs if isinstance(part, Form) else [part])]

    def read(self, values: Sequence[Any]) -> BaseModel:
        """The inputs' values as one validated object.

        Raises:
            ConfigError: one line for each invalid field, with its name and value.
        """
        return parse_values(self.model, self.raw_values(iter(values)), "")

    def raw_values(self, values: Iterator[Any]) -> dict[str, Any]:
        """Values by field name, taken in order; a blank input gives None."""
        return {
            name: part.raw_values(values)
            if isinstance(part, Form)
            else parse_input(next(values), self.model.model_fields[name])
            for name, part in self.parts.items()
        }

    def subset(self, keys: Sequence[str]) -> Form:
        """The inputs of these keys, such as `lora.rank`, as a form that is filled but not read."""
        names = list(dict.fromkeys(key.partition(".")[0] for key in keys))
        part = copy(self)
        part.parts = {}
        for name in names:
            inner = [key.removeprefix(f"{name}.") for key in keys if key.startswith(f"{name}.")]
            one = self.parts[name]
            part.parts[name] = one.subset(inner) if inner and isinstance(one, Form) else one
        return part

    def input_id(self, key: str) -> str:
        """The id of the input for a key such as `sft.learning_rate`; empty if the key names no single input."""
        part: Form | Component | None = self
        for name in key.split("."):
            part = part.parts.get(name) if isinstance(part, Form) else part
        return getattr(part, "elem_id", None) or ""

    def show(self, value: BaseModel) -> list[Any]:
        """Values for the inputs."""
        return [
            one
            for name, part in self.parts.items()
            for one in (
                part.show(getattr(value, name))
                if isinstance(part, Form)
                else [format_input(getattr(value, name), self.model.model_fields[name])]
            )
        ]


def input_factory(info: FieldInfo) -> InputFactory:
    """The input of a field, by its type.

    Pydantic checks the bounds and names the field of an invalid value. Numbers are entered as text: Gradio's number
    input turns an empty field into 0 when its tab is first opened, and shows 2e-4 as 0.0002.
    """
    kind = without_none(info.annotation)
    if kind is bool:
        return gr.Checkbox
    if get_origin(kind) is Literal:
        return lambda **words: gr.Dropdown(choices=list(get_args(kind)), **words)
    if get_origin(kind) is tuple and get_origin(get_args(kind)[0]) is Literal:
        return lambda **words: gr.Dropdown(choices=list(get_args(get_args(kind)[0])), multiselect=True, **words)
    if has_lines(info):
        return lambda **words: gr.Textbox(lines=3, max_lines=8, **words)
    return lambda **words: gr.Textbox(max_lines=1, **words)


def has_lines(info: FieldInfo) -> bool:
    """Does the field hold several bounded texts, entered one per line? Unbounded ones are chosen from a list."""
    kind, inner = without_none(info.annotation), get_args(without_none(info.annotation))
    return get_origin(kind) is tuple and get_args(inner[0])[:1] == (str,)


def without_none(annotation: Any) -> Any:
    """`int` for `int | None`."""
    if get_origin(annotation) not in (Union, UnionType):
        return annotation
    kinds = [kind for kind in get_args(annotation) if kind is not NoneType]
    return kinds[0] if len(kinds) == 1 else annotation


def format_input(value: Any, info: FieldInfo | None = None) -> Any:
    """A value as its input shows it: 0.0002 as 2e-4, several numbers with commas, several texts one per line."""
    if info and has_lines(info):
        return "\n".join(value or ())
    match value:
        case bool():
            return value
        case int() | float():
            return format_number(value)
        case tuple() if value and not isinstance(value[0], str):
            return ", ".join(format_number(one) for one in value)
        case tuple():
            return [str(one) for one in value]
        case None:
            return None
    return str(value)


def parse_input(value: Any, info: FieldInfo) -> Any:
    """An input's value for pydantic: blank is None if the field allows it, numbers with commas become several."""
    value = value.strip() if isinstance(value, str) else value
    kind = without_none(info.annotation)
    if value in ("", None) and kind is not info.annotation:
        return None
    if has_lines(info) and not isinstance(value, list):  # chosen from a list, not entered
        return [line.strip() for line in (value or "").splitlines() if line.strip()]
    if isinstance(value, str) and get_origin(kind) is tuple:
        return [part.strip() for part in value.split(",")]
    return "" if value is None and kind is str else value


InputSource = Form | Component | type[gr.EventData]
Outputs = Sequence[Form | Block] | Mapping[str, Form | Block]


def bind_handler(
    triggers: Any,
    fn: Callable[..., Any],
    *sources: InputSource,
    outputs: Outputs = (),
    problem: Component | None = None,
    **options: Any,
) -> Any:
    """Attach a handler: a Form among the sources arrives as one object; an object returned for a Form fills its inputs.

    Args:
        triggers: one event, such as `button.click`, or several.
        sources: arguments of the handler, in order; `gr.EventData` stands for the event.
        outputs: targets of the handler's result (a tuple if there are several). With names, the result is an object, and
            its attributes of these names go there.
        problem: shows a UserError, and is cleared by the next success. Without it the error is a toast.
    """
    asks = [source for source in sources if isinstance(source, Form | Component)]
    targets = [*flatten_inputs(output_elements(outputs)), *([problem] if problem else [])]

    def call(event: gr.EventData, *values: Any) -> Any:
        rest = iter(values)
        try:
            results = fn(*[event if source is gr.EventData else take_value(source, rest) for source in sources])
        except UserError as error:
            if problem is None:
                raise gr.Error(str(error), print_exception=False) from error
            filled = [gr.skip()] * (len(targets) - 1) + [
                html.render_problem(str(error), error_input_ids(error, sources))
            ]
        else:
            filled = output_values(outputs, results) + ([""] if problem else [])
        return filled[0] if len(filled) == 1 else filled or None

    call.__name__ = fn.__name__  # not functools.wraps: Gradio follows __wrapped__ and counts the wrong arguments
    wire = triggers if callable(triggers) else lambda *args, **more: gr.on(triggers, *args, **more)
    return wire(call, flatten_inputs(asks) or None, targets or None, api_visibility="private", **options)


def error_input_ids(error: UserError, sources: Sequence[InputSource]) -> list[str]:
    """The input id for each line of an error."""
    form = next((source for source in sources if isinstance(source, Form)), None)
    return [form.input_id(key) for key in error.keys] if form and isinstance(error, ConfigError) else []


def flatten_inputs(things: Sequence[Form | Block]) -> list[Block]:
    return [one for thing in things for one in (thing.inputs if isinstance(thing, Form) else [thing])]


def take_value(source: Any, values: Iterator[Any]) -> Any:
    return source.read(list(islice(values, len(source.inputs)))) if isinstance(source, Form) else next(values)


def output_elements(outputs: Outputs) -> Sequence[Form | Block]:
    return list(outputs.values()) if isinstance(outputs, Mapping) else outputs


def output_values(outputs: Outputs, results: Any) -> list[Any]:
    """One value per component. A form's result that is not a model, such as gr.skip(), goes to each of its inputs."""
    several: Sequence[Any] = results if len(outputs) > 1 else (results,) if outputs else ()
    if isinstance(outputs, Mapping):
        several = [getattr(results, name) for name in outputs]
    filled: list[Any] = []
    for output, result in zip(output_elements(outputs), several, strict=True):
        if not isinstance(output, Form):
            filled.append(result)
        elif isinstance(result, BaseModel):
            filled += output.show(result)
        else:
            filled += [result] * len(output.inputs)
    return filled


def edit_triggers(form: Form, but: Sequence[Component]) -> list[Any]:
    """Events of a user's changes to the form's inputs, except `but`; filling them from a handler does not trigger these."""
    left = (one for one in form.inputs if not any(one is other for other in but))
    return [event for one in left for event in edit_events(one)]


def edit_events(component: Component) -> list[Any]:
    """Text counts when the field loses focus or on Enter, so that no error appears while typing."""
    if isinstance(component, gr.Textbox):
        return [component.blur, component.submit]
    return [component.input]  # type: ignore[attr-defined]
