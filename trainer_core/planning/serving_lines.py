"""The lines with which other programs serve an export: vLLM, and text-generation-webui."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from trainer_core.config.jobs import ExportJob
from trainer_core.config.recipe import STARTER
from trainer_core.errors import ModelError
from trainer_core.models import resolve
from trainer_core.models.starter import HUB_NAME
from trainer_core.planning.presets import load_catalogue
from trainer_core.system import untrusted_files
from trainer_core.system.untrusted_files import UnsafeFile
from trainer_core.texts import Text

ADAPTER_CONFIG = "adapter_config.json"
VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Values of --max-lora-rank (vLLM's MaxLoRARanks)."""
GUESSING = '{"method": "ngram", "num_speculative_tokens": 4, "prompt_lookup_max": 4}'
"""Speculative decoding without a second model: answers that repeat their prompt come faster, and are the same."""
PACKED_ENDINGS = ("-unsloth-bnb-4bit", "-bnb-4bit")


def serving_lines(job: ExportJob, run_dir: Path) -> list[Text]:
    """How to serve what a finished export holds.

    Args:
        run_dir: of the lane's run. Its other adapters are served beside.
    """
    lines = list[Text]()
    if "adapter" in job.targets:
        lines += adapter_lines(job, run_dir)
    if "merged" in job.targets:
        folder = str(job.folder / "merged")
        lines.append(Text("serving.vllm", command=shlex.join(["vllm", "serve", folder])))
    if lines:
        lines += [
            Text("serving.guessing", option=f"--speculative-config {shlex.quote(GUESSING)}"),
            Text("serving.webui"),
        ]
    return lines


def adapter_lines(job: ExportJob, run_dir: Path) -> Iterator[Text]:
    """vLLM with the exported adapter and those of the run's stages, or why it does not serve it."""
    adapters = {job.name: job.folder / "adapter"}
    adapters |= {path.name.removeprefix("adapter-"): path for path in sorted(run_dir.glob("adapter-*"))}
    settings = {name: read_settings(folder) for name, folder in adapters.items()}
    if reason := unserved_reason(settings[job.name]):
        yield Text("serving.no_vllm", reason=reason)
        return
    served = {name: adapters[name] for name, values in settings.items() if not unserved_reason(values)}
    most = max(largest_rank(settings[name]) for name in served)
    rank = next(one for one in VLLM_RANKS if one >= most)
    modules = [f"{name}={folder}" for name, folder in served.items()]
    options = [
        "--enable-lora",
        "--max-lora-rank",
        str(rank),
        "--max-loras",
        str(len(served)),
        "--lora-modules",
        *modules,
    ]
    yield Text("serving.vllm", command=shlex.join(["vllm", "serve", plain_base(job.model), *options]))


def read_settings(folder: Path) -> Mapping[str, Any]:
    """An adapter's settings; empty if they cannot be read."""
    try:
        found = untrusted_files.parse_json(untrusted_files.read_regular_file(folder, ADAPTER_CONFIG))
    except (OSError, UnsafeFile, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def unserved_reason(settings: Mapping[str, Any]) -> Text | None:
    """Why vLLM does not serve an adapter; None if it does."""
    if not isinstance(settings.get("r"), int):
        return Text("serving.unread")
    if settings.get("use_dora"):
        return Text("serving.dora")
    if settings.get("modules_to_save"):
        return Text("serving.whole_layers")
    return Text("serving.rank", rank=largest_rank(settings)) if largest_rank(settings) > VLLM_RANKS[-1] else None


def largest_rank(settings: Mapping[str, Any]) -> int:
    pattern = settings.get("rank_pattern")
    ranks = [settings.get("r"), *(pattern.values() if isinstance(pattern, dict) else ())]
    return max(rank for rank in ranks if isinstance(rank, int))


def plain_base(model: str) -> str:
    """The 16-bit model that vLLM loads: a Hub name where there is one, else the folder."""
    if model == STARTER:
        return HUB_NAME
    try:
        return original_name(model)
    except ModelError:
        return model


def original_name(model: str) -> str:
    """The Hub's 16-bit repository of a packed model.

    Raises:
        ModelError: none is known.
    """
    for known in load_catalogue().models:
        if model == known.packed:
            return known.whole
    ending = next((end for end in PACKED_ENDINGS if model.endswith(end)), "")
    if not ending or not resolve.is_hub_id(model):
        raise ModelError("export.unknown_original", model=model)
    return model.removesuffix(ending)
