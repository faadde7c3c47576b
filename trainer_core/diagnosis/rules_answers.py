"""How sample answers go wrong."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from trainer_core.config.recipe import METHODS
from trainer_core.data.quality.text_patterns import has_markers
from trainer_core.diagnosis.finding import Finding, make_finding
from trainer_core.diagnosis.series import StageSeries, mean_of_last
from trainer_core.diagnosis.suggestions import add_sft_term, lower_rate, normalise_length, raise_beta
from trainer_core.evaluation.statistics import repetition_share
from trainer_core.methods.dpo import Dpo
from trainer_core.runs.compare_events import GenerationStats
from trainer_core.runs.events import SampleAnswers, Suggestion
from trainer_core.runs.run_state import RunState
from trainer_core.texts import Text

UNENDED_SHARE, LONGER_RATIO, REPEATED_SHARE = 0.4, 1.5, 0.35
"""Lost share of answers that end by themselves; growth of answers; share of repeated phrases [own]."""
MIN_ENDED_SHARE = 0.75
"""Share of answers that must have ended before a stage, for their length to be known [own]."""
MARKER_SHARE = 0.25
"""Share of answers with a template's markers: one in four, at two points in a row [own]."""


@dataclass(frozen=True)
class AnswerTraits:
    """What a lane's answers are like: mean tokens, and shares. An answer that did not end was cut: it is at least as long.

    marked: with a chat template's markers, which do not belong in an answer.
    """

    tokens: float
    ended: float
    repetition: float
    marked: float = 0.0


def traits_from_samples(view: RunState) -> dict[str, AnswerTraits]:
    """What the sample answers are like, by lane. For a stage these are the milder values of its last two points: one odd answer
    of four is no evidence. A stage with one point is left out."""
    before = next((said for said in view.sampled if said.step == 0 and said.samples), None)
    found = {"base": measure_answers(before)} if before else {}
    for stage in METHODS:
        points = [measure_answers(said) for said in view.sampled if said.stage == stage and said.step and said.samples]
        if len(points) > 1:
            found[stage] = milder_traits(*points[-2:])
    return found


def measure_answers(said: SampleAnswers) -> AnswerTraits:
    """A point's answers in numbers. Phrases are counted in words, since the tokens are not stored."""

    def mean(values: Iterable[float]) -> float:
        return sum(values) / len(said.samples)

    return AnswerTraits(
        mean(sample.tokens for sample in said.samples),
        mean(sample.ended for sample in said.samples),
        mean(repetition_share(sample.answer.split()) for sample in said.samples),
        mean(has_markers(sample.answer) for sample in said.samples),
    )


def traits_from_scores(stats: GenerationStats) -> AnswerTraits:
    return AnswerTraits(stats.tokens.value, stats.ended.value, stats.repetition.value)


def milder_traits(one: AnswerTraits, other: AnswerTraits) -> AnswerTraits:
    return AnswerTraits(
        min(one.tokens, other.tokens),
        max(one.ended, other.ended),
        min(one.repetition, other.repetition),
        min(one.marked, other.marked),
    )


def check_missing_eos(course: StageSeries, traits: Mapping[str, AnswerTraits]) -> Finding | None:
    """The adapter's answers have a template's markers; or DPO's run on until they are cut, and ended by themselves before.
    SFT may learn longer answers than can be shown: that they are cut then means nothing."""
    now = traits.get(course.stage)
    earlier = [lane for name, lane in traits.items() if name != course.stage]
    if now is None or not earlier:
        return None
    before = max(earlier, key=lambda lane: lane.ended)
    if now.marked - before.marked >= MARKER_SHARE:
        evidence = [Text("evidence.markers", now=now.marked, before=before.marked)]
        return make_finding(course, "format", evidence, hold_format(course), says=Text("finding.format.markers"))
    longer = before.ended - now.ended >= UNENDED_SHARE and now.tokens >= LONGER_RATIO * before.tokens
    if not course.method.needs_reference or not longer:
        return None
    evidence = [
        Text("evidence.ended", now=now.ended, before=before.ended),
        Text("evidence.least_tokens", now=now.tokens, before=before.tokens),
    ]
    return make_finding(course, "format", evidence, hold_format(course))


def hold_format(course: StageSeries) -> Suggestion:
    return add_sft_term(course.settings) if isinstance(course.settings, Dpo) else lower_rate(course)


def check_longer_answers(course: StageSeries, traits: Mapping[str, AnswerTraits]) -> Finding | None:
    """DPO's answers have grown well beyond those of the model before it."""
    earlier = [stage for stage in METHODS if stage != course.stage and stage in traits]
    before, now = traits.get(earlier[-1] if earlier else "base"), traits.get(course.stage)
    if not isinstance(course.settings, Dpo) or before is None or now is None or before.ended < MIN_ENDED_SHARE:
        return None
    margin = mean_of_last(course.margin, 5) if len(course.margin) else 0.0
    if now.tokens < LONGER_RATIO * before.tokens or margin <= 0 or check_missing_eos(course, traits):
        return None
    cut = Text("evidence.longer_cut", before=before.tokens, now=now.tokens)
    length = cut if now.ended < 1 else Text("evidence.longer", before=before.tokens, now=now.tokens)
    return make_finding(course, "verbosity", [length, Text("evidence.last_margin", margin=margin)], normalise_length())


def check_repetition(course: StageSeries, traits: Mapping[str, AnswerTraits]) -> Finding | None:
    """The adapter repeats the same phrases over and over, and the base did not."""
    base, now = traits.get("base"), traits.get(course.stage)
    if base is None or now is None or now.repetition < max(REPEATED_SHARE, 2 * base.repetition):
        return None
    evidence = [Text("evidence.repeats", now=now.repetition, base=base.repetition)]
    offer = raise_beta(course.settings) if isinstance(course.settings, Dpo) else lower_rate(course)
    return make_finding(course, "repeating", evidence, offer)
