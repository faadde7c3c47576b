"""Merging tensor by tensor gives what PEFT gives where PEFT is right, and the live adapter's logits where it is not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from tests.support import tiny
from trainer_core.config.jobs import Lane
from trainer_core.errors import ModelError
from trainer_core.export.folders import write_config
from trainer_core.export.lane_adapter import write_lane_adapter
from trainer_core.export.merge import MergeResult, StoredFormat, merge_adapter
from trainer_core.inference.load import load_lanes

pytestmark = pytest.mark.real

IDS = torch.tensor([[5, 9, 40, 77, 3, 21]])
LINEAR = ["q_proj", "down_proj"]
LORA = {
    "plain": {},
    "rslora": {"use_rslora": True, "lora_alpha": 8},
    "dora": {"use_dora": True},
    "patterns": {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"layers.1.mlp.down_proj": 16}},
}
COPIES: dict[str, dict[str, Any]] = {
    "copy of the head": {"modules_to_save": ["lm_head"]},
    "copies of both tables": {"modules_to_save": ["embed_tokens", "lm_head"]},
    "copy of a norm": {"modules_to_save": ["norm"]},
}
TABLES: dict[str, dict[str, Any]] = {
    "embedding": {"target_modules": [*LINEAR, "embed_tokens"]},
    "head": {"target_modules": [*LINEAR, "lm_head"]},
    "both": {"target_modules": [*LINEAR, "embed_tokens", "lm_head"]},
}


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.model(tmp_path_factory.mktemp("base"), tie_word_embeddings=request.param)


def is_tied(base: Path) -> bool:
    return bool(json.loads((base / "config.json").read_text())["tie_word_embeddings"])


def merge(base: Path, adapter: Path, target: Path, stored: StoredFormat = "base") -> MergeResult:
    target.mkdir()
    result = merge_adapter(base, adapter, target, stored)
    write_config(target, json.loads((base / "config.json").read_text()), result.untied, stored)
    return result


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        return model.eval()(IDS).logits


def live_logits(base: Path, adapter: Path) -> torch.Tensor:
    return logits(PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(adapter)))


def changed_adapter(folder: Path, base: Path, **config: Any) -> Path:
    """An adapter whose own tables, copies and magnitudes differ from the base's."""
    path = tiny.adapter(folder, base, **config)
    tensors = load_file(path / "adapter_model.safetensors")
    torch.manual_seed(5)
    for name, tensor in tensors.items():
        if "lora_A" not in name and "lora_B" not in name:
            tensors[name] = tensor + 0.05 * torch.randn_like(tensor)
    save_file(tensors, path / "adapter_model.safetensors")
    return path


@pytest.mark.parametrize("config", [*LORA.values(), *COPIES.values()], ids=[*LORA, *COPIES])
def test_it_is_pefts_own_merge_bit_for_bit(base: Path, tmp_path: Path, config: dict[str, Any]) -> None:
    adapter = changed_adapter(tmp_path / "adapter", base, **config)
    result = merge(base, adapter, tmp_path / "merged")
    live = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(adapter))
    peft = live.merge_and_unload(safe_merge=True).state_dict()
    ours = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    own_head = config.get("modules_to_save", [""])[-1] == "lm_head"
    assert result.untied == (own_head and is_tied(base))
    if not result.untied:
        assert all(torch.equal(weight, peft[name]) for name, weight in ours.state_dict().items())
    assert (logits(ours) - live_logits(base, adapter)).abs().max() < 1e-4
    assert (logits(ours) - logits(AutoModelForCausalLM.from_pretrained(base))).abs().max() > 0.1


@pytest.mark.parametrize("table", TABLES)
def test_an_adapter_on_one_of_two_tied_tables_stays_on_that_one(base: Path, tmp_path: Path, table: str) -> None:
    """PEFT's merge, saved and loaded, is wrong for an adapted head of a tied model: the two are one table again."""
    adapter = tiny.adapter(tmp_path / "adapter", base, **TABLES[table])
    result = merge(base, adapter, tmp_path / "merged")
    expected = live_logits(base, adapter)
    assert result.untied == is_tied(base)
    assert (logits(AutoModelForCausalLM.from_pretrained(tmp_path / "merged")) - expected).abs().max() < 1e-4
    live = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(adapter))
    live.merge_and_unload().save_pretrained(tmp_path / "peft")
    theirs = (logits(AutoModelForCausalLM.from_pretrained(tmp_path / "peft")) - expected).abs().max()
    assert (theirs > 1) == (is_tied(base) and table != "embedding")


def test_a_model_in_several_files_keeps_them(base: Path, tmp_path: Path) -> None:
    AutoModelForCausalLM.from_pretrained(base).save_pretrained(tmp_path / "split", max_shard_size="100KB")
    files = sorted(path.name for path in (tmp_path / "split").glob("*.safetensors"))
    assert len(files) > 2
    adapter = tiny.adapter(tmp_path / "adapter", base)
    done = list[tuple[int, int]]()
    (tmp_path / "merged").mkdir()
    result = merge_adapter(tmp_path / "split", adapter, tmp_path / "merged", "base", lambda *at: done.append(at))
    write_config(tmp_path / "merged", json.loads((base / "config.json").read_text()), result.untied, "base")
    assert files == sorted(path.name for path in (tmp_path / "merged").glob("*.safetensors"))
    assert (
        logits(AutoModelForCausalLM.from_pretrained(tmp_path / "merged")) - live_logits(base, adapter)
    ).abs().max() < 1e-4
    assert done == sorted(done) and 0.9 < done[-1][0] / done[-1][1] <= 1


def test_half_precision_is_rounded_once_and_said(base: Path, tmp_path: Path) -> None:
    """A bfloat16 base: added in 32 bits and rounded once. Float16 keeps more of the same change."""
    half = tmp_path / "half"
    AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16).save_pretrained(half)
    adapter = tiny.adapter(tmp_path / "adapter", base, scale=0.01)
    live = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(half, dtype=torch.float32), str(adapter))
    exact = live.merge_and_unload().state_dict()
    found = {}
    for stored, dtype in (("base", torch.bfloat16), ("F16", torch.float16)):
        result = merge(half, adapter, tmp_path / stored, stored)
        found[stored] = load_file(tmp_path / stored / "model.safetensors")
        assert {tensor.dtype for tensor in found[stored].values()} == {dtype}
        assert all(torch.equal(tensor, exact[name].to(dtype)) for name, tensor in found[stored].items())
    lost = result.rounding.share("BF16"), result.rounding.share("F16")
    assert 0.01 < lost[1] * 6 < lost[0] < lost[1] * 10  # three binary digits


def test_numbers_that_float16_cannot_hold_are_refused(base: Path, tmp_path: Path) -> None:
    adapter = tiny.adapter(tmp_path / "adapter", base, scale=1e6)
    merge(base, adapter, tmp_path / "merged")
    with pytest.raises(ModelError) as error:
        merge(base, adapter, tmp_path / "half", "F16")
    assert error.value.text.code == "export.too_large"


def test_an_adapter_with_numbers_that_are_not_finite_is_refused(base: Path, tmp_path: Path) -> None:
    adapter = tiny.adapter(tmp_path / "adapter", base, scale=float("inf"))
    with pytest.raises(ModelError) as error:
        merge(base, adapter, tmp_path / "merged")
    assert error.value.text.code == "export.not_finite"


def test_a_base_whose_files_lack_an_adapted_layer_is_refused_by_name(base: Path, tmp_path: Path) -> None:
    adapter, other = tiny.adapter(tmp_path / "adapter", base), tmp_path / "other"
    AutoModelForCausalLM.from_pretrained(base).save_pretrained(other)
    tensors = load_file(other / "model.safetensors")
    lost = "model.layers.1.self_attn.q_proj.weight"
    save_file(
        {f"x.{name}" if name == lost else name: one for name, one in tensors.items()}, other / "model.safetensors"
    )
    with pytest.raises(ModelError) as error:
        merge(other, adapter, tmp_path / "merged")
    assert (error.value.text.code, error.value.text.params["layers"]) == ("export.unmet_layers", lost)


@pytest.mark.parametrize("share", [None, 0.25], ids=["strength", "blend"])
def test_a_lane_becomes_one_adapter_that_does_the_same(base: Path, tmp_path: Path, share: float | None) -> None:
    first = tiny.adapter(tmp_path / "sft", base, 1, rank=4, rank_pattern={"layers.0.mlp.up_proj": 2})
    second = tiny.adapter(tmp_path / "dpo", base, 2, rank=6, target_modules=["q_proj", "o_proj"], use_rslora=True)
    blend = {"other": str(second), "share": share} if share else {}
    lane = Lane(name="it", adapter=str(first), strength=0.5, **blend)
    (tmp_path / "one").mkdir()
    write_lane_adapter(lane, tmp_path / "one", "owner/base")
    lanes = load_lanes(str(base), "fp32", [lane])
    expected = lanes.forward([lanes.mixtures["it"]], input_ids=IDS).logits
    assert (live_logits(base, tmp_path / "one") - expected).abs().max() < 1e-4
    assert (live_logits(base, first) - expected).abs().max() > 0.1


@pytest.mark.parametrize("change", [{"strength": 0.5}, {"share": 0.5}])
def test_what_no_adapter_of_dora_can_say_is_refused(base: Path, tmp_path: Path, change: dict[str, float]) -> None:
    dora = tiny.adapter(tmp_path / "dora", base, use_dora=True)
    other = tiny.adapter(tmp_path / "other", base)
    lane = Lane(name="it", adapter=str(dora), other=str(other) if "share" in change else None, **change)
    (tmp_path / "one").mkdir()
    with pytest.raises(ModelError) as error:
        write_lane_adapter(lane, tmp_path / "one", "")
    assert error.value.text.code == ("export.dora_blend" if lane.other else "export.dora_strength")
