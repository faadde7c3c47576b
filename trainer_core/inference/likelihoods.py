"""Log-probabilities of answers: each prompt is read once for all its answers, and these are sorted by length."""

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
"""Logits per pass at most: 256 MiB in 32 bits, twice that at the peak."""
MAX_PASS_TOKENS = 2**11
"""Answer tokens per pass at most, over all mixtures: more cost memory, and are no faster on a CPU."""
MAX_CACHED_TOKENS = 2**13
"""Prompt tokens in the cache at most, padding included: 1 GiB for a model of 8 billion weights."""


@dataclass(frozen=True)
class PromptAnswer:
    """The tokens of a prompt and its answer; the last `answer_tokens` are the answer's."""

    ids: tuple[int, ...]
    answer_tokens: int


@dataclass(frozen=True)
class AnswerLogprob:
    """One answer under one lane, in nats.

    Args:
        total: summed log-probability of the answer's tokens.
        divergence: mean KL(lane ‖ base) over the tokens; NaN if not measured.
    """

    total: float
    tokens: int
    divergence: float

    @property
    def mean(self) -> float:
        """Nats per token."""
        return self.total / self.tokens


class ResultKey(NamedTuple):
    """A mixture, and the indices of a question and of its answer."""

    mixture: Mixture
    question: int
    answer: int


@dataclass(frozen=True)
class AnswerSuffix:
    """An answer without its cached prompt, from the token that predicts it; the last `answer_tokens` are scored."""

    question: int
    answer: int
    prompt: tuple[int, ...]
    ids: tuple[int, ...]
    answer_tokens: int


def compute_logprobs(
    lanes: LaneSet,
    questions: Sequence[Sequence[PromptAnswer]],
    mixtures: Sequence[Mixture],
    read_tokens: Callable[[int], None],
    divergence: Callable[[int], bool] = lambda answer: False,
) -> dict[ResultKey, AnswerLogprob]:
    """Every answer to every question under every mixture.

    Args:
        questions: the answers to each question, usually with the same prompt.
        mixtures: the base's first if a divergence is measured.
        read_tokens: called with the number of answer tokens done, over all mixtures; may raise to stop.
        divergence: whether to measure the divergence from the base for an answer of this index.
    """
    found: dict[ResultKey, AnswerLogprob] = {}
    suffixes = [suffix for index, readings in enumerate(questions) for suffix in answer_suffixes(index, readings)]
    for some in group_by_prompt(suffixes, len(mixtures)):
        cache = PromptCache(lanes, sorted({suffix.prompt for suffix in some}), mixtures)
        for batch in length_batches(some, len(mixtures), lanes.vocabulary_size):
            logits = cache.suffix_logits(batch)
            for index, suffix in enumerate(batch):
                likely = measure_answer(logits[:, index], suffix, divergence(suffix.answer))
                found |= {
                    ResultKey(mixture, suffix.question, suffix.answer): one
                    for mixture, one in zip(mixtures, likely, strict=True)
                }
            read_tokens(sum(suffix.answer_tokens for suffix in batch) * len(mixtures))
    return found


def answer_suffixes(question: int, readings: Sequence[PromptAnswer]) -> Iterator[AnswerSuffix]:
    """A question's answers after the longest prompt that they share, or after their own if they share none."""
    common = len(commonprefix([list(reading.ids) for reading in readings]))
    shared = min(common, *(len(reading.ids) - reading.answer_tokens for reading in readings)) - 1
    for index, reading in enumerate(readings):
        at = shared if shared > 0 else len(reading.ids) - reading.answer_tokens - 1
        yield AnswerSuffix(question, index, reading.ids[:at], reading.ids[at:], reading.answer_tokens)


def group_by_prompt(suffixes: Sequence[AnswerSuffix], mixtures: int) -> Iterator[list[AnswerSuffix]]:
    """Groups of whole questions whose prompts fit the cache."""
    # The longest answers come first: if memory is too small, the first pass fails.
    longest: dict[int, int] = {}
    for suffix in suffixes:
        longest[suffix.question] = max(longest.get(suffix.question, 0), len(suffix.ids))
    some: list[AnswerSuffix] = []
    widest, prompts = 0, set[tuple[int, ...]]()
    for suffix in sorted(suffixes, key=lambda suffix: (-longest[suffix.question], suffix.question)):
        widest = max(widest, len(suffix.prompt))
        whole = some and suffix.question != some[-1].question
        if whole and (len(prompts) + 1) * widest * mixtures > MAX_CACHED_TOKENS:
            yield some
            some, widest, prompts = [], len(suffix.prompt), set()
        some.append(suffix)
        prompts.add(suffix.prompt)
    yield some


def length_batches(suffixes: Sequence[AnswerSuffix], mixtures: int, vocabulary: int) -> Iterator[list[AnswerSuffix]]:
    """Batches of answers of similar length, longest first, for one pass over all mixtures each."""
    batch: list[AnswerSuffix] = []
    for suffix in sorted(suffixes, key=lambda suffix: len(suffix.ids), reverse=True):
        longest = len(batch[0].ids) if batch else len(suffix.ids)
        size = (len(batch) + 1) * mixtures * longest
        if batch and (size > MAX_PASS_TOKENS or size * vocabulary > MAX_LOGITS):
            yield batch
            batch = []
        batch.append(suffix)
    yield batch


class PromptCache:
    """The key-value cache of prompts under every mixture; rows are mixtures × prompts."""

    def __init__(self, lanes: LaneSet, prompts: Sequence[tuple[int, ...]], mixtures: Sequence[Mixture]):
        self.lanes, self.mixtures = lanes, mixtures
        self.rows = dict(zip(prompts, count()))
        at = min(len(commonprefix(list(prompts))), min(map(len, prompts)) - 1)
        ids, mask = left_pad([prompt[at:] for prompt in prompts] * len(mixtures), lanes.device)
        self.mask = torch.cat([mask.new_ones(len(mask), at), mask], 1)
        self.cache: Any = None
        if at:  # what all prompts share, such as the template's own words, is read once per mixture
            begun = torch.tensor([prompts[0][:at]] * len(mixtures), device=lanes.device)
            self.cache = self.forward_pass(mixtures, begun, torch.ones_like(begun))
            blocks = [block for block in range(len(mixtures)) for _ in prompts]
            self.cache.batch_select_indices(torch.tensor(blocks, device=lanes.device))
        self.cache = self.forward_pass([mixture for mixture in mixtures for _ in prompts], ids, self.mask)

    def forward_pass(self, rows: Sequence[Mixture], ids: torch.Tensor, mask: torch.Tensor) -> Any:
        """One pass after the cached tokens; returns the cache."""
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

    def suffix_logits(self, suffixes: Sequence[AnswerSuffix]) -> torch.Tensor:
        """Mixtures × suffixes × length × vocabulary, padded on the right."""
        device, lengths = self.lanes.device, [len(suffix.ids) for suffix in suffixes]
        width, prompts = max(lengths), [self.rows[suffix.prompt] for suffix in suffixes]
        padded = [suffix.ids + suffix.ids[-1:] * (width - len(suffix.ids)) for suffix in suffixes]
        ids = torch.tensor(padded, device=device)
        real = torch.tensor([[1] * length + [0] * (width - length) for length in lengths], device=device)
        rows = [prompt + block * len(self.rows) for block in range(len(self.mixtures)) for prompt in prompts]
        kept = torch.tensor(rows, device=device)
        mask = torch.cat([self.mask[kept], real.repeat(len(self.mixtures), 1)], 1)
        out = self.lanes.forward(
            [mixture for mixture in self.mixtures for _ in suffixes],
            input_ids=ids.repeat(len(self.mixtures), 1),
            attention_mask=mask,
            position_ids=row_positions(mask)[:, self.mask.shape[1] :],
            past_key_values=self.select_rows(kept),
            use_cache=True,
        )
        return out.logits.unflatten(0, (len(self.mixtures), len(suffixes)))

    def select_rows(self, rows: torch.Tensor) -> Any:
        """A copy of these rows, which a pass may change."""
        # Selecting makes new tensors, so a shallow copy of the layers is enough.
        cache = copy.copy(self.cache)
        cache.layers = [copy.copy(layer) for layer in self.cache.layers]
        cache.batch_select_indices(rows)
        return cache


def measure_answer(logits: torch.Tensor, suffix: AnswerSuffix, divergence: bool) -> list[AnswerLogprob]:
    """One answer under every mixture, from mixtures × length × vocabulary logits; the first mixture is the base."""
    first = len(suffix.ids) - suffix.answer_tokens - 1
    scores = logits[:, first : len(suffix.ids) - 1].float()
    targets = torch.tensor(suffix.ids[first + 1 :], device=scores.device)[None, :, None].expand(len(scores), -1, -1)
    norm = scores.logsumexp(-1)
    totals = (scores.gather(-1, targets)[..., 0] - norm).sum(-1).tolist()
    far = kl_to_first(scores, norm) if divergence else [float("nan")] * len(totals)
    return [AnswerLogprob(total, suffix.answer_tokens, one) for total, one in zip(totals, far, strict=True)]


def kl_to_first(scores: torch.Tensor, norm: torch.Tensor) -> list[float]:
    """The mean over the positions of KL(each ‖ first) = Σ p · (log p − log q), in nats."""
    apart = (scores - scores[:1]).mul_((scores - norm[..., None]).exp_()).sum(-1)
    return (apart - norm + norm[:1]).mean(-1).tolist()
