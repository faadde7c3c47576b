"""A worker as on a smaller card: `python -m bench.harness.capped_worker SHARE HOME PID RUN_DIR`.

SHARE: of the card's memory, that torch may use. HOME: a home of its own, where the lock of the card is then. PID: of the bench,
whose end ends it.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import psutil


def main() -> None:
    share, home, bench, run_dir = sys.argv[1:]
    use_home(home)
    from trainer_core.worker import restart, runner

    folder = Path(run_dir)
    life = partial(run_capped_worker, float(share), int(bench), folder)
    sys.exit(restart.run_with_restarts(life, partial(runner.on_oom_kill, folder)))


def use_home(home: str) -> None:
    """A card has one lock for each user's home, and an emulated card is a card of its own."""
    os.environ["HOME"] = home


def run_capped_worker(share: float, bench: int, run_dir: Path) -> int:
    threading.Thread(target=end_with_bench, args=(bench,), daemon=True).start()
    from trainer_core import training  # isort: skip  # noqa: F401  (it imports unsloth, before torch opens the card)
    from trainer_core.worker import runner  # isort: skip
    import torch

    if torch.cuda.is_available():
        torch.cuda.set_per_process_memory_fraction(share)
        torch.cuda.mem_get_info = partial(free_of_share, torch.cuda.mem_get_info, share)
    return runner.main(run_dir)


def free_of_share(read: Callable[[Any], tuple[int, int]], share: float, device: Any = None) -> tuple[int, int]:
    """Bytes free on the card as far as they are in the share, and the real card's bytes."""
    import torch

    free, total = read(device)
    return max(0, min(free, int(share * total) - torch.cuda.memory_reserved(device))), total


def end_with_bench(bench: int) -> None:
    """End this worker and its parent once the bench is gone."""
    while psutil.pid_exists(bench):
        time.sleep(1)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main()
