"""A child process that answers requests within limits of time and memory. What may crash, hang or grow is done in one.

Both directions are JSON lines, [name, fields]; never pickle. The child answers a request with any number of objects under the
names of their classes, and then with one last word: Finished, Rejected or Crashed.
"""

from __future__ import annotations

import faulthandler
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any

import orjson

from trainer_core.errors import UserError
from trainer_core.system.format import format_gb
from trainer_core.system.project import PROJECT
from trainer_core.texts import NO_TEXT, Text, parse_text

EXIT_SECONDS = 5.0
"""Between the end of a child's output and its own."""
Answers = Generator[tuple[str, Any], None, None]
"""The name and the fields of each."""


@dataclass(frozen=True)
class ChildLimits:
    """What a child may take before its parent ends it. `answer_seconds` are real ones, for one request."""

    memory_bytes: int = sys.maxsize
    cpu_seconds: float = math.inf
    answer_seconds: float = math.inf
    watch_seconds: float = 0.5


class Rejected(Exception):
    """A request ended with an error that a person can act on: its class, and its text.

    Raises:
        ValueError: `text` is no text.
    """

    def __init__(self, kind: str, text: object):
        self.kind, self.text = kind, parse_text(text)
        super().__init__(self.text)


class Crashed(Exception):
    """A request met a bug or a lack of memory (`traceback`), or the child ended: it broke a limit (`limit`), or by itself.

    `limit` is the end of a sentence about the child; `code` is its exit code.
    """

    def __init__(self, traceback: str = "", out_of_memory: bool = False, limit: Text = NO_TEXT, code: int = 1):
        super().__init__(traceback or limit or f"exit code {code}")
        self.traceback, self.out_of_memory, self.limit, self.code = traceback, out_of_memory, limit, code


LAST_ERRORS: dict[str, type[Rejected | Crashed]] = {"Rejected": Rejected, "Crashed": Crashed}


def encode_line(name: str, fields: Any) -> bytes:
    try:
        return orjson.dumps([name, fields], default=as_json_value, option=orjson.OPT_APPEND_NEWLINE)
    except orjson.JSONEncodeError:  # halves of surrogate pairs, which orjson refuses
        return json.dumps([name, fields], default=as_json_value).encode() + b"\n"


def as_json_value(value: Any) -> Any:
    """What JSON does not know: settings and data classes as their fields, paths as text."""
    if isinstance(value, Path):
        return str(value)
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value.model_dump()


def decode_line(line: bytes) -> Any:
    """Raises:
    ValueError: it is no JSON, as where the child ended in the middle of it.
    """
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError:
        return json.loads(line)


# --- the parent


class ChildProcess:
    """One child, for one request at a time."""

    def __init__(
        self,
        command: Sequence[str],
        limits: ChildLimits,
        environment: Mapping[str, str] = MappingProxyType({}),
        stderr: IO[bytes] | int | None = None,
    ):
        self.limits, self.allowed_seconds = limits, limits.cpu_seconds
        self.deadline, self.broken_limit = math.inf, NO_TEXT
        streams: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": stderr}
        self.process = subprocess.Popen(command, cwd=PROJECT, env={**os.environ, **environment}, **streams)
        threading.Thread(target=self.enforce_limits, daemon=True).start()

    def ask(self, request: str, fields: Mapping[str, Any], cpu_seconds: float = 0.0) -> Answers:
        """Raises Rejected or Crashed. A child whose answers are not all taken is ended: it would say the rest to the next one.

        Args:
            cpu_seconds: of the processor, allowed for this request on top.
        """
        line = encode_line(request, fields)
        self.allowed_seconds += cpu_seconds
        self.deadline = time.monotonic() + self.limits.answer_seconds
        try:
            yield from self.exchange_lines(line)
        except (Rejected, Crashed):
            raise
        except BaseException:
            self.close()
            raise
        finally:
            self.deadline = math.inf

    def exchange_lines(self, request: bytes) -> Answers:
        assert self.process.stdin and self.process.stdout
        try:
            self.process.stdin.write(request)
            self.process.stdin.flush()
            for line in self.process.stdout:
                try:
                    name, fields = decode_line(line)
                    last = LAST_ERRORS[name](**fields) if name in LAST_ERRORS else None
                except TypeError as error:  # a line of another form: the child is no longer ours
                    raise self.explain_exit() from error
                if name == "Finished":
                    return
                if last:
                    raise last
                yield name, fields
        except (OSError, ValueError) as error:  # it has ended: before it heard all, or in the middle of a line
            raise self.explain_exit() from error
        raise self.explain_exit()

    def explain_exit(self) -> Crashed:
        """Why there was no last word."""
        try:
            code = self.process.wait(EXIT_SECONDS)
        except subprocess.TimeoutExpired:  # it lives on and says nothing that can be read
            self.process.kill()
            code = self.process.wait()
        return Crashed(limit=self.broken_limit, code=code)

    def enforce_limits(self) -> None:
        """End the child where it takes more time or memory than any honest request needs."""
        while self.process.poll() is None:
            if broken := self.find_broken_limit():
                self.broken_limit = self.broken_limit or broken
            if self.broken_limit:
                self.process.kill()
            time.sleep(self.limits.watch_seconds)

    def find_broken_limit(self) -> Text:
        limits = self.limits
        if time.monotonic() > self.deadline:
            return Text("child.late", seconds=limits.answer_seconds)
        if limits.memory_bytes == sys.maxsize and math.isinf(limits.cpu_seconds):
            return NO_TEXT
        memory, seconds = measure_usage(self.process.pid)
        if memory > limits.memory_bytes:
            return Text("child.memory", limit=format_gb(limits.memory_bytes))
        if seconds > self.allowed_seconds:
            return Text("child.busy", seconds=self.allowed_seconds)
        return NO_TEXT

    def stop(self, why: Text) -> None:
        """Give up; whoever waits for an answer gets `Crashed` with this limit."""
        self.broken_limit = why
        self.process.kill()

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


def measure_usage(pid: int) -> tuple[int, float]:
    """Bytes of memory and seconds of the processor, with those of what it started: on Windows .venv's python.exe only starts the
    Python that works. Zeros where one of them has just ended.
    """
    import psutil

    try:
        child = psutil.Process(pid)
        both = [child, *child.children()]
        times = [one.cpu_times() for one in both]
        return sum(one.memory_info().rss for one in both), sum(one.user + one.system for one in times)
    except psutil.Error:
        return 0, 0.0


class SharedChild:
    """One child for any thread, one request at a time: started when first asked, and anew after it ended.

    Args:
        idle_seconds: it is ended when nobody asks for so long.
    """

    def __init__(self, start: Callable[[], ChildProcess], idle_seconds: float = math.inf):
        self.start, self.idle_seconds = start, idle_seconds
        self.lock = threading.Lock()
        self.child: ChildProcess | None = None
        self.timer: threading.Timer | None = None

    @contextmanager
    def ask(self, request: str, fields: Mapping[str, Any]) -> Iterator[Answers]:
        """The answers, as `ChildProcess.ask` gives them; nobody else is served within the block."""
        with self.lock:
            if self.timer:
                self.timer.cancel()
            if self.child is None or self.child.process.poll() is not None:
                self.child = self.start()
            try:
                with closing(self.child.ask(request, fields)) as answers:
                    yield answers
            finally:
                self.schedule_close()

    def schedule_close(self) -> None:
        if math.isfinite(self.idle_seconds):
            self.timer = threading.Timer(self.idle_seconds, self.close)
            self.timer.daemon = True
            self.timer.start()

    def close(self) -> None:
        """End the child; the next request starts another."""
        with self.lock:
            if self.child:
                self.child.close()
            self.child = None


# --- the child


def serve_requests(
    handlers: Mapping[str, Callable[..., Iterable[Any]]],
    rejections: tuple[type[Exception], ...] = (UserError,),
    progress: str = "",
) -> None:
    """Answer requests on stdin until stdin closes. What a library prints goes to stderr.

    Args:
        handlers: by the name of a request, who takes its fields and gives the answers.
        rejections: errors that become Rejected.
        progress: the name of the answers that are sent at once; others wait for the last word or for more of them.
    """
    faulthandler.enable()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, whose end closes stdin
    out = os.fdopen(os.dup(sys.stdout.fileno()), "wb", 1 << 16)
    sys.stdout = sys.stderr
    urgent = f'["{progress}"'.encode()
    for request in sys.stdin.buffer:
        for line in answer_request(request, handlers, rejections):
            out.write(line)
            if line.startswith(urgent):
                out.flush()
        out.flush()


def answer_request(
    request: bytes, handlers: Mapping[str, Callable[..., Iterable[Any]]], rejections: tuple[type[Exception], ...]
) -> Iterator[bytes]:
    try:
        name, fields = decode_line(request)
        for answer in handlers[name](**fields):
            yield encode_line(type(answer).__name__, answer)
    except rejections as error:
        text = error.text if isinstance(error, UserError) else str(error)
        yield encode_line("Rejected", {"kind": type(error).__name__, "text": text})
    except MemoryError:  # what is left must do for these words
        yield encode_line("Crashed", {"traceback": "MemoryError", "out_of_memory": True})
    except Exception:
        yield encode_line("Crashed", {"traceback": traceback.format_exc()})
    else:
        yield encode_line("Finished", {})


def limit_memory(most_bytes: int) -> None:
    """Bound this process's address space where the system can; elsewhere the parent watches. No core is dumped."""
    if sys.platform == "linux":
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (most_bytes, most_bytes))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
