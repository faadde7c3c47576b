"""One prompt in all lanes, streamed: what each lane said, piece by piece, in whole characters."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

from trainer_core.config.jobs import Lane
from trainer_core.data import Message, tokenize
from trainer_core.inference.generate import Row, generate, under
from trainer_core.inference.load import Lanes
from trainer_core.runs.compare_requests import Ask
from trainer_core.runs.event_log import EventLog
from trainer_core.runs.events import Asked, LaneEnd, Text

TEXT_SECONDS = 0.05
"""At most 20 text events a second: more cannot be read, and costs the page."""
INCOMPLETE = "\ufffd"
"""What a decoder writes for bytes that are no character yet."""


def answer(lanes: Lanes, request: Ask, emit: EventLog, cancelled: threading.Event) -> dict[str, LaneEnd]:
    """Stream one conversation in all asked lanes; returns how each ended.

    Raises:
        UserError: the prompt does not fit the model's context, or a lane is not loaded.
    """
    wanted = [lanes.of(name) for name in request.lanes or lanes.names]
    emit(Asked(request.id, request.messages[-1].content, tuple(lane.name for lane in wanted)))
    rows = [row_of(lanes, lane, request) for lane in wanted]
    stream = Stream(request.id, [Growing(row) for row in rows], lanes, emit)

    def grew() -> bool:
        stream.say_if_due()
        return not cancelled.is_set()

    if not cancelled.is_set():
        generate(lanes, rows, request.sampling, grew)
    stream.say(whole=True)
    return {row.lane: LaneEnd(len(row.tokens), round(row.seconds, 3), row.ended) for row in rows}


def row_of(lanes: Lanes, lane: Lane, request: Ask) -> Row:
    """The lane's answer to be: its own conversation where it has one, under its own system prompt. The dice hang on the
    user's words alone, which all lanes share."""
    said = [Message(one.role, one.content) for one in request.own.get(lane.name, request.messages)]
    dice = "\n".join(message.content for message in said if message.role == "user")
    return Row(lane.name, tokenize.render(lanes.tokenizer, under(lane.system, said), asking=True), dice)


@dataclass
class Growing:
    """How much of a row was told: its tokens up to `told`, of which the last `told - context` are decoded again with
    the new ones, because a token's text may hang on the tokens before it."""

    row: Row
    context: int = 0
    told: int = 0

    def more(self, lanes: Lanes, whole: bool) -> str:
        """The text that came since the last call; a character that lacks bytes waits for them, unless all is to be told."""
        before = text_of(lanes, self.row.tokens[self.context : self.told])
        now = text_of(lanes, self.row.tokens[self.context :])
        if now.endswith(INCOMPLETE) and not whole:
            return ""
        self.context, self.told = self.told, len(self.row.tokens)
        return now[len(before) :]


def text_of(lanes: Lanes, ids: list[int]) -> str:
    """Tokens as text, without special tokens and without tidying, which would change text that was told already."""
    return str(lanes.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))


class Stream:
    """Tells the growth of all lanes together, in one event."""

    def __init__(self, ask: str, growing: list[Growing], lanes: Lanes, emit: EventLog):
        self.ask, self.growing, self.lanes, self.emit = ask, growing, lanes, emit
        self.last = 0.0

    def say_if_due(self) -> None:
        if time.monotonic() - self.last >= TEXT_SECONDS:
            self.say()

    def say(self, whole: bool = False) -> None:
        self.last = time.monotonic()
        more = {one.row.lane: one.more(self.lanes, whole) for one in self.growing}
        if any(more.values()):
            self.emit(Text(self.ask, more))
