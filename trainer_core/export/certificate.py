"""The certificate of an export: what of the trained lane each exported file keeps, and what made it say so."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch

from trainer_core.evaluation import confidence
from trainer_core.runs.compare_events import ConfidenceInterval
from trainer_core.runs.export_events import AnswerComparison

LEAST_PAIRS = 20
"""Fewer held-out pairs give no share with an interval worth reading."""


def compare_answers(
    expected: Sequence[Sequence[int]], found: Sequence[Sequence[int]], logprobs: Sequence[torch.Tensor]
) -> AnswerComparison:
    """Args:
    expected: the lane's answers. logprobs: the lane's next-token log-probabilities along each of them.
    """
    gaps = []
    for own, other, likely in zip(expected, found, logprobs, strict=True):
        at = next((index for index, pair in enumerate(zip(own, other, strict=False)) if pair[0] != pair[1]), None)
        if at is not None:
            gaps.append((likely[at].max() - likely[at, other[at]]).item())
        elif len(own) != len(other):
            gaps.append(math.inf if min(len(own), len(other)) >= len(likely) else 0.0)
    return AnswerComparison(len(expected) - len(gaps), len(expected), tuple(gaps))


def mean_divergence(expected: Sequence[torch.Tensor], found: Sequence[torch.Tensor]) -> float:
    """Mean KL(lane ‖ form) per token, in nats."""
    apart = [(one.exp() * (one - other)).sum(-1) for one, other in zip(expected, found, strict=True)]
    return torch.cat(apart).mean().item()


def top_divergence(expected: torch.Tensor, found: Sequence[Mapping[int, float]]) -> list[float]:
    """KL(engine ‖ lane) at every position, in nats, over the engine's most likely tokens and one rest for all others.

    It is at most the KL over the whole vocabulary, since joining tokens never adds to it (Cover and Thomas 2006, 2.8).
    """
    apart = []
    for row, tops in zip(expected, found, strict=True):
        ids = torch.tensor(list(tops))
        log_q = torch.tensor(list(tops.values()), dtype=torch.float64)
        log_p = row[ids].double()
        rest_q, rest_p = (max(1 - logs.exp().sum().item(), 1e-12) for logs in (log_q, log_p))
        apart.append((log_q.exp() * (log_q - log_p)).sum().item() + rest_q * math.log(rest_q / rest_p))
    return apart


def margin_kept(
    lane: Sequence[float], form: Sequence[float], base: Sequence[float]
) -> tuple[ConfidenceInterval | None, ConfidenceInterval | None]:
    """The form's accuracy, and the share of the lane's mean margin over the base that it keeps.

    Args:
        lane, form, base: log π(chosen) − log π(rejected) of every pair.

    The share is None where the lane's own margin is not above 0 beyond chance: then there is nothing to keep.
    """
    wanted = [one - other for one, other in zip(lane, base, strict=True)]
    kept = [one - other for one, other in zip(form, base, strict=True)]
    if not wanted:
        return None, None
    accuracy = confidence.estimate_share([one > 0 for one in kept])
    own = confidence.estimate_mean(wanted)
    if len(wanted) < LEAST_PAIRS or own.low is None or own.low <= 0:
        return accuracy, None
    return accuracy, confidence.estimate_ratio(kept, wanted)
