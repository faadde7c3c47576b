"""A judge at work: what it judges, in which order, how far it is. It runs in a thread beside the app and ends with the lanes."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from uuid import uuid4

import httpx

from trainer_core.config.recipe import Sampling
from trainer_core.errors import UserError
from trainer_core.evaluation import prompts, votes
from trainer_core.evaluation.judge import MOST_TOKENS, Case, JudgeError, Order, State, asking, judged, keep
from trainer_core.evaluation.votes import Messages
from trainer_core.jobs.comparison import Comparison
from trainer_core.jobs.supervisor import Supervisor
from trainer_core.runs.compare_requests import Ask
from trainer_core.runs.compare_requests import Said as Message
from trainer_core.runs.run_state import Said

GLANCE_SECONDS = 0.05
VERDICT_SAMPLING = Sampling(temperature=0.0, max_new_tokens=MOST_TOKENS)


class Trial:
    """Judges answers that a person voted on first, so that the two can be compared; then fresh ones to other prompts."""

    def __init__(self, supervisor: Supervisor, comparison: Comparison, order: Order):
        self.supervisor, self.comparison, self.order = supervisor, comparison, order
        self.state = State(0, order.cases)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._work, name="judge", daemon=True)

    def start(self) -> Trial:
        """Begin.

        Raises:
            ConfigError: there is no such endpoint, or its key cannot be sent.
            DataError: there are no such prompts.
        """
        self.waiting = prompts.load(self.supervisor.run_dir(self.order.contest.run), self.order.source)
        if not self.order.lane:
            _ = self.order.endpoint.place, self.order.endpoint.key
        self.voted = self.voted_cases()
        fresh = len({one.messages for one in self.waiting} - {case.messages for case in self.voted})
        self.state = State(0, min(self.order.cases, len(self.voted) + fresh))
        self._thread.start()
        return self

    def stop(self) -> None:
        """End after the question that is being asked."""
        self._stopped.set()

    def _work(self) -> None:
        try:
            with httpx.Client() as client:
                ask = self.ask_lane if self.order.lane else asking(self.order.endpoint, client)
                for case in islice(self.cases(), self.state.total):
                    keep(self.supervisor.workspace, judged(case, ask, self.order.judge))
                    self.state = replace(self.state, done=self.state.done + 1)
        except UserError as error:
            self.state = replace(self.state, problem=str(error))
        finally:
            self.state = replace(self.state, over=True)

    def cases(self) -> Iterator[Case]:
        """Those that a person voted on, then the rest of the prompts, answered for this."""
        yield from self.voted
        seen = {case.messages for case in self.voted}
        for prompt in self.waiting:
            if prompt.messages not in seen:
                yield self.case(prompt.messages, self.answered(prompt.messages))

    def voted_cases(self) -> list[Case]:
        told = votes.standing(votes.lines(votes.file_of(self.supervisor.workspace)))
        on_these = votes.on_same_lanes(told, self.order.contest.run, self.comparison.made_of)
        mine = [vote for vote in on_these if vote.contest == self.order.contest and vote.winner]
        return [self.case(vote.messages, vote.answers) for vote in reversed(mine)][: self.order.cases]

    def case(self, messages: Messages, answers: dict[str, str]) -> Case:
        contest = self.order.contest
        return Case(contest, messages, answers[contest.first], answers[contest.second])

    def answered(self, messages: Messages) -> dict[str, str]:
        """The two lanes' answers to a conversation."""
        lanes = (self.order.contest.first, self.order.contest.second)
        return dict(self.asked(messages, lanes, self.comparison.sampling).answers)

    def ask_lane(self, messages: tuple[Message, ...]) -> str:
        """A lane's own verdict."""
        return self.asked(messages, (self.order.lane,), VERDICT_SAMPLING).answers[self.order.lane]

    def asked(self, messages: Messages, lanes: Sequence[str], sampling: Sampling) -> Said:
        """What these lanes say to a conversation.

        Raises:
            JudgeError: it was stopped, or the lanes are gone.
        """
        ask = Ask(id=uuid4().hex[:8], messages=messages, lanes=tuple(lanes), sampling=sampling)
        self.comparison.send(ask)
        while not self._stopped.wait(GLANCE_SECONDS):
            self.supervisor.look_at_comparison()
            said = self.comparison.view.said_to(ask.id)
            if not self.comparison.view.phase.active:
                raise JudgeError("The lanes are gone, so judging ended. What was judged is kept.")
            if said and (said.problem or said.cancelled):
                raise JudgeError(said.problem or "Judging was stopped. What was judged is kept.")
            if said and said.ends:
                return said
        raise JudgeError("Judging was stopped. What was judged is kept.")
