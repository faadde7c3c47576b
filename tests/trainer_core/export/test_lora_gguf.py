"""The adapter alone as GGUF: llama.cpp with the base's file and this one answers as the lane does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from gguf import GGUFReader

from tests.support import export_case, tiny
from trainer_core.config.jobs import Lane
from trainer_core.errors import ModelError
from trainer_core.export.gguf import run_converter
from trainer_core.export.lane_adapter import AdapterPart
from trainer_core.export.llama_child import Engine
from trainer_core.export.lora_gguf import lora_tensors
from trainer_core.inference.load import load_lanes
from trainer_core.runs.events import Phase

pytestmark = pytest.mark.real

IDS = (1, 503, 2201, 17, 940, 88, 3000, 12)
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "patterns": {
        "use_rslora": True,
        "lora_alpha": 9,
        "rank_pattern": {"q_proj": 3},
        "alpha_pattern": {"k_proj": 21, "down_proj": 2},
    },
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base with its GGUF file."""
    folder = tmp_path_factory.mktemp("lora")
    lane = export_case.write_lane(folder)
    context = export_case.open_context(export_case.export_job(folder, lane, ("gguf:lora",)))
    fields = {"folder": str(folder / "models" / "base"), "target": str(folder / "base.gguf"), "file_type": "ALL_F32"}
    run_converter(context, "convert", fields, folder / "base.gguf", 1)
    return folder


def export_lora(folder: Path, name: str, **settings: Any) -> Path:
    adapter = tiny.adapter(folder / name, folder / "models" / "base", scale=0.3, **settings)
    job = export_case.export_job(folder, Lane(name="it", adapter=str(adapter)), ("gguf:lora",), name=name)
    assert export_case.run_export(folder, job) is Phase.DONE
    return job.folder / f"{name}-LoRA.gguf"


@contextmanager
def serve_llama(base: Path, lora: Path | None) -> Iterator[Engine]:
    xllamacpp = pytest.importorskip("xllamacpp", reason="there is no llama.cpp for this system")
    given = xllamacpp.CommonParams()
    given.model.path, given.n_ctx, given.n_parallel, given.warmup = str(base), 256, 1, False
    given.fit_params = False
    given.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    if lora:
        adapter = xllamacpp.CommonAdapterLoraInfo()
        adapter.path, adapter.scale = str(lora), 1.0
        given.lora_adapters = [adapter]
    engine = Engine()
    engine.server = xllamacpp.Server(given)
    yield engine


def next_logprobs(base: Path, lora: Path | None) -> dict[int, float]:
    with serve_llama(base, lora) as engine:
        told = engine.post("/completion", {"prompt": IDS, "n_predict": 1, "temperature": 0, "n_probs": 50})
    tops = told["completion_probabilities"][0]["top_logprobs"]
    return {one["id"]: one["logprob"] for one in tops}


def lane_logprobs(folder: Path, adapter: Path) -> torch.Tensor:
    lanes = load_lanes(str(folder / "models" / "base"), "fp32", [Lane(name="it", adapter=str(adapter))])
    logits = lanes.forward([lanes.mixtures["it"]], input_ids=torch.tensor([IDS])).logits[0, -1]
    return logits.float().log_softmax(-1)


@pytest.mark.parametrize("kind", KINDS)
def test_llama_cpp_with_both_files_answers_as_the_lane(folder: Path, kind: str) -> None:
    file = export_lora(folder, kind, **KINDS[kind])
    expected = lane_logprobs(folder, folder / kind)
    found = next_logprobs(folder / "base.gguf", file)
    apart = max(abs(expected[token].item() - logprob) for token, logprob in found.items())
    alone = next_logprobs(folder / "base.gguf", None)
    moved = max(abs(expected[token].item() - logprob) for token, logprob in alone.items())
    assert apart < 0.01 < 0.1 < moved
    assert str(folder).encode() not in file.read_bytes()
    fields = GGUFReader(file).fields
    assert [fields[name].contents() for name in ("general.type", "adapter.type")] == ["adapter", "lora"]
    assert json.loads((file.parent / "export.json").read_text())["rows"] == []  # it answers nothing by itself


@pytest.mark.parametrize(
    ("settings", "code"),
    [({"use_dora": True}, "export.lora_dora"), ({"target_modules": ["lm_head"]}, "export.lora_table")],
)
def test_what_the_format_cannot_say(folder: Path, tmp_path: Path, settings: dict[str, Any], code: str) -> None:
    part = AdapterPart.read(tiny.adapter(tmp_path / "it", folder / "models" / "base", **settings), 1.0)
    with pytest.raises(ModelError) as error:
        list(lora_tensors(LlamaNames(), part))
    assert error.value.text.code == code


def test_a_layer_that_llama_cpp_stores_otherwise_is_refused(folder: Path) -> None:
    part = AdapterPart.read(folder / "adapter-dpo", 1.0)
    with pytest.raises(ModelError) as error:
        list(lora_tensors(LlamaNames(pieces=2), part))
    assert error.value.text.code == "export.lora_layer"


@dataclass
class LlamaNames:
    """In the place of llama.cpp's model class: stores every layer in so many pieces."""

    pieces: int = 1

    def modify_tensors(self, tensor: torch.Tensor, name: str, block: int | None) -> list[tuple[str, torch.Tensor]]:
        return [(f"{name}.{piece}", tensor) for piece in range(self.pieces)]
