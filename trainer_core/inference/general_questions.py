"""The bundled general questions, which measure what a lane has forgotten."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import Field, TypeAdapter

from trainer_core.data import Message
from trainer_core.inference.answer_likelihoods import Question, answer_logprobs
from trainer_core.inference.likelihoods import AnswerLogprob
from trainer_core.inference.load import LaneSet
from trainer_core.runs.compare_events import ScoringProgress
from trainer_core.runs.progress import ProgressTracker
from trainer_core.schema import StrictModel
from trainer_core.system import project
from trainer_core.texts import Text

QUESTIONS_FILE = project.PROJECT / "assets" / "prompts" / "general_questions.jsonl"
RIGHT_INDEX = 0


class GeneralQuestion(StrictModel):
    """A question of the file; it counts as answered if the right answer is likelier than every wrong one."""

    kind: str
    prompt: str
    stem: str
    """The beginning of every answer, so that the wording of the lane does not count."""
    right: str
    wrong: tuple[str, ...] = Field(min_length=1)

    @property
    def question(self) -> Question:
        answers = ((Message("assistant", f"{self.stem} {end}."),) for end in (self.right, *self.wrong))
        return Question((Message("user", self.prompt),), tuple(answers), endings_only=True)


def load_questions(path: Path = QUESTIONS_FILE) -> list[GeneralQuestion]:
    adapter = TypeAdapter(GeneralQuestion)
    return [adapter.validate_json(line) for line in path.read_text(encoding="utf-8").splitlines() if line]


def answer_general_questions(lanes: LaneSet, progress: ProgressTracker[ScoringProgress]) -> dict[str, list[bool]]:
    """Whether every lane, and the base, answers each question correctly.

    Raises:
        Cancelled: the user cancelled.
    """
    # Compared are summed log-probabilities after the common stem, end token included: the endings are of similar length.
    judged = answer_logprobs(lanes, [one.question for one in load_questions()], Text("scoring.general"), progress)
    return {name: [is_correct(answers) for answers in answered] for name, answered in judged.items()}


def is_correct(answers: Sequence[AnswerLogprob]) -> bool:
    return all(answers[RIGHT_INDEX].total > wrong.total for wrong in answers[RIGHT_INDEX + 1 :])
