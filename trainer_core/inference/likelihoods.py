"""Passes over the model that read: prompts once for all their answers, and only then the answers, sorted by length."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from os.path import commonprefix
from typing import Any, NamedTuple

import torch

from trainer_core.inference.generate import left_pad, row_positions
from trainer_core.inference.load import LaneSet, Mixture

MAX_LOGITS = 2**26
"""Numbers in the logits of one pass: a quarter of a gigabyte in 32 bit, twice that at the peak."""
MAX_PASS_TOKENS = 2**11
"""Answer tokens in one pass at most, over all lanes together: more brings no speed on a processor, and costs memory."""
MAX_CACHED_TOKENS = 2**13
"""Tokens of prompts, padding included, whose keys and values are held at a time: 1 GiB for a model of 8 billion weights."""


@dataclass(frozen=True)
class PromptAnswer:
    """Tokens of a prompt with one answer to it. `answer` counts the tokens at the end that are the answer's."""

    ids: tuple[int, ...]
    answer: int


@dataclass(frozen=True)
class AnswerLogprob:
    """One answer under one lane: summed log-probability of its tokens in nats, how many they are, and the mean over
    them of KL(lane ‖ base) in nats; NaN where it was not asked for."""

    total: float
    tokens: int
    divergence: float

    @property
    def mean(self) -> float:
        """Nats per token."""
        return self.total / self.tokens


class ResultKey(NamedTuple):
    """Where a result belongs: which mixture, which question, which of its answers."""

    mixture: Mixture
    question: int
    answer: int


@dataclass(frozen=True)
class AnswerSuffix:
    """What follows a shared prompt: its last token once more, for it tells the answer's first, and then the answer."""

    question: int
    answer: int
    prompt: tuple[int, ...]
    ids: tuple[int, ...]
    counted: int


def compute_logprobs(
    lanes: LaneSet,
    questions: Sequence[Sequence[PromptAnswer]],
    mixtures: Sequence[Mixture],
    read_tokens: Callable[[int], None],
    divergence: Callable[[int], bool] = lambda answer: False,
) -> dict[ResultKey, AnswerLogprob]:
    """Every answer to every question under every mixture.

    Args:
        questions: for each its readings, which begin with the same prompt as a rule.
        mixtures: the base's must be the first if a divergence is asked for.
        read_tokens: told how many tokens of answers, over all mixtures, are done; may raise to end it.
        divergence: for which of a question's answers the divergence from the base is wanted.
    """
    found: dict[ResultKey, AnswerLogprob] = {}
    tails = [tail for index, readings in enumerate(questions) for tail in answer_suffixes(index, readings)]
    for some in group_by_prompt(tails, len(mixtures)):
        memory = PromptCache(lanes, sorted({tail.prompt for tail in some}), mixtures)
        for batch in length_batches(some, len(mixtures), lanes.vocabulary_size):
            logits = memory.suffix_logits(batch)
            for index, tail in enumerate(batch):
                likely = measure_answer(logits[:, index], tail, divergence(tail.answer))
                found |= {
                    ResultKey(mixture, tail.question, tail.answer): one
                    for mixture, one in zip(mixtures, likely, strict=True)
                }
            read_tokens(sum(tail.counted for tail in batch) * len(mixtures))
    return found


def answer_suffixes(question: int, readings: Sequence[PromptAnswer]) -> Iterator[AnswerSuffix]:
    """A question's answers as tails of the longest prompt that all of them share, or of their own where they share none."""
    common = len(commonprefix([list(reading.ids) for reading in readings]))
    shared = min(common, *(len(reading.ids) - reading.answer for reading in readings)) - 1
    for index, reading in enumerate(readings):
        at = shared if shared > 0 else len(reading.ids) - reading.answer - 1
        yield AnswerSuffix(question, index, reading.ids[:at], reading.ids[at:], reading.answer)


def group_by_prompt(tails: Sequence[AnswerSuffix], mixtures: int) -> Iterator[list[AnswerSuffix]]:
    """Tails whose prompts are held at one time, whole questions only; the longest answers come first, so that memory
    fails early or never."""
    longest: dict[int, int] = {}
    for tail in tails:
        longest[tail.question] = max(longest.get(tail.question, 0), len(tail.ids))
    some: list[AnswerSuffix] = []
    widest, prompts = 0, set[tuple[int, ...]]()
    for tail in sorted(tails, key=lambda tail: (-longest[tail.question], tail.question)):
        widest = max(widest, len(tail.prompt))
        whole = some and tail.question != some[-1].question
        if whole and (len(prompts) + 1) * widest * mixtures > MAX_CACHED_TOKENS:
            yield some
            some, widest, prompts = [], len(tail.prompt), set()
        some.append(tail)
        prompts.add(tail.prompt)
    yield some


def length_batches(tails: Sequence[AnswerSuffix], mixtures: int, vocabulary: int) -> Iterator[list[AnswerSuffix]]:
    """Tails of like length, longest first, as many as one pass over all mixtures may hold."""
    batch: list[AnswerSuffix] = []
    for tail in sorted(tails, key=lambda tail: len(tail.ids), reverse=True):
        longest = len(batch[0].ids) if batch else len(tail.ids)
        size = (len(batch) + 1) * mixtures * longest
        if batch and (size > MAX_PASS_TOKENS or size * vocabulary > MAX_LOGITS):
            yield batch
            batch = []
        batch.append(tail)
    yield batch


class PromptCache:
    """What the model keeps of prompts, for every mixture: rows are mixtures × prompts.

    What all prompts begin with (a template's own words, as a rule) is read once per mixture.
    """

    def __init__(self, lanes: LaneSet, prompts: Sequence[tuple[int, ...]], mixtures: Sequence[Mixture]):
        self.lanes, self.mixtures = lanes, mixtures
        self.rows = dict(zip(prompts, count()))
        at = min(len(commonprefix(list(prompts))), min(map(len, prompts)) - 1)
        ids, mask = left_pad([prompt[at:] for prompt in prompts] * len(mixtures), lanes.device)
        self.mask = torch.cat([mask.new_ones(len(mask), at), mask], 1)
        self.cache: Any = None
        if at:
            begun = torch.tensor([prompts[0][:at]] * len(mixtures), device=lanes.device)
            self.cache = self.forward_pass(mixtures, begun, torch.ones_like(begun))
            blocks = [block for block in range(len(mixtures)) for _ in prompts]
            self.cache.batch_select_indices(torch.tensor(blocks, device=lanes.device))
        self.cache = self.forward_pass([mixture for mixture in mixtures for _ in prompts], ids, self.mask)

    def forward_pass(self, rows: Sequence[Mixture], ids: torch.Tensor, mask: torch.Tensor) -> Any:
        """One pass that goes on from what is held already."""
        out = self.lanes.forward(
            rows,
            input_ids=ids,
            attention_mask=mask,
            position_ids=row_positions(mask)[:, mask.shape[1] - ids.shape[1] :],
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return out.past_key_values

    def suffix_logits(self, tails: Sequence[AnswerSuffix]) -> torch.Tensor:
        """Mixtures × tails × length × vocabulary, padded on the right."""
        device, width = self.lanes.device, max(len(tail.ids) for tail in tails)
        ids = torch.tensor([tail.ids + tail.ids[-1:] * (width - len(tail.ids)) for tail in tails], device=device)
        real = torch.tensor([[1] * len(tail.ids) + [0] * (width - len(tail.ids)) for tail in tails], device=device)
        rows = [
            self.rows[tail.prompt] + block * len(self.rows) for block in range(len(self.mixtures)) for tail in tails
        ]
        kept = torch.tensor(rows, device=device)
        mask = torch.cat([self.mask[kept], real.repeat(len(self.mixtures), 1)], 1)
        out = self.lanes.forward(
            [mixture for mixture in self.mixtures for _ in tails],
            input_ids=ids.repeat(len(self.mixtures), 1),
            attention_mask=mask,
            position_ids=row_positions(mask)[:, self.mask.shape[1] :],
            past_key_values=self.select_rows(kept),
            use_cache=True,
        )
        return out.logits.unflatten(0, (len(self.mixtures), len(tails)))

    def select_rows(self, rows: torch.Tensor) -> Any:
        """A cache of these rows that a pass may write to. Selecting makes new tensors, so layers are copied without theirs."""
        cache = copy.copy(self.cache)
        cache.layers = [copy.copy(layer) for layer in self.cache.layers]
        cache.batch_select_indices(rows)
        return cache


def measure_answer(logits: torch.Tensor, tail: AnswerSuffix, divergence: bool) -> list[AnswerLogprob]:
    """One answer under every mixture, from mixtures × length × vocabulary logits; the first mixture is the base."""
    first = len(tail.ids) - tail.counted - 1
    scores = logits[:, first : len(tail.ids) - 1].float()
    targets = torch.tensor(tail.ids[first + 1 :], device=scores.device)[None, :, None].expand(len(scores), -1, -1)
    norm = scores.logsumexp(-1)
    totals = (scores.gather(-1, targets)[..., 0] - norm).sum(-1).tolist()
    far = kl_to_first(scores, norm) if divergence else [float("nan")] * len(totals)
    return [AnswerLogprob(total, tail.counted, one) for total, one in zip(totals, far, strict=True)]


def kl_to_first(scores: torch.Tensor, norm: torch.Tensor) -> list[float]:
    """The mean over the positions of KL(each ‖ first) = Σ p · (log p − log q), in nats."""
    apart = (scores - scores[:1]).mul_((scores - norm[..., None]).exp_()).sum(-1)
    return (apart - norm + norm[:1]).mean(-1).tolist()
