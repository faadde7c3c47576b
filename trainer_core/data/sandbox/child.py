"""The process that touches files from outside: limited in memory, it answers requests on stdin until stdin closes.

`python -m trainer_core.data.sandbox.child`; see `reader` for the other end.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import traceback
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

from trainer_core.data import stream
from trainer_core.data.files.limits import CHILD
from trainer_core.data.quality import analysis
from trainer_core.data.sandbox import protocol
from trainer_core.data.select import counted
from trainer_core.errors import UserError

Asked = stream.Request | stream.Glance | stream.Count
PROGRESS = b'["Progress"'


def main(asked: BinaryIO, said: BinaryIO) -> None:
    for line in asked:
        for answer in answers(protocol.request(line)):
            said.write(answer)
            if answer.startswith(PROGRESS):
                said.flush()
        said.flush()


def answers(request: Asked) -> Iterator[bytes]:
    """Everything said about one request, with one last word: Done, Refused or Broke."""
    try:
        for thing in answered(request):
            yield protocol.line(thing)
    except UserError as error:
        yield protocol.line(protocol.Refused(str(error)))
    except MemoryError:
        sentence = f"{request.path}: reading it takes more than {CHILD.memory_bytes / 2**30:.1f} GB of memory."
        yield protocol.line(protocol.Refused(sentence))
    except Exception:  # a bug: the parent raises it with this traceback
        yield protocol.line(protocol.Broke(traceback.format_exc()))
    else:
        yield protocol.line(protocol.Done())


def answered(request: Asked) -> Iterable[Any]:
    match request:
        case stream.Glance():
            return (stream.glanced(request),)
        case stream.Count():
            return (counted(request),)
    return analysis.examined(request) if request.checkup else stream.examples(request)


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
