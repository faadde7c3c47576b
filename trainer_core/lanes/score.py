"""What can be measured without a human: which of two answers a lane finds likelier, and what its own answers are like."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from trainer_core import estimates, tokens
from trainer_core.config import Sampling
from trainer_core.data import Message, Pair
from trainer_core.errors import ConfigError, DataError
from trainer_core.events import LaneScore, Scored
from trainer_core.lanes.batch import Row, generate, under
from trainer_core.lanes.load import Lanes
from trainer_core.lanes.progress import Progress
from trainer_core.lanes.read import ROWS, Likely, Place, Reading, likelihoods
from trainer_core.requests import Score

NGRAM = 4
"""Tokens that count as a repeated phrase (rep-4 of Welleck 2020)."""
CHOSEN = 0
BASE = ""
"""Where the numbers of the base alone lie, beside those of the lanes; no lane is called so."""
PAIR = TypeAdapter(Pair)

Judged = list[list[Likely]]
"""Every question's answers under one lane."""


def score(lanes: Lanes, request: Score, progress: Progress) -> Scored:
    """Score every lane on the pairs of a file and on its own answers to the prompts. What the numbers are: see LaneScore.

    Raises:
        ConfigError: the reference is no lane.
        DataError: the file cannot be read, or holds no pairs.
        Stopped: cancelled.
    """
    if request.reference and request.reference not in lanes.names:
        raise ConfigError(f"There is no lane {request.reference!r} that could be the reference.")
    pairs = read_pairs(Path(request.pairs))
    progress.parts = 1 + bool(request.prompts)
    questions = [Question(pair.prompt, (pair.chosen, pair.rejected)) for pair in pairs]
    judged = read_lanes(lanes, questions, "held-out answers", progress, divergence=True)
    reference = request.reference or base_lane(lanes)
    scores = {name: preferences(name, judged[name], judged[reference], name == reference) for name in lanes.names}
    if request.prompts:
        written = own_answers(lanes, request.prompts, request.sampling, progress)
        scores = {
            name: with_answers(scores[name], written[name], written.get(base_lane(lanes))) for name in lanes.names
        }
    return Scored(tuple(scores.values()), reference or "the base")


def read_pairs(path: Path) -> list[Pair]:
    """The pairs of a JSON-lines file, as `tokens.write_pairs` writes them.

    Raises:
        DataError: naming the file and the line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}. Check the path.") from error
    pairs = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                pairs.append(PAIR.validate_python(json.loads(line)))
            except (json.JSONDecodeError, ValidationError) as error:
                raise DataError(f"{path.name}, line {number}: no prompt, chosen and rejected messages.") from error
    if not pairs:
        raise DataError(f"{path.name} holds no pairs, so there is nothing to score on.")
    return pairs


@dataclass(frozen=True)
class Question:
    """A conversation and several answers to it."""

    prompt: Sequence[Message]
    answers: Sequence[Sequence[Message]]

    def readings(self, lanes: Lanes, system: str) -> list[Reading]:
        return [Reading.of(lanes, under(system, self.prompt), answer) for answer in self.answers]


def read_lanes(
    lanes: Lanes, questions: Sequence[Question], part: str, progress: Progress, divergence: bool = False
) -> dict[str, Judged]:
    """Every question's answers under every lane, and under the base alone. Lanes that hear the same system prompt are read
    together, equal ones once; `divergence` is wanted of the first answers."""
    systems = {lane.system: {lanes.nothing: None} for lane in lanes.lanes} | {BASE: {lanes.nothing: None}}
    for lane in lanes.lanes:
        systems[lane.system][lanes.mixtures[lane.name]] = None
    readings = {system: [question.readings(lanes, system) for question in questions] for system in systems}
    answers = {system: sum(one.answer for each in readings[system] for one in each) for system in systems}
    progress.begin(part, sum(answers[system] * len(mixtures) for system, mixtures in systems.items()))

    def wanted(answer: int) -> bool:
        return divergence and answer == CHOSEN

    found = {
        system: likelihoods(lanes, readings[system], list(mixtures), progress.add, wanted)
        for system, mixtures in systems.items()
    }
    places = {lane.name: (lane.system, lanes.mixtures[lane.name]) for lane in lanes.lanes}
    return {
        name: [
            [found[system][Place(mixture, index, answer)] for answer in range(len(question.answers))]
            for index, question in enumerate(questions)
        ]
        for name, (system, mixture) in ({BASE: ("", lanes.nothing)} | places).items()
    }


def base_lane(lanes: Lanes) -> str:
    """The lane that is the base alone, if there is one."""
    return next((lane.name for lane in lanes.lanes if not lane.system and not any(lanes.mixtures[lane.name])), BASE)


def preferences(name: str, judged: Judged, reference: Judged, is_reference: bool) -> LaneScore:
    """What a lane thinks of the held-out pairs, and whether more so than the reference."""
    apart = [chosen.mean - rejected.mean for chosen, rejected in judged]
    rewards = [
        (chosen.total - old_chosen.total) - (rejected.total - old_rejected.total)
        for (chosen, rejected), (old_chosen, old_rejected) in zip(judged, reference, strict=True)
    ]
    chosen = [answers[CHOSEN] for answers in judged]
    return LaneScore(
        lane=name,
        accuracy=estimates.share([difference > 0 for difference in apart]),
        margin=estimates.mean(apart),
        perplexity=estimates.perplexity([one.total for one in chosen], [one.tokens for one in chosen]),
        divergence=estimates.mean([one.divergence for one in chosen]),
        reward_accuracy=None if is_reference else estimates.share([reward > 0 for reward in rewards]),
        reward_margin=None if is_reference else estimates.mean(rewards),
    )


def own_answers(lanes: Lanes, prompts: Sequence[str], sampling: Sampling, progress: Progress) -> dict[str, list[Row]]:
    """Every lane's answers to the prompts, prompts × lanes in one batch."""
    rows = [
        Row(lane.name, tokens.render(lanes.tokenizer, under(lane.system, [Message("user", text)]), asking=True), text)
        for text in prompts
        for lane in lanes.lanes
    ]
    batches = [rows[start : start + ROWS] for start in range(0, len(rows), ROWS)]
    progress.begin("own answers", len(batches) * sampling.max_new_tokens)

    def grew() -> bool:
        progress.add(1)
        return True

    for number, some in enumerate(batches, 1):
        generate(lanes, some, sampling, grew)
        progress.reach(number * sampling.max_new_tokens)
    return {name: [row for row in rows if row.lane == name] for name in lanes.names}


def with_answers(scored: LaneScore, answers: Sequence[Row], of_base: Sequence[Row] | None) -> LaneScore:
    """The score with what the lane's own answers are like. The base's answers may be empty, and then there is no ratio."""
    lengths = [len(row.tokens) for row in answers]
    base = [len(row.tokens) for row in of_base or ()]
    return replace(
        scored,
        answer_tokens=estimates.mean(lengths),
        length_ratio=estimates.ratio(lengths, base) if all(base) and base else None,
        repetition=estimates.mean([repetition(row.tokens) for row in answers]),
        ended=estimates.share([row.ended for row in answers]),
    )


def repetition(ids: Sequence[int]) -> float:
    """Share of an answer's phrases of NGRAM tokens that it had written before; 0 for an answer too short to have one."""
    phrases = [tuple(ids[start : start + NGRAM]) for start in range(len(ids) - NGRAM + 1)]
    return 1 - len(set(phrases)) / len(phrases) if phrases else 0.0
