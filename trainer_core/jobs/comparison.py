"""A comparison as the app sees it: sends requests to the loaded lanes and waits for answers."""

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
"""Seconds a compare worker may take to release the device before it is killed."""
POLL_SECONDS = 0.05
WORKER_GONE = Text("compare_worker.gone")


@dataclass(frozen=True)
class Turn:
    prompt: str
    answers: Mapping[str, str]


def lane_messages(talk: Sequence[Turn], lane: str) -> Iterator[ChatMessage]:
    """This lane's conversation."""
    for turn in talk:
        yield ChatMessage(role="user", content=turn.prompt)
        yield ChatMessage(role="assistant", content=turn.answers.get(lane, ""))


def lane_identity(adapters: str, system: str) -> str:
    """Identity of a lane in one line: its adapters and system prompt."""
    prompt = f"system prompt {hashlib.sha256(system.encode()).hexdigest()[:12]}" if system else ""
    return " + ".join(filter(None, (adapters, prompt)))


def new_ask_id() -> str:
    return uuid4().hex[:8]


@dataclass
class CompareSession:
    """A compare worker and its lanes. Its stdin is a pipe from the app, so it ends with the app.

    Fields are public for reading; only the methods here set them.
    """

    job: CompareJob
    watcher: RunWatcher
    run: str = ""
    """The run of these lanes."""
    last_prompt: str = ""
    """Newest prompt; empty: none yet."""
    ask_id: str = ""
    """Request id of that prompt to the named lanes."""
    sampling: Sampling = Sampling()
    system: str = ""
    """Sampling and system prompt of that answer."""
    turns: tuple[Turn, ...] = ()
    """The conversation before that prompt."""
    open_question: BlindQuestion | None = None
    """Question to two lanes whose names the page hides; None while lanes are shown by name."""
    prefetched_question: BlindQuestion | None = None
    """The question after it, answered ahead."""
    contest: LanePair | None = None
    """The two lanes of the newest vote."""
    judge_run: RunningJudge | None = None
    """A judge of these lanes, running or finished."""
    send_lock: threading.Lock = field(default_factory=threading.Lock)
    refresh_lock: threading.Lock = field(default_factory=threading.Lock)
    vote_lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def state(self) -> RunState:
        return self.watcher.state

    @property
    def current_answers(self) -> PromptAnswers | None:
        return self.state.answers_to(self.open_question.ask if self.open_question else self.ask_id)

    @property
    def lane_identities(self) -> dict[str, str]:
        """Lane → hashes of its adapters and of its own system prompt. Lanes of one name are the same model only if these match.
        Empty until they are loaded."""
        systems = {lane.name: lane.system for lane in self.job.lanes}
        return {proof.lane: lane_identity(proof.sha256, systems.get(proof.lane, "")) for proof in self.state.lanes}

    def refresh(self) -> None:
        """Refresh the state between two rounds of the app, so that text is shown as it grows."""
        with self.refresh_lock:
            self.watcher.refresh()

    def states(self, seconds: float = math.inf, stopped: threading.Event | None = None) -> Iterator[RunState]:
        """The state every 50 ms, until the lanes are gone, `seconds` have passed, or `stopped` is set."""
        end, stopped = time.monotonic() + seconds, stopped or threading.Event()
        while time.monotonic() < end and not stopped.wait(POLL_SECONDS):
            self.refresh()
            yield self.state
            if not self.state.phase.is_active:
                return

    def answers(
        self, request: GenerateRequest, seconds: float = math.inf, stopped: threading.Event | None = None
    ) -> Iterator[PromptAnswers]:
        """Send a request and yield the partial answers until they are complete or `states` ends.

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
        """The complete answers to a request, or why there are none; None if `states` ended first.

        Raises:
            BusyError: the worker is gone.
        """
        for _ in self.answers(request, seconds, stopped):
            pass
        return self.state.said.get(request.id)

    def send(self, request: WorkRequest | CancelRequest) -> None:
        """Send a request.

        Raises:
            BusyError: the worker is gone.
        """
        process = self.watcher.process
        assert process and process.stdin
        try:
            with self.send_lock:
                process.stdin.write(request.model_dump_json().encode() + b"\n")
                process.stdin.flush()
        except (OSError, ValueError) as error:  # writing to a pipe closed on this side raises ValueError
            raise BusyError(WORKER_GONE) from error

    def ask(self, prompt: str, sampling: Sampling, follow: bool = False, system: str = "") -> str:
        """Answer one prompt in all lanes; returns the request id used in the events.

        Args:
            follow: as the next turn of each lane's conversation.
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
        """Send a question to its two lanes and show them without names."""
        self.send_question(question)
        self.open_question, self.contest = question, question.contest
        self.last_prompt, self.ask_id, self.turns = "", "", ()

    def prefetch_question(self, question: BlindQuestion) -> None:
        """Have a question answered after the open one."""
        self.prefetched_question = question
        self.send_question(question)

    def send_question(self, question: BlindQuestion) -> None:
        lanes = (question.contest.first, question.contest.second)
        self.send(GenerateRequest(id=question.ask, messages=question.messages, lanes=lanes, sampling=question.sampling))

    def open_prefetched(self) -> BlindQuestion:
        assert self.prefetched_question
        self.open_question, self.prefetched_question = self.prefetched_question, None
        return self.open_question

    def set_vote(self, vote: Vote | None) -> None:
        """Set the vote on the open question; None takes it back, so that the question can be voted on again."""
        assert self.open_question
        self.open_question = replace(self.open_question, vote=vote, again=self.open_question.again or vote is None)

    def close_questions(self) -> None:
        """Show the lanes under their names."""
        self.open_question = self.prefetched_question = None

    def add_judge(self, judge_run: RunningJudge) -> None:
        self.judge_run = judge_run

    def close(self, seconds: float = CLOSE_SECONDS) -> None:
        """End the worker and wait for it to exit."""
        process = self.watcher.process
        assert process and process.stdin
        with contextlib.suppress(OSError):
            process.stdin.close()
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            heartbeat.terminate(self.watcher.run_dir, kill=True)  # on Windows `process` is only the launcher
            process.kill()
            process.wait()
        self.refresh()
