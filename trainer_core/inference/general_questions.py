"""The bundled general questions, each with one right answer and similar wrong ones: what does a lane still know?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import Field, TypeAdapter

from trainer_core.data import Message
from trainer_core.inference.answer_likelihoods import Question, answer_logprobs
from trainer_core.inference.likelihoods import AnswerLogprob
from trainer_core.inference.load import LaneSet
from trainer_core.inference.progress import ScoringTracker
from trainer_core.schema import StrictModel
from trainer_core.system import project
from trainer_core.texts import Text

QUESTIONS_FILE = project.PROJECT / "assets" / "prompts" / "general_questions.jsonl"
RIGHT_INDEX = 0


class GeneralQuestion(StrictModel):
    """One line of the file. An answer counts as given if it is likelier than every wrong one."""

    kind: str
    prompt: str
    stem: str
    """How every answer begins, so that a lane is asked what it knows and not how it likes to put it."""
    right: str
    wrong: tuple[str, ...] = Field(min_length=1)

    @property
    def question(self) -> Question:
        answers = ((Message("assistant", f"{self.stem} {end}."),) for end in (self.right, *self.wrong))
        return Question((Message("user", self.prompt),), tuple(answers), apart=True)


def load_questions(path: Path = QUESTIONS_FILE) -> list[GeneralQuestion]:
    """The questions of the file."""
    adapter = TypeAdapter(GeneralQuestion)
    return [adapter.validate_json(line) for line in path.read_text(encoding="utf-8").splitlines() if line]


def answer_general_questions(lanes: LaneSet, progress: ScoringTracker) -> dict[str, list[bool]]:
    """For every lane, and for the base, which questions it answers rightly.

    The likelihood is that of all tokens after the common stem, end token included; these ends are short and of like length.

    Raises:
        Stopped: cancelled.
    """
    judged = answer_logprobs(lanes, [one.question for one in load_questions()], Text("scoring.general"), progress)
    return {name: [is_right(answers) for answers in answered] for name, answered in judged.items()}


def is_right(answers: Sequence[AnswerLogprob]) -> bool:
    return all(answers[RIGHT_INDEX].total > wrong.total for wrong in answers[RIGHT_INDEX + 1 :])
