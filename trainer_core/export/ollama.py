"""Ollama: a folder with a GGUF file and a Modelfile, and the model created from it by the Ollama that runs here."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gguf import GGUFReader

from trainer_core.config.export_targets import EXPORT_TARGETS
from trainer_core.data import Message
from trainer_core.data.render import render_chat
from trainer_core.errors import ModelError
from trainer_core.export import measure
from trainer_core.export.certify import prompt_conversations
from trainer_core.export.chat_shape import PROOFS, ChatShape, find_shape
from trainer_core.export.context import ExportContext, part_name
from trainer_core.export.go_template import without_begin, write_template
from trainer_core.export.model_card import base_license
from trainer_core.export.ollama_client import OllamaClient
from trainer_core.inference.load import with_adapter_template
from trainer_core.runs.checkpoints import file_sha256
from trainer_core.texts import Text

MODELFILE, REQUEST = "Modelfile", "create.json"
"""For the command `ollama create`; the same for its API."""
MAX_CONTEXT = 8192
"""Tokens that Ollama keeps room for, if the model can have so many; its own default is 4,096."""
QUOTES = '"""'
SAMPLING = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "repeat_penalty": "repetition_penalty",
    "seed": "seed",
}
"""Ollama's names of the settings of Compare. All are written, for Ollama's own defaults are others."""


def check_ollama(context: ExportContext) -> None:
    """Check before any work that Ollama can be given this model's chat template.

    Raises:
        NoShape: it cannot.
    """
    lane_shape(context)


def write_ollama(context: ExportContext, target: Path, key: str) -> None:
    """Write the file and the Modelfile that `ollama create` reads.

    Raises:
        ModelError: a text cannot stand in a Modelfile.
    """
    target.mkdir()
    file = context.part_path(EXPORT_TARGETS[key].source)
    link_file(file, target / file.name)
    fields = model_fields(context, file)
    if quantised := EXPORT_TARGETS[key].file_type:
        fields["quantize"] = quantised
    (target / MODELFILE).write_text(write_modelfile(fields, file.name), encoding="utf-8")
    (target / REQUEST).write_text(json.dumps(fields, indent=1), encoding="utf-8")


def link_file(source: Path, target: Path) -> None:
    """The file under a second name; copied where the drive has no links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def model_fields(context: ExportContext, file: Path) -> dict[str, Any]:
    """Template, system prompt, parameters and licence, as the create API takes them."""
    tokenizer = lane_tokenizer(context)
    reader = GGUFReader(file)
    ends = dict.fromkeys([tokenizer.eos_token, read_token(reader, "eos"), read_token(reader, "eot")])
    parameters: dict[str, Any] = {"stop": [end for end in ends if end]}
    architecture = reader.fields["general.architecture"].contents()
    parameters["num_ctx"] = min(int(reader.fields[f"{architecture}.context_length"].contents()), MAX_CONTEXT)
    parameters |= {own: getattr(context.job.sampling, name) for own, name in SAMPLING.items()}
    told = {"system": context.job.lane.system, "license": base_license(context.base)}
    template = write_template(engine_shape(context, reader))
    return {"template": template, "parameters": parameters} | {name: text for name, text in told.items() if text}


def read_token(reader: GGUFReader, name: str) -> str:
    """The text of a special token of the file; empty if it has none."""
    field = reader.fields.get(f"tokenizer.ggml.{name}_token_id")
    return str(reader.fields["tokenizer.ggml.tokens"].contents(int(field.contents()))) if field else ""


def engine_shape(context: ExportContext, reader: GGUFReader) -> ChatShape:
    """The shape of the prompts without the token that the engine puts in front of them by itself."""
    adds = reader.fields.get("tokenizer.ggml.add_bos_token")
    begin = read_token(reader, "bos") if adds and adds.contents() else ""
    return without_begin(lane_shape(context), begin)


def lane_tokenizer(context: ExportContext) -> Any:
    """The tokenizer that the lane was measured with."""
    return with_adapter_template(measure.load_tokenizer(context.base), context.job.lane.adapter_folders)


def lane_shape(context: ExportContext) -> ChatShape:
    """The shape of the lane's chat template.

    Raises:
        NoShape: it depends on more than the roles.
    """
    tokenizer = lane_tokenizer(context)
    conversations = prompt_conversations(context.job.lane)
    return find_shape(lambda messages: render_chat(tokenizer, messages, asking=True), conversations)


def write_modelfile(fields: dict[str, Any], file: str) -> str:
    """A Modelfile.

    Raises:
        ModelError: a text holds three quotation marks, which end a text there.
    """
    lines = [f"FROM ./{file}", f"TEMPLATE {quote_text(fields['template'])}"]
    if "system" in fields:
        lines.append(f"SYSTEM {quote_text(fields['system'])}")
    for name, value in fields["parameters"].items():
        values = value if isinstance(value, list) else [value]
        lines += [f"PARAMETER {name} {quote_text(one) if isinstance(one, str) else one}" for one in values]
    if "license" in fields:
        lines.append(f"LICENSE {quote_text(fields['license'])}")
    return "\n".join([*lines, ""])


def quote_text(text: str) -> str:
    if QUOTES in text or text.endswith('"'):
        raise ModelError("ollama.quotes", text=text[:60])
    return f"{QUOTES}{text}{QUOTES}"


def register_ollama(context: ExportContext, key: str, client: OllamaClient | None = None) -> Text:
    """Create the model in the Ollama that runs here, and compare the prompts that it makes with those of training.

    Raises:
        ModelError: Ollama is not running, is too old, has a model of that name, or makes other prompts; then the model is
            removed again.
        Cancelled: the user stopped it.
    """
    folder, name = context.job.folder / part_name(context.job, key), context.job.name.lower()
    client = client or OllamaClient()
    client.require_version()
    file = next(folder.glob("*.gguf"))
    digest = f"sha256:{file_sha256(file)}"
    known = client.find_model(name)
    if known is not None and digest.replace(":", "-") not in str(known.get("modelfile", "")):
        raise ModelError("ollama.name_taken", name=name)
    if known is None:
        client.send_blob(digest, file, context.tracker.report)
        fields = json.loads((folder / REQUEST).read_bytes())
        client.create_model({"model": name, "files": {file.name: digest}, **fields}, context.tracker.report)
    return compare_prompts(context, client, name)


def compare_prompts(context: ExportContext, client: OllamaClient, name: str) -> Text:
    """Say whether Ollama makes the prompts of training.

    Raises:
        ModelError: it makes others; the model is removed from it.
    """
    tokenizer = lane_tokenizer(context)
    begin = tokenizer.bos_token or ""  # written by the template or by the engine
    conversations: Sequence[Sequence[Message]] = (*PROOFS, *prompt_conversations(context.job.lane))
    for messages in conversations:
        found = client.render_prompt(name, messages)
        if found is None:
            return Text("ollama.unproved", name=name)
        asked = messages if messages[0].role == "system" else (*system_prompt(context), *messages)
        if found.removeprefix(begin) != render_chat(tokenizer, asked, asking=True).removeprefix(begin):
            client.remove_model(name)
            raise ModelError("ollama.other_prompts", name=name)
    return Text("ollama.ready", name=name, count=len(conversations))


def system_prompt(context: ExportContext) -> tuple[Message, ...]:
    """What Ollama puts before a conversation that has no system prompt of its own."""
    return (Message("system", context.job.lane.system),) if context.job.lane.system else ()
