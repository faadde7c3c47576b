"""Makes `healthy.json` anew: `python -m tests.support.histories.healthy FILE [NAME ...]`. Real runs of a tiny model.

The settings were chosen before the runs were made, and what became of each is kept, whatever it is: to leave out the one that
is stopped would make the guard look better than it is.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tests.support import tiny
from tests.support.histories import TINY
from tests.support.training_runs import start
from trainer_core.config.changes import with_changes
from trainer_core.config.jobs import TrainJob
from trainer_core.planning.presets import starter_recipe
from trainer_core.runs import run_folder
from trainer_core.runs.run_state import read_run_state

MODEL = "tests/support/tiny.py: a Llama of two layers and 64 wide, random weights"
DPO = {"method": "dpo"}
HEALTHY: dict[str, dict[str, Any]] = {
    **{f"seed-{seed}": {"seed": seed} for seed in range(101, 107)},
    "sft-rate-1e-3": {"method": "sft", "sft.learning_rate": 1e-3},
    "sft-rate-2e-3": {"method": "sft", "sft.learning_rate": 2e-3, "seed": 111},
    "sft-rate-4e-3": {"method": "sft", "sft.learning_rate": 4e-3, "seed": 112},
    "dpo-rate-2e-4": {"dpo.learning_rate": 2e-4, "seed": 113},
    "dpo-rate-4e-4": {"dpo.learning_rate": 4e-4, "seed": 114},
    "dpo-rate-7e-4": {"dpo.learning_rate": 7e-4, "seed": 115},
    "linear": {"sft.scheduler": "linear", "dpo.scheduler": "linear", "seed": 121},
    "constant": {"sft.scheduler": "constant", "dpo.scheduler": "constant", "seed": 122},
    "no-warm-up": {"sft.warmup": 0.0, "dpo.warmup": 0.0, "seed": 123},
    "rank-2": {"lora.rank": 2, "lora.alpha": 4, "seed": 131},
    "rank-64": {"lora.rank": 64, "lora.alpha": 64, "seed": 132},
    "dropout": {"lora.dropout": 0.1, "seed": 133},
    "attention": {"lora.targets": "attention", "seed": 135},
    "mlp": {"lora.targets": "mlp", "seed": 136},
    "pairs-of-two": {"sft.batch_size": 2, "sft.accumulation": 1, "dpo.batch_size": 2, "dpo.accumulation": 1},
    "eight-by-two": {"sft.batch_size": 8, "sft.accumulation": 2, "dpo.batch_size": 8, "dpo.accumulation": 2},
    "packed": {"method": "sft", "sft.packing": True, "seed": 141},
    "chats": {"method": "sft", "data.chat": "sample", "seed": 142},
    "sixty-pairs": {"data.pair_rows": 60, "seed": 143},
    "short-rows": {"sft.max_length": 64, "dpo.max_length": 64, "seed": 144},
    "dpo-alone": {**DPO, "seed": 151},
    "beta-0.05": {"dpo.beta": 0.05, "seed": 152},
    "beta-0.5": {"dpo.beta": 0.5, "seed": 153},
    "hinge": {**DPO, "dpo.losses": ["hinge"], "seed": 155},
    "ipo": {**DPO, "dpo.losses": ["ipo"], "seed": 156},
    "robust": {**DPO, "dpo.losses": ["robust"], "dpo.label_smoothing": 0.1, "seed": 157},
    "apo-zero": {**DPO, "dpo.losses": ["apo_zero"], "seed": 158},
    "sppo-hard": {**DPO, "dpo.losses": ["sppo_hard"], "seed": 159},
}
"""By what differs from the starter's preset besides TINY. Twice TINY's rates are too high, see the sick ones."""
AT_ONCE = 6
"""Runs that one process makes, so that it ends within the time that it is given."""


def main() -> None:
    into, *chosen = sys.argv[1:]
    names, made = chosen or list(HEALTHY), dict[str, dict[str, Any]]()
    folder = Path(tempfile.mkdtemp())
    tiny.model(folder / "model")
    for at in range(0, len(names), AT_ONCE):
        made |= recorded(folder, names[at : at + AT_ONCE])
        write(Path(into), made)
    shutil.rmtree(folder)


def write(path: Path, made: dict[str, dict[str, Any]]) -> None:
    """One run a line. Those in the file that were not made now stay as they are."""
    known = {one["name"]: one for one in json.loads(path.read_text(encoding="utf-8"))["runs"]} if path.exists() else {}
    lines = ",\n".join(json.dumps(one) for one in (known | made).values())
    head = {"model": MODEL, "preset": "cpu, goal quick", "settings": TINY, "torch": version("torch")}
    path.write_text(f'{{"from": {json.dumps(head)},\n"runs": [\n{lines}\n]}}\n', encoding="utf-8")


def recorded(folder: Path, names: list[str]) -> dict[str, dict[str, Any]]:
    """Some runs in one process, and what is kept of them."""
    model, made = {"model": str(folder / "model")}, {}
    for name in names:
        recipe = with_changes(starter_recipe(), TINY | HEALTHY[name] | model)
        made[name] = run_folder.create_run(folder / "runs", TrainJob(recipe=recipe), name)
    start(folder, *map(str, made.values()))
    ended = {name: run_dir for name, run_dir in made.items() if not read_run_state(run_dir).phase.is_active}
    if cut := sorted(made.keys() - ended.keys()):
        print(f"ended from outside, to be made again: {' '.join(cut)}")  # a run that the guard stops says so itself
    return {name: {"name": name, "changes": HEALTHY[name]} | kept(run_dir) for name, run_dir in ended.items()}


def kept(run_dir: Path) -> dict[str, Any]:
    """Its end, and loss and gradient norm of each step to four digits: as much as a guard sees."""
    view = read_run_state(run_dir)
    end = {"end": view.phase.value} | ({"error": view.error} if view.error else {})
    for point in view.points:
        curves = end.setdefault(point.stage, {"loss": [], "norm": []})
        curves["loss"].append(float(f"{point.loss:.4g}"))
        curves["norm"].append(float(f"{point.grad_norm:.4g}"))
    return end


if __name__ == "__main__":
    main()
