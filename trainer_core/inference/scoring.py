"""Scores without a human judge: preferences between given answers, and statistics of a lane's own answers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from trainer_core.config.jobs import Lane
from trainer_core.config.recipe import Sampling
from trainer_core.data import Message, Pair
from trainer_core.data.render import render_chat
from trainer_core.errors import DataError
from trainer_core.evaluation import confidence
from trainer_core.evaluation.statistics import repetition_share
from trainer_core.inference import general_questions
from trainer_core.inference.answer_likelihoods import BASE, Question, QuestionLogprobs, answer_logprobs
from trainer_core.inference.generate import GenerationRow, generate_rows, with_system_prompt
from trainer_core.inference.load import LaneSet, Mixture
from trainer_core.inference.streaming import decode_tokens
from trainer_core.runs.compare_events import GenerationStats, LaneScore, ScoredAnswers, ScoresReady, ScoringProgress
from trainer_core.runs.compare_requests import ScoreRequest
from trainer_core.runs.progress import ProgressTracker
from trainer_core.texts import Text

BATCH_ROWS = 48
"""Answers per batch at most: more cost memory, and are no faster on a CPU."""
CHOSEN_INDEX = 0
PAIR_ADAPTER = TypeAdapter(Pair)


def compute_scores(lanes: LaneSet, request: ScoreRequest, progress: ProgressTracker[ScoringProgress]) -> ScoresReady:
    """Score every lane on a file's pairs and on its own answers to the prompts; LaneScore describes the numbers.

    Raises:
        UserError: the reference or a requested lane is not loaded.
        DataError: the file cannot be read, or holds no pairs.
        Cancelled: the user cancelled.
    """
    for name in filter(None, (request.reference, *request.lanes)):
        lanes.find_lane(name)
    lanes = lanes.subset({*(request.lanes or lanes.names), request.reference})
    pairs = read_score_pairs(Path(request.pairs))
    progress.parts = 1 + request.general + bool(request.prompts)
    questions = [Question(pair.prompt, (pair.chosen, pair.rejected)) for pair in pairs]
    judged = answer_logprobs(lanes, questions, Text("scoring.held_out"), progress, divergence=True)
    reference = request.reference or find_base_lane(lanes)
    scores = {name: preference_score(name, judged[name], judged[reference]) for name in lanes.names}
    if request.general:
        known = general_questions.answer_general_questions(lanes, progress)
        scores = {name: with_general_score(scores[name], known[name], known[BASE]) for name in lanes.names}
    if not request.prompts:
        return ScoresReady(tuple(scores.values()), reference or "the base")
    rows = generate_answers(lanes, request.prompts, request.sampling, progress)
    of_base = rows.get(find_base_lane(lanes), [])
    return ScoresReady(
        tuple(with_answer_stats(scores[name], rows[name], of_base) for name in lanes.names),
        reference or "the base",
        tuple(
            ScoredAnswers(prompt, {name: decode_tokens(lanes, rows[name][index].tokens) for name in lanes.names})
            for index, prompt in enumerate(request.prompts)
        ),
    )


def read_score_pairs(path: Path) -> list[Pair]:
    """The pairs of a JSON-lines file, as `data/tokenize.py` writes them.

    Raises:
        DataError: names the file and the line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError("score_pairs.unreadable", path=str(path), reason=str(error)) from error
    pairs = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                pairs.append(PAIR_ADAPTER.validate_python(json.loads(line)))
            except (json.JSONDecodeError, ValidationError) as error:
                raise DataError("score_pairs.bad_line", file=path.name, line=number) from error
    if not pairs:
        raise DataError("score_pairs.empty", file=path.name)
    return pairs


def find_base_lane(lanes: LaneSet) -> str:
    """The lane without adapter and system prompt; BASE if there is none."""
    return next((lane.name for lane in lanes.lanes if not lane.system and not any(lanes.mixtures[lane.name])), BASE)


def preference_score(name: str, judged: QuestionLogprobs, reference: QuestionLogprobs) -> LaneScore:
    """A lane's preferences on the held-out pairs, and its rewards against the reference."""
    apart = [chosen.mean - rejected.mean for chosen, rejected in judged]
    rewards = [
        (chosen.total - old_chosen.total) - (rejected.total - old_rejected.total)
        for (chosen, rejected), (old_chosen, old_rejected) in zip(judged, reference, strict=True)
    ]
    chosen = [answers[CHOSEN_INDEX] for answers in judged]
    return LaneScore(
        lane=name,
        accuracy=confidence.estimate_share([difference > 0 for difference in apart]),
        margin=confidence.estimate_mean(apart),
        perplexity=confidence.estimate_perplexity([one.total for one in chosen], [one.tokens for one in chosen]),
        divergence=confidence.estimate_mean([one.divergence for one in chosen]),
        reward_accuracy=confidence.estimate_share([reward > 0 for reward in rewards]) if any(rewards) else None,
        reward_margin=confidence.estimate_mean(rewards) if any(rewards) else None,
    )


def with_general_score(scored: LaneScore, known: Sequence[bool], base: Sequence[bool]) -> LaneScore:
    """The score with the answers to the general questions."""
    return replace(
        scored, general=confidence.estimate_share(known), forgetting=confidence.measure_forgetting(base, known)
    )


def generate_answers(
    lanes: LaneSet, prompts: Sequence[str], sampling: Sampling, progress: ProgressTracker[ScoringProgress]
) -> dict[str, list[GenerationRow]]:
    """Every lane's answers to the prompts; equal lanes answer once."""
    writers = {answer_key(lanes, lane): lane.name for lane in reversed(lanes.lanes)}
    rows = [
        GenerationRow(
            lane.name,
            render_chat(lanes.tokenizer, with_system_prompt(lane.system, [Message("user", text)]), asking=True),
            text,
        )
        for text in prompts
        for lane in lanes.lanes
        if lane.name in writers.values()
    ]
    batches = [rows[start : start + BATCH_ROWS] for start in range(0, len(rows), BATCH_ROWS)]
    progress.begin(Text("scoring.own_answers"), len(batches) * sampling.max_new_tokens)

    def after_pass() -> bool:
        progress.add(1)
        return True

    for number, some in enumerate(batches, 1):
        generate_rows(lanes, some, sampling, after_pass)
        progress.advance_to(number * sampling.max_new_tokens)
    return {lane.name: [row for row in rows if row.lane == writers[answer_key(lanes, lane)]] for lane in lanes.lanes}


def answer_key(lanes: LaneSet, lane: Lane) -> tuple[Mixture, str]:
    """What a lane's answers depend on, besides the prompt."""
    return lanes.mixtures[lane.name], lane.system


def with_answer_stats(
    scored: LaneScore, answers: Sequence[GenerationRow], of_base: Sequence[GenerationRow]
) -> LaneScore:
    """The score with statistics of the lane's own answers; no length ratio if the base's are empty."""
    lengths = [len(row.tokens) for row in answers]
    base = [len(row.tokens) for row in of_base]
    own = GenerationStats(
        tokens=confidence.estimate_mean(lengths),
        ended=confidence.estimate_share([row.ended for row in answers]),
        repetition=confidence.estimate_mean([repetition_share(row.tokens) for row in answers]),
        ratio=confidence.estimate_ratio(lengths, base) if all(base) and base else None,
    )
    return replace(scored, own=own)
