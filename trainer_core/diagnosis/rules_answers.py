"""How sample answers go wrong."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from trainer_core.config.recipe import METHODS
from trainer_core.data.quality.text_patterns import has_markers
from trainer_core.diagnosis.finding import Finding, make_finding
from trainer_core.diagnosis.series import (
    StageSeries,
    mean_of_last,
)
from trainer_core.diagnosis.suggestions import (
    add_sft_term,
    lower_rate,
    raise_beta,
    single_loss,
)
from trainer_core.evaluation.statistics import repetition_share
from trainer_core.methods.dpo import Dpo
from trainer_core.runs.compare_events import GenerationStats
from trainer_core.runs.events import SampleAnswers, Suggestion
from trainer_core.runs.run_state import RunState

UNENDED_SHARE, LONGER_RATIO, REPEATED_SHARE = 0.4, 1.5, 0.35
"""Lost share of answers that end by themselves; growth of answers; share of repeated phrases [own]."""
MIN_ENDED_SHARE = 0.75
"""Share of answers that must have ended before a stage, for their length to be known [own]."""
MARKER_SHARE = 0.25
"""Share of answers with a template's markers: one in four, at two points in a row [own]."""


@dataclass(frozen=True)
class AnswerTraits:
    """What a lane's own answers are like: mean tokens, and shares. An answer that did not end was cut: it is at least as long.

    marked: with a chat template's markers, which are no part of an answer.
    """

    tokens: float
    ended: float
    repetition: float
    marked: float = 0.0


def traits_from_samples(view: RunState) -> dict[str, AnswerTraits]:
    """What the sample answers are like, by lane. Of a stage its last two points, and of both the milder: one odd answer of
    four is no evidence, and a stage with one point has none."""
    before = next((one for one in view.sampled if one.step == 0 and one.samples), None)
    found = {"base": measure_answers(before)} if before else {}
    for stage in METHODS:
        points = [measure_answers(one) for one in view.sampled if one.stage == stage and one.step and one.samples]
        if len(points) > 1:
            found[stage] = milder_traits(*points[-2:])
    return found


def measure_answers(said: SampleAnswers) -> AnswerTraits:
    """A point's answers in numbers. Phrases are counted by words, for the tokens are not kept."""

    def mean(values: Iterable[float]) -> float:
        return sum(values) / len(said.samples)

    return AnswerTraits(
        mean(one.tokens for one in said.samples),
        mean(one.ended for one in said.samples),
        mean(repetition_share(one.answer.split()) for one in said.samples),
        mean(has_markers(one.answer) for one in said.samples),
    )


def traits_from_scores(said: GenerationStats) -> AnswerTraits:
    return AnswerTraits(said.tokens.value, said.ended.value, said.repetition.value)


def milder_traits(one: AnswerTraits, other: AnswerTraits) -> AnswerTraits:
    return AnswerTraits(
        min(one.tokens, other.tokens),
        max(one.ended, other.ended),
        min(one.repetition, other.repetition),
        min(one.marked, other.marked),
    )


# ---- answers


def check_missing_eos(course: StageSeries, answered: Mapping[str, AnswerTraits]) -> Finding | None:
    """The adapter's answers have a template's markers; or DPO's run on to where they are cut, and ended by themselves before.
    SFT may learn longer answers than can be shown: that they are cut then says nothing."""
    ours = answered.get(course.stage)
    before = max(
        (one for lane, one in answered.items() if lane != course.stage), key=lambda one: one.ended, default=None
    )
    if ours is None or before is None:
        return None
    run_on = before.ended - ours.ended >= UNENDED_SHARE and ours.tokens >= LONGER_RATIO * before.tokens
    if ours.marked - before.marked >= MARKER_SHARE:
        evidence = [
            f"{ours.marked:.0%} of the answers hold markers of the chat template; {before.marked:.0%} did before"
        ]
        says = (
            "The format is coming apart: the model writes the marks between turns into its answers. Check the template."
        )
    elif course.method.needs_reference and run_on:
        evidence = [
            f"{ours.ended:.0%} of the answers end by themselves; {before.ended:.0%} did before this stage",
            f"at least {ours.tokens:.0f} tokens each; {before.tokens:.0f} before",
        ]
        says = "The format is coming apart: the model no longer says when it is done."
    else:
        return None
    offer = add_sft_term(course.settings) if isinstance(course.settings, Dpo) else lower_rate(course)
    return make_finding(
        course,
        "format",
        "Answers no longer end by themselves",
        says,
        evidence,
        "common practice; how many is our own",
        offer,
    )


def check_longer_answers(course: StageSeries, answered: Mapping[str, AnswerTraits]) -> Finding | None:
    """DPO's answers have grown well beyond those of the model before it."""
    earlier = [stage for stage in METHODS if stage != course.stage and stage in answered]
    before, ours = answered.get(earlier[-1] if earlier else "base"), answered.get(course.stage)
    if (
        not isinstance(course.settings, Dpo)
        or before is None
        or ours is None
        or before.ended < MIN_ENDED_SHARE
        or check_missing_eos(course, answered)
    ):
        return None
    if ours.tokens < LONGER_RATIO * before.tokens or not len(course.margin) or mean_of_last(course.margin, 5) <= 0:
        return None
    evidence = [
        f"{before.tokens:.0f} tokens before DPO, {'at least ' if ours.ended < 1 else ''}{ours.tokens:.0f} after",
        f"margin {mean_of_last(course.margin, 5):.2f}",
    ]
    says = (
        "Part of the margin is length: the chosen answers are probably longer than the rejected ones in the data. The Data tab "
        "counts it under Health: Chosen is longer."
    )
    offer = Suggestion("The length-normalised loss", single_loss("sigmoid_norm"))
    return make_finding(
        course,
        "verbosity",
        "Answers grow with the margin",
        says,
        evidence,
        "common practice; how much is our own",
        offer,
    )


def check_repetition(course: StageSeries, answered: Mapping[str, AnswerTraits]) -> Finding | None:
    """The adapter says the same phrases over and over, and the base did not."""
    base, ours = answered.get("base"), answered.get(course.stage)
    if base is None or ours is None or ours.repetition < max(REPEATED_SHARE, 2 * base.repetition):
        return None
    evidence = [f"{ours.repetition:.0%} of its phrases are repeats; {base.repetition:.0%} for the base"]
    says = "The answers go in circles: the adapter has moved too far from its base."
    offer = raise_beta(course.settings) if isinstance(course.settings, Dpo) else lower_rate(course)
    return make_finding(
        course, "repeating", "Answers repeat themselves", says, evidence, "common practice; how much is our own", offer
    )
