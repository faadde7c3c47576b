"""Endpoints of the Compare tab: vote, set a lane's strength, show a heat map, score, judge, make pairs, reload."""

from __future__ import annotations

from typing import Literal, TypedDict

from pydantic import Field

from trainer_core.errors import BusyError, ConfigError, DataError
from trainer_core.evaluation import preference_data, prompts, votes
from trainer_core.evaluation.judge import JudgeTask
from trainer_core.evaluation.judge_endpoint import JudgeEndpoint
from trainer_core.evaluation.prompts import score_request
from trainer_core.jobs import blind_voting
from trainer_core.jobs.comparison import CompareSession, lane_messages, new_ask_id
from trainer_core.jobs.judging import JudgeRun
from trainer_core.jobs.supervisor import Supervisor
from trainer_core.runs.compare_requests import AdjustLaneRequest, CancelRequest, ChatMessage, HeatmapRequest
from trainer_core.schema import StrictModel
from ui.payloads.comparison import CompareChoice, chosen_pair
from ui.payloads.vote_tally import current_votes
from ui.server import path_policy
from ui.server.endpoints import Endpoint, as_endpoint, public_endpoints


class VoteRequest(StrictModel):
    choice: Literal["left", "right", "tie", "bad", "skip"]


class BetterAnswer(StrictModel):
    text: str = Field(max_length=100_000)


class HeatmapQuery(StrictModel):
    """The lane whose answer is shown, and the two lanes that rate its tokens."""

    answer: str
    lanes: tuple[str, str]


class JudgeRequest(StrictModel):
    """A judge, the two lanes it judges, and how many prompts of which set."""

    lanes: tuple[str, str]
    lane: str = Field(default="", title="Judging model")
    endpoint: JudgeEndpoint = JudgeEndpoint()
    source: str = "bundled"
    cases: int = Field(default=20, ge=1, le=500, title="Answers to judge")


class SavedPairs(TypedDict):
    source: str
    name: str
    count: int


def compare_endpoints(supervisor: Supervisor) -> list[Endpoint]:
    voting = (
        blind_voting.undo_vote,
        blind_voting.show_next_question,
        blind_voting.retry_with_new_seed,
        blind_voting.end_voting,
    )
    own = public_endpoints(CompareActions(supervisor))
    return [*(as_endpoint(action, supervisor.registry) for action in voting), *own]


class CompareActions:
    """Its public methods are endpoints. Their effects reach the page through the live channel."""

    def __init__(self, supervisor: Supervisor):
        self.supervisor, self.registry = supervisor, supervisor.registry

    def vote(self, request: VoteRequest) -> None:
        blind_voting.cast_vote(self.registry, request.choice)

    def save_better_answer(self, request: BetterAnswer) -> None:
        blind_voting.save_better_answer(self.registry, request.text)

    def export_pairs(self, choice: CompareChoice) -> SavedPairs:
        """Save the counted votes as a data set."""
        workspace, contest = self.registry.workspace, chosen_pair(self.registry, choice)
        counted = current_votes(votes.votes_path(workspace))
        given = contest and blind_voting.votes_on_pair(self.registry, counted, contest)
        if not contest or not given:
            raise DataError("compare_tab.no_votes")
        path = preference_data.write_vote_data_set(workspace, given, contest)
        return {"source": str(path), "name": path.stem, "count": len(preference_data.make_preference_rows(given))}

    def download_votes(self) -> dict[str, str]:
        path = votes.votes_path(self.registry.workspace)
        return {"text": path.read_text(encoding="utf-8") if path.exists() else ""}

    def start_judge(self, request: JudgeRequest) -> None:
        path_policy.check_source(self.registry.workspace, request.source, prompts.PROMPT_SET_NAMES)
        if not request.lane and path_policy.is_remote():
            raise ConfigError("compare_tab.remote_judge")
        session = self._require_session()
        if session.open_question:
            raise BusyError("compare_tab.judge_in_vote")
        if session.judge_run and not session.judge_run.state.over:
            raise BusyError("compare_tab.judge_running")
        contest = blind_voting.lane_pair(session.run, [lane.name for lane in session.job.lanes], *request.lanes)
        task = JudgeTask(contest=contest, **request.model_dump(exclude={"lanes"}))
        session.add_judge(JudgeRun(self.registry, session, task).start())

    def stop_judge(self) -> None:
        if judge_run := self._require_session().judge_run:
            judge_run.stop()

    def reload_lanes(self) -> None:
        """Reload the lanes of a worker that has ended, and ask the open question or the last prompt again."""
        session, compare = self._require_session(), self.supervisor.compare
        if session.open_question:
            blind_voting.reload_lanes(compare)
        else:
            reloaded = compare.compare_run(session.run, session.job.lanes)
            if session.last_prompt:
                reloaded.ask(session.last_prompt, session.sampling, system=session.system)

    def stop(self) -> None:
        self._require_session().send(CancelRequest())

    def adjust_lane(self, request: AdjustLaneRequest) -> None:
        """Change a lane's strength, unless that would reveal its side of an open question."""
        session = self._require_session()
        if session.open_question:
            raise BusyError("compare_tab.strength_in_vote")
        session.send(request.model_copy(update={"id": new_ask_id()}))

    def show_heatmap(self, query: HeatmapQuery) -> dict[str, str]:
        """Ask two lanes for the probability of each token of an answer; the result comes through the live channel."""
        session = self._require_session()
        answers = session.current_answers
        if session.open_question or answers is None or query.answer not in answers.ends:
            raise BusyError("compare_tab.no_answers")
        text = answers.answers[query.answer]
        if not text:
            raise ConfigError("compare_tab.empty_answer", model=query.answer)
        system = [ChatMessage(role="system", content=session.system)] if session.system else []
        prompt = ChatMessage(role="user", content=session.last_prompt)
        messages = (*system, *lane_messages(session.turns, query.answer), prompt)
        ended = answers.ends[query.answer].ended_itself
        request = HeatmapRequest(id=new_ask_id(), messages=messages, answer=text, ended=ended, lanes=query.lanes)
        session.send(request)
        return {"ask": request.id}

    def score_lanes(self) -> None:
        """Score the loaded lanes on their run's held-out pairs."""
        session = self._require_session()
        held_out = self.registry.run_dir(session.run) / "held-out.jsonl"
        if not held_out.exists() or not held_out.stat().st_size:
            raise DataError("compare_tab.no_held_out", run=session.run)
        session.send(score_request(held_out))

    def _require_session(self) -> CompareSession:
        if session := self.registry.comparison:
            return session
        raise BusyError("compare_tab.not_loaded")
