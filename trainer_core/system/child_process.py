"""A child process that answers requests within time and memory limits. It runs whatever could crash, hang or grow.

Both directions use JSON lines, [name, fields]; never pickle. The child answers a request with any number of objects, named by
their classes, then with a final message: Finished, Rejected or Crashed.
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
"""Seconds that a child has to exit after its output ends."""
Answers = Generator[tuple[str, Any], None, None]
"""Name and fields of each answer."""


@dataclass(frozen=True)
class ChildLimits:
    """Limits of a child, enforced by its parent. `answer_seconds` is wall time per request."""

    memory_bytes: int = sys.maxsize
    cpu_seconds: float = math.inf
    answer_seconds: float = math.inf
    watch_seconds: float = 0.5


class Rejected(Exception):
    """A request ended with an error that the user can fix: its class, and its text.

    Raises:
        ValueError: `text` is not a text.
    """

    def __init__(self, kind: str, text: object):
        self.kind, self.text = kind, parse_text(text)
        super().__init__(self.text)


class Crashed(Exception):
    """A request hit a bug or ran out of memory (`traceback`), or the child broke a limit (`limit`) or exited on its own.

    `limit` is the end of a sentence about the child; `code` is its exit code.
    """

    def __init__(self, traceback: str = "", out_of_memory: bool = False, limit: Text = NO_TEXT, code: int = 1):
        super().__init__(traceback or limit or f"exit code {code}")
        self.traceback, self.out_of_memory, self.limit, self.code = traceback, out_of_memory, limit, code

    @property
    def reason(self) -> str:
        """In one line: the last of the traceback, or the limit, or the exit code."""
        lines = self.traceback.strip().splitlines()
        return (lines[-1] if lines else str(self.limit or f"exit code {self.code}"))[:300]


LAST_ERRORS: dict[str, type[Rejected | Crashed]] = {"Rejected": Rejected, "Crashed": Crashed}


def encode_line(name: str, fields: Any) -> bytes:
    try:
        return orjson.dumps([name, fields], default=as_json_value, option=orjson.OPT_APPEND_NEWLINE)
    except orjson.JSONEncodeError:  # halves of surrogate pairs, which orjson refuses
        return json.dumps([name, fields], default=as_json_value).encode() + b"\n"


def as_json_value(value: Any) -> Any:
    """Converts what JSON cannot hold: settings and data classes to their fields, paths to text."""
    if isinstance(value, Path):
        return str(value)
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value.model_dump()


def decode_line(line: bytes) -> Any:
    """Raises ValueError if the line is not JSON, such as one cut off when the child exits."""
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
        """Raises Rejected or Crashed. Stopping before the last answer ends the child, as the rest would reach the next request.

        Args:
            cpu_seconds: additional processor seconds for this request.
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
                except TypeError as error:  # a line of another form: the protocol is broken
                    raise self.explain_exit() from error
                if name == "Finished":
                    return
                if last:
                    raise last
                yield name, fields
        except (OSError, ValueError) as error:  # the child exited before it read the request, or within a line
            raise self.explain_exit() from error
        raise self.explain_exit()

    def explain_exit(self) -> Crashed:
        """Why there was no final message."""
        try:
            code = self.process.wait(EXIT_SECONDS)
        except subprocess.TimeoutExpired:  # still running, without readable output
            self.process.kill()
            code = self.process.wait()
        return Crashed(limit=self.broken_limit, code=code)

    def enforce_limits(self) -> None:
        """End the child when it exceeds a limit."""
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
        """End the child; a waiting request gets `Crashed` with this limit."""
        self.broken_limit = why
        self.process.kill()

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


def measure_usage(pid: int) -> tuple[int, float]:
    """Memory bytes and processor seconds of a process and its children: on Windows .venv's python.exe only starts the real
    Python. Zeros if one of them has just ended."""
    import psutil

    try:
        child = psutil.Process(pid)
        both = [child, *child.children()]
        times = [one.cpu_times() for one in both]
        return sum(one.memory_info().rss for one in both), sum(one.user + one.system for one in times)
    except psutil.Error:
        return 0, 0.0


class SharedChild:
    """One child shared by all threads, one request at a time: started at the first request, restarted after it ends.

    Args:
        idle_seconds: the child ends after this long without a request.
    """

    def __init__(self, start: Callable[[], ChildProcess], idle_seconds: float = math.inf):
        self.start, self.idle_seconds = start, idle_seconds
        self.lock = threading.Lock()
        self.child: ChildProcess | None = None
        self.timer: threading.Timer | None = None

    @contextmanager
    def ask(self, request: str, fields: Mapping[str, Any]) -> Iterator[Answers]:
        """The answers of `ChildProcess.ask`; other requests wait until the block ends."""
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
    """Answer requests on stdin until stdin closes. Output of libraries goes to stderr.

    Args:
        handlers: request name → function from its fields to the answers.
        rejections: errors that become Rejected.
        progress: name of answers to send at once; others are buffered.
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
    except MemoryError:  # little memory is left, enough for this line
        yield encode_line("Crashed", {"traceback": "MemoryError", "out_of_memory": True})
    except Exception:
        yield encode_line("Crashed", {"traceback": traceback.format_exc()})
    else:
        yield encode_line("Finished", {})


def limit_memory(most_bytes: int) -> None:
    """Limit this process's address space on Linux; elsewhere the parent watches. Core dumps are off."""
    if sys.platform == "linux":
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (most_bytes, most_bytes))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
