"""Compare in plain values: lanes and answers, the open question without names, the tally in words, scores, heat map."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from trainer_core.errors import DataError
from trainer_core.evaluation import judge, votes
from trainer_core.evaluation.judge import JudgeSummary
from trainer_core.evaluation.votes import BlindQuestion, LanePair
from trainer_core.jobs import blind_voting
from trainer_core.jobs.comparison import CompareSession
from trainer_core.jobs.registry import RunRegistry
from trainer_core.runs.compare_events import AdapterCheck, AnswerStats, ScoresReady
from trainer_core.runs.events import Phase
from trainer_core.runs.run_state import RunState
from trainer_core.runs.workspace import Workspace
from trainer_core.schema import StrictModel
from trainer_core.system.format import format_duration
from ui.format import page_text
from ui.payloads.run_settings import display_name
from ui.payloads.scores import read_scores, score_table_payload
from ui.payloads.vote_tally import count_votes, current_votes, file_stamp


class CompareChoice(StrictModel):
    """The page's choices above the answers: a run, and the two lanes of a blind vote."""

    run: str = ""
    first: str = ""
    second: str = ""


def compare_parts(registry: RunRegistry, chosen: CompareChoice | None = None) -> dict[str, Any]:
    return {
        "compare": comparison_payload(registry),
        "question": question_payload(registry),
        "tally": tally_payload(registry, chosen or CompareChoice()),
        "scores": scores_payload(registry),
        "heatmap": heatmap_payload(registry),
        "judge": judge_payload(registry),
    }


def comparison_payload(registry: RunRegistry) -> dict[str, Any] | None:
    """The lanes, the worker's state, and how each answer ended."""
    current = registry.comparison
    if current is None:
        return None
    view, answers = current.state, current.current_answers
    problem = answers.problem if answers else ""
    return {
        "run": current.run,
        "phase": view.phase,
        "active": view.phase.is_active,
        "dead": view.phase is Phase.FAILED,
        "answering": view.phase is Phase.ANSWERING and bool(answers and not answers.ends and not problem),
        "done": bool(answers and answers.ends),
        "detail": "" if problem or view.phase is Phase.SCORING else worker_activity(current),
        "error": problem or str(view.error),
        "prompt": "" if current.open_question else current.last_prompt,
        "lanes": blind_lanes(current.open_question, current) if current.open_question else all_lanes(current),
    }


def worker_activity(current: CompareSession) -> str:
    """What the worker does; while it loads, how many adapters there are."""
    if current.state.phase not in (Phase.QUEUED, Phase.LOADING):
        return str(current.state.detail)
    count = len({lane.adapter for lane in current.job.lanes if lane.adapter})
    return page_text("comparison.loading_lanes", adapters=count)


def all_lanes(current: CompareSession) -> list[dict[str, Any]]:
    """All lanes by name, with the conversation so far and their settings."""
    return [
        {
            **lane_payload(one.name, one.name, current),
            "strength": lane_strength(one.name, current.state) if one.adapter else None,
            "system": one.system,
            "turns": [{"prompt": turn.prompt, "text": turn.answers.get(one.name, "")} for turn in current.turns],
        }
        for one in current.job.lanes
    ]


def lane_strength(name: str, view: RunState) -> dict[str, float] | None:
    """The strength and share of a lane's adapter now."""
    proof = find_adapter_check(name, view)
    return {"strength": round(proof.strength, 3), "share": round(proof.share, 3)} if proof else None


def blind_lanes(question: BlindQuestion, current: CompareSession) -> list[dict[str, Any]]:
    """The two lanes of a vote as A and B. Names appear after the vote, and nothing that reveals them before."""
    sides = [
        lane_payload(letter, name, current) for letter, name in (("A", question.left_lane), ("B", question.right_lane))
    ]
    hidden = {"revealed": "", "adapter": "", "hash": ""} if question.is_blind else {}
    return [{**one, **hidden, "strength": None, "system": "", "turns": []} for one in sides]


def lane_payload(shown: str, name: str, current: CompareSession) -> dict[str, Any]:
    """One lane: how its answer ended, and the check of its adapter."""
    answers = current.current_answers
    end = answers.ends.get(name) if answers else None
    proof = find_adapter_check(name, current.state)
    return {
        "name": shown,
        "revealed": name if shown != name else "",
        "stats": describe_answer_stats(end),
        "truncated": describe_truncation(end),
        "adapter": describe_effect(proof),
        "hash": describe_hash(proof),
    }


def find_adapter_check(name: str, view: RunState) -> AdapterCheck | None:
    return next((proof for proof in view.lanes if proof.lane == name), None)


def describe_answer_stats(end: AnswerStats | None) -> str:
    if end is None:
        return ""
    rate = f" · {end.tokens / end.seconds:.0f}/s" if end.seconds > 0 else ""
    return page_text("comparison.answer_tokens", tokens=end.tokens) + rate


def describe_truncation(end: AnswerStats | None) -> str:
    return "" if end is None or end.ended_itself else page_text("comparison.truncated")


def describe_effect(proof: AdapterCheck | None) -> str:
    """Does the lane's adapter change anything?"""
    if proof is None or not proof.sha256:
        return ""
    if not proof.difference:
        return page_text("comparison.adapter_idle")
    if proof.strength == 1:
        return page_text("comparison.adapter_active")
    return page_text("comparison.adapter_at_strength", strength=proof.strength)


def describe_hash(proof: AdapterCheck | None) -> str:
    if proof is None or not proof.sha256:
        return ""
    return page_text("comparison.adapter_effect", hash=proof.sha256[:8], difference=proof.difference)


# ---- the open question


def question_payload(registry: RunRegistry) -> dict[str, Any] | None:
    """The question of a blind vote: its prompt, whether a vote is possible, and the vote."""
    current = registry.comparison
    question = current.open_question if current else None
    if current is None or question is None:
        return None
    answers = current.current_answers
    ready = blind_voting.is_answered(current)
    return {
        "first": question.contest.first,
        "second": question.contest.second,
        "number": question.index + 1,
        "tag": question.tag,
        "prompt": [{"role": one.role, "text": one.content} for one in question.messages],
        "ready": ready and question.vote is None,
        "again": question.again,
        "identical": bool(ready and answers and len(set(answers.answers.values())) == 1),
        "voted": question.vote.choice if question.vote else "",
        "wants_answer": question.vote is not None and question.vote.choice == "bad",
        "absence": str(blind_voting.absence_reason(registry, current)),
        "can_continue": blind_voting.can_continue(current),
        "can_reload": not current.state.phase.is_active and registry.active_run is None,
    }


# ---- the tally


def tally_payload(registry: RunRegistry, chosen: CompareChoice | None = None) -> dict[str, Any] | None:
    """The count of the votes on two lanes of the loaded run."""
    contest = chosen_pair(registry, chosen or CompareChoice())
    if contest is None:
        return None
    path = votes.votes_path(registry.workspace)
    try:
        found = count_votes(
            path, *file_stamp(path), contest, frozenset(loaded_identities(registry, contest.run).items())
        )
    except DataError as error:
        return {"problem": str(error)}
    return {"name": run_label(registry, contest.run), **found}


def chosen_pair(registry: RunRegistry, chosen: CompareChoice) -> LanePair | None:
    """The run: the loaded one, else the form's, else the newest. Its lanes: the two being voted on, else those chosen on the
    page, else the first and the last. None if there are no two."""
    current = registry.comparison
    if current and current.open_question:
        return current.open_question.contest
    if current and current.run:
        run, names = current.run, [lane.name for lane in current.job.lanes]
    else:
        comparable = [view.id for view in registry.run_states if view.adapters and not view.phase.is_active]
        run = chosen.run if chosen.run in comparable else next(iter(comparable), "")
        names = [lane.name for lane in registry.run_lanes(run)] if run else []
    sides = {chosen.first, chosen.second}
    if len(sides) < 2 or not sides <= set(names):
        sides = {*names[:1], *names[-1:]}
    return blind_voting.lane_pair(run, names, *sides) if len(sides) > 1 else None


def loaded_identities(registry: RunRegistry, run: str) -> dict[str, str]:
    current = registry.comparison
    return current.lane_identities if current and current.run == run else {}


def run_label(registry: RunRegistry, run: str) -> str:
    """A run's or an import's title; its id if it is in the trash while its lanes are still loaded."""
    known = run in registry.watchers or run in registry.imports
    return display_name(registry.run_dir(run)) if known else run


# ---- the judge


def judge_payload(registry: RunRegistry) -> dict[str, Any] | None:
    """A judge's progress, and every judge's opinion of the same two lanes."""
    current = registry.comparison
    judge_run = current.judge_run if current else None
    if judge_run is None or (current and current.open_question):
        return None
    state, contest = judge_run.state, judge_run.order.contest
    try:
        given = current_votes(votes.votes_path(registry.workspace))
    except DataError:  # shown by the tally
        given = ()
    found = judge.summarise_judges(judge.read_verdicts(registry.workspace, contest), given)
    return {
        "progress": "" if state.over else page_text("comparison.judged", done=state.done, total=state.total),
        "share": state.done / max(state.total, 1),
        "problem": state.problem,
        "opinions": [describe_opinion(one, contest) for one in found],
    }


def describe_opinion(one: JudgeSummary, contest: LanePair) -> str:
    verdicts = [describe_verdicts(one, contest)]
    if one.ties:
        verdicts.append(page_text("comparison.ties", ties=one.ties))
    if one.torn:
        verdicts.append(page_text("comparison.torn", cases=one.torn))
    opinion = page_text("comparison.opinion", judge=one.judge, verdicts="; ".join(verdicts))
    if not one.of_both:
        return opinion
    return f"{opinion} {page_text('comparison.agreement', agreed=one.agreed, cases=one.of_both)}"


def describe_verdicts(one: JudgeSummary, contest: LanePair) -> str:
    won = {"first": contest.first, "first_won": one.first, "second": contest.second, "second_won": one.second}
    if not one.share:
        return page_text("comparison.verdicts", **won)
    low, high = (100 * end for end in one.share.ends)
    return page_text("comparison.verdicts_and_share", **won, share=one.share.value, low=low, high=high)


# ---- scores and heat


def scores_payload(registry: RunRegistry) -> dict[str, Any] | None:
    """The score table of the loaded lanes, and the progress of scoring."""
    current = registry.comparison
    if current is None or not current.run:
        return None
    view = current.state
    found, problem = view.scored, str(view.scoring_error)
    try:
        found = found or load_scores(current, registry.workspace)
    except DataError as error:
        problem = problem or str(error)
    scoring = view.scoring
    return {
        "progress": str(scoring.summary) if scoring else "",
        "done": scoring.done / scoring.total if scoring else 0,
        "left": format_duration(scoring.seconds_left) if scoring and scoring.seconds_left is not None else "",
        "table": score_table_payload(found) if found else None,
        "problem": problem,
    }


def load_scores(current: CompareSession, workspace: Workspace) -> ScoresReady | None:
    """The loaded lanes' scores from the run's folder; None if the run is in the trash while they are loaded.

    Lanes with a system prompt are left out: the name does not tell which prompt they were scored with.
    """
    path = workspace.runs / current.run / "scores.json"
    if not path.exists():
        return None
    found = read_scores(path, path.stat().st_mtime_ns)
    loaded = {lane.name for lane in current.job.lanes if not lane.system}
    scores = tuple(score for score in found.scores if score.lane in loaded)
    return replace(found, scores=scores) if scores else None


def heatmap_payload(registry: RunRegistry) -> dict[str, Any] | None:
    """The answer in the heat map, token by token: text, and log-probability under each lane, in nats."""
    current = registry.comparison
    if current is None or current.state.heated is None or current.open_question:
        return None
    heated = current.state.heated
    return {
        "ask": heated.ask,
        "lanes": list(heated.lanes),
        "pieces": [[one.text, round(one.first, 3), round(one.second, 3)] for one in heated.pieces],
    }
