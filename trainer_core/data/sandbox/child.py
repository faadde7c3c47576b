"""The process that touches files from outside: limited in memory, it answers requests on stdin until stdin closes.

`python -m trainer_core.data.sandbox.child`; see `client.py` for the other end.
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
from trainer_core.data.files.limits import CHILD_LIMITS
from trainer_core.data.quality import analysis
from trainer_core.data.sandbox import protocol
from trainer_core.data.select import count_selected_rows
from trainer_core.errors import UserError
from trainer_core.system.format import format_gb

SandboxRequest = stream.ReadRequest | stream.PreviewRequest | stream.CountRequest
PROGRESS = b'["ReadProgress"'


def main(asked: BinaryIO, said: BinaryIO) -> None:
    for line in asked:
        for answer in answer_sandbox_request(protocol.decode_request_line(line)):
            said.write(answer)
            if answer.startswith(PROGRESS):
                said.flush()
        said.flush()


def answer_sandbox_request(request: SandboxRequest) -> Iterator[bytes]:
    """Everything said about one request, with one last word: Done, Refused or Broke."""
    try:
        for thing in run_sandbox_request(request):
            yield protocol.encode_line(thing)
    except UserError as error:
        yield protocol.encode_line(protocol.Rejected(str(error)))
    except MemoryError:
        sentence = f"{request.path}: reading it takes more than {format_gb(CHILD_LIMITS.memory_bytes)} of memory."
        yield protocol.encode_line(protocol.Rejected(sentence))
    except Exception:  # a bug: the parent raises it with this traceback
        yield protocol.encode_line(protocol.Crashed(traceback.format_exc()))
    else:
        yield protocol.encode_line(protocol.Finished())


def run_sandbox_request(request: SandboxRequest) -> Iterable[Any]:
    match request:
        case stream.PreviewRequest():
            return (stream.read_preview(request),)
        case stream.CountRequest():
            return (count_selected_rows(request),)
    return analysis.analyse_data(request) if request.checkup else stream.stream_rows(request)


def limit_memory() -> None:
    """Bound the address space where the system can; elsewhere the parent watches."""
    if sys.platform == "linux":
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (CHILD_LIMITS.memory_bytes, CHILD_LIMITS.memory_bytes))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    faulthandler.enable()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which ends this process
    limit_memory()
    said = os.fdopen(os.dup(sys.stdout.fileno()), "wb", 1 << 16)
    sys.stdout = sys.stderr  # nothing a library prints may get between the lines
    main(sys.stdin.buffer, said)
