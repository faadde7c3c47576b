"""Makes the recorded histories anew, real runs of a tiny model: `python -m tests.support.histories.record FOLDER [NAME ...]`."""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from tests.support import tiny
from tests.support.histories import RECORDED, recipe_of
from tests.support.training_runs import start
from trainer_core.config.jobs import TrainJob
from trainer_core.runs import run_folder


def main() -> None:
    into, *names = sys.argv[1:]
    folder = Path(tempfile.mkdtemp())
    tiny.model(folder / "model")
    made = {}
    for name in names or RECORDED:
        recipe = recipe_of(name).model_copy(update={"model": str(folder / "model")})
        made[name] = run_folder.create_run(folder / "runs", TrainJob(recipe=recipe), name)
    start(folder, *map(str, made.values()))
    for name, run_dir in made.items():
        shutil.copyfile(run_dir / "events.jsonl", Path(into) / f"{name}.jsonl")
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
