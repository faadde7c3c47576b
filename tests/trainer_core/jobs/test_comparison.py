"""Asking lanes and waiting for them, with a scripted worker."""

from __future__ import annotations

import threading

import pytest

from tests.trainer_core.jobs.test_blind_voting import contest, supervisor  # noqa: F401  (fixtures)
from trainer_core.errors import BusyError
from trainer_core.evaluation.votes import LanePair
from trainer_core.jobs.comparison import CompareSession, new_ask_id
from trainer_core.jobs.supervisor import Supervisor
from trainer_core.runs.compare_requests import ChatMessage, GenerateRequest

pytestmark = pytest.mark.real


@pytest.fixture
def session(supervisor: Supervisor, contest: LanePair) -> CompareSession:  # noqa: F811
    return supervisor.compare.compare_run(contest.run)


def question() -> GenerateRequest:
    return GenerateRequest(id=new_ask_id(), messages=(ChatMessage(role="user", content="Why?"),))


def test_answers_grow_until_every_lane_has_ended(session: CompareSession) -> None:
    seen = list(session.answers(question(), 30))
    assert set(seen[-1].ends) == {"Base", "SFT", "DPO"} and all(seen[-1].answers.values())
    assert not any(said.ends for said in seen[:-1])
    for before, after in zip(seen, seen[1:], strict=False):
        assert all(after.answers[lane].startswith(text) for lane, text in before.answers.items())


def test_two_questions_have_answers_of_their_own(session: CompareSession) -> None:
    first, second = question(), question()
    session.send(first)
    assert session.final_answers(second, 30) == session.state.said[second.id]
    assert first.id in session.state.said


def test_waiting_ends_when_it_is_stopped_or_the_time_is_over(session: CompareSession) -> None:
    stopped = threading.Event()
    stopped.set()
    assert session.final_answers(question(), 30, stopped) is None
    assert list(session.states(0)) == []


def test_waiting_ends_with_the_lanes(session: CompareSession) -> None:
    next(session.states(30))
    session.close()
    assert [state.phase.is_active for state in session.states(2)] == [False]
    with pytest.raises(BusyError):
        next(session.answers(question()))
