"""Compare in plain values: lanes and their answers, the open question without names, the tally in words, scores, heat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from trainer_core.errors import DataError
from trainer_core.evaluation import judge, score_table, votes
from trainer_core.evaluation import tally as tally_module
from trainer_core.evaluation.judge import Opinion
from trainer_core.evaluation.statistics import Interval
from trainer_core.evaluation.tally import Tally
from trainer_core.evaluation.votes import Contest, Round, Vote
from trainer_core.jobs import blind_voting
from trainer_core.jobs.comparison import Comparison
from trainer_core.jobs.supervisor import Supervisor
from trainer_core.runs.events import LaneEnd, LaneProof, Phase, Scored
from trainer_core.runs.run_state import RunView
from trainer_core.schema import Strict
from trainer_core.system.duration import duration
from ui.payloads.run_settings import name_of

FEW_PAIRS = 30
FEW_SIDES = 10
"""Fewer votes say nothing about a habit of choosing one side."""


class Chosen(Strict):
    """What one page has chosen above the answers: a run, and the two lanes of a blind vote."""

    run: str = ""
    first: str = ""
    second: str = ""


def parts(supervisor: Supervisor, chosen: Chosen | None = None) -> dict[str, Any]:
    """Every part of the Compare tab."""
    return {
        "compare": comparison(supervisor),
        "ballot": question(supervisor),
        "tally": tally(supervisor, chosen or Chosen()),
        "scores": scores(supervisor),
        "heat": heat(supervisor),
        "judge": judgement(supervisor),
    }


def comparison(supervisor: Supervisor) -> dict[str, Any] | None:
    """The lanes: who they are, what the worker is doing, and how each answer ended."""
    current = supervisor.comparison
    if current is None:
        return None
    view, said = current.view, current.said
    problem = said.problem if said else ""
    return {
        "run": current.run,
        "phase": view.phase,
        "active": view.phase.active,
        "dead": view.phase is Phase.FAILED,
        "answering": view.phase is Phase.ANSWERING and bool(said and not said.ends and not problem),
        "done": bool(said and said.ends),
        "detail": "" if problem or view.phase is Phase.SCORING else doing(current),
        "error": problem or view.error,
        "asked": "" if current.round else current.asked,
        "lanes": voted_on(current.round, current) if current.round else named(current),
    }


def doing(current: Comparison) -> str:
    """What the worker is at; while it loads, how much there is to load."""
    if current.view.phase not in (Phase.QUEUED, Phase.LOADING):
        return current.view.detail
    count = len({lane.adapter for lane in current.job.lanes if lane.adapter})
    return f"Loading the base and {count} adapter{'s' * (count != 1)}…"


def named(current: Comparison) -> list[dict[str, Any]]:
    """Every lane under its name, with the conversation so far and what can be turned."""
    return [
        {
            **lane(one.name, one.name, current),
            "dial": dial(one.name, current.view) if one.adapter else None,
            "system": one.system,
            "before": [{"prompt": turn.prompt, "text": turn.answers.get(one.name, "")} for turn in current.talk],
        }
        for one in current.job.lanes
    ]


def dial(name: str, view: RunView) -> dict[str, float] | None:
    """How much of its adapter a lane uses now."""
    proof = proof_of(name, view)
    return {"strength": round(proof.strength, 3), "share": round(proof.share, 3)} if proof else None


def voted_on(open_one: Round, current: Comparison) -> list[dict[str, Any]]:
    """The two lanes of a vote as A and B. Who they are is said after the vote, and nothing that tells before it."""
    sides = [lane(letter, name, current) for letter, name in (("A", open_one.left), ("B", open_one.right))]
    hidden = {"was": "", "proof": "", "hash": ""} if open_one.blind else {}
    return [{**one, **hidden, "dial": None, "system": "", "before": []} for one in sides]


def lane(shown: str, name: str, current: Comparison) -> dict[str, Any]:
    """One lane: how its answer ended, and the proof that it is what its name says."""
    said = current.said
    end = said.ends.get(name) if said else None
    was = name if shown != name else ""
    proof = proof_of(name, current.view)
    return {
        "name": shown,
        "was": was,
        "end": end_words(end),
        "cut": cut_words(end),
        "proof": proof_words(proof),
        "hash": hash_words(proof),
    }


def proof_of(name: str, view: RunView) -> LaneProof | None:
    return next((proof for proof in view.lanes if proof.lane == name), None)


def end_words(end: LaneEnd | None) -> str:
    if end is None:
        return ""
    rate = f" · {end.tokens / end.seconds:.0f}/s" if end.seconds > 0 else ""
    return f"{end.tokens} token{'s' * (end.tokens != 1)}{rate}"


def cut_words(end: LaneEnd | None) -> str:
    return "" if end is None or end.ended_itself else "Cut here: it had not ended by itself."


def proof_words(proof: LaneProof | None) -> str:
    """Does the lane's adapter do anything?"""
    if proof is None or not proof.sha256:
        return ""
    if not proof.difference:
        return "Adapter changes nothing: same logits as the base"
    return "Adapter active ✓" + ("" if proof.strength == 1 else f" at {proof.strength:.0%}")


def hash_words(proof: LaneProof | None) -> str:
    """Which adapter it is, and by how much it moves the model."""
    if proof is None or not proof.sha256:
        return ""
    return f"adapter {proof.sha256[:8]}, moves logits by up to {proof.difference:.2g}"


# ---- the open question


def question(supervisor: Supervisor) -> dict[str, Any] | None:
    """The question of a blind vote: what it asks, whether a vote may be given, and what was voted."""
    current = supervisor.comparison
    open_one = current.round if current else None
    if current is None or open_one is None:
        return None
    said = current.said
    ready = blind_voting.answered(current)
    return {
        "first": open_one.contest.first,
        "second": open_one.contest.second,
        "number": open_one.index + 1,
        "tag": open_one.tag,
        "prompt": [{"role": one.role, "text": one.content} for one in open_one.messages],
        "ready": ready and open_one.vote is None,
        "again": open_one.again,
        "same": bool(ready and said and len(set(said.answers.values())) == 1),
        "voted": open_one.vote.choice if open_one.vote else "",
        "better": open_one.vote is not None and open_one.vote.choice == "bad",
        "away": blind_voting.away(supervisor, current),
        "goes_on": blind_voting.goes_on(current),
        "loadable": not current.view.phase.active and supervisor.active is None,
    }


# ---- the tally


def tally(supervisor: Supervisor, chosen: Chosen | None = None) -> dict[str, Any] | None:
    """The count of the votes on two lanes of the loaded run, and of no others."""
    contest = contest_of(supervisor, chosen or Chosen())
    if contest is None:
        return None
    path = votes.file_of(supervisor.workspace)
    try:
        found = counted(path, *stamp(path), contest, frozenset(made_of(supervisor, contest.run).items()))
    except DataError as error:
        return {"problem": str(error)}
    return {"name": called(supervisor, contest.run), **found}


def contest_of(supervisor: Supervisor, chosen: Chosen) -> Contest | None:
    """The run that is loaded, or else that of the page's form or the newest; and of its lanes the two that are voted on, or else
    those chosen on the page, or else the first and the last. None: there are no two."""
    current = supervisor.comparison
    if current and current.round:
        return current.round.contest
    if current and current.run:
        run, names = current.run, [lane.name for lane in current.job.lanes]
    else:
        comparable = [view.id for view in supervisor.views if view.adapters and not view.phase.active]
        run = chosen.run if chosen.run in comparable else next(iter(comparable), "")
        names = [lane.name for lane in supervisor.lanes(run)] if run else []
    sides = {chosen.first, chosen.second}
    if len(sides) < 2 or not sides <= set(names):
        sides = {*names[:1], *names[-1:]}
    return blind_voting.contest(run, names, *sides) if len(sides) > 1 else None


def made_of(supervisor: Supervisor, run: str) -> dict[str, str]:
    """What the lanes are made of, as far as they are loaded."""
    current = supervisor.comparison
    return current.made_of if current and current.run == run else {}


def called(supervisor: Supervisor, run: str) -> str:
    """What a run is called; its id where it went to the trash while its lanes are still here."""
    run_dir = supervisor.workspace.runs / run
    return name_of(run_dir) if run_dir.exists() else run


@lru_cache(maxsize=8)
def counted(path: Path, size: int, changed: int, contest: Contest, made: frozenset[tuple[str, str]]) -> dict[str, Any]:
    """A contest in words; the bootstrap over all lanes is too much for every second."""
    every = read(path, size, changed)
    given = votes.on_same_lanes(every, contest.run, dict(made))
    found = tally_module.tally(given, contest)
    earlier = tally_module.tally(every, contest).all - found.all
    return {
        "run": contest.run,
        "first": contest.first,
        "second": contest.second,
        "wins": [found.first, found.second],
        "others": others(found),
        "share": span(found.share),
        "odds": odds(found),
        "verdict": verdict(found),
        "word": found.verdict.word,
        "kinds": [[tag, *counts] for tag, counts in sorted(found.kinds.items())],
        "none": none_yet(given, found),
        "checks": [line for line in (bias(found), lengths(found), earlier_words(earlier)) if line],
        "strengths": strengths(given, contest.run),
        "pairs": found.pairs,
        "few": "Few pairs. Fine for a taste; 200 or more give a steadier change."
        if 0 < found.pairs < FEW_PAIRS
        else "",
    }


def none_yet(given: Sequence[Vote], found: Tally) -> str:
    """What stands in place of a count that does not exist; empty where it does."""
    if found.all:
        return ""
    return f"No votes {'on these two lanes' if given else 'for this run'} yet. Press B."


def earlier_words(count: int) -> str:
    if not count:
        return ""
    one = count == 1
    return (
        f"{count} earlier vote{'' if one else 's'} on lanes of these names {'is' if one else 'are'} not counted: an adapter or a "
        "system prompt was another then."
    )


def standing(path: Path) -> tuple[Vote, ...]:
    """The votes that count."""
    return read(path, *stamp(path))


def stamp(path: Path) -> tuple[int, int]:
    """Size and time of the last change; a file with the same ones is not read again."""
    told = path.stat() if path.exists() else None
    return (told.st_size, told.st_mtime_ns) if told else (0, 0)


@lru_cache(maxsize=4)
def read(path: Path, size: int, changed: int) -> tuple[Vote, ...]:
    return tuple(votes.standing(votes.lines(path)))


def others(found: Tally) -> str:
    """The votes that decided nothing."""
    counts = ((found.ties, "tie", "ties"), (found.bad, "both bad", "both bad"), (found.skipped, "skipped", "skipped"))
    told = [f"{count} {one if count == 1 else more}" for count, one, more in counts if count]
    return " · ".join([*told, *([f"{found.again} given again after an undo"] if found.again else [])])


def span(share: Interval | None) -> list[float] | None:
    return [round(share.value, 4), round(share.low, 4), round(share.high, 4)] if share else None


def odds(found: Tally) -> str:
    """Share and p-value; no percentage of a handful."""
    if found.share is None:
        missing = 5 - found.decided
        return f"{missing} more decided vote{'s' * (missing != 1)} until a percentage means anything."
    low, high = f"{100 * found.share.low:.0f}", f"{100 * found.share.high:.0f}"
    return f"{found.share.value:.0%} {found.contest.second} (95 % interval {low}–{high}) · p = {found.p:.2g}, exact sign test"


def verdict(found: Tally) -> str:
    """The verdict of the newest look, and when it is renewed."""
    stands = found.verdict
    coming = f" Next check at {stands.next_look} decided votes." if stands.next_look else ""
    side = (found.contest.first, found.contest.second)[stands.side] if stands.side is not None else ""
    match stands.word:
        case "Clear":
            return f"Clear: {side} is better, by the check at {stands.at} votes.{coming}"
        case "Leaning":
            return f"Leaning {side}, not settled.{coming}"
        case "No difference seen":
            return f"No difference seen in {stands.at} votes."
    return f"Not decided yet.{coming}"


def bias(found: Tally) -> str:
    one = found.bias
    if one.share is None or one.decided < FEW_SIDES:
        return ""
    odd = " That is more than chance: look at the other side first for a while." if one.suspicious else ""
    return f"You picked the left side {one.share.value:.0%} of the time.{odd}"


def lengths(found: Tally) -> str:
    """Did the length do the voting?"""
    one = found.lengths
    if one.ratio is None or found.decided < 5:
        return ""
    similar = (
        f" Of {one.of_similar} with about equal lengths, {found.contest.second} won {one.second}."
        if one.of_similar
        else ""
    )
    return (
        f"{found.contest.second}'s answers are {one.ratio:.1f}× as long; the longer answer won {one.longer} of "
        f"{one.of_unequal}.{similar}"
    )


def strengths(given: Sequence[Vote], run: str) -> list[str]:
    """Bradley-Terry over all contests of a run, best first; only where three lanes were voted on."""
    found = sorted(tally_module.strengths(given, run).items(), key=lambda one: -one[1].value)
    return [f"{name} {one.value:+.2f} [{one.low:+.2f}, {one.high:+.2f}]" for name, one in found]


# ---- the judge


def judgement(supervisor: Supervisor) -> dict[str, Any] | None:
    """How far a judge is, and what each judge thinks of the two lanes it was last asked about."""
    current = supervisor.comparison
    trial = current.trial if current else None
    if trial is None or (current and current.round):
        return None
    state, contest = trial.state, trial.order.contest
    try:
        given = standing(votes.file_of(supervisor.workspace))
    except DataError:  # the tally says so
        given = ()
    found = judge.opinions(judge.read(supervisor.workspace, contest), given)
    return {
        "going": "" if state.over else f"Judged {state.done} of {state.total}",
        "share": state.done / max(state.total, 1),
        "problem": state.problem,
        "opinions": [opinion_words(one, contest) for one in found],
    }


def opinion_words(one: Opinion, contest: Contest) -> str:
    share = (
        f" ({one.share.value:.0%} {contest.second}, 95 % interval {100 * one.share.low:.0f}–{100 * one.share.high:.0f})"
        if one.share
        else ""
    )
    decided = f"{contest.first} {one.first} – {one.second} {contest.second}{share}"
    torn = f"; in {one.torn} cases only the side decided" if one.torn else ""
    ties = f"; {one.ties} ties" if one.ties else ""
    agreed = (
        f" It agrees with you in {one.agreed} of {one.of_both} cases that both of you decided." if one.of_both else ""
    )
    return f"{one.judge}: {decided}{ties}{torn}.{agreed}"


# ---- scores and heat


def scores(supervisor: Supervisor) -> dict[str, Any] | None:
    """The score table of the lanes that are loaded, and how far a scoring is."""
    current = supervisor.comparison
    if current is None or not current.run:
        return None
    view = current.view
    found, problem = view.scored, view.unscored
    try:
        found = found or saved(current, supervisor)
    except DataError as error:
        problem = problem or str(error)
    going = view.scoring
    return {
        "going": going.told if going else "",
        "done": going.done / going.total if going else 0,
        "left": duration(going.seconds_left) if going and going.seconds_left is not None else "",
        "table": table(found) if found else None,
        "problem": problem,
    }


def saved(current: Comparison, supervisor: Supervisor) -> Scored | None:
    """The loaded lanes' scores from the run's folder; none where the run went to the trash while they are still here.

    A lane with a system prompt is left out: its name does not say which one it was scored with.
    """
    path = supervisor.workspace.runs / current.run / "scores.json"
    if not path.exists():
        return None
    found = scored_in(path, path.stat().st_mtime_ns)
    loaded = {lane.name for lane in current.job.lanes if not lane.system}
    scores = tuple(score for score in found.scores if score.lane in loaded)
    return replace(found, scores=scores) if scores else None


@lru_cache(maxsize=4)
def scored_in(path: Path, changed: int) -> Scored:
    return score_table.read(path)


FIRST = ("Held-out accuracy", "Answer length, tokens", "General questions")
"""The measures that most people ask for; the others are folded."""


def table(found: Scored) -> dict[str, Any]:
    """The figures of the terminal's table, each also as a dot with its interval."""
    measures = {line.title: measure(line) for line in score_table.lines(found.scores)}
    return {
        "lanes": [score.lane for score in found.scores],
        "first": [measures.pop(title) for title in FIRST if title in measures],
        "rest": list(measures.values()),
        "harmed": [score.lane for score in found.scores if score.forgetting and score.forgetting.harmed],
        "warnings": score_table.warnings(found.scores),
        "legend": score_table.legend(found),
    }


def measure(line: score_table.Line) -> dict[str, Any]:
    """One measure: each lane's figure, and where it, its interval and 0 lie on the scale that the lanes share."""
    known = [(one.value, *score_table.bounds(one, line.spell)) for one in line.found if one]
    low, high = min(0.0, *(one[1] for one in known)), max(0.0, *(one[2] for one in known))
    if line.spell == score_table.SHARE:
        low, high = 0.0, 1.0
    places = iter([[round((at - low) / (high - low or 1), 4) for at in one] for one in known])
    return {
        "title": line.title,
        "cells": line.cells,
        "spans": [next(places) if one else None for one in line.found],
        "zero": round(-low / (high - low or 1), 4),
    }


def heat(supervisor: Supervisor) -> dict[str, Any] | None:
    """The answer looked at last, piece by piece: text and how much likelier the first lane finds it, in nats."""
    current = supervisor.comparison
    if current is None or current.view.heated is None or current.round:
        return None
    heated = current.view.heated
    return {
        "ask": heated.ask,
        "lanes": list(heated.lanes),
        "pieces": [[one.text, round(one.first, 3), round(one.second, 3)] for one in heated.pieces],
    }
