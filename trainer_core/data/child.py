"""The process that touches files from outside: limited in memory, it answers requests on stdin until stdin closes.

`python -m trainer_core.data.child`; see `reader` for the other end.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import traceback
from collections.abc import Iterator
from typing import BinaryIO

from trainer_core.data import examine, source, wire
from trainer_core.data.limits import CHILD
from trainer_core.errors import UserError


def main(asked: BinaryIO, said: BinaryIO) -> None:
    for line in asked:
        for thing in answer(wire.thing(line)):
            said.write(wire.line(thing))
            if isinstance(thing, source.Progress):
                said.flush()
        said.flush()


def answer(request: source.Request) -> Iterator[object]:
    """Everything said about one request, with one last word: Done, Refused or Broke."""
    try:
        yield from examine.examined(request) if request.checkup else source.examples(request)
    except UserError as error:
        yield wire.Refused(str(error))
    except MemoryError:
        yield wire.Refused(f"{request.path}: reading it takes more than {CHILD.memory_bytes >> 30} GB of memory.")
    except Exception:  # a bug: the parent raises it with this traceback
        yield wire.Broke(traceback.format_exc())
    else:
        yield wire.Done()


def limit_memory() -> None:
    """Bound the address space where the system can; elsewhere the parent watches."""
    if sys.platform == "linux":
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (CHILD.memory_bytes, CHILD.memory_bytes))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    faulthandler.enable()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which ends this process
    limit_memory()
    said = os.fdopen(os.dup(sys.stdout.fileno()), "wb", 1 << 16)
    sys.stdout = sys.stderr  # nothing a library prints may get between the lines
    main(sys.stdin.buffer, said)
