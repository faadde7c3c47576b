"""The process that touches files from outside: limited in memory, it answers requests on stdin until stdin closes.

`python -m trainer_core.data.child`; see `reader` for the other end.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import traceback
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

from trainer_core.data import examine, source, wire
from trainer_core.data.limits import CHILD
from trainer_core.data.load import counted
from trainer_core.errors import UserError

Asked = source.Request | source.Glance | source.Count
PROGRESS = b'["Progress"'


def main(asked: BinaryIO, said: BinaryIO) -> None:
    for line in asked:
        for answer in answers(wire.request(line)):
            said.write(answer)
            if answer.startswith(PROGRESS):
                said.flush()
        said.flush()


def answers(request: Asked) -> Iterator[bytes]:
    """Everything said about one request, with one last word: Done, Refused or Broke."""
    try:
        for thing in answered(request):
            yield wire.line(thing)
    except UserError as error:
        yield wire.line(wire.Refused(str(error)))
    except MemoryError:
        sentence = f"{request.path}: reading it takes more than {CHILD.memory_bytes / 2**30:.1f} GB of memory."
        yield wire.line(wire.Refused(sentence))
    except Exception:  # a bug: the parent raises it with this traceback
        yield wire.line(wire.Broke(traceback.format_exc()))
    else:
        yield wire.line(wire.Done())


def answered(request: Asked) -> Iterable[Any]:
    match request:
        case source.Glance():
            return (source.glanced(request),)
        case source.Count():
            return (counted(request),)
    return examine.examined(request) if request.checkup else source.examples(request)


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
