"""Adapter folders of others: what Compare opens leaves the base as it is, and what it cannot compute it refuses with words."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from tests.support import tiny
from trainer_core.config.jobs import Lane
from trainer_core.errors import ModelError
from trainer_core.inference.load import LaneSet, load_lanes
from trainer_core.texts import Text

pytestmark = pytest.mark.real

IDS = torch.tensor([[5, 9, 40, 77, 3, 21]])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("foreign")
    tiny.model(folder / "base")
    tiny.adapter(folder / "one", folder / "base", 1)
    return folder


def base_of(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.float32).eval()


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        return model.eval()(input_ids=IDS).logits[0]


def opened(folder: Path, adapter: Path) -> LaneSet:
    """A stranger's adapter beside one of ours and the base."""
    lanes = {"Foreign": str(adapter), "One": str(folder / "one")}
    return load_lanes(
        str(folder / "base"), "fp32", (Lane(name="Base"), *(Lane(name=n, adapter=a) for n, a in lanes.items()))
    )


def load_refusal(folder: Path, adapter: Path) -> Text:
    """Why the stranger's adapter is not opened."""
    with pytest.raises(ModelError) as error:
        opened(folder, adapter)
    assert error.value.text.code == "adapter_checks.in_lane" and error.value.text.params["lane"] == "Foreign"
    return error.value.text.params["problem"]


def by_lane(lanes: LaneSet) -> dict[str, torch.Tensor]:
    rows = list(lanes.mixtures.values())
    return dict(zip(lanes.names, lanes.forward(rows, input_ids=IDS.expand(len(rows), -1)).logits, strict=True))


def described(folder: Path, to: Path, **changes: Any) -> Path:
    """Our adapter, described otherwise."""
    shutil.copytree(folder / "one", to)
    described = json.loads((to / "adapter_config.json").read_text()) | changes
    (to / "adapter_config.json").write_text(json.dumps(described))
    return to


@pytest.mark.parametrize("method", ["pissa", "pissa_niter_4", "olora", "OLoRA"])
def test_an_adapter_that_takes_its_beginning_out_of_the_base_is_refused(folder, tmp_path, method) -> None:
    foreign = tiny.adapter(tmp_path / "foreign", folder / "base", 5, init_lora_weights=method)
    changed = PeftModel.from_pretrained(base_of(folder), foreign)
    with changed.disable_adapter():
        far = (logits(changed) - logits(base_of(folder))).abs().max()
    assert far > 0.5, "PEFT changes the base, so the refusal has a reason"
    found = load_refusal(folder, foreign)
    assert found == Text("adapter_checks.convert_first", folder="foreign", init=repr(method))
    assert "path_initial_model_for_weight_conversion" in str(found)


@pytest.mark.parametrize(
    ("method", "more", "code"),
    [
        ("corda", {}, "convert_first"),
        ("lora_ga", {}, "convert_first"),
        ("loftq", {"loftq_config": {"loftq_bits": 4, "loftq_iter": 1}}, "merge_first"),
        ("mica", {}, "unknown_init"),
        ("next year's", {}, "unknown_init"),
        (["pissa"], {}, "unknown_init"),
    ],
)
def test_every_other_initialisation_that_is_not_known_to_be_harmless_is_refused(
    folder, tmp_path, method, more, code
) -> None:
    found = load_refusal(folder, described(folder, tmp_path / "foreign", init_lora_weights=method, **more))
    assert found == Text(f"adapter_checks.{code}", folder="foreign", init=repr(method))


@pytest.mark.parametrize("method", [True, False, "gaussian", "eva", "orthogonal"])
def test_an_initialisation_of_the_adapter_alone_leaves_the_base_bit_for_bit(folder, tmp_path, method) -> None:
    found = by_lane(opened(folder, described(folder, tmp_path / "foreign", init_lora_weights=method)))
    assert torch.equal(found["Base"], logits(base_of(folder)))
    assert torch.equal(found["Foreign"], found["One"]) and not torch.equal(found["Foreign"], found["Base"])


def test_the_cure_works(folder: Path, tmp_path: Path) -> None:
    """PiSSA as PEFT's guide trains it: the beginning is saved, then the end with the way back to it."""
    lora = LoraConfig(r=4, lora_alpha=4, target_modules=tiny.LINEAR, task_type="CAUSAL_LM", init_lora_weights="pissa")
    trained = get_peft_model(base_of(folder), lora)
    trained.peft_config["default"].init_lora_weights = True
    trained.save_pretrained(tmp_path / "beginning")
    trained.peft_config["default"].init_lora_weights = "pissa"
    for name, weight in trained.named_parameters():
        if "lora_" in name:
            weight.data += 0.1 * torch.randn_like(weight)
    converted = str(tmp_path / "converted")
    trained.save_pretrained(converted, path_initial_model_for_weight_conversion=str(tmp_path / "beginning"))
    found = by_lane(opened(folder, Path(converted)))
    assert torch.equal(found["Base"], logits(base_of(folder)))
    assert torch.allclose(found["Foreign"], logits(trained), atol=1e-3)
    assert (found["Foreign"] - found["Base"]).abs().max() > 0.1


def refusal_text(code: str, **params: Any) -> Text:
    return Text(f"adapter_checks.{code}", folder="foreign", **params)


UNSUPPORTED: dict[str, Any] = {
    "modules_to_save": ["embed_tokens"],
    "layer_replication": [[0, 2], [0, 2]],
    "trainable_token_indices": [1, 2],
    "target_parameters": ["mlp.experts.up_proj"],
    "lora_bias": True,
    "alora_invocation_tokens": [5, 9],
    "arrow_config": {"top_k": 2},
    "velora_config": {"num_groups": 4},
    "kasa_config": {"beta": 0.1},
    "monteclora_config": {"num_samples": 4},
    "use_bdlora": {"nblocks": 2},
    "use_qalora": True,
}
REFUSED: list[tuple[Text, dict[str, Any]]] = [
    *((refusal_text("unsupported_setting", key=key), {key: value}) for key, value in UNSUPPORTED.items()),
    (refusal_text("unknown_setting", key="'use_next'"), {"use_next": True}),
    (refusal_text("unknown_setting", key="'next_config'"), {"next_config": {"a": 1}}),
    (refusal_text("other_task", task="'SEQ_CLS'"), {"task_type": "SEQ_CLS"}),
    (refusal_text("slow_pattern", pattern="(a+)+"), {"layers_pattern": "(a+)+", "layers_to_transform": [0]}),
    (refusal_text("bad_rank", rank="'4'", most=16384), {"r": "4"}),
    (refusal_text("bad_rank", rank="0", most=16384), {"rank_pattern": {"q_proj": 0}}),
    (refusal_text("bad_rank", rank="1000000000", most=16384), {"rank_pattern": {"q_proj": 10**9}}),
    (refusal_text("bad_patterns"), {"alpha_pattern": [1]}),
    (refusal_text("bad_alpha", alpha="nan"), {"lora_alpha": math.nan}),
    (refusal_text("bad_alpha", alpha="'x'"), {"alpha_pattern": {"q_proj": "x"}}),
]


@pytest.mark.parametrize(("reason", "settings"), REFUSED)
def test_what_no_batch_can_hold_is_refused_before_the_base_is_loaded(folder, tmp_path, reason, settings) -> None:
    assert load_refusal(folder, described(folder, tmp_path / "foreign", **settings)) == reason


@pytest.mark.parametrize(
    "settings",
    [
        {"auto_mapping": {"base_model_class": "A", "parent_library": "os"}},
        {"megatron_config": {"a": 1}, "megatron_core": "megatron.core"},
    ],
)
def test_code_of_the_adapter_s_own_is_refused(folder: Path, tmp_path: Path, settings: dict[str, Any]) -> None:
    found = load_refusal(folder, described(folder, tmp_path / "foreign", **settings))
    assert f"has {next(iter(settings))!r}" in str(found)


@pytest.mark.parametrize(
    "settings",
    [
        {"runtime_config": {"ephemeral_gpu_offload": True}},
        {"next_size": 16, "use_next": False, "next_config": None, "next_list": {}},
        {"lora_dropout": 0.9, "inference_mode": False, "revision": "main", "bias": "lora_only"},
        {"base_model_name_or_path": "nobody/nothing", "peft_version": "9.9"},
        {"task_type": None, "layers_to_transform": [0, 1]},
    ],
)
def test_settings_of_another_run_or_version_do_not_matter(folder: Path, tmp_path: Path, settings: dict) -> None:
    found = by_lane(opened(folder, described(folder, tmp_path / "foreign", **settings)))
    assert torch.equal(found["Base"], logits(base_of(folder))) and torch.equal(found["Foreign"], found["One"])


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_an_adapter_with_numbers_that_are_none_does_not_spoil_the_other_lanes(folder, tmp_path, number) -> None:
    foreign = described(folder, tmp_path / "foreign")
    weights = load_file(foreign / "adapter_model.safetensors")
    name = "base_model.model.model.layers.1.mlp.up_proj.lora_B.weight"
    weights[name][0, 0] = number
    save_file(weights, foreign / "adapter_model.safetensors")
    reason = Text("adapter_checks.not_finite", folder="foreign", layer="model.layers.1.mlp.up_proj", part="lora_B")
    assert load_refusal(folder, foreign) == reason
