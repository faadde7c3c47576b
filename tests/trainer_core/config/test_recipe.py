"""Settings: what is refused says which key, value and file; what is accepted comes back the same."""

from pathlib import Path

import pytest

from trainer_core.config.recipe import METHODS, STAGE_SETTINGS, Data, Lora, Recipe, Sampling, read_recipe
from trainer_core.errors import ConfigError
from trainer_core.methods.dpo import Dpo
from trainer_core.methods.sft import Sft
from trainer_core.schema import StrictModel, describe_validation_error, parse_values, read_toml
from trainer_core.texts import Text

MODELS = [Lora, Sft, Dpo, Sampling, Data, Recipe]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"lora": {"rank": 0}}, ["r.toml", "lora.rank", "LoRA rank", "0"]),
        ({"sft": {"lerning_rate": 1e-4}}, ["sft.lerning_rate", "0.0001"]),
        ({"method": "ppo"}, ["method", "ppo", "sft+dpo"]),
        ({"dpo": {"losses": ["simpo"]}}, [str(Text("dpo.no_reference", loss="simpo"))]),
        (
            {"dpo": {"losses": ["sigmoid", "sft"], "loss_weights": [1.0]}},
            [str(Text("dpo.wrong_weights", weights=1, losses=2))],
        ),
        ({"dpo": {"losses": ["exo_pair"]}}, [str(Text("dpo.no_smoothing"))]),
        ({"method": "dpo", "data": {"pairs": None}}, [str(Text("recipe.no_pairs", method="dpo"))]),
        ({"method": "sft", "data": {"pairs": None}}, [str(Text("recipe.no_data"))]),
        ({"name": "../../etc"}, ["name"]),
        ({"sampling": {"temperature": "hot"}}, ["sampling.temperature", "hot"]),
    ],
)
def test_a_wrong_value_is_named(values: dict, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_values(Recipe, values, "r.toml")
    for word in words:
        assert word in str(caught.value)


def test_all_wrong_values_are_named_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_values(Recipe, {"lora": {"rank": -1}, "sft": {"epochs": 0}, "seed": "x"}, "form")
    assert len(str(caught.value).splitlines()) == 3


@pytest.mark.parametrize("model", MODELS)
def test_every_setting_has_a_label_and_a_tooltip(model: type[StrictModel]) -> None:
    for name, field in model.model_fields.items():
        nested = isinstance(field.default, StrictModel)
        assert nested or (field.title and field.description), f"{model.__name__}.{name}"
        assert "[" not in (field.description or ""), f"{model.__name__}.{name}: its source stands in a comment"


def test_a_recipe_survives_json() -> None:
    recipe = parse_values(Recipe, {"name": "a", "lora": {"rank": 8}, "dpo": {"losses": ["sigmoid", "sft"]}}, "r")
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe


def test_relative_paths_are_taken_from_the_recipe(tmp_path: Path) -> None:
    (tmp_path / "pairs.jsonl").write_text("{}")
    (tmp_path / "r.toml").write_text('[data]\npairs = "pairs.jsonl"\nchat = "sample"\n')
    recipe = read_recipe(tmp_path / "r.toml")
    assert recipe.data.pairs == str(tmp_path / "pairs.jsonl")
    assert recipe.data.chat == "sample"


@pytest.mark.parametrize(
    ("content", "code", "words"),
    [
        (b"a = 1\nb = = 2", "toml.not_valid", "line 2"),
        (b'model = "C:\\models"', "toml.backslash", "line 1"),
        (b'name = "\xff"', "toml.not_utf8", "invalid start byte"),
        (None, "toml.not_read", "No such file"),
        (b"[data]\na" + b".a" * 50 + b" = 1", "toml.long_key", "50 parts"),
        (b'[a."b c" ' + b'. "b c"' * 60 + b"]", "toml.long_key", "50 parts"),
        (b"# a word\na" + b".a" * 100_000 + b" = 1", "toml.long_key", "50 parts"),
    ],
)
def test_an_unreadable_recipe_says_where(tmp_path: Path, content: bytes | None, code: str, words: str) -> None:
    path = tmp_path / "r.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=words) as caught:
        read_recipe(path)
    assert caught.value.text.code == code


def test_dots_in_texts_are_no_long_key(tmp_path: Path) -> None:
    dots = ".a" * 200
    path = tmp_path / "r.toml"
    path.write_text(f'# {dots}\na = """\n{dots}"""\nb = \'{dots}\'  # {dots}\n')
    assert read_toml(path) == {"a": dots, "b": dots}


def test_effective_batch_is_sixteen_by_default() -> None:
    assert Sft().effective_batch == Dpo().effective_batch == 16


def test_a_complaint_without_a_known_field_still_reads() -> None:
    assert (
        describe_validation_error(Recipe, "x", {"loc": ("zzz",), "msg": "no", "input": 1, "type": "t"})
        == "x: zzz: no (got 1)"
    )


@pytest.mark.parametrize(("loss", "read"), [("sigmoid", False), ("ipo", False), ("robust", True), ("aot", True)])
def test_label_smoothing_that_the_loss_does_not_read_is_refused(loss: str, read: bool) -> None:
    values = {"dpo": {"losses": [loss], "label_smoothing": 0.1}}
    if read:
        assert parse_values(Recipe, values, "recipe").dpo.label_smoothing == 0.1
    else:
        with pytest.raises(ConfigError) as caught:
            parse_values(Recipe, values, "recipe")
        assert str(Text("dpo.unread_smoothing", smoothing=0.1, losses=loss)) in str(caught.value)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"sft": {"learning_rate": 3}}, "SFT learning rate: must be above 0 and at most 1, you gave 3."),
        ({"dpo": {"warmup": "0.7"}}, "DPO warm-up ratio: must be between 0 and 0.5, you gave 0.7."),
        ({"dpo": {"max_steps": 0}}, "DPO max steps: must be at least 1, you gave 0."),
        ({"sft": {"learning_rate": "banana"}}, 'SFT learning rate: "banana" is not a number.'),
    ],
)
def test_a_wrong_value_is_said_in_plain_words(values: dict, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_values(Recipe, values, "")
    assert str(caught.value) == words
    [part] = values
    assert caught.value.keys == (f"{part}.{next(iter(values[part]))}",)
    with pytest.raises(ConfigError, match=r"^recipe\.toml: "):
        parse_values(Recipe, values, "recipe.toml")


def test_a_method_is_known_by_the_recipes_section() -> None:
    assert list(METHODS) == list(STAGE_SETTINGS) and {"sft", "dpo"} <= set(METHODS)
    for key, method in METHODS.items():
        assert method.key == key and STAGE_SETTINGS[key].method is method
        assert {"epochs", "learning_rate", *method.advised} <= set(STAGE_SETTINGS[key].model_fields)
