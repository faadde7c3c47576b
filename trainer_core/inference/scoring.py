"""What can be measured without a human: which of two answers a lane finds likelier, and what its own answers are like."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from trainer_core.config.jobs import Lane
from trainer_core.config.recipe import Sampling
from trainer_core.data import Message, Pair, tokenize
from trainer_core.errors import DataError
from trainer_core.evaluation import confidence
from trainer_core.inference import general_questions
from trainer_core.inference.answer_likelihoods import BASE, Judged, Question, read_lanes
from trainer_core.inference.generate import Row, generate, under
from trainer_core.inference.load import Lanes, Mixture
from trainer_core.inference.progress import Progress
from trainer_core.inference.streaming import text_of
from trainer_core.runs.compare_requests import Score
from trainer_core.runs.events import LaneScore, OwnAnswers, Scored, Written

ROWS = 48
"""Answers that are written in one batch at most: more brings no speed on a processor, and costs memory."""
NGRAM = 4
"""Tokens that count as a repeated phrase (rep-4 of Welleck 2020)."""
CHOSEN = 0
PAIR = TypeAdapter(Pair)


def score(lanes: Lanes, request: Score, progress: Progress) -> Scored:
    """Score every lane on the pairs of a file and on its own answers to the prompts. What the numbers are: see LaneScore.

    Raises:
        UserError: the reference or a wanted lane is not loaded.
        DataError: the file cannot be read, or holds no pairs.
        Stopped: cancelled.
    """
    for name in filter(None, (request.reference, *request.lanes)):
        lanes.of(name)
    lanes = lanes.only({*(request.lanes or lanes.names), request.reference})
    pairs = read_pairs(Path(request.pairs))
    progress.parts = 1 + request.general + bool(request.prompts)
    questions = [Question(pair.prompt, (pair.chosen, pair.rejected)) for pair in pairs]
    judged = read_lanes(lanes, questions, "held-out answers", progress, divergence=True)
    reference = request.reference or base_lane(lanes)
    scores = {name: preferences(name, judged[name], judged[reference]) for name in lanes.names}
    if request.general:
        known = general_questions.known(lanes, progress)
        scores = {name: with_memory(scores[name], known[name], known[BASE]) for name in lanes.names}
    if not request.prompts:
        return Scored(tuple(scores.values()), reference or "the base")
    rows = own_answers(lanes, request.prompts, request.sampling, progress)
    of_base = rows.get(base_lane(lanes), [])
    return Scored(
        tuple(with_answers(scores[name], rows[name], of_base) for name in lanes.names),
        reference or "the base",
        tuple(
            Written(prompt, {name: text_of(lanes, rows[name][index].tokens) for name in lanes.names})
            for index, prompt in enumerate(request.prompts)
        ),
    )


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


def base_lane(lanes: Lanes) -> str:
    """The lane that is the base alone, if there is one."""
    return next((lane.name for lane in lanes.lanes if not lane.system and not any(lanes.mixtures[lane.name])), BASE)


def preferences(name: str, judged: Judged, reference: Judged) -> LaneScore:
    """What a lane thinks of the held-out pairs, and whether more so than the reference."""
    apart = [chosen.mean - rejected.mean for chosen, rejected in judged]
    rewards = [
        (chosen.total - old_chosen.total) - (rejected.total - old_rejected.total)
        for (chosen, rejected), (old_chosen, old_rejected) in zip(judged, reference, strict=True)
    ]
    chosen = [answers[CHOSEN] for answers in judged]
    return LaneScore(
        lane=name,
        accuracy=confidence.share([difference > 0 for difference in apart]),
        margin=confidence.mean(apart),
        perplexity=confidence.perplexity([one.total for one in chosen], [one.tokens for one in chosen]),
        divergence=confidence.mean([one.divergence for one in chosen]),
        reward_accuracy=confidence.share([reward > 0 for reward in rewards]) if any(rewards) else None,
        reward_margin=confidence.mean(rewards) if any(rewards) else None,
    )


def with_memory(scored: LaneScore, known: Sequence[bool], base: Sequence[bool]) -> LaneScore:
    """The score with what the lane still knows."""
    return replace(scored, general=confidence.share(known), forgetting=confidence.forgetting(base, known))


def own_answers(lanes: Lanes, prompts: Sequence[str], sampling: Sampling, progress: Progress) -> dict[str, list[Row]]:
    """Every lane's answers to the prompts, prompts × lanes in one batch; equal lanes answer once."""
    writers = {kind(lanes, lane): lane.name for lane in reversed(lanes.lanes)}
    rows = [
        Row(lane.name, tokenize.render(lanes.tokenizer, under(lane.system, [Message("user", text)]), asking=True), text)
        for text in prompts
        for lane in lanes.lanes
        if lane.name in writers.values()
    ]
    batches = [rows[start : start + ROWS] for start in range(0, len(rows), ROWS)]
    progress.begin("own answers", len(batches) * sampling.max_new_tokens)

    def grew() -> bool:
        progress.add(1)
        return True

    for number, some in enumerate(batches, 1):
        generate(lanes, some, sampling, grew)
        progress.reach(number * sampling.max_new_tokens)
    return {lane.name: [row for row in rows if row.lane == writers[kind(lanes, lane)]] for lane in lanes.lanes}


def kind(lanes: Lanes, lane: Lane) -> tuple[Mixture, str]:
    """What a lane's answers depend on."""
    return lanes.mixtures[lane.name], lane.system


def with_answers(scored: LaneScore, answers: Sequence[Row], of_base: Sequence[Row]) -> LaneScore:
    """The score with what the lane's own answers are like. The base's answers may be empty, and then there is no ratio."""
    lengths = [len(row.tokens) for row in answers]
    base = [len(row.tokens) for row in of_base]
    own = OwnAnswers(
        tokens=confidence.mean(lengths),
        ended=confidence.share([row.ended for row in answers]),
        repetition=confidence.mean([repetition(row.tokens) for row in answers]),
        ratio=confidence.ratio(lengths, base) if all(base) and base else None,
    )
    return replace(scored, own=own)


def repetition(ids: Sequence[int]) -> float:
    """Share of an answer's phrases of NGRAM tokens that it had written before; 0 for an answer too short to have one."""
    phrases = [tuple(ids[start : start + NGRAM]) for start in range(len(ids) - NGRAM + 1)]
    return 1 - len(set(phrases)) / len(phrases) if phrases else 0.0
