"""Which base models may be loaded, and where they are: the starter model, a local folder, or a hub id. No torch here."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from trainer_core import starter
from trainer_core.config import STARTER
from trainer_core.errors import ModelError
from trainer_core.runs import Workspace

HUB_ID = re.compile(r"^[\w.-]+/[\w.-]+$")
CODE_KEYS = ("auto_map", "custom_pipelines", "trust_remote_code")
"""Keys of a config.json that make loading run the model's own code."""


def resolve(name: str, workspace: Workspace) -> str:
    """What to hand to `from_pretrained`: a checked folder, or a hub id as it is.

    Raises:
        ModelError: the folder is no complete safetensors model, wants to run code, or the name is neither.
    """
    if name == STARTER:
        return str(starter.folder(workspace))
    folder = Path(name).expanduser()
    if name and folder.is_dir():
        return str(checked(folder.resolve()))
    if HUB_ID.match(name) and not name.startswith((".", "/", "~")):
        return name
    raise ModelError(
        f"Model {name!r}: there is no such folder, and it is not a hub id of the form owner/name. "
        f'Use "{STARTER}" for the embedded model.'
    )


def on_this_computer(name: str, workspace: Workspace, file: str) -> Path | None:
    """A file of a model (config.json, tokenizer.json) without any download: of the starter, a folder, or the hub's cache."""
    if name == STARTER:
        found = workspace.models / starter.NAME / file
    elif (folder := Path(name).expanduser()).is_dir():
        found = folder / file
    else:
        from huggingface_hub import try_to_load_from_cache  # half a second

        cached = try_to_load_from_cache(name, file) if HUB_ID.match(name) else None
        return Path(cached) if isinstance(cached, str) else None
    return found if found.exists() else None


def checked(folder: Path) -> Path:
    """The folder, if it holds a model that is safe to load.

    Raises:
        ModelError: naming what is missing or refused.
    """
    config = read_config(folder)
    for key in CODE_KEYS:
        if key in config:
            raise ModelError(
                f"{folder.name}/config.json has {key!r}: loading it would run the model's own code. Refused."
            )
    if not list(folder.glob("*.safetensors")):
        others = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt") for path in folder.glob(pattern))
        held = f" It holds {others[0]}, a pickle, which can run code when loaded." if others else ""
        raise ModelError(
            f"{folder} has no .safetensors file.{held} Save the model with safe_serialization=True, or pick another."
        )
    if not (folder / "tokenizer.json").exists() and not (folder / "tokenizer.model").exists():
        raise ModelError(
            f"{folder} has no tokenizer.json, so its text cannot be read. Copy the tokenizer files beside it."
        )
    return folder


def read_config(folder: Path) -> dict[str, Any]:
    """The config.json of a model folder.

    Raises:
        ModelError: missing or not JSON.
    """
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(f"{folder} has no readable config.json, so it is not a model folder.") from error
    except ValueError as error:
        raise ModelError(f"{folder.name}/config.json is not valid JSON: {error}") from error
    if not isinstance(config, dict) or "model_type" not in config:
        raise ModelError(f"{folder.name}/config.json does not name a model_type, so this is not a language model.")
    return config
