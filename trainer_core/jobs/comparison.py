"""Lanes that are loaded, seen from the app: the one place that asks them and waits for what they say."""

from __future__ import annotations

import contextlib
import hashlib
import math
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from uuid import uuid4

from trainer_core.config.jobs import CompareJob
from trainer_core.config.recipe import Sampling
from trainer_core.errors import BusyError
from trainer_core.evaluation.judge import RunningJudge
from trainer_core.evaluation.votes import BlindQuestion, LanePair, Vote
from trainer_core.jobs.run_watcher import RunWatcher
from trainer_core.runs import heartbeat
from trainer_core.runs.compare_requests import CancelRequest, ChatMessage, GenerateRequest, WorkRequest
from trainer_core.runs.run_state import PromptAnswers, RunState
from trainer_core.texts import Text

CLOSE_SECONDS = 15.0
"""How long a compare worker may take to give the device back before it is ended."""
POLL_SECONDS = 0.05
WORKER_GONE = Text("compare_worker.gone")


@dataclass(frozen=True)
class Turn:
    """A prompt and what each lane said to it."""

    prompt: str
    answers: Mapping[str, str]


def lane_messages(talk: Sequence[Turn], lane: str) -> Iterator[ChatMessage]:
    """The conversation as this lane has led it."""
    for turn in talk:
        yield ChatMessage(role="user", content=turn.prompt)
        yield ChatMessage(role="assistant", content=turn.answers.get(lane, ""))


def lane_identity(adapters: str, system: str) -> str:
    """What a lane is made of, in a line."""
    prompt = f"system prompt {hashlib.sha256(system.encode()).hexdigest()[:12]}" if system else ""
    return " + ".join(filter(None, (adapters, prompt)))


def new_ask_id() -> str:
    return uuid4().hex[:8]


@dataclass
class CompareSession:
    """A compare worker and the lanes it holds. Its stdin is ours: when the app goes, it goes.

    Anyone may read the fields; only the methods here set them.
    """

    job: CompareJob
    watcher: RunWatcher
    run: str = ""
    """The run whose lanes these are."""
    last_prompt: str = ""
    """The prompt asked last; empty: none yet."""
    ask_id: str = ""
    """The id of that question to the lanes under their names."""
    sampling: Sampling = Sampling()
    system: str = ""
    """How it was answered, and under which system prompt."""
    turns: tuple[Turn, ...] = ()
    """The conversation before that prompt."""
    open_question: BlindQuestion | None = None
    """The question to two lanes whose names the page must not tell; None where lanes stand under their names."""
    prefetched_question: BlindQuestion | None = None
    """The question after it, which the worker answers while that one is read."""
    contest: LanePair | None = None
    """The two lanes that were voted on last."""
    judge_run: RunningJudge | None = None
    """A judge at work on these lanes, or done."""
    send_lock: threading.Lock = field(default_factory=threading.Lock)
    refresh_lock: threading.Lock = field(default_factory=threading.Lock)
    vote_lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def state(self) -> RunState:
        return self.watcher.state

    @property
    def current_answers(self) -> PromptAnswers | None:
        """The answers on the page."""
        return self.state.answers_to(self.open_question.ask if self.open_question else self.ask_id)

    @property
    def lane_identities(self) -> dict[str, str]:
        """Lane → what makes it another model than the base: the hashes of its adapters and of a system prompt of its own.
        Lanes of one name are the same only where these are. Empty until they are loaded."""
        systems = {lane.name: lane.system for lane in self.job.lanes}
        return {proof.lane: lane_identity(proof.sha256, systems.get(proof.lane, "")) for proof in self.state.lanes}

    def refresh(self) -> None:
        """Bring the state up to date between two rounds of the app, so that text is shown as it grows."""
        with self.refresh_lock:
            self.watcher.refresh()

    def states(self, seconds: float = math.inf, stopped: threading.Event | None = None) -> Iterator[RunState]:
        """The state, read anew every 50 ms, until the lanes are gone, the time is over, or it was stopped."""
        end, stopped = time.monotonic() + seconds, stopped or threading.Event()
        while time.monotonic() < end and not stopped.wait(POLL_SECONDS):
            self.refresh()
            yield self.state
            if not self.state.phase.is_active:
                return

    def answers(
        self, request: GenerateRequest, seconds: float = math.inf, stopped: threading.Event | None = None
    ) -> Iterator[PromptAnswers]:
        """Ask, and yield what the lanes have said so far until they have said all, or `states` ends.

        Raises:
            BusyError: the worker is gone.
        """
        self.send(request)
        for state in self.states(seconds, stopped):
            if said := state.answers_to(request.id):
                yield said
            if request.id in state.said:
                return

    def final_answers(
        self, request: GenerateRequest, seconds: float = math.inf, stopped: threading.Event | None = None
    ) -> PromptAnswers | None:
        """All that the lanes say to it, or why they do not; None where `states` ended before.

        Raises:
            BusyError: the worker is gone.
        """
        for _ in self.answers(request, seconds, stopped):
            pass
        return self.state.said.get(request.id)

    def send(self, request: WorkRequest | CancelRequest) -> None:
        """Hand a request over.

        Raises:
            BusyError: the worker is gone.
        """
        process = self.watcher.process
        assert process and process.stdin
        try:
            with self.send_lock:
                process.stdin.write(request.model_dump_json().encode() + b"\n")
                process.stdin.flush()
        except (OSError, ValueError) as error:  # a pipe that was closed on this side is a ValueError
            raise BusyError(WORKER_GONE) from error

    def ask(self, prompt: str, sampling: Sampling, follow: bool = False, system: str = "") -> str:
        """Answer one prompt in all lanes; returns the id under which the events speak of it.

        Args:
            follow: as the next turn of the conversation, in which each lane has said what it said.
            system: a system prompt for the lanes that have none of their own.
        """
        before = self.current_answers
        turn = (
            Turn(self.last_prompt, dict(before.answers))
            if follow and self.last_prompt and before and before.ends
            else None
        )
        talk = (*self.turns, turn) if turn else ()
        first = (ChatMessage(role="system", content=system.strip()),) if system.strip() else ()
        user = ChatMessage(role="user", content=prompt)
        own = {lane.name: (*first, *lane_messages(talk, lane.name), user) for lane in self.job.lanes} if talk else {}
        messages = next(iter(own.values()), (*first, user))
        request = GenerateRequest(id=new_ask_id(), messages=messages, own=own, sampling=sampling)
        self.send(request)
        self.last_prompt, self.ask_id, self.turns = prompt, request.id, talk
        self.sampling, self.system = sampling, system
        return request.id

    def pose_question(self, question: BlindQuestion) -> None:
        """Send a question to its two lanes; from now on the page shows them without names."""
        self.send_question(question)
        self.open_question, self.contest = question, question.contest
        self.last_prompt, self.ask_id, self.turns = "", "", ()

    def prefetch_question(self, question: BlindQuestion) -> None:
        """Have a question answered when the open one is."""
        self.prefetched_question = question
        self.send_question(question)

    def send_question(self, question: BlindQuestion) -> None:
        lanes = (question.contest.first, question.contest.second)
        self.send(GenerateRequest(id=question.ask, messages=question.messages, lanes=lanes, sampling=question.sampling))

    def open_prefetched(self) -> BlindQuestion:
        """Show the question that was answered ahead."""
        assert self.prefetched_question
        self.open_question, self.prefetched_question = self.prefetched_question, None
        return self.open_question

    def set_vote(self, vote: Vote | None) -> None:
        """The vote on the open question; None takes it back, so that it may be given again."""
        assert self.open_question
        self.open_question = replace(self.open_question, vote=vote, again=self.open_question.again or vote is None)

    def close_questions(self) -> None:
        """From now on the page shows the lanes under their names."""
        self.open_question = self.prefetched_question = None

    def add_judge(self, judge_run: RunningJudge) -> None:
        self.judge_run = judge_run

    def close(self, seconds: float = CLOSE_SECONDS) -> None:
        """End the worker and wait until it is gone."""
        process = self.watcher.process
        assert process and process.stdin
        with contextlib.suppress(OSError):
            process.stdin.close()
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            heartbeat.terminate(self.watcher.run_dir, kill=True)  # on Windows `process` is only what started it
            process.kill()
            process.wait()
        self.refresh()
