"""What several benches need: a workspace of their own with the starter model, adapters with random weights, a run to its end."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from trainer_core import presets, runs, starter
from trainer_core.config import Recipe
from trainer_core.events import RunView
from trainer_core.supervisor import Supervisor, wait_for

SHARED = runs.default_workspace()
"""The starter model is made once, where the app keeps it as well."""


@contextmanager
def workspace() -> Iterator[runs.Workspace]:
    """An empty workspace that is gone at the end, with the starter model in it."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        made = runs.Workspace(Path(folder))
        model = starter.folder(runs.Workspace(SHARED))
        place = made.root / model.relative_to(SHARED)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(model)
        yield made


def recipe(tiny: bool, **changes: Any) -> Recipe:
    """The starter recipe, shorter."""
    short: dict[str, Mapping[str, Any]] = {
        "sft": {"max_steps": 2 if tiny else 12, "batch_size": 4, "accumulation": 2, "max_length": 256},
        "dpo": {"max_steps": 2 if tiny else 8, "batch_size": 2, "accumulation": 2, "max_length": 256},
    }
    base = presets.starter_recipe()
    stages = {name: getattr(base, name).model_copy(update=dict(values)) for name, values in short.items()}
    return base.model_copy(update={**stages, **changes})


def adapters(model: Any, folder: Path, count: int) -> list[Path]:
    """Saved LoRA adapters of rank 16 with random weights, so that each changes what is said."""
    import torch
    from peft import LoraConfig, get_peft_model

    made = []
    for number in range(count):
        torch.manual_seed(number)
        targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
        adapted = get_peft_model(model, LoraConfig(r=16, lora_alpha=16, target_modules=targets, task_type="CAUSAL_LM"))
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight, std=0.01)
        adapted.save_pretrained(folder / f"adapter-{number}")
        made.append(folder / f"adapter-{number}")
        model = adapted.unload()
    return made


def finished(supervisor: Supervisor, run_id: str, seconds: float = 600) -> RunView:
    """The run at its end.

    Raises:
        RuntimeError: it did not go to its end in time.
    """

    def over() -> bool:
        supervisor.look()
        return not supervisor.run(run_id).phase.active

    if not wait_for(over, seconds) or supervisor.run(run_id).error:
        raise RuntimeError(supervisor.run(run_id).error or f"{run_id} took more than {seconds:.0f} s")
    return supervisor.run(run_id)


def python(program: str, *arguments: str) -> list[str]:
    """A command that runs a program text."""
    return [sys.executable, "-c", program, *arguments]
