"""Log-probabilities of given answers to given prompts under every lane."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from os.path import commonprefix
from typing import TYPE_CHECKING, Any

from trainer_core.data import Message
from trainer_core.data.render import render_chat
from trainer_core.errors import DataError
from trainer_core.inference.generate import with_system_prompt
from trainer_core.inference.likelihoods import AnswerLogprob, PromptAnswer, ResultKey, compute_logprobs
from trainer_core.inference.load import LaneSet
from trainer_core.runs.compare_events import ScoringProgress
from trainer_core.runs.progress import ProgressTracker
from trainer_core.texts import Text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BASE = ""
"""The key of the base's own numbers beside the lanes'; no lane has this name."""

QuestionLogprobs = list[list[AnswerLogprob]]
"""Every question's answers under one lane."""


@dataclass(frozen=True)
class Question:
    """A conversation and several answers to it."""

    prompt: Sequence[Message]
    answers: Sequence[Sequence[Message]]
    endings_only: bool = False
    """Score only what follows the beginning that all answers share."""

    def prompt_answers(self, lanes: LaneSet, system: str) -> list[PromptAnswer]:
        found = [build_prompt_answer(lanes, with_system_prompt(system, self.prompt), answer) for answer in self.answers]
        if not self.endings_only:
            return found
        common = len(commonprefix([one.ids for one in found]))
        return [replace(one, answer_tokens=min(one.answer_tokens, len(one.ids) - common)) for one in found]


def answer_logprobs(
    lanes: LaneSet,
    questions: Sequence[Question],
    part: Text,
    progress: ProgressTracker[ScoringProgress],
    divergence: bool = False,
) -> dict[str, QuestionLogprobs]:
    """Every question's answers under every lane, and under the base alone.

    Args:
        part: the part of the scoring, for the progress.
        divergence: also measure the divergence from the base, for the first answers.

    Raises:
        DataError: an answer is empty.
        Cancelled: the user cancelled.
    """
    # Lanes with the same system prompt share their passes; equal lanes are computed once.
    systems = {lane.system: {lanes.base_mixture: None} for lane in lanes.lanes} | {BASE: {lanes.base_mixture: None}}
    for lane in lanes.lanes:
        systems[lane.system][lanes.mixtures[lane.name]] = None
    readings = {system: [question.prompt_answers(lanes, system) for question in questions] for system in systems}
    answers = {system: sum(one.answer_tokens for each in readings[system] for one in each) for system in systems}
    progress.begin(part, sum(answers[system] * len(mixtures) for system, mixtures in systems.items()))

    def needs_divergence(answer: int) -> bool:
        return divergence and answer == 0

    found = {
        system: compute_logprobs(lanes, readings[system], list(mixtures), progress.add, needs_divergence)
        for system, mixtures in systems.items()
    }
    places = {lane.name: (lane.system, lanes.mixtures[lane.name]) for lane in lanes.lanes}
    return {
        name: [
            [found[system][ResultKey(mixture, index, answer)] for answer in range(len(question.answers))]
            for index, question in enumerate(questions)
        ]
        for name, (system, mixture) in ({BASE: ("", lanes.base_mixture)} | places).items()
    }


def build_prompt_answer(lanes: LaneSet, prompt: Sequence[Message], answer: Sequence[Message]) -> PromptAnswer:
    """Prompt and answer in the model's chat template, as in training; the end token counts as part of the answer.

    An answer is cut to half of the context; a prompt that leaves no room for it loses its beginning.

    Raises:
        DataError: the answer is empty.
    """
    # The answer begins where its text and the generation prompt differ. Templates may add a line break that no model writes.
    asked = render_chat(lanes.tokenizer, prompt, asking=True)
    whole = render_chat(lanes.tokenizer, (*prompt, *answer)).rstrip("\n")
    ids, begins = tokens_from(lanes.tokenizer, whole, len(commonprefix([asked, whole])))
    length = min(len(ids) - begins, lanes.context_length // 2)
    if length < 1 or begins < 2:
        raise DataError("score_pairs.empty_answer", prompt=prompt[-1].content[:60])
    return PromptAnswer(tuple(ids[: begins + length][-lanes.context_length :]), length)


def tokens_from(tokenizer: PreTrainedTokenizerBase, text: str, at: int) -> tuple[list[int], int]:
    """The text's token ids, and the index of the first token at or after character `at`."""
    encoding: Any = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    begins = next((index for index, (left, _) in enumerate(encoding["offset_mapping"]) if left >= at), None)
    ids = list(encoding["input_ids"])
    return ids, len(ids) if begins is None else begins
