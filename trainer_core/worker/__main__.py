"""`python -m trainer_core.worker RUN_DIR`: one job, one run folder."""

import sys
from pathlib import Path

from trainer_core.worker.runner import run_worker

if __name__ == "__main__":
    sys.exit(run_worker(Path(sys.argv[1]).absolute()))
