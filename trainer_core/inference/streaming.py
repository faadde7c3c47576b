"""Streams the answers of all lanes to one prompt, in whole characters."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

from trainer_core.config.jobs import Lane
from trainer_core.data import Message
from trainer_core.data.render import render_chat
from trainer_core.inference.generate import GenerationRow, generate_rows, with_system_prompt
from trainer_core.inference.load import LaneSet
from trainer_core.runs.compare_events import AnswerStats, PromptStarted, TextChunk
from trainer_core.runs.compare_requests import GenerateRequest
from trainer_core.runs.event_log import EventLog

TEXT_SECONDS = 0.05
"""Between two text events: more than 20 a second cannot be read and slow the page."""
REPLACEMENT_CHARACTER = "\ufffd"
"""The decoder's sign for an incomplete character."""


def stream_answers(
    lanes: LaneSet, request: GenerateRequest, emit: EventLog, cancelled: threading.Event
) -> dict[str, AnswerStats]:
    """Stream one conversation in the requested lanes; returns statistics of the answers.

    Raises:
        UserError: the prompt does not fit the model's context, or a lane is not loaded.
    """
    wanted = [lanes.find_lane(name) for name in request.lanes or lanes.names]
    emit(PromptStarted(request.id, request.messages[-1].content, tuple(lane.name for lane in wanted)))
    rows = [generation_row(lanes, lane, request) for lane in wanted]
    stream = TextStreamer(request.id, [DecodedRow(row) for row in rows], lanes, emit)

    def after_pass() -> bool:
        stream.emit_if_due()
        return not cancelled.is_set()

    if not cancelled.is_set():
        generate_rows(lanes, rows, request.sampling, after_pass)
    stream.emit_text(whole=True)
    return {row.lane: AnswerStats(len(row.tokens), round(row.seconds, 3), row.ended) for row in rows}


def generation_row(lanes: LaneSet, lane: Lane, request: GenerateRequest) -> GenerationRow:
    """An empty answer to the lane's own conversation if it has one, else to the shared one."""
    said = [Message(one.role, one.content) for one in request.own.get(lane.name, request.messages)]
    seed_key = "\n".join(message.content for message in said if message.role == "user")
    return GenerationRow(
        lane.name, render_chat(lanes.tokenizer, with_system_prompt(lane.system, said), asking=True), seed_key
    )


@dataclass
class DecodedRow:
    """A row and how much of it was sent, in tokens.

    Args:
        decode_start: where decoding starts again, because a token's text may depend on the tokens before it.
    """

    row: GenerationRow
    decode_start: int = 0
    sent_tokens: int = 0

    def new_text(self, lanes: LaneSet, whole: bool) -> str:
        """The text since the last call, without an incomplete character unless `whole`."""
        before = decode_tokens(lanes, self.row.tokens[self.decode_start : self.sent_tokens])
        now = decode_tokens(lanes, self.row.tokens[self.decode_start :])
        if now.endswith(REPLACEMENT_CHARACTER) and not whole:
            return ""
        self.decode_start, self.sent_tokens = self.sent_tokens, len(self.row.tokens)
        return now[len(before) :]


def decode_tokens(lanes: LaneSet, ids: list[int]) -> str:
    """The text without special tokens."""
    # Cleaning up spaces would change text that was sent already.
    return str(lanes.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))


class TextStreamer:
    """Sends the new text of all lanes in one event."""

    def __init__(self, request_id: str, rows: list[DecodedRow], lanes: LaneSet, emit: EventLog):
        self.request_id, self.rows, self.lanes, self.emit = request_id, rows, lanes, emit
        self.last_sent = 0.0

    def emit_if_due(self) -> None:
        if time.monotonic() - self.last_sent >= TEXT_SECONDS:
            self.emit_text()

    def emit_text(self, whole: bool = False) -> None:
        self.last_sent = time.monotonic()
        more = {one.row.lane: one.new_text(self.lanes, whole) for one in self.rows}
        if any(more.values()):
            self.emit(TextChunk(self.request_id, more))
