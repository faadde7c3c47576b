"""Forms: models become inputs, inputs become models, and every wrong field is named."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import Annotated, Any, Literal

import gradio as gr
import pytest
from pydantic import BaseModel, Field

from trainer_core.config.recipe import Columns, Data, Lora, Recipe, Sampling
from trainer_core.errors import ConfigError
from trainer_core.methods.dpo import Dpo
from trainer_core.methods.sft import Sft
from trainer_core.schema import StrictModel
from trainer_core.texts import verbatim
from ui.components.form import Form, bind_handler, format_input, output_values

MODELS = [Lora, Sft, Dpo, Sampling, Data]


def entered(form: Form, value: BaseModel) -> list[Any]:
    """What a browser sends back for a form that was filled with this object."""
    return [component.preprocess(one) for component, one in zip(form.inputs, form.show(value), strict=True)]


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_defaults_go_through_the_inputs_unchanged(model: type[BaseModel]) -> None:
    form = Form(model)
    inner = len(Columns.model_fields) - 1 if model is Data else 0
    assert len(form.inputs) == len(model.model_fields) + inner
    assert form.read(entered(form, model())) == model()


def test_every_kind_of_value_goes_through() -> None:
    form = Form(Dpo)
    value = Dpo(
        learning_rate=3.7e-7, max_steps=12, losses=("robust", "sft"), loss_weights=(1.0, 0.25), label_smoothing=0.125
    )
    assert form.read(entered(form, value)) == value


def test_labels_and_tooltips_are_the_fields_own() -> None:
    form = Form(Lora)
    rank = form.parts["rank"]
    assert isinstance(rank, gr.Textbox) and rank.label == "LoRA rank" and rank.info.startswith("Higher learns more")
    assert isinstance(form.parts["dora"], gr.Checkbox)
    assert isinstance(form.parts["targets"], gr.Dropdown) and len(form.parts["targets"].choices) == 3
    assert all(component.interactive for component in form.inputs), "an input that is not interactive is skipped by Tab"


def test_inner_forms_and_inputs_made_elsewhere() -> None:
    """One form for a whole recipe, in field order whatever the order of building."""
    model = gr.Dropdown(["starter", "other"], value="starter")
    dpo, lora = Form(Dpo), Form(Lora)
    form = Form(Recipe, None, ("sampling",), model=model, data=Form(Data), lora=lora, sft=Form(Sft), dpo=dpo)
    recipe = Recipe(name="mine", model="other", lora=Lora(rank=8), dpo=Dpo(beta=0.3))
    assert form.inputs[1] is model
    assert form.read(entered(form, recipe)) == recipe


def test_a_field_can_be_given_another_input() -> None:
    form = Form(Lora, rank=partial(gr.Dropdown, ["8", "16"]))
    assert isinstance(form.parts["rank"], gr.Dropdown) and form.parts["rank"].label == "LoRA rank"


def test_every_wrong_field_is_named_once() -> None:
    form = Form(Recipe, None, ("sampling",), data=Form(Data), lora=Form(Lora), sft=Form(Sft), dpo=Form(Dpo))
    values = entered(form, Recipe())
    names = [component.elem_id for component in form.inputs]
    for name, nonsense in {
        "lora-rank": "0",
        "sft-learning_rate": "fast",
        "dpo-beta": "",
        "dpo-accumulation": "2.5",
    }.items():
        values[names.index(name)] = nonsense
    with pytest.raises(ConfigError) as caught:
        form.read(values)
    lines = str(caught.value).splitlines()
    assert len(lines) == 4
    assert lines == [
        "LoRA rank: must be between 1 and 512, you gave 0.",
        'SFT learning rate: "fast" is not a number.',
        'DPO gradient accumulation: "2.5" is not a whole number.',
        "DPO beta: is empty; it must be a number.",
    ]
    wrong = ["lora-rank", "sft-learning_rate", "dpo-accumulation", "dpo-beta"]
    assert [form.input_id(key) for key in caught.value.keys] == wrong


def test_a_key_without_an_input_of_its_own_has_no_place() -> None:
    form = Form(Recipe, None, ("sampling",), model=gr.Dropdown(["starter"], elem_id="model"))
    assert form.input_id("model") == "model" and form.input_id("data.columns.prompt") == "columns-prompt"
    assert form.input_id("dpo") == form.input_id("sampling.seed") == form.input_id("") == ""


def test_an_unset_value_shows_nothing() -> None:
    assert format_input(None) is None and format_input(()) == []


class Small(BaseModel):
    size: int = Field(default=1, ge=1, title="Size")
    kind: Literal["a", "b"] = Field(default="a", title="Kind")


def wired(fn: Any, *sources: Any, **options: Any) -> Any:
    """What `on` hands to Gradio for a handler."""
    caught: list[Any] = []
    bind_handler(lambda call, *_, **__: caught.append(call), fn, *sources, **options)
    return caught[0]


def test_a_handler_gets_objects_and_returns_objects() -> None:
    form, text = Form(Small), gr.Textbox()

    def grow(small: Small, words: str) -> tuple[str, Small]:
        return words.upper(), small.model_copy(update={"size": small.size + 1})

    call = wired(grow, form, text, outputs=[text, form])
    assert call.__name__ == "grow"
    assert call(None, 4, "b", "hello") == ["HELLO", "5", "b"]


def test_outputs_with_names_take_the_attributes_of_the_result() -> None:
    form, text, problem = Form(Small), gr.Textbox(), gr.HTML()

    def describe(words: str) -> SimpleNamespace:
        return SimpleNamespace(text=words, small=Small(size=2, kind="b"), other="goes nowhere")

    call = wired(describe, text, outputs={"small": form, "text": text}, problem=problem)
    assert call(None, "hello") == ["2", "b", "hello", ""]


def test_a_subset_fills_only_its_inputs() -> None:
    form = Form(Recipe, None, ("sampling",))
    subset = form.subset(["lora.rank", "sft.batch_size", "lora.alpha"])
    assert [one.elem_id for one in subset.inputs] == ["lora-rank", "lora-alpha", "sft-batch_size"]
    assert subset.show(Recipe(lora=Lora(rank=8, alpha=16))) == ["8", "16", str(Recipe().sft.batch_size)]
    assert len(form.inputs) > 30, "the whole form stays"


def test_a_user_error_goes_to_its_place_and_leaves_the_rest() -> None:
    def refuse(small: Small) -> str:
        return "never"

    target, place = gr.Textbox(), gr.HTML()
    call = wired(refuse, Form(Small), outputs=[target], problem=place)
    kept, said = call(None, 0, "a")
    assert kept == gr.skip() and "Size: must be at least 1, you gave 0." in said and 'role="alert"' in said
    assert call(None, 1, "a") == ["never", ""], "the next success clears it"


def test_without_a_place_a_user_error_is_a_toast() -> None:
    def refuse(small: Small) -> None:
        return None

    with pytest.raises(gr.Error, match="Size"):
        wired(refuse, Form(Small))(None, 0, "a")


def test_words_in_a_problem_cannot_become_markup() -> None:
    def refuse() -> None:
        raise ConfigError(verbatim("<img src=x onerror=alert(1)>"))

    assert "&lt;img" in wired(refuse, problem=gr.HTML())(None)


def test_skip_fills_every_input_of_a_form() -> None:
    assert output_values([Form(Small)], gr.skip()) == [gr.skip(), gr.skip()]


def test_several_words_may_be_chosen_instead_of_typed() -> None:
    """An input that gives a list is taken as it is; one that gives text gives a line each, where a text may hold commas."""

    class Chosen(StrictModel):
        names: tuple[str, ...] = ()
        asked: tuple[Annotated[str, Field(max_length=80)], ...] = ()

    read = Form(Chosen).read([["Base", "DPO"], "Who, me?\n\nWhy?\n"])
    assert read.names == ("Base", "DPO") and read.asked == ("Who, me?", "Why?")
