"""Runs a judge in a thread of the app: its cases, their order, its progress. It ends with the lanes."""

from __future__ import annotations

import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import islice

import httpx

from trainer_core.config.recipe import Sampling
from trainer_core.errors import UserError
from trainer_core.evaluation import prompts, votes
from trainer_core.evaluation.judge import JudgeCase, JudgeProgress, JudgeTask, judge_case, save_verdict
from trainer_core.evaluation.judge_endpoint import (
    MAX_JUDGE_TOKENS,
    AskJudge,
    JudgeEndpoint,
    JudgeError,
    make_ask_function,
)
from trainer_core.evaluation.votes import Messages
from trainer_core.jobs.comparison import CompareSession, new_ask_id
from trainer_core.jobs.registry import RunRegistry
from trainer_core.runs.compare_requests import ChatMessage, GenerateRequest
from trainer_core.runs.run_state import PromptAnswers
from trainer_core.system.redact import redact_text
from trainer_core.texts import VERBATIM, Text

VERDICT_SAMPLING = Sampling(temperature=0.0, max_new_tokens=MAX_JUDGE_TOKENS)


class JudgeRun:
    """First judges answers that a person voted on, so that the two can be compared, then new answers to other prompts."""

    def __init__(
        self,
        registry: RunRegistry,
        comparison: CompareSession,
        order: JudgeTask,
        make_ask: Callable[[JudgeEndpoint, httpx.Client], AskJudge] = make_ask_function,
    ):
        self.registry, self.comparison, self.order, self.make_ask = registry, comparison, order, make_ask
        self.state = JudgeProgress(0, order.cases)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._work, name="judge", daemon=True)

    def start(self) -> JudgeRun:
        """Start judging.

        Raises:
            ConfigError: there is no such endpoint, or its key cannot be sent.
            DataError: no such prompts.
        """
        self.waiting = prompts.load_prompts(self.registry.run_dir(self.order.contest.run), self.order.source)
        if not self.order.lane:
            _ = self.order.endpoint.completions_url, self.order.endpoint.api_key
        self.voted = self.cases_with_votes()
        fresh = len({one.messages for one in self.waiting} - {case.messages for case in self.voted})
        self.state = JudgeProgress(0, min(self.order.cases, len(self.voted) + fresh))
        self._thread.start()
        return self

    def stop(self) -> None:
        """End after the current question."""
        self._stopped.set()

    def _work(self) -> None:
        try:
            with httpx.Client() as client:
                ask = self.ask_lane if self.order.lane else self.make_ask(self.order.endpoint, client)
                for case in islice(self.iter_cases(), self.state.total):
                    save_verdict(self.registry.workspace, judge_case(case, ask, self.order.judge_name))
                    self.state = replace(self.state, done=self.state.done + 1)
        except UserError as error:
            self.state = replace(self.state, problem=str(error))
        except Exception as error:  # of Tunebench itself: said on the page, and its traceback in the terminal
            problem = Text("judging.unexpected", error=redact_text(f"{type(error).__name__}: {error}"))
            self.state = replace(self.state, problem=str(problem))
            sys.stderr.write(redact_text(traceback.format_exc()))
        finally:
            self.state = replace(self.state, over=True)

    def iter_cases(self) -> Iterator[JudgeCase]:
        """The cases that a person voted on, then the other prompts, answered for the judge."""
        yield from self.voted
        seen = {case.messages for case in self.voted}
        for prompt in self.waiting:
            if prompt.messages not in seen:
                yield self.build_case(prompt.messages, self.answer_both(prompt.messages))

    def cases_with_votes(self) -> list[JudgeCase]:
        told = votes.active_votes(votes.read_vote_records(votes.votes_path(self.registry.workspace)))
        on_these = votes.votes_on_current_lanes(told, self.order.contest.run, self.comparison.lane_identities)
        mine = [vote for vote in on_these if vote.contest == self.order.contest and vote.winner]
        return [self.build_case(vote.messages, vote.answers) for vote in reversed(mine)][: self.order.cases]

    def build_case(self, messages: Messages, answers: dict[str, str]) -> JudgeCase:
        contest = self.order.contest
        return JudgeCase(contest, messages, answers[contest.first], answers[contest.second])

    def answer_both(self, messages: Messages) -> dict[str, str]:
        lanes = (self.order.contest.first, self.order.contest.second)
        return dict(self.await_answers(messages, lanes, self.comparison.sampling).answers)

    def ask_lane(self, messages: tuple[ChatMessage, ...]) -> str:
        return self.await_answers(messages, (self.order.lane,), VERDICT_SAMPLING).answers[self.order.lane]

    def await_answers(self, messages: Messages, lanes: Sequence[str], sampling: Sampling) -> PromptAnswers:
        """The answers of these lanes to a conversation.

        Raises:
            JudgeError: stopped, or the lanes are gone.
        """
        request = GenerateRequest(id=new_ask_id(), messages=messages, lanes=tuple(lanes), sampling=sampling)
        said = self.comparison.final_answers(request, stopped=self._stopped)
        if not self.comparison.state.phase.is_active:
            raise JudgeError("judging.lanes_gone")
        if said and said.problem:
            raise JudgeError(Text(VERBATIM, text=said.problem))
        if said is None or said.cancelled:
            raise JudgeError("judging.stopped")
        return said
