"""The adapter alone, and the model with the adapter merged in, as folders that transformers, PEFT and vLLM load."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from trainer_core.export import model_card
from trainer_core.export.context import ExportContext
from trainer_core.export.lane_adapter import write_lane_adapter
from trainer_core.export.merge import MergeResult, StoredFormat, merge_adapter

TOKENIZER_FILES = ("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt")
TEMPLATE_FILES = ("chat_template.jinja", "additional_chat_templates")
BASE_FILES = ("generation_config.json", "LICENSE*", "NOTICE*", "USE_POLICY*")
CONFIG, MERGE = "config.json", "MERGE.json"
STORED_AS = {"F16": "float16"}


def write_adapter(context: ExportContext, target: Path) -> None:
    """PEFT's folder with one adapter named "default", and the tokenizer of training.

    Raises:
        ModelError: no single adapter does what the lane does.
    """
    target.mkdir()
    write_lane_adapter(context.job.lane, target, context.base_name)
    copy_tokenizer(context, target)
    model_card.write_card(context, target, "adapter")


def write_merged(context: ExportContext, target: Path) -> None:
    """The model in the base's own number format.

    Raises:
        ModelError: the adapter cannot be merged into this base.
    """
    merge_into(context, target, "base")


def write_merged_f16(context: ExportContext, target: Path) -> None:
    """The model in float16, which keeps three more binary digits than bfloat16. GGUF files are made from it.

    It is not offered to be run: models made for bfloat16 can overflow when they compute in float16.
    """
    merge_into(context, target, "F16")


def merge_into(context: ExportContext, target: Path, stored: StoredFormat) -> None:
    target.mkdir()
    adapter = context.staging.path("adapter")
    result = merge_adapter(context.base, adapter, target, stored, context.tracker.report)
    write_rounding(target, result)
    copy_files(context.base, target, BASE_FILES)
    copy_tokenizer(context, target)
    config: dict[str, Any] = json.loads((context.base / CONFIG).read_bytes())
    write_config(target, config, result.untied, stored)
    model_card.write_card(context, target, "merge")


def write_rounding(target: Path, result: MergeResult) -> None:
    """What each 16-bit format loses of the change: its error as a share of it."""
    lost = {name: result.rounding.share(name) for name in ("BF16", "F16")}
    told = {"changed_tensors": result.changed, "own_head": result.untied, "rounding_error": lost}
    (target / MERGE).write_text(json.dumps(told, indent=1), encoding="utf-8")


def write_config(target: Path, config: dict[str, Any], untied: bool, stored: StoredFormat) -> None:
    """The base's config.json without paths of this computer, and with what the merge changed."""
    config.pop("_name_or_path", None)
    text = config.get("text_config")
    for part in (config, text) if isinstance(text, dict) else (config,):
        if untied:
            part["tie_word_embeddings"] = False
        if stored in STORED_AS:
            part.pop("torch_dtype", None)
            part["dtype"] = STORED_AS[stored]
    (target / CONFIG).write_text(json.dumps(config, indent=2), encoding="utf-8")


def copy_tokenizer(context: ExportContext, target: Path) -> None:
    """The tokenizer and the chat template of training: the base's, and over it what the adapter's folder has of its own."""
    for folder in dict.fromkeys((context.base, context.tokenizer_folder)):
        copy_files(folder, target, (*TOKENIZER_FILES, *TEMPLATE_FILES))


def copy_files(source: Path, target: Path, patterns: tuple[str, ...]) -> None:
    for pattern in patterns:
        for path in sorted(source.glob(pattern)):
            if path.is_dir():
                shutil.copytree(path, target / path.name, dirs_exist_ok=True)
            else:
                shutil.copyfile(path, target / path.name)
