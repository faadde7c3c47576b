"""Lanes that are loaded, seen from the app: the worker that holds them, the conversation they lead, and what was asked last."""

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
from trainer_core.evaluation.votes import Contest, Round
from trainer_core.jobs.run_watcher import Watched
from trainer_core.runs import heartbeat
from trainer_core.runs.compare_requests import Ask, Cancel, Work
from trainer_core.runs.compare_requests import Said as Message
from trainer_core.runs.run_state import RunView, Said

if TYPE_CHECKING:
    from trainer_core.evaluation.judge import RunningJudge

LEAVE_SECONDS = 15.0
"""How long a compare worker may take to give the device back before it is ended."""


@dataclass(frozen=True)
class Turn:
    """A prompt and what each lane said to it."""

    prompt: str
    answers: Mapping[str, str]


def history(talk: Sequence[Turn], lane: str) -> Iterator[Message]:
    """The conversation as this lane has led it."""
    for turn in talk:
        yield Message(role="user", content=turn.prompt)
        yield Message(role="assistant", content=turn.answers.get(lane, ""))


def identity(adapters: str, system: str) -> str:
    """What a lane is made of, in a line."""
    prompt = f"system prompt {hashlib.sha256(system.encode()).hexdigest()[:12]}" if system else ""
    return " + ".join(filter(None, (adapters, prompt)))


@dataclass
class Comparison:
    """A compare worker and the lanes it holds. Its stdin is ours: when the app goes, it goes."""

    job: CompareJob
    watched: Watched
    run: str = ""
    """The run whose lanes these are."""
    asked: str = ""
    """The prompt asked last; empty: none yet."""
    ask_id: str = ""
    """The id of that question to the lanes under their names."""
    sampling: Sampling = Sampling()
    system: str = ""
    """How it was answered, and under which system prompt."""
    talk: tuple[Turn, ...] = ()
    """The conversation before that prompt."""
    round: Round | None = None
    """The question to two lanes whose names the page must not tell; None where lanes stand under their names."""
    ahead: Round | None = None
    """The question after it, which the worker answers while that one is read."""
    contest: Contest | None = None
    """The two lanes that were voted on last."""
    trial: RunningJudge | None = None
    """A judge at work on these lanes, or done."""
    send_lock: threading.Lock = field(default_factory=threading.Lock)
    vote_lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def view(self) -> RunView:
        return self.watched.view

    @property
    def said(self) -> Said | None:
        """The answers on the page."""
        return self.view.said_to(self.round.ask if self.round else self.ask_id)

    @property
    def made_of(self) -> dict[str, str]:
        """Lane → what makes it another model than the base: the hashes of its adapters and of a system prompt of its own.
        Lanes of one name are the same only where these are. Empty until they are loaded."""
        systems = {lane.name: lane.system for lane in self.job.lanes}
        return {proof.lane: identity(proof.sha256, systems.get(proof.lane, "")) for proof in self.view.lanes}

    def send(self, request: Work | Cancel) -> None:
        """Hand a request over.

        Raises:
            BusyError: the worker is gone.
        """
        process = self.watched.process
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
        before = self.said
        turn = Turn(self.asked, dict(before.answers)) if follow and self.asked and before and before.ends else None
        talk = (*self.talk, turn) if turn else ()
        first = (Message(role="system", content=system.strip()),) if system.strip() else ()
        user = Message(role="user", content=prompt)
        own = {lane.name: (*first, *history(talk, lane.name), user) for lane in self.job.lanes} if talk else {}
        messages = next(iter(own.values()), (*first, user))
        request = Ask(id=uuid4().hex[:8], messages=messages, own=own, sampling=sampling)
        self.send(request)
        self.asked, self.ask_id, self.talk, self.sampling, self.system = prompt, request.id, talk, sampling, system
        return request.id

    def close(self, seconds: float = LEAVE_SECONDS) -> None:
        """End the worker and wait until it is gone."""
        process = self.watched.process
        assert process and process.stdin
        with contextlib.suppress(OSError):
            process.stdin.close()
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            heartbeat.end(self.watched.run_dir, kill=True)  # on Windows `process` is only what started it
            process.kill()
            process.wait()
        self.watched.look()
