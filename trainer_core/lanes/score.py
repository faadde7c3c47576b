"""What can be measured without a human: which of two answers a lane finds likelier, and what its own answers are like."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from statistics import fmean

import torch

from trainer_core import tokens
from trainer_core.data import Message
from trainer_core.errors import DataError
from trainer_core.events import LaneScore, Scored
from trainer_core.lanes.generate import Row, generate
from trainer_core.lanes.load import Lanes
from trainer_core.requests import Score

ROWS = 24
"""Sequences in one pass, over all lanes together."""


def score(lanes: Lanes, request: Score, progress: Callable[[str], None]) -> Scored:
    """Score every lane on the pairs of a file and on its own answers to the prompts.

    The preference is judged by the mean log-probability per token, because the sum would prefer whatever is shorter
    (length normalisation as in SimPO, Meng 2024).

    Raises:
        DataError: the file holds no pairs.
    """
    texts = pair_texts(lanes, Path(request.pairs))
    likely: dict[str, list[float]] = {name: [] for name in lanes.names}
    for done, batch in enumerate(batches(texts, max(ROWS // len(lanes.lanes), 1))):
        for name, values in log_probs(lanes, batch).items():
            likely[name] += values
        progress(f"Scoring: {min((done + 1) * (ROWS // len(lanes.lanes)), len(texts))} of {len(texts)} answers read")
    progress("Scoring: every lane answers the prompts")
    answers = own_answers(lanes, request)
    return Scored(tuple(lane_score(name, likely[name], answers[name]) for name in lanes.names))


def pair_texts(lanes: Lanes, path: Path) -> list[tuple[str, str]]:
    """(prompt, answer) as the template writes them: chosen and rejected of each pair, one after the other."""
    texts = []
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        prompt = messages(row["prompt"])
        asked = tokens.render(lanes.tokenizer, prompt, asking=True)
        for side in ("chosen", "rejected"):
            whole = tokens.render(lanes.tokenizer, prompt + messages(row[side]))
            texts.append((asked, whole.removeprefix(asked).rstrip("\n")))
    if not texts:
        raise DataError(f"{path.name} holds no pairs, so there is nothing to score on.")
    return texts


def messages(rows: Iterable[dict[str, str]]) -> tuple[Message, ...]:
    return tuple(Message(**row) for row in rows)  # type: ignore[arg-type]


def batches(texts: Sequence[tuple[str, str]], size: int) -> Iterator[Sequence[tuple[str, str]]]:
    for start in range(0, len(texts), size):
        yield texts[start : start + size]


def log_probs(lanes: Lanes, texts: Sequence[tuple[str, str]]) -> dict[str, list[float]]:
    """For every lane, each answer's mean log-probability per token given its prompt, in nats."""
    encode = lanes.tokenizer
    pairs = [tuple(encode(part, add_special_tokens=False)["input_ids"] for part in text) for text in texts]
    pairs = [fitted(prompt, answer, lanes.context) for prompt, answer in pairs]
    width = max(len(prompt) + len(answer) for prompt, answer in pairs)
    keep = max(len(answer) for _, answer in pairs)
    pad = encode.pad_token_id or 0
    ids = torch.tensor([[pad] * (width - len(p) - len(a)) + p + a for p, a in pairs], device=lanes.device)
    mask = torch.tensor([[0] * (width - len(p) - len(a)) + [1] * len(p + a) for p, a in pairs], device=lanes.device)
    count = len(lanes.names)
    names = [name for name in lanes.names for _ in pairs]
    mask = mask.repeat(count, 1)
    places = (mask.cumsum(-1) - 1).clamp(min=0)
    out = lanes.forward(
        names, input_ids=ids.repeat(count, 1), attention_mask=mask, position_ids=places, logits_to_keep=keep + 1
    )
    targets = ids[:, -keep:].repeat(count, 1)
    likely = -torch.nn.functional.cross_entropy(out.logits[:, :-1].float().transpose(1, 2), targets, reduction="none")
    means = [row[keep - len(answer) :].mean().item() for row, (_, answer) in zip(likely, pairs * count, strict=True)]
    return {name: means[i * len(pairs) : (i + 1) * len(pairs)] for i, name in enumerate(lanes.names)}


def fitted(prompt: list[int], answer: list[int], context: int) -> tuple[list[int], list[int]]:
    """The end of the prompt and the start of the answer that the model can read at once."""
    answer = answer[: context // 2]
    return prompt[-(context - len(answer)) :], answer


def own_answers(lanes: Lanes, request: Score) -> dict[str, list[Row]]:
    """Every lane's answers to the prompts, all in one batch."""
    prompts = [tokens.render(lanes.tokenizer, [Message("user", text)], asking=True) for text in request.prompts]
    rows = [Row(name, prompt) for name in lanes.names for prompt in prompts]
    if rows:
        generate(lanes, rows, request.sampling, lambda: True)
    return {name: [row for row in rows if row.lane == name] for name in lanes.names}


def lane_score(name: str, likely: Sequence[float], answers: Sequence[Row]) -> LaneScore:
    """The numbers of one lane from its log-probabilities (chosen and rejected in turn) and its answers."""
    differences = [chosen - rejected for chosen, rejected in zip(likely[::2], likely[1::2], strict=True)]
    return LaneScore(
        lane=name,
        pairs=len(differences),
        accuracy=fmean(difference > 0 for difference in differences),
        margin=fmean(differences),
        answer_tokens=fmean(len(row.tokens) for row in answers) if answers else 0.0,
        ended=fmean(row.ended for row in answers) if answers else 0.0,
    )
