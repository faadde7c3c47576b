"""Blind voting, one question after another: which prompt comes next, when a vote may be given, and what it leaves behind.

The open question hangs on the comparison (`Comparison.round`), for it ends with the lanes; all else is in the votes file.
"""

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
from trainer_core.evaluation.votes import Better, Choice, Contest, Messages, Round, Undo, Vote
from trainer_core.jobs import lane_choices
from trainer_core.jobs.comparison import Comparison
from trainer_core.jobs.supervisor import Supervisor
from trainer_core.runs.compare_requests import Ask, Cancel
from trainer_core.runs.events import Phase

GONE = "The compare worker has ended. Load the lanes again."


def contest(run_id: str, names: Sequence[str], one: str, other: str) -> Contest:
    """Two of these lanes, in their order, so that who is named first on the page does not split the count.

    Raises:
        ConfigError: they are the same lane, or there is no such lane.
    """
    if one == other:
        raise ConfigError(f"{one} cannot be compared with itself. Choose two different lanes.")
    if unknown := {one, other} - set(names):
        raise ConfigError(f"There is no lane {sorted(unknown)[0]!r}; there are {', '.join(names)}.")
    first, second = sorted((one, other), key=names.index)
    return Contest(run=run_id, first=first, second=second)


def ask(supervisor: Supervisor, between: Contest, source: str, sampling: Sampling, lanes: Sequence[Lane] = ()) -> Round:
    """Put the next question to two lanes, which are loaded if need be. An open question counts as skipped;
    an answer in progress is stopped.

    The next prompt is the first of those voted on least often in this contest; from the second time on it is asked with
    another seed. The question after it is handed to the worker as well, so that it is answered while this one is read.

    Raises:
        BusyError: a run holds the device.
        ConfigError: a lane is not as it was loaded.
        DataError: there are no such prompts.
    """
    prompts.load(supervisor.run_dir(between.run), source)
    leave(supervisor)
    comparison = supervisor.compare_run(between.run, lanes)
    refuse_dialed(comparison, between)
    return go_to(supervisor, comparison, drawn(supervisor, between, source, sampling, None))


def refuse_dialed(comparison: Comparison, between: Contest) -> None:
    """A count is of lanes as they are called; one that was turned since is another model.

    Raises:
        ConfigError: naming it.
    """
    loaded = {lane.name: (lane.strength, lane.share if lane.other else 0.0) for lane in comparison.job.lanes}
    for proof in comparison.view.lanes:
        if proof.lane in (between.first, between.second) and (proof.strength, proof.share) != loaded[proof.lane]:
            raise ConfigError(
                f"{proof.lane} is at {proof.strength:.0%}. Set it back to {loaded[proof.lane][0]:.0%} before a blind vote, "
                "so that all votes are about the same model."
            )


def drawn(supervisor: Supervisor, between: Contest, source: str, plain: Sampling, before: Round | None) -> Round:
    """The question after the one `before`, or the next one of this contest."""
    told = votes.lines(votes.file_of(supervisor.workspace))
    asked = [vote.messages for vote in counted(supervisor, votes.standing(told), between)]
    if before and before.vote is None:
        asked.append(before.messages)
    prompt, times = least_asked(prompts.load(supervisor.run_dir(between.run), source), asked)
    seed, index = (before.seed, before.index + 1) if before else votes.next_draw(told, between, secrets.randbits(32))
    sampling = reseeded(plain, times)
    return Round(between, prompt.messages, prompt.tag, index, seed, sampling, new_id(), source, plain)


def counted(supervisor: Supervisor, standing: Sequence[Vote], between: Contest) -> list[Vote]:
    """The votes on these two lanes as they are loaded."""
    comparison = supervisor.comparison
    made_of = comparison.made_of if comparison and comparison.run == between.run else {}
    return [vote for vote in votes.on_same_lanes(standing, between.run, made_of) if vote.contest == between]


def reseeded(sampling: Sampling, by: int) -> Sampling:
    return sampling.model_copy(update={"seed": (sampling.seed + by) % 2**63})


def new_id() -> str:
    return uuid4().hex[:8]


def least_asked(waiting: Sequence[Prompt], asked: Sequence[Messages]) -> tuple[Prompt, int]:
    """The first of the prompts that were asked least often, and how often that is."""
    times = Counter(asked)
    prompt = min(waiting, key=lambda one: times[one.messages])
    return prompt, times[prompt.messages]


def go_to(supervisor: Supervisor, comparison: Comparison, question: Round) -> Round:
    """Show a question, after stopping what the worker is at, and have the next one answered behind it."""
    if comparison.view.phase is Phase.ANSWERING:
        comparison.send(Cancel())
    put(comparison, question)
    look_ahead(supervisor, comparison, question)
    return question


def put(comparison: Comparison, question: Round) -> Round:
    """Send a question to its two lanes; from now on the page shows them without names."""
    send(comparison, question)
    comparison.round, comparison.asked, comparison.ask_id, comparison.talk = question, "", "", ()
    comparison.contest = question.contest
    return question


def send(comparison: Comparison, question: Round) -> None:
    lanes = (question.contest.first, question.contest.second)
    comparison.send(Ask(id=question.ask, messages=question.messages, lanes=lanes, sampling=question.sampling))


def look_ahead(supervisor: Supervisor, comparison: Comparison, question: Round) -> None:
    """Have the question after this one answered when this one is."""
    comparison.ahead = drawn(supervisor, question.contest, question.source, question.plain, question)
    send(comparison, comparison.ahead)


def onward(supervisor: Supervisor) -> Round:
    """The next question, most often answered by now. An open one counts as skipped.

    Raises:
        BusyError: no vote is going, or the worker is gone and has not answered the next question.
    """
    comparison = open_comparison(supervisor)
    with comparison.vote_lock:
        question, ahead = current(supervisor), comparison.ahead
        if not comparison.view.phase.active:
            return last_answered(supervisor, comparison)
        done = answered(comparison)
        skip_open(supervisor, comparison)
        if ahead is None or not done:
            return go_to(supervisor, comparison, after(supervisor, question))
        comparison.round = ahead
        look_ahead(supervisor, comparison, ahead)
        return ahead


def last_answered(supervisor: Supervisor, comparison: Comparison) -> Round:
    """The next question where the worker has answered it before it went."""
    if not goes_on(comparison):
        raise BusyError(away(supervisor, comparison) or GONE)
    skip_open(supervisor, comparison)
    assert comparison.ahead
    comparison.round, comparison.ahead = comparison.ahead, None
    return comparison.round


def goes_on(comparison: Comparison) -> bool:
    """Can the next question be shown without loading anything?"""
    ahead = comparison.view.said_to(comparison.ahead.ask) if comparison.ahead else None
    return comparison.view.phase.active or bool(ahead and ahead.ends and not ahead.cancelled)


def away(supervisor: Supervisor, comparison: Comparison) -> str:
    """Why the lanes cannot answer although nothing failed, what is safe, and when it goes on; empty where they can."""
    if comparison.view.phase.active or comparison.view.phase is Phase.FAILED:
        return ""
    active = supervisor.active
    if active is None:
        return "The models were unloaded to free the device. Your votes are kept. Load again goes on with the vote."
    left = active.seconds_left
    when = f"at about {datetime.now() + timedelta(seconds=left):%H:%M}" if left is not None else "when it is done"
    name = lane_choices.name(supervisor, active.id) or active.id
    return f"The models are unloaded while {name!r} trains. Your votes are kept; voting goes on {when}."


def after(supervisor: Supervisor, question: Round) -> Round:
    return drawn(supervisor, question.contest, question.source, question.plain, question)


def once_more(supervisor: Supervisor) -> Round:
    """The same prompt with another seed, on sides drawn anew. An open question counts as skipped.

    Raises:
        BusyError: no vote is going, or the worker is gone.
    """
    comparison = open_comparison(supervisor)
    with comparison.vote_lock:
        question = current(supervisor)
        if not comparison.view.phase.active:
            raise BusyError(away(supervisor, comparison) or GONE)
        skip_open(supervisor, comparison)
        sampling = reseeded(question.sampling, 1)
        again = replace(question, sampling=sampling, index=question.index + 1, ask=new_id(), vote=None, again=False)
        return go_to(supervisor, comparison, again)


def load_again(supervisor: Supervisor) -> None:
    """Load the lanes of a broken-off question and ask it once more, the same lane on the same side. Where it was voted on,
    the next one is asked.

    Raises:
        BusyError: a run holds the device, or there is no question.
    """
    question = current(supervisor)
    comparison = supervisor.comparison
    assert comparison
    loaded = supervisor.compare_run(question.contest.run, comparison.job.lanes)
    go_to(supervisor, loaded, after(supervisor, question) if question.vote else replace(question, ask=new_id()))


def current(supervisor: Supervisor) -> Round:
    """The question on the page.

    Raises:
        BusyError: there is none.
    """
    question = open_comparison(supervisor).round
    assert question
    return question


def open_comparison(supervisor: Supervisor) -> Comparison:
    """The comparison with a question on the page; see `current`."""
    comparison = supervisor.comparison
    if comparison is None or comparison.round is None:
        raise BusyError("No blind vote is going. Choose two lanes and press Start blind vote.")
    return comparison


def answered(comparison: Comparison) -> bool:
    """Have both lanes of the open question said all they say?"""
    said = comparison.said if comparison.round else None
    return bool(said and said.ends and not said.cancelled)


def cast(supervisor: Supervisor, choice: Choice) -> Vote:
    """Give the vote; when this returns it is on the disk.

    Raises:
        BusyError: there is no open question, it was voted on already, or a lane is still answering.
        DiskError: the vote cannot be kept; the question stays open.
    """
    comparison = open_comparison(supervisor)
    with comparison.vote_lock:
        question = current(supervisor)
        if question.vote:
            raise BusyError("This question was voted on already. Press N for the next one, or U to take the vote back.")
        if choice != "skip" and not answered(comparison):
            raise BusyError("Vote when both answers are there. Press S to skip this question.")
        vote = record(comparison, question, choice)
        votes.append(votes.file_of(supervisor.workspace), vote)
        comparison.round = replace(question, vote=vote)
        return vote


def record(comparison: Comparison, question: Round, choice: Choice) -> Vote:
    view, lanes = comparison.view, (question.contest.first, question.contest.second)
    heard = view.said_to(question.ask)
    said = heard.answers if heard else {}
    return Vote(
        id=uuid4().hex[:12],
        at=datetime.now(UTC),
        contest=question.contest,
        choice=choice,
        left=question.left,
        messages=question.messages,
        answers={lane: said.get(lane, "") for lane in lanes},
        tag=question.tag,
        index=question.index,
        seed=question.seed,
        sampling=question.sampling,
        model=comparison.job.model,
        adapters={lane: made for lane, made in comparison.made_of.items() if lane in lanes},
        again=question.again,
    )


def take_back(supervisor: Supervisor) -> Vote:
    """The newest standing vote of this contest does not count. Was it given on the open question, it may be given again.

    Raises:
        BusyError: there is no vote to take back.
    """
    comparison, path = open_comparison(supervisor), votes.file_of(supervisor.workspace)
    with comparison.vote_lock:
        question = current(supervisor)
        mine = counted(supervisor, votes.standing(votes.lines(path)), question.contest)
        if not mine:
            raise BusyError("There is no vote to take back.")
        votes.append(path, Undo(vote=mine[-1].id, at=datetime.now(UTC)))
        if question.vote and question.vote.id == mine[-1].id:
            comparison.round = replace(question, vote=None, again=True)
        return mine[-1]


def write_better(supervisor: Supervisor, text: str) -> None:
    """Keep an answer of one's own to the question on which both were voted bad.

    Raises:
        BusyError: the open question was not voted "both bad".
        ConfigError: the text is empty.
    """
    vote = current(supervisor).vote
    if vote is None or vote.choice != "bad":
        raise BusyError("A better answer can be written once both were voted bad.")
    if not text.strip():
        raise ConfigError("The better answer is empty. Write it first.")
    path = votes.file_of(supervisor.workspace)
    votes.append(path, Better(vote=vote.id, at=datetime.now(UTC), text=text.strip()))


def leave(supervisor: Supervisor) -> None:
    """Show lanes under their names again. A question whose answers had begun counts as skipped, for its names are told now."""
    comparison = supervisor.comparison
    if comparison is None or comparison.round is None:
        return
    with comparison.vote_lock:
        skip_open(supervisor, comparison)
        comparison.round = comparison.ahead = None
    if comparison.view.phase is Phase.ANSWERING:
        with suppress(BusyError):  # a worker that is gone answers nothing any more
            comparison.send(Cancel())


def skip_open(supervisor: Supervisor, comparison: Comparison) -> None:
    """A question that is left without a vote although its answers had begun counts as skipped."""
    question = comparison.round
    if question and question.blind and comparison.view.said_to(question.ask):
        votes.append(votes.file_of(supervisor.workspace), record(comparison, question, "skip"))
