"""What every lane thinks of given answers to given prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from os.path import commonprefix
from typing import TYPE_CHECKING, Any

from trainer_core.data import Message, tokenize
from trainer_core.errors import DataError
from trainer_core.inference.generate import with_system_prompt
from trainer_core.inference.likelihoods import AnswerLogprob, PromptAnswer, ResultKey, compute_logprobs
from trainer_core.inference.load import LaneSet
from trainer_core.inference.progress import ScoringTracker

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BASE = ""
"""Where the numbers of the base alone lie, beside those of the lanes; no lane is called so."""

QuestionLogprobs = list[list[AnswerLogprob]]
"""Every question's answers under one lane."""


@dataclass(frozen=True)
class Question:
    """A conversation and several answers to it."""

    prompt: Sequence[Message]
    answers: Sequence[Sequence[Message]]
    apart: bool = False
    """Judge only what the answers do not have in common at their beginning."""

    def prompt_answers(self, lanes: LaneSet, system: str) -> list[PromptAnswer]:
        found = [build_prompt_answer(lanes, with_system_prompt(system, self.prompt), answer) for answer in self.answers]
        if not self.apart:
            return found
        common = len(commonprefix([one.ids for one in found]))
        return [replace(one, answer=min(one.answer, len(one.ids) - common)) for one in found]


def answer_logprobs(
    lanes: LaneSet, questions: Sequence[Question], part: str, progress: ScoringTracker, divergence: bool = False
) -> dict[str, QuestionLogprobs]:
    """Every question's answers under every lane, and under the base alone. Lanes that hear the same system prompt are read
    together, equal ones once; `divergence` is wanted of the first answers."""
    systems = {lane.system: {lanes.base_mixture: None} for lane in lanes.lanes} | {BASE: {lanes.base_mixture: None}}
    for lane in lanes.lanes:
        systems[lane.system][lanes.mixtures[lane.name]] = None
    readings = {system: [question.prompt_answers(lanes, system) for question in questions] for system in systems}
    answers = {system: sum(one.answer for each in readings[system] for one in each) for system in systems}
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
    """Prompt and answer through the model's template, as in training. The answer begins where asking for one and giving it part.

    Its end token counts; the line break that some templates put behind it does not, as no model writes it. An answer
    is read up to half of the context, and a prompt that leaves no room for it loses its beginning.

    Raises:
        DataError: the answer is empty.
    """
    asked = tokenize.render_chat(lanes.tokenizer, prompt, asking=True)
    whole = tokenize.render_chat(lanes.tokenizer, (*prompt, *answer)).rstrip("\n")
    ids, begins = tokens_from(lanes.tokenizer, whole, len(commonprefix([asked, whole])))
    length = min(len(ids) - begins, lanes.context_length // 2)
    if length < 1 or begins < 2:
        raise DataError("score_pairs.empty_answer", prompt=prompt[-1].content[:60])
    return PromptAnswer(tuple(ids[: begins + length][-lanes.context_length :]), length)


def tokens_from(tokenizer: PreTrainedTokenizerBase, text: str, at: int) -> tuple[list[int], int]:
    """The text's tokens, and the index of the first that begins at or after the character `at`."""
    encoding: Any = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    begins = next((index for index, (left, _) in enumerate(encoding["offset_mapping"]) if left >= at), None)
    ids = list(encoding["input_ids"])
    return ids, len(ids) if begins is None else begins
