"""`python -m trainer_core.worker RUN_DIR`: one job, one run folder."""

import sys
from pathlib import Path

from trainer_core.worker.runner import life

if __name__ == "__main__":
    sys.exit(life(Path(sys.argv[1]).resolve()))
