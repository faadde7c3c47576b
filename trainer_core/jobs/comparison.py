"""Lanes that are loaded, seen from the app: their worker, their conversation, and the last request."""

from __future__ import annotations

import contextlib
import hashlib
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from uuid import uuid4

from trainer_core.config.jobs import CompareJob
from trainer_core.config.recipe import Sampling
from trainer_core.errors import BusyError
from trainer_core.evaluation.votes import BlindQuestion, LanePair
from trainer_core.jobs.run_watcher import RunWatcher
from trainer_core.runs import heartbeat
from trainer_core.runs.compare_requests import CancelRequest, GenerateRequest, WorkRequest
from trainer_core.runs.compare_requests import ChatMessage as Message
from trainer_core.runs.run_state import PromptAnswers, RunState

if TYPE_CHECKING:
    from trainer_core.evaluation.judge import RunningJudge

CLOSE_SECONDS = 15.0
"""How long a compare worker may take to give the device back before it is ended."""


@dataclass(frozen=True)
class Turn:
    """A prompt and what each lane said to it."""

    prompt: str
    answers: Mapping[str, str]


def lane_messages(talk: Sequence[Turn], lane: str) -> Iterator[Message]:
    """The conversation as this lane has led it."""
    for turn in talk:
        yield Message(role="user", content=turn.prompt)
        yield Message(role="assistant", content=turn.answers.get(lane, ""))


def lane_identity(adapters: str, system: str) -> str:
    """What a lane is made of, in a line."""
    prompt = f"system prompt {hashlib.sha256(system.encode()).hexdigest()[:12]}" if system else ""
    return " + ".join(filter(None, (adapters, prompt)))


@dataclass
class Comparison:
    """A compare worker and the lanes it holds. Its stdin is ours: when the app goes, it goes."""

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
            raise BusyError("The compare worker has ended. Load the lanes again.") from error

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
        first = (Message(role="system", content=system.strip()),) if system.strip() else ()
        user = Message(role="user", content=prompt)
        own = {lane.name: (*first, *lane_messages(talk, lane.name), user) for lane in self.job.lanes} if talk else {}
        messages = next(iter(own.values()), (*first, user))
        request = GenerateRequest(id=uuid4().hex[:8], messages=messages, own=own, sampling=sampling)
        self.send(request)
        self.last_prompt, self.ask_id, self.turns, self.sampling, self.system = (
            prompt,
            request.id,
            talk,
            sampling,
            system,
        )
        return request.id

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
        self.watcher.refresh()
