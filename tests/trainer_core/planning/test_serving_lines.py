"""The lines for vLLM: rank, all lanes, and what it does not serve."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from trainer_core.config.jobs import ExportJob, Lane
from trainer_core.errors import ModelError
from trainer_core.planning.serving_lines import original_name, plain_base, serving_lines
from trainer_core.texts import Text


def write_adapter(folder: Path, **settings: Any) -> None:
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(json.dumps({"r": 16} | settings))


def lines(
    tmp_path: Path, targets: tuple[str, ...] = ("adapter",), model: str = "starter", **settings: Any
) -> list[Text]:
    job = ExportJob(
        model=model, lane=Lane(name="DPO", adapter="x"), targets=targets, out=str(tmp_path / "my out"), name="it"
    )
    write_adapter(job.folder / "adapter", **settings)
    write_adapter(tmp_path / "run" / "adapter-sft", r=48)
    write_adapter(tmp_path / "run" / "adapter-dpo", use_dora=True)
    return serving_lines(job, tmp_path / "run")


def test_all_lanes_that_vllm_serves_stand_in_one_line(tmp_path: Path) -> None:
    words = shlex.split(str(lines(tmp_path)[0].params["command"]))
    assert words == [
        *("vllm", "serve", "HuggingFaceTB/SmolLM2-135M-Instruct", "--enable-lora"),
        *("--max-lora-rank", "64", "--max-loras", "2", "--lora-modules"),
        f"it={tmp_path}/my out/it/adapter",
        f"sft={tmp_path}/run/adapter-sft",
    ]


@pytest.mark.parametrize(
    ("settings", "code"),
    [
        ({"use_dora": True}, "serving.dora"),
        ({"modules_to_save": ["lm_head"]}, "serving.whole_layers"),
        ({"r": 8, "rank_pattern": {"q_proj": 600}}, "serving.rank"),
        ({"r": "8"}, "serving.unread"),
    ],
)
def test_what_vllm_does_not_serve(tmp_path: Path, settings: dict[str, Any], code: str) -> None:
    first = lines(tmp_path, **settings)[0]
    assert (first.code, first.params["reason"].code) == ("serving.no_vllm", code)


@pytest.mark.parametrize(("rank", "option"), [(1, "1"), (9, "16"), (257, "320"), (512, "512")])
def test_the_rank_is_one_that_vllm_takes(tmp_path: Path, rank: int, option: str) -> None:
    job = ExportJob(
        model="starter", lane=Lane(name="DPO", adapter="x"), targets=("adapter",), out=str(tmp_path), name="it"
    )
    write_adapter(job.folder / "adapter", r=rank)
    words = shlex.split(str(serving_lines(job, tmp_path / "none")[0].params["command"]))
    assert words[words.index("--max-lora-rank") + 1] == option


def test_a_merged_model_needs_no_options_and_a_gguf_no_line(tmp_path: Path) -> None:
    found = lines(tmp_path, ("merged", "gguf:q8_0"))
    assert shlex.split(str(found[0].params["command"])) == ["vllm", "serve", f"{tmp_path}/my out/it/merged"]
    assert [line.code for line in found] == ["serving.vllm", "serving.guessing", "serving.webui"]
    json.loads(shlex.split(str(found[1].params["option"]))[1])
    assert lines(tmp_path / "other", ("gguf:q8_0",)) == []


def test_the_base_is_the_16_bit_one() -> None:
    assert original_name("unsloth/Qwen2.5-0.5B-Instruct-bnb-4bit") == "unsloth/Qwen2.5-0.5B-Instruct"
    assert original_name("owner/model-unsloth-bnb-4bit") == "owner/model"
    assert plain_base("owner/model") == "owner/model" and plain_base("/a/folder") == "/a/folder"
    with pytest.raises(ModelError) as error:
        original_name("owner/model")
    assert error.value.text.code == "export.unknown_original"
