"""How a worker process is started."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import psutil

from trainer_core.jobs import warm_worker

WORKER_COMMAND = (sys.executable, "-m", "trainer_core.worker")
PRELOAD_SECONDS, IDLE_SECONDS = 2.0, 600.0
"""A worker is made to wait so long after somebody looked at Start, when the page is drawn; and no longer than this."""


def is_memory_low() -> bool:
    return psutil.virtual_memory().available < warm_worker.MIN_FREE_BYTES


CREATE_NO_WINDOW, CREATE_NEW_PROCESS_GROUP = 0x08000000, 0x00000200
"""Windows' words, see CreateProcess."""


def detached_options(system: str = sys.platform) -> Mapping[str, Any]:
    """How a worker is started so that neither Ctrl-C nor the end of the app's console reaches it.

    On Windows it gets a console without a window, not none: each program that it starts, such as a compiler, would open one.
    """
    return (
        {"creationflags": CREATE_NO_WINDOW | CREATE_NEW_PROCESS_GROUP}
        if system == "win32"
        else {"start_new_session": True}
    )


DETACHED_OPTIONS = detached_options()
