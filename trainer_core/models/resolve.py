"""Resolves and checks base models: the starter model, a local folder, or a Hub ID. Imports no torch."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trainer_core.config.recipe import STARTER
from trainer_core.errors import ModelError
from trainer_core.models import safetensors_check, starter, template_sandbox, tokenizer_check
from trainer_core.models.architecture import parse_architecture
from trainer_core.runs.workspace import Workspace
from trainer_core.system.project import expand_home

PICKLES = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"})
HUB_ID = re.compile(r"^[\w.-]+/[\w.-]+$")
CODE_KEYS = (
    "auto_map",
    "custom_pipelines",
    "trust_remote_code",
    "custom_generate",
    "auto_mapping",
    "megatron_config",
    "_attn_implementation_internal",
    "_experts_implementation_internal",
)
"""Configuration keys, at any depth, that make loading run code of the model or of a module that they name."""
MULTIMODAL = ("vision_config", "audio_config")
"""Keys of a config.json with an image or audio encoder. Untested: TRL would train it as multimodal, with its own row format."""
CONFIG_BYTES = 4 << 20
MIN_WEIGHT_BITS = 3.5
"""Bits per weight on disk in the densest trainable format: NF4 with doubly quantised constants takes 4.1."""


def resolve_model(name: str, workspace: Workspace) -> str:
    """The argument for `from_pretrained`: a checked folder, or an unchanged Hub ID.

    Raises:
        ModelError: the folder is not a complete safetensors model or asks to run code, or the name is neither folder nor Hub ID.
    """
    if name == STARTER:
        return str(starter.ensure_starter(workspace))
    folder = model_path(name)
    if folder and os.path.isdir(folder):  # isdir() is False for too long a name
        return str(check_model_folder(folder.resolve()))
    if folder and folder.suffix.lower() in PICKLES | {".gguf", ".safetensors"} and os.path.exists(folder):
        raise ModelError("model_folder.single_file", name=folder.name)
    check_model_name(name)
    return name


def canonical_name(name: str, workspace: Workspace) -> str:
    """One name for one model: "starter" also for its folder, the whole path of any other folder, a Hub ID as it is."""
    folder = model_path(name)
    if name == STARTER or folder is None or not os.path.isdir(folder):
        return name
    path = folder.resolve()
    return STARTER if path == (workspace.models / starter.NAME).resolve() else str(path)


def check_model_name(name: str) -> None:
    """Can a model have this name?

    Raises:
        ModelError: no.
    """
    folder = model_path(name)
    if name != STARTER and not is_hub_id(name) and not (folder and os.path.exists(folder)):
        raise ModelError("model_folder.not_found", name=name, starter=STARTER)


def is_hub_id(name: str) -> bool:
    """Is the name a Hub ID, and not a local folder?"""
    return bool(HUB_ID.match(name)) and not name.startswith((".", "/", "~")) and not os.path.isdir(name)


def model_path(name: str) -> Path | None:
    """The path that the name can stand for; None if it cannot be a path."""
    return expand_home(name) if name and "\0" not in name else None


def find_local_file(name: str, workspace: Workspace, file: str) -> Path | None:
    """A model's file (config.json, tokenizer.json) without a download: from the starter, a folder, or the Hub cache."""
    if name == STARTER:
        found = workspace.models / starter.NAME / file
    elif os.path.isdir(folder := expand_home(name)):
        found = folder / file
    else:
        from huggingface_hub import try_to_load_from_cache  # half a second

        cached = try_to_load_from_cache(name, file) if HUB_ID.match(name) else None
        return Path(cached) if isinstance(cached, str) else None
    return found if found.exists() else None


def check_model_folder(folder: Path) -> Path:
    """The folder, if its model is safe to load.

    Raises:
        ModelError: naming what is missing or refused.
    """
    folder = folder.resolve()  # the Hub's cache may be a link to another drive
    config = read_safe_config(folder)
    if more := [name for name in MULTIMODAL if config.get(name)]:
        raise ModelError("model_folder.multimodal", name=folder.name, settings=", ".join(more))
    if (folder / "adapter_config.json").exists():
        raise ModelError("model_folder.adapter", name=folder.name)
    held = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLES)
    if not list(folder.glob("*.safetensors")):
        if held:
            raise ModelError("model_folder.only_pickle", folder=str(folder), file=held[0])
        raise ModelError("model_folder.no_weights", folder=str(folder))
    check_weight_count(folder, config, safetensors_check.check_weights(folder))
    check_tokenizer_files(folder)
    return folder


def check_tokenizer_folder(folder: Path) -> Path:
    """The folder, if its tokenizer is safe to load. Its weights may be missing.

    Raises:
        ModelError: naming what is missing or refused.
    """
    folder = folder.resolve()
    read_safe_config(folder)
    check_tokenizer_files(folder)
    return folder


def read_safe_config(folder: Path) -> dict[str, Any]:
    """The config.json of a folder without links to elsewhere and without requests for code."""
    for path in (*folder.iterdir(), *folder.glob(f"{template_sandbox.MORE_TEMPLATES}/*")):
        check_file_location(path, folder)
    config = read_config(folder)
    check_configs(folder)
    return config


def check_tokenizer_files(folder: Path) -> None:
    template_sandbox.check_templates(folder)
    if not (folder / "tokenizer.json").exists() and not (folder / "tokenizer.model").exists():
        raise ModelError("model_folder.no_tokenizer", folder=str(folder))
    if (folder / "tokenizer.json").exists():
        tokenizer_check.check_growth(folder / "tokenizer.json")


def read_config(folder: Path) -> dict[str, Any]:
    """The config.json of a model folder.

    Raises:
        ModelError: it is missing or not JSON.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise ModelError("model_folder.no_config", folder=str(folder))
    config = read_json(path)
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise ModelError("model_folder.no_type", name=folder.name)
    return config


def read_json(path: Path) -> Any:
    """A small JSON file.

    Raises:
        ModelError: it cannot be read, is too large, nested too deeply, or not JSON.
    """
    place = f"{path.parent.name}/{path.name}"
    try:
        if (size := path.stat().st_size) > CONFIG_BYTES:
            raise ModelError("model_folder.large_config", file=place, size=size, most=CONFIG_BYTES)
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError("model_folder.not_read", file=place, reason=error.strerror) from error
    except (ValueError, RecursionError) as error:
        raise ModelError("model_folder.bad_json", file=place, reason=str(error)) from error


def check_file_location(path: Path, folder: Path) -> None:
    """Accepts a file of the folder or a link to one; the Hub cache stores its files in `blobs` beside the folder's parent.

    Raises:
        ModelError: it leads elsewhere, or is not a file.
    """
    place = f"{folder.name}/{path.name}"
    try:
        real = path.resolve(strict=True)
    except (OSError, RuntimeError):
        raise ModelError("model_folder.broken_link", file=place) from None
    if not (real.is_relative_to(folder) or real.is_relative_to(folder.parent.parent / "blobs")):
        raise ModelError("model_folder.outside_link", file=place)
    if not (real.is_file() or real.is_dir()):
        raise ModelError("model_folder.special_file", file=place)


def check_configs(folder: Path) -> None:
    """Refuses configurations of a model or adapter folder that ask for code.

    Raises:
        ModelError: naming the file and the key.
    """
    for path in sorted((*folder.glob("*config*.json"), folder / "chat_template.json")):
        config, place = read_json(path) if path.is_file() else {}, f"{folder.name}/{path.name}"
        for key, value in walk_items(config):
            if key in CODE_KEYS and value:
                raise ModelError("model_folder.own_code", file=place, key=key)
            if key.endswith(("attn_implementation", "experts_implementation")) and "/" in str(value):
                raise ModelError("model_folder.hub_code", file=place, key=key, source=str(value)[:80])


def walk_items(config: Any) -> Iterator[tuple[str, Any]]:
    """Every key with its value, at any depth."""
    inner = config.values() if isinstance(config, dict) else config if isinstance(config, list) else ()
    if isinstance(config, dict):
        yield from config.items()
    for one in inner:
        yield from walk_items(one)


def check_weight_count(folder: Path, config: dict[str, Any], held: int) -> None:
    """Do the files hold the weights that config.json declares? Missing ones would be random, and could fill the memory.

    Raises:
        ModelError: with both figures.
    """
    shape = parse_architecture(config)
    asked = shape.linear_weights + shape.vocabulary * shape.hidden
    if held * 8 < asked * MIN_WEIGHT_BITS:
        raise ModelError("model_folder.few_weights", name=folder.name, asked=asked, held=held)


def find_tokenizer(model: str, workspace: Workspace) -> Path | None:
    """The model's tokenizer.json, if it is on this computer."""
    return find_local_file(model, workspace, "tokenizer.json")
