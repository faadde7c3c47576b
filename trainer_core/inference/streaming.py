"""One prompt in all lanes, streamed piece by piece in whole characters."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

from trainer_core.config.jobs import Lane
from trainer_core.data import Message, tokenize
from trainer_core.inference.generate import GenerationRow, generate_rows, with_system_prompt
from trainer_core.inference.load import LaneSet
from trainer_core.runs.compare_events import AnswerStats, PromptStarted, TextChunk
from trainer_core.runs.compare_requests import GenerateRequest
from trainer_core.runs.event_log import EventLog

TEXT_SECONDS = 0.05
"""At most 20 text events a second: more cannot be read, and costs the page."""
REPLACEMENT_CHARACTER = "\ufffd"
"""What a decoder writes for bytes that are no character yet."""


def stream_answers(
    lanes: LaneSet, request: GenerateRequest, emit: EventLog, cancelled: threading.Event
) -> dict[str, AnswerStats]:
    """Stream one conversation in all asked lanes; returns how each ended.

    Raises:
        UserError: the prompt does not fit the model's context, or a lane is not loaded.
    """
    wanted = [lanes.find_lane(name) for name in request.lanes or lanes.names]
    emit(PromptStarted(request.id, request.messages[-1].content, tuple(lane.name for lane in wanted)))
    rows = [generation_row(lanes, lane, request) for lane in wanted]
    stream = TextStreamer(request.id, [DecodedRow(row) for row in rows], lanes, emit)

    def grew() -> bool:
        stream.emit_if_due()
        return not cancelled.is_set()

    if not cancelled.is_set():
        generate_rows(lanes, rows, request.sampling, grew)
    stream.emit_text(whole=True)
    return {row.lane: AnswerStats(len(row.tokens), round(row.seconds, 3), row.ended) for row in rows}


def generation_row(lanes: LaneSet, lane: Lane, request: GenerateRequest) -> GenerationRow:
    """The lane's answer to be: its own conversation where it has one, under its own system prompt. The dice hang on the
    user's words alone, which all lanes share."""
    said = [Message(one.role, one.content) for one in request.own.get(lane.name, request.messages)]
    dice = "\n".join(message.content for message in said if message.role == "user")
    return GenerationRow(
        lane.name, tokenize.render_chat(lanes.tokenizer, with_system_prompt(lane.system, said), asking=True), dice
    )


@dataclass
class DecodedRow:
    """How much of a row was told: its tokens up to `told`, of which the last `told - context` are decoded again with
    the new ones, because a token's text may hang on the tokens before it."""

    row: GenerationRow
    context: int = 0
    sent_tokens: int = 0

    def new_text(self, lanes: LaneSet, whole: bool) -> str:
        """The text that came since the last call; a character that lacks bytes waits for them, unless all is to be told."""
        before = decode_tokens(lanes, self.row.tokens[self.context : self.sent_tokens])
        now = decode_tokens(lanes, self.row.tokens[self.context :])
        if now.endswith(REPLACEMENT_CHARACTER) and not whole:
            return ""
        self.context, self.sent_tokens = self.sent_tokens, len(self.row.tokens)
        return now[len(before) :]


def decode_tokens(lanes: LaneSet, ids: list[int]) -> str:
    """Tokens as text, without special tokens and without tidying, which would change text that was told already."""
    return str(lanes.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))


class TextStreamer:
    """Tells the growth of all lanes together, in one event."""

    def __init__(self, ask: str, growing: list[DecodedRow], lanes: LaneSet, emit: EventLog):
        self.ask, self.growing, self.lanes, self.emit = ask, growing, lanes, emit
        self.last = 0.0

    def emit_if_due(self) -> None:
        if time.monotonic() - self.last >= TEXT_SECONDS:
            self.emit_text()

    def emit_text(self, whole: bool = False) -> None:
        self.last = time.monotonic()
        more = {one.row.lane: one.new_text(self.lanes, whole) for one in self.growing}
        if any(more.values()):
            self.emit(TextChunk(self.ask, more))
