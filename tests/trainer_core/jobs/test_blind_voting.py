"""Blind voting with a scripted worker: what is asked, when a vote counts, and what a page may know before it."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.scripted import scripted_command
from tests.support.serve import machine
from trainer_core.config.jobs import TrainJob
from trainer_core.config.recipe import Recipe, Sampling
from trainer_core.errors import BusyError, ConfigError
from trainer_core.evaluation import votes
from trainer_core.jobs import blind_voting
from trainer_core.jobs.supervisor import Supervisor, wait_for
from trainer_core.runs import run_folder
from trainer_core.runs.compare_requests import CancelRequest
from trainer_core.runs.event_log import EventLog
from trainer_core.runs.events import AdapterSaved, Phase, PhaseChanged
from trainer_core.runs.workspace import Workspace
from trainer_core.texts import Text
from ui.server import live_updates
from ui.server.live_updates import Cursor

pytestmark = pytest.mark.real

NAMES = ("Base", "SFT", "DPO")


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Supervisor]:
    opened = Supervisor(Workspace(tmp_path), scripted_command(200), "cpu", lambda: machine(0))
    yield opened
    opened.close()


@pytest.fixture
def contest(supervisor: Supervisor) -> votes.LanePair:
    run_dir = run_folder.create_run(supervisor.workspace.runs, TrainJob(recipe=Recipe(name="ok")), "ok")
    say = EventLog(run_dir / "events.jsonl")
    for event in (
        AdapterSaved("sft", "adapter-sft", 5, 9),
        AdapterSaved("dpo", "adapter-dpo", 5, 9),
        PhaseChanged(Phase.DONE),
    ):
        say(event)
    supervisor.registry.refresh()
    return blind_voting.lane_pair(run_dir.name, NAMES, "DPO", "Base")


def ask(supervisor: Supervisor, contest: votes.LanePair) -> votes.BlindQuestion:
    question = blind_voting.start_question(supervisor.compare, contest, "bundled", Sampling())
    wait_answered(supervisor)
    return question


def wait_answered(supervisor: Supervisor) -> None:
    comparison = supervisor.registry.comparison
    assert wait_for(lambda: supervisor.registry.refresh() or blind_voting.is_answered(comparison), 30, 0.02), (
        comparison.state
    )


def kept(supervisor: Supervisor) -> list[votes.Vote]:
    return votes.active_votes(votes.read_vote_records(votes.votes_path(supervisor.workspace)))


def test_a_contest_is_the_same_whoever_is_named_first(supervisor, contest):
    assert (contest.first, contest.second) == ("Base", "DPO")
    assert blind_voting.lane_pair(contest.run, NAMES, "Base", "DPO") == contest
    with pytest.raises(ConfigError) as same:
        blind_voting.lane_pair(contest.run, NAMES, "DPO", "DPO")
    assert same.value.text == Text("blind_voting.same_lane", lane="DPO")
    with pytest.raises(ConfigError) as unknown:
        blind_voting.lane_pair(contest.run, NAMES, "Base", "KTO")
    assert unknown.value.text == Text("blind_voting.unknown_lane", lane="KTO", lanes="Base, SFT, DPO")


def test_before_the_vote_nothing_sent_to_a_page_holds_a_name(supervisor, contest):
    question = blind_voting.start_question(supervisor.compare, contest, "bundled", Sampling())
    heard = []

    def over() -> bool:
        supervisor.registry.refresh()
        news = live_updates.page_update(supervisor, Cursor(tab="compare"))
        heard.append(json.dumps([news["parts"]["compare"], news["ask"], news["text"]]))
        return blind_voting.is_answered(supervisor.registry.comparison)

    assert wait_for(over, 30, 0.02)
    assert len(heard) > 3 and not [name for name in NAMES for said in heard if f'"{name}"' in said]
    assert not [said for said in heard if "3f9a12cd" in said or "logits" in said]
    news = live_updates.page_update(supervisor, Cursor(tab="compare"))
    assert list(news["text"]) == ["A", "B"]
    said = supervisor.registry.comparison.state.answers_to(question.ask)
    assert news["text"] == {"A": said.answers[question.left_lane], "B": said.answers[question.right_lane]}
    assert [lane["name"] for lane in news["parts"]["compare"]["value"]["lanes"]] == ["A", "B"]
    blind_voting.cast_vote(supervisor.registry, "left")
    after = live_updates.page_update(supervisor, Cursor(tab="compare"))["parts"]["compare"]["value"]["lanes"]
    assert [lane["revealed"] for lane in after] == [question.left_lane, question.right_lane]


def test_the_next_question_is_answered_while_this_one_is_read_and_nothing_of_it_is_sent(supervisor, contest):
    first = ask(supervisor, contest)
    ahead = supervisor.registry.comparison.prefetched_question
    assert wait_for(lambda: supervisor.registry.refresh() or bool(supervisor.registry.comparison.state.ends), 30, 0.02)
    assert wait_for(
        lambda: supervisor.registry.refresh() or ahead.ask in supervisor.registry.comparison.state.said, 30, 0.02
    )
    assert live_updates.page_update(supervisor, Cursor())["ask"] == first.ask
    blind_voting.cast_vote(supervisor.registry, "left")
    assert blind_voting.show_next_question(supervisor.registry) == ahead and ahead.messages != first.messages
    assert blind_voting.is_answered(supervisor.registry.comparison), "no wait for the next one"
    assert live_updates.page_update(supervisor, Cursor())["ask"] == ahead.ask


def test_who_goes_on_before_the_answers_are_there_has_skipped(supervisor, contest):
    first = blind_voting.start_question(supervisor.compare, contest, "bundled", Sampling())
    assert wait_for(
        lambda: supervisor.registry.refresh() or bool(supervisor.registry.comparison.state.answers), 30, 0.01
    )
    second = blind_voting.show_next_question(supervisor.registry)
    wait_answered(supervisor)
    assert second.messages != first.messages and second.index == 1
    assert [vote.choice for vote in kept(supervisor)] == ["skip"]


def test_the_same_prompt_once_more_has_another_seed(supervisor, contest):
    first = ask(supervisor, contest)
    blind_voting.cast_vote(supervisor.registry, "tie")
    again = blind_voting.retry_with_new_seed(supervisor.registry)
    assert (again.messages, again.sampling.seed, again.index) == (first.messages, first.sampling.seed + 1, 1)
    assert again.is_blind
    wait_answered(supervisor)


def test_a_lane_that_was_turned_is_not_voted_on(supervisor, contest):
    comparison = supervisor.compare.compare_run(contest.run)
    assert wait_for(lambda: supervisor.registry.refresh() or bool(comparison.state.lanes), 30, 0.02)
    turned = replace(comparison.state.lanes[2], strength=0.5)
    comparison.watcher.state = replace(comparison.state, lanes=(*comparison.state.lanes[:2], turned))
    with pytest.raises(ConfigError) as error:
        blind_voting.require_full_strength(comparison, contest)
    assert error.value.text == Text("blind_voting.turned_lane", lane="DPO", strength=0.5, loaded=1.0)


def test_a_vote_waits_for_both_answers_and_counts_once(supervisor, contest):
    blind_voting.start_question(supervisor.compare, contest, "bundled", Sampling())
    with pytest.raises(BusyError) as early:
        blind_voting.cast_vote(supervisor.registry, "left")
    assert early.value.text.code == "blind_voting.still_answering"
    wait_answered(supervisor)
    vote = blind_voting.cast_vote(supervisor.registry, "left")
    with pytest.raises(BusyError) as again:
        blind_voting.cast_vote(supervisor.registry, "right")
    assert again.value.text.code == "blind_voting.voted_already"
    assert kept(supervisor) == [vote]
    assert set(vote.answers) == {"Base", "DPO"} and all(vote.answers.values())
    assert vote.adapters == {"Base": "", "DPO": "3f9a12cd" * 8}


def test_an_undone_vote_may_be_given_again_and_says_so(supervisor, contest):
    ask(supervisor, contest)
    blind_voting.cast_vote(supervisor.registry, "left")
    blind_voting.undo_vote(supervisor.registry)
    assert kept(supervisor) == []
    again = blind_voting.cast_vote(supervisor.registry, "right")
    assert again.again and kept(supervisor) == [again]
    blind_voting.undo_vote(supervisor.registry)
    with pytest.raises(BusyError) as error:
        blind_voting.undo_vote(supervisor.registry)
    assert error.value.text.code == "blind_voting.no_vote"


def test_every_prompt_comes_once_before_one_comes_again_with_another_seed(supervisor, contest, tmp_path):
    own = tmp_path / "mine.txt"
    own.write_text("One?\nTwo?\n\nThree?\n")
    first = blind_voting.start_question(supervisor.compare, contest, str(own), Sampling())
    wait_answered(supervisor)
    seen = [first.messages]
    for choice in ("skip", "tie", "left"):
        blind_voting.cast_vote(supervisor.registry, choice)
        question = blind_voting.show_next_question(supervisor.registry)
        wait_answered(supervisor)
        seen.append(question.messages)
    assert [messages[-1].content for messages in seen] == ["One?", "Two?", "Three?", "One?"]
    assert question.sampling.seed == first.sampling.seed + 1
    assert [vote.index for vote in kept(supervisor)] == [0, 1, 2]


def test_leaving_an_open_question_counts_as_skipped(supervisor, contest):
    ask(supervisor, contest)
    blind_voting.end_voting(supervisor.registry)
    assert [vote.choice for vote in kept(supervisor)] == ["skip"]
    assert supervisor.registry.comparison.open_question is None
    blind_voting.end_voting(supervisor.registry)
    assert len(kept(supervisor)) == 1


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
def test_after_a_killed_worker_the_same_question_is_asked_again(supervisor, contest):
    before = ask(supervisor, contest)
    supervisor.registry.comparison.watcher.process.send_signal(signal.SIGKILL)
    assert wait_for(
        lambda: supervisor.registry.refresh() or supervisor.registry.comparison.state.phase is Phase.FAILED, 20
    )
    blind_voting.reload_lanes(supervisor.compare)
    wait_answered(supervisor)
    after = blind_voting.current_question(supervisor.registry)
    assert (after.messages, after.left_lane, after.index) == (before.messages, before.left_lane, before.index)
    assert blind_voting.cast_vote(supervisor.registry, "left").index == 0


def unload(supervisor: Supervisor) -> None:
    """As the start of a run does."""
    supervisor.compare.close_comparison()
    assert not supervisor.registry.comparison.state.phase.is_active


def test_a_vote_after_the_models_were_unloaded_is_kept_and_the_next_answered_question_comes(supervisor, contest):
    ask(supervisor, contest)
    ahead = supervisor.registry.comparison.prefetched_question
    assert wait_for(
        lambda: (
            supervisor.registry.refresh()
            or bool((said := supervisor.registry.comparison.state.answers_to(ahead.ask)) and said.ends)
        ),
        30,
        0.02,
    )
    unload(supervisor)
    first = blind_voting.cast_vote(supervisor.registry, "left")
    assert blind_voting.show_next_question(supervisor.registry) == ahead and blind_voting.is_answered(
        supervisor.registry.comparison
    )
    second = blind_voting.cast_vote(supervisor.registry, "tie")
    assert kept(supervisor) == [first, second]
    assert not blind_voting.can_continue(supervisor.registry.comparison)
    for more in (blind_voting.show_next_question, blind_voting.retry_with_new_seed):
        with pytest.raises(BusyError) as error:
            more(supervisor.registry)
        assert error.value.text.code == "blind_voting.unloaded"
    assert kept(supervisor) == [first, second]
    assert blind_voting.current_question(supervisor.registry).vote == second
    blind_voting.reload_lanes(supervisor.compare)
    wait_answered(supervisor)
    question = blind_voting.current_question(supervisor.registry)
    assert question.vote is None and question.index == 2 and question.messages != ahead.messages


def test_an_open_question_of_unloaded_models_is_not_skipped_by_trying_to_go_on(supervisor, contest):
    blind_voting.start_question(supervisor.compare, contest, "bundled", Sampling())
    assert wait_for(
        lambda: supervisor.registry.refresh() or bool(supervisor.registry.comparison.state.answers), 30, 0.01
    )
    unload(supervisor)
    for more in (blind_voting.show_next_question, blind_voting.retry_with_new_seed):
        with pytest.raises(BusyError):
            more(supervisor.registry)
    assert kept(supervisor) == []
    assert blind_voting.cast_vote(supervisor.registry, "skip").choice == "skip"
    blind_voting.end_voting(supervisor.registry)
    assert len(kept(supervisor)) == 1


def test_what_is_sent_to_a_worker_that_was_closed_is_an_error_to_act_on(supervisor, contest):
    comparison = supervisor.compare.compare_run(contest.run)
    comparison.close()
    with pytest.raises(BusyError) as error:
        comparison.send(CancelRequest())
    assert error.value.text.code == "compare_worker.gone"


def test_who_trains_while_the_models_are_unloaded_is_said_with_when_it_goes_on(supervisor, contest):
    ask(supervisor, contest)
    started = supervisor.control.start(Recipe(name="slow"))
    assert wait_for(
        lambda: supervisor.registry.refresh() or supervisor.registry.run_state(started).seconds_left is not None,
        30,
        0.02,
    )
    said = blind_voting.absence_reason(supervisor.registry, supervisor.registry.comparison)
    assert (said.code, said.params["run"]) == ("blind_voting.training_until", "slow")
    assert re.fullmatch(r"\d\d:\d\d", said.params["time"])
    assert blind_voting.cast_vote(supervisor.registry, "left").winner
    supervisor.control.stop(started)
    assert wait_for(lambda: supervisor.registry.refresh() or not supervisor.registry.active_run, 30)
    said = blind_voting.absence_reason(supervisor.registry, supervisor.registry.comparison)
    assert said == Text("blind_voting.unloaded")


def test_a_better_answer_belongs_to_both_bad(supervisor, contest):
    ask(supervisor, contest)
    blind_voting.cast_vote(supervisor.registry, "bad")
    with pytest.raises(ConfigError) as empty:
        blind_voting.save_better_answer(supervisor.registry, "  ")
    assert empty.value.text.code == "blind_voting.empty_answer"
    blind_voting.save_better_answer(supervisor.registry, " Mine. ")
    assert kept(supervisor)[0].better == "Mine."
    ask(supervisor, contest)
    blind_voting.cast_vote(supervisor.registry, "tie")
    with pytest.raises(BusyError) as early:
        blind_voting.save_better_answer(supervisor.registry, "No.")
    assert early.value.text.code == "blind_voting.not_both_bad"
