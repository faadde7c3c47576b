"""The log-probability of each token of an answer under two lanes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from os.path import commonprefix
from typing import Any

from trainer_core.data import Message
from trainer_core.data.render import render_chat
from trainer_core.errors import UserError
from trainer_core.inference.generate import left_pad, row_positions, with_system_prompt
from trainer_core.inference.load import LaneSet
from trainer_core.runs.compare_events import TokenHeatmap, TokenLogprobs
from trainer_core.runs.compare_requests import HeatmapRequest


def build_heatmap(lanes: LaneSet, request: HeatmapRequest) -> TokenHeatmap:
    """The answer's log-probabilities under both lanes, in nats.

    Raises:
        UserError: a lane is not loaded, the answer is empty, or the context is too short.
    """
    first, second = (AnswerTokens.for_lane(lanes, name, request) for name in request.lanes)
    likely = answer_log_probs(lanes, request.lanes, (first, second))
    return TokenHeatmap(request.id, request.lanes, tuple(heatmap_pieces(first, *likely)))


@dataclass(frozen=True)
class AnswerTokens:
    """A conversation that ends with the answer, as one lane reads it; `spans` locate the answer's tokens in the text."""

    text: str
    ids: list[int]
    spans: list[tuple[int, int]]

    @staticmethod
    def for_lane(lanes: LaneSet, name: str, request: HeatmapRequest) -> AnswerTokens:
        lane = lanes.find_lane(name)
        prompt = with_system_prompt(lane.system, [Message(one.role, one.content) for one in request.messages])
        asked = render_chat(lanes.tokenizer, prompt, asking=True)
        whole = render_chat(lanes.tokenizer, (*prompt, Message("assistant", request.answer))).rstrip("\n")
        begins = len(commonprefix([asked, whole]))
        encoding: Any = lanes.tokenizer(whole, add_special_tokens=False, return_offsets_mapping=True)
        ids, spans = list(encoding["input_ids"]), [span for span in encoding["offset_mapping"] if span[0] >= begins]
        while not request.ended and spans and ids[-1] in lanes.end_token_ids:
            ids, spans = ids[:-1], spans[:-1]
        if not spans:
            raise UserError("token_heatmap.empty_answer")
        if len(ids) > lanes.context_length:
            raise UserError("token_heatmap.too_long", tokens=len(ids), most=lanes.context_length)
        return AnswerTokens(whole, ids, spans)


def answer_log_probs(lanes: LaneSet, names: Sequence[str], both: Sequence[AnswerTokens]) -> list[list[float]]:
    """Each lane's log-probabilities of the answer's tokens, in nats."""
    ids, mask = left_pad([one.ids for one in both], lanes.device)
    keep = len(both[0].spans)
    out = lanes.forward(
        [lanes.mixtures[name] for name in names],
        input_ids=ids,
        attention_mask=mask,
        position_ids=row_positions(mask),
        use_cache=False,
        logits_to_keep=keep + 1,
    )
    found = out.logits[:, :-1].float().log_softmax(-1).gather(-1, ids[:, ids.shape[1] - keep :, None])
    return [row.tolist() for row in found[..., 0]]


def heatmap_pieces(written: AnswerTokens, first: Sequence[float], second: Sequence[float]) -> Iterator[TokenLogprobs]:
    """The answer in whole characters; tokens that share a character are summed."""
    text, sums, end = "", [0.0, 0.0], written.spans[0][0]
    for (left, right), one, two in zip(written.spans, first, second, strict=True):
        if left >= end and text:
            yield TokenLogprobs(text, *sums)
            text, sums = "", [0.0, 0.0]
        text += written.text[max(left, end) : right]
        sums, end = [sums[0] + one, sums[1] + two], max(end, right)
    yield TokenLogprobs(text, *sums)
