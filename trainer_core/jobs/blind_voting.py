"""Blind voting: which prompt comes next, when a vote counts, and what it records. The open question ends with the lanes."""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import uuid4

from trainer_core.config.jobs import Lane
from trainer_core.config.recipe import Sampling
from trainer_core.errors import BusyError, ConfigError
from trainer_core.evaluation import prompts, votes
from trainer_core.evaluation.prompts import Prompt
from trainer_core.evaluation.votes import BlindQuestion, LanePair, Messages, Undo, Vote, VoteChoice, WrittenAnswer
from trainer_core.jobs import lane_choices
from trainer_core.jobs.compare_control import CompareControl
from trainer_core.jobs.comparison import WORKER_GONE, CompareSession, new_ask_id
from trainer_core.jobs.registry import RunRegistry
from trainer_core.runs.compare_requests import CancelRequest
from trainer_core.runs.events import Phase
from trainer_core.texts import NO_TEXT, Text


def lane_pair(run_id: str, names: Sequence[str], one: str, other: str) -> LanePair:
    """Two of these lanes, in the order of `names`, so that the page's order does not split the count.

    Raises:
        ConfigError: the same lane twice, or no such lane.
    """
    if one == other:
        raise ConfigError("blind_voting.same_lane", lane=one)
    if unknown := {one, other} - set(names):
        raise ConfigError("blind_voting.unknown_lane", lane=sorted(unknown)[0], lanes=", ".join(names))
    first, second = sorted((one, other), key=names.index)
    return LanePair(run=run_id, first=first, second=second)


def start_question(
    compare: CompareControl, between: LanePair, source: str, sampling: Sampling, lanes: Sequence[Lane] = ()
) -> BlindQuestion:
    """Ask two lanes the next question, after loading them if needed. Skips an open question and stops a running answer.

    The next prompt is the first of those with the fewest votes in this contest; a repeated prompt gets a new seed. The
    question after it goes to the worker as well, which answers it while the user reads.

    Raises:
        BusyError: a run holds the device.
        ConfigError: a lane has other settings than when it was loaded.
        DataError: no such prompts.
    """
    registry = compare.registry
    prompts.load_prompts(registry.run_dir(between.run), source)
    end_voting(registry)
    comparison = compare.compare_run(between.run, lanes)
    require_full_strength(comparison, between)
    return show_question(registry, comparison, next_question(registry, between, source, sampling, None))


def require_full_strength(comparison: CompareSession, between: LanePair) -> None:
    """Refuse lanes whose strength or blend changed since loading: votes count for a name, and that lane is now another model.

    Raises:
        ConfigError: names the lane.
    """
    loaded = {lane.name: (lane.strength, lane.share if lane.other else 0.0) for lane in comparison.job.lanes}
    for proof in comparison.state.lanes:
        if proof.lane in (between.first, between.second) and (proof.strength, proof.share) != loaded[proof.lane]:
            before, _ = loaded[proof.lane]
            raise ConfigError("blind_voting.turned_lane", lane=proof.lane, strength=proof.strength, loaded=before)


def next_question(
    registry: RunRegistry, between: LanePair, source: str, plain: Sampling, before: BlindQuestion | None
) -> BlindQuestion:
    told = votes.read_vote_records(votes.votes_path(registry.workspace))
    asked = [vote.messages for vote in votes_on_pair(registry, votes.active_votes(told), between)]
    if before and before.vote is None:
        asked.append(before.messages)
    prompt, times = pick_least_asked(prompts.load_prompts(registry.run_dir(between.run), source), asked)
    seed, index = (before.seed, before.index + 1) if before else votes.next_draw(told, between, secrets.randbits(32))
    sampling = with_seed_offset(plain, times)
    return BlindQuestion(between, prompt.messages, prompt.tag, index, seed, sampling, new_ask_id(), source, plain)


def votes_on_pair(registry: RunRegistry, standing: Sequence[Vote], between: LanePair) -> list[Vote]:
    """The votes on these two lanes with their present adapters."""
    comparison = registry.comparison
    made_of = comparison.lane_identities if comparison and comparison.run == between.run else {}
    return [vote for vote in votes.votes_on_current_lanes(standing, between.run, made_of) if vote.contest == between]


def with_seed_offset(sampling: Sampling, by: int) -> Sampling:
    return sampling.model_copy(update={"seed": (sampling.seed + by) % 2**63})


def pick_least_asked(waiting: Sequence[Prompt], asked: Sequence[Messages]) -> tuple[Prompt, int]:
    """The first of the prompts asked least often, and its count."""
    times = Counter(asked)
    prompt = min(waiting, key=lambda one: times[one.messages])
    return prompt, times[prompt.messages]


def show_question(registry: RunRegistry, comparison: CompareSession, question: BlindQuestion) -> BlindQuestion:
    """Stop the worker, show a question and have the next one answered after it."""
    if comparison.state.phase is Phase.ANSWERING:
        comparison.send(CancelRequest())
    comparison.pose_question(question)
    prefetch_question(registry, comparison, question)
    return question


def prefetch_question(registry: RunRegistry, comparison: CompareSession, question: BlindQuestion) -> None:
    """Send the question after this one, to be answered ahead."""
    comparison.prefetch_question(question_after(registry, question))


def show_next_question(registry: RunRegistry) -> BlindQuestion:
    """The next question, usually answered already. Skips an open question.

    Raises:
        BusyError: no vote is open, or the worker is gone and has not answered the next question.
    """
    comparison = require_open_vote(registry)
    with comparison.vote_lock:
        question, ahead = current_question(registry), comparison.prefetched_question
        if not comparison.state.phase.is_active:
            return recover_prefetched(registry, comparison)
        done = is_answered(comparison)
        skip_open_question(registry, comparison)
        if ahead is None or not done:
            return show_question(registry, comparison, question_after(registry, question))
        question = comparison.open_prefetched()
        prefetch_question(registry, comparison, question)
        return question


def recover_prefetched(registry: RunRegistry, comparison: CompareSession) -> BlindQuestion:
    """The next question, if the worker answered it before it ended."""
    if not can_continue(comparison):
        raise BusyError(absence_reason(registry, comparison) or WORKER_GONE)
    skip_open_question(registry, comparison)
    return comparison.open_prefetched()


def can_continue(comparison: CompareSession) -> bool:
    ahead = comparison.state.answers_to(comparison.prefetched_question.ask) if comparison.prefetched_question else None
    return comparison.state.phase.is_active or bool(ahead and ahead.ends and not ahead.cancelled)


def absence_reason(registry: RunRegistry, comparison: CompareSession) -> Text:
    """Why the lanes cannot answer although nothing failed, what is safe, and when they can again; empty if they can."""
    if comparison.state.phase.is_active or comparison.state.phase is Phase.FAILED:
        return NO_TEXT
    active = registry.active_run
    if active is None:
        return Text("blind_voting.unloaded")
    name = lane_choices.given_run_name(registry, active.id) or active.id
    if active.seconds_left is None:
        return Text("blind_voting.training", run=name)
    end = datetime.now() + timedelta(seconds=active.seconds_left)
    return Text("blind_voting.training_until", run=name, time=f"{end:%H:%M}")


def question_after(registry: RunRegistry, question: BlindQuestion) -> BlindQuestion:
    return next_question(registry, question.contest, question.source, question.plain, question)


def retry_with_new_seed(registry: RunRegistry) -> BlindQuestion:
    """Ask the same prompt with another seed and newly drawn sides. Skips an open question.

    Raises:
        BusyError: no vote is open, or the worker is gone.
    """
    comparison = require_open_vote(registry)
    with comparison.vote_lock:
        question = current_question(registry)
        if not comparison.state.phase.is_active:
            raise BusyError(absence_reason(registry, comparison) or WORKER_GONE)
        skip_open_question(registry, comparison)
        sampling = with_seed_offset(question.sampling, 1)
        again = replace(question, sampling=sampling, index=question.index + 1, ask=new_ask_id(), vote=None, again=False)
        return show_question(registry, comparison, again)


def reload_lanes(compare: CompareControl) -> None:
    """Load the lanes of an interrupted question and ask it again with the same sides; if it has a vote, ask the next one.

    Raises:
        BusyError: a run holds the device, or there is no question.
    """
    registry = compare.registry
    question, comparison = current_question(registry), registry.comparison
    assert comparison
    loaded = compare.compare_run(question.contest.run, comparison.job.lanes)
    again = question_after(registry, question) if question.vote else replace(question, ask=new_ask_id())
    show_question(registry, loaded, again)


def current_question(registry: RunRegistry) -> BlindQuestion:
    """The question on the page.

    Raises:
        BusyError: there is none.
    """
    question = require_open_vote(registry).open_question
    assert question
    return question


def require_open_vote(registry: RunRegistry) -> CompareSession:
    """The comparison with a question on the page; errors as in `current_question`."""
    comparison = registry.comparison
    if comparison is None or comparison.open_question is None:
        raise BusyError("blind_voting.none_open")
    return comparison


def is_answered(comparison: CompareSession) -> bool:
    """Are both answers to the open question complete?"""
    said = comparison.current_answers if comparison.open_question else None
    return bool(said and said.ends and not said.cancelled)


def cast_vote(registry: RunRegistry, choice: VoteChoice) -> Vote:
    """Record a vote; it is on disk when this returns.

    Raises:
        BusyError: there is no open question, it already has a vote, or a lane is still answering.
        DiskError: the vote cannot be written; the question stays open.
    """
    comparison = require_open_vote(registry)
    with comparison.vote_lock:
        question = current_question(registry)
        if question.vote:
            raise BusyError("blind_voting.voted_already")
        if choice != "skip" and not is_answered(comparison):
            raise BusyError("blind_voting.still_answering")
        vote = record_vote(comparison, question, choice)
        votes.append_record(votes.votes_path(registry.workspace), vote)
        comparison.set_vote(vote)
        return vote


def record_vote(comparison: CompareSession, question: BlindQuestion, choice: VoteChoice) -> Vote:
    view, lanes = comparison.state, (question.contest.first, question.contest.second)
    heard = view.answers_to(question.ask)
    said = heard.answers if heard else {}
    return Vote(
        id=uuid4().hex[:12],
        at=datetime.now(UTC),
        contest=question.contest,
        choice=choice,
        left=question.left_lane,
        messages=question.messages,
        answers={lane: said.get(lane, "") for lane in lanes},
        tag=question.tag,
        index=question.index,
        seed=question.seed,
        sampling=question.sampling,
        model=comparison.job.model,
        adapters={lane: made for lane, made in comparison.lane_identities.items() if lane in lanes},
        again=question.again,
    )


def undo_vote(registry: RunRegistry) -> Vote:
    """Take back the newest vote of this contest. If it was on the open question, that can be voted on again.

    Raises:
        BusyError: there is no vote to take back.
    """
    comparison, path = require_open_vote(registry), votes.votes_path(registry.workspace)
    with comparison.vote_lock:
        question = current_question(registry)
        mine = votes_on_pair(registry, votes.active_votes(votes.read_vote_records(path)), question.contest)
        if not mine:
            raise BusyError("blind_voting.no_vote")
        votes.append_record(path, Undo(vote=mine[-1].id, at=datetime.now(UTC)))
        if question.vote and question.vote.id == mine[-1].id:
            comparison.set_vote(None)
        return mine[-1]


def save_better_answer(registry: RunRegistry, text: str) -> None:
    """Save the user's own answer after a "both bad" vote.

    Raises:
        BusyError: the open question was not voted "both bad".
        ConfigError: the text is empty.
    """
    vote = current_question(registry).vote
    if vote is None or vote.choice != "bad":
        raise BusyError("blind_voting.not_both_bad")
    if not text.strip():
        raise ConfigError("blind_voting.empty_answer")
    path = votes.votes_path(registry.workspace)
    votes.append_record(path, WrittenAnswer(vote=vote.id, at=datetime.now(UTC), text=text.strip()))


def end_voting(registry: RunRegistry) -> None:
    """Show lanes under their names again. Skips an open question whose answers have begun, because its names are now known."""
    comparison = registry.comparison
    if comparison is None or comparison.open_question is None:
        return
    with comparison.vote_lock:
        skip_open_question(registry, comparison)
        comparison.close_questions()
    if comparison.state.phase is Phase.ANSWERING:
        with suppress(BusyError):  # the worker may be gone
            comparison.send(CancelRequest())


def skip_open_question(registry: RunRegistry, comparison: CompareSession) -> None:
    """Record a question without a vote, whose answers had begun, as skipped."""
    question = comparison.open_question
    if question and question.is_blind and comparison.state.answers_to(question.ask):
        votes.append_record(votes.votes_path(registry.workspace), record_vote(comparison, question, "skip"))
