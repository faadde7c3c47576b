"""Bounds on connections that have not sent a request yet: they need no key, and each takes one of the process's files.

With `--lan` everybody in the network can open them. The longest waiting makes room for the newest, so the page is there for
those who ask at once, however many only hold a line.
"""

from __future__ import annotations

import asyncio
import logging
import time
from functools import partial
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_SECONDS = 10.0
"""For the head of a request; a browser sends it in one piece."""
MAX_WAITING = 100
"""Connections without a request. A browser holds six."""
LOG_LINES, LOG_SECONDS = 20, 60.0
"""Lines in each period, for each logger that a stranger can make talk."""
LOGGERS = ("uvicorn.error", "asyncio")


class WaitingConnections:
    """The connections without a request, longest waiting first."""

    def __init__(self, most: int, seconds: float) -> None:
        self.most, self.seconds = most, seconds
        self.timers: dict[H11Protocol, asyncio.TimerHandle] = {}

    def add(self, connection: H11Protocol) -> None:
        self.remove(connection)
        if len(self.timers) >= self.most:
            self.close(next(iter(self.timers)))
        self.timers[connection] = connection.loop.call_later(self.seconds, self.close, connection)

    def remove(self, connection: H11Protocol) -> None:
        if timer := self.timers.pop(connection, None):
            timer.cancel()

    def close(self, connection: H11Protocol) -> None:
        self.remove(connection)
        connection.transport.abort()


class BoundedProtocol(H11Protocol):
    """HTTP where a connection waits from its start, and from the end of each answer, to the next whole head."""

    def __init__(self, *args: Any, waiting: WaitingConnections, **options: Any) -> None:
        super().__init__(*args, **options)
        self.waiting = waiting

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.waiting.add(self)

    def handle_events(self) -> None:
        super().handle_events()
        if self.cycle is not None and not self.cycle.response_complete:
            self.waiting.remove(self)

    def on_response_complete(self) -> None:
        self.waiting.add(self)
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self.waiting.remove(self)
        super().connection_lost(exc)


class LogLimit(logging.Filter):
    """Lets so many lines through in each period, and counts the others in the next line that it lets through."""

    def __init__(self, lines: int = LOG_LINES, seconds: float = LOG_SECONDS) -> None:
        super().__init__()
        self.lines, self.seconds = lines, seconds
        self.began, self.told, self.left_out = -seconds, 0, 0

    def filter(self, record: logging.LogRecord) -> bool:
        now = time.monotonic()
        if now - self.began >= self.seconds:
            self.began, self.told = now, 0
        if self.told >= self.lines:
            self.left_out += 1
            return False
        self.told += 1
        if self.left_out:
            record.msg, self.left_out = f"{record.msg} ({self.left_out} lines left out before)", 0
        return True


def limit_connections(server: uvicorn.Server, most: int = MAX_WAITING, seconds: float = HEAD_SECONDS) -> None:
    """Limit the connections that a running server accepts from now on, and what it logs."""
    waiting = WaitingConnections(most, seconds)
    server.config.http_protocol_class = partial(BoundedProtocol, waiting=waiting)  # type: ignore[assignment]
    for name in LOGGERS:
        logging.getLogger(name).addFilter(LogLimit())
