"""Makes the recorded histories anew: `python -m tests.histories.record MODEL FOLDER [NAME ...]`, real runs of the starter model.

MODEL is the converted starter model's folder. Each run takes about a minute; its events go to FOLDER/NAME.jsonl.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from tests.histories import RECORDED, recipe_of
from tests.test_engine import start
from trainer_core import runs
from trainer_core.config import TrainJob


def main() -> None:
    model, into, *names = sys.argv[1:]
    folder = Path(tempfile.mkdtemp())
    for name in names or RECORDED:
        recipe = recipe_of(name).model_copy(update={"model": str(Path(model).resolve())})
        run_dir = runs.create(folder / "runs", TrainJob(recipe=recipe), name)
        start(folder, str(run_dir))
        shutil.copyfile(run_dir / "events.jsonl", Path(into) / f"{name}.jsonl")
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
