"""The token loop: prompts × lanes in one batch with one cache, all growing in step."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from trainer_core import tokens
from trainer_core.config import Sampling
from trainer_core.data import Message
from trainer_core.errors import UserError
from trainer_core.events import Asked, EventLog, LaneEnd, Text
from trainer_core.lanes.load import Lanes
from trainer_core.lanes.sampling import draw, filters, gumbel
from trainer_core.requests import Ask

TEXT_SECONDS = 0.05
"""At most 20 text events a second: more cannot be read, and costs the page."""
REPLACEMENT = "\ufffd"


@dataclass
class Row:
    """One answer in the making: a prompt in a lane."""

    lane: str
    prompt: str
    tokens: list[int] = field(default_factory=list)
    ended: bool = False
    seconds: float = 0.0
    shown: str = ""


def answer(lanes: Lanes, request: Ask, emit: EventLog, cancelled: threading.Event) -> dict[str, LaneEnd]:
    """Stream one conversation in all asked lanes; returns how each ended.

    Raises:
        UserError: the prompt does not fit the model's context, or a lane is not loaded.
    """
    wanted = request.lanes or lanes.names
    if unknown := set(wanted) - set(lanes.names):
        raise UserError(f"There is no lane {sorted(unknown)[0]!r}; loaded are {', '.join(lanes.names)}.")
    messages = tuple(Message(**message) for message in request.messages)  # type: ignore[arg-type]
    prompt = tokens.render(lanes.tokenizer, messages, asking=True)
    rows = [Row(lane, prompt) for lane in wanted]
    emit(Asked(request.id, messages[-1].content, tuple(wanted)))
    last = 0.0

    def grew() -> bool:
        nonlocal last
        if time.monotonic() - last >= TEXT_SECONDS:
            last = time.monotonic()
            say(lanes, rows, request.id, emit)
        return not cancelled.is_set()

    generate(lanes, rows, request.sampling, grew)
    say(lanes, rows, request.id, emit, last=True)
    return {row.lane: LaneEnd(len(row.tokens), round(row.seconds, 3), row.ended) for row in rows}


def say(lanes: Lanes, rows: Sequence[Row], ask: str, emit: EventLog, last: bool = False) -> None:
    """One event with what every lane gained. A character that is not yet whole waits for its other bytes."""
    more = {}
    for row in rows:
        text = str(lanes.tokenizer.decode(row.tokens, skip_special_tokens=True))
        if text.endswith(REPLACEMENT) and not last:
            text = text.rstrip(REPLACEMENT)
        if text.startswith(row.shown):
            more[row.lane], row.shown = text[len(row.shown) :], text
    if any(more.values()):
        emit(Text(ask, more))


def generate(lanes: Lanes, rows: Sequence[Row], sampling: Sampling, grew: Callable[[], bool]) -> None:
    """Grow every row to its end; `grew` is called after each step, and False ends the loop.

    Raises:
        UserError: a prompt leaves no room in the context.
    """
    encoded = lanes.tokenizer(
        [row.prompt for row in rows], add_special_tokens=False, padding=True, padding_side="left", return_tensors="pt"
    ).to(lanes.device)
    ids, mask = encoded["input_ids"], encoded["attention_mask"]
    room = lanes.context - ids.shape[1]
    if room < 1:
        raise UserError(f"The prompt has {ids.shape[1]:,} tokens; this model reads at most {lanes.context:,}.")
    names, began = [row.lane for row in rows], time.monotonic()
    shaped, cache, seen, fed = filters(sampling), None, ids, ids
    for step in range(min(sampling.max_new_tokens, room)):
        places = (mask.cumsum(-1) - 1).clamp(min=0)[:, -fed.shape[1] :]
        out = lanes.forward(
            names, input_ids=fed, attention_mask=mask, position_ids=places, past_key_values=cache, use_cache=True,
            logits_to_keep=1,
        )  # fmt: skip
        cache = out.past_key_values
        logits = out.logits[:, -1].float()
        drawn = draw(logits, seen, sampling, noise(rows, sampling, step, logits), shaped)
        keep(rows, drawn.tolist(), lanes.ends, time.monotonic() - began)
        if not grew() or all(row.ended for row in rows):
            return
        fed = drawn[:, None]
        seen, mask = torch.cat([seen, fed], 1), torch.cat([mask, mask.new_ones(len(rows), 1)], 1)


def noise(rows: Sequence[Row], sampling: Sampling, step: int, logits: torch.Tensor) -> torch.Tensor:
    """Each row's Gumbel noise, drawn once per prompt; nothing for greedy."""
    if sampling.temperature == 0:
        return logits
    drawn = {prompt: gumbel(sampling.seed, prompt, step, logits.shape[-1]) for prompt in {row.prompt for row in rows}}
    return torch.stack([drawn[row.prompt] for row in rows]).to(logits.device)


def keep(rows: Sequence[Row], drawn: Sequence[int], ends: frozenset[int], seconds: float) -> None:
    """Give every row that still grows its token; an end token ends it and is no part of the text."""
    for row, token in zip(rows, drawn, strict=True):
        if row.ended:
            continue
        row.seconds = seconds
        if token in ends:
            row.ended = True
        else:
            row.tokens.append(token)
