"""The actions of Compare, beside asking all lanes: vote, set a lane's strength, show a heat map, score, make pairs, reload."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal
from uuid import uuid4

from pydantic import Field

from trainer_core.errors import BusyError, ConfigError, DataError
from trainer_core.evaluation import preference_data, prompts, votes
from trainer_core.evaluation.judge import JudgeEndpoint, JudgeTask
from trainer_core.evaluation.prompts import score_request
from trainer_core.jobs import blind_voting
from trainer_core.jobs.comparison import CompareSession, lane_messages
from trainer_core.jobs.judging import JudgeRun
from trainer_core.jobs.supervisor import Supervisor
from trainer_core.runs.compare_requests import AdjustLaneRequest, CancelRequest, ChatMessage, HeatmapRequest
from trainer_core.schema import StrictModel, parse_values
from ui.payloads.comparison import CompareChoice, chosen_pair
from ui.payloads.vote_tally import current_votes
from ui.server import path_policy


class VoteRequest(StrictModel):
    choice: Literal["left", "right", "tie", "bad", "skip"]


class BetterAnswer(StrictModel):
    text: str = Field(max_length=100_000)


class LaneStrength(StrictModel):
    """A lane's dial: strength in percent of its adapter, and the share of another lane's adapter."""

    lane: str
    strength: float = Field(ge=0, le=1.5)
    other: str = ""
    share: float = Field(default=0, ge=0, le=1)


class HeatmapQuery(StrictModel):
    """Whose answer is looked at, and under which two lanes."""

    answer: str
    lanes: tuple[str, str]


class JudgeRequest(StrictModel):
    """A judge, the two lanes it judges, and on how many prompts of which set."""

    lanes: tuple[str, str]
    lane: str = Field(default="", title="Judging lane")
    endpoint: JudgeEndpoint = JudgeEndpoint()
    source: str = "bundled"
    cases: int = Field(default=20, ge=1, le=500, title="Answers to judge")


class CompareActions:
    """Answers a page's wishes; each of them with an empty object, or with what the page cannot hear from the bus."""

    def __init__(self, supervisor: Supervisor):
        self.supervisor = supervisor

    @property
    def endpoints(self) -> list[Callable[[Any], dict[str, Any]]]:
        return [
            self.vote,
            self.undo_vote,
            self.next_question,
            self.new_seed,
            self.end_voting,
            self.save_better_answer,
            self.export_pairs,
            self.reload_lanes,
            self.stop,
            self.adjust_lane,
            self.show_heatmap,
            self.score_lanes,
            self.start_judge,
            self.stop_judge,
            self.download_votes,
        ]

    def vote(self, asked: Any = None) -> dict[str, Any]:
        """The vote is on the disk when the page hears of it."""
        return {"id": blind_voting.cast_vote(self.supervisor.registry, parse_values(VoteRequest, asked, "").choice).id}

    def undo_vote(self, asked: Any = None) -> dict[str, Any]:
        blind_voting.undo_vote(self.supervisor.registry)
        return {}

    def next_question(self, asked: Any = None) -> dict[str, Any]:
        blind_voting.show_next_question(self.supervisor.registry)
        return {}

    def new_seed(self, asked: Any = None) -> dict[str, Any]:
        blind_voting.retry_with_new_seed(self.supervisor.registry)
        return {}

    def end_voting(self, asked: Any = None) -> dict[str, Any]:
        blind_voting.end_voting(self.supervisor.registry)
        return {}

    def save_better_answer(self, asked: Any = None) -> dict[str, Any]:
        blind_voting.save_better_answer(self.supervisor.registry, parse_values(BetterAnswer, asked, "").text)
        return {}

    def export_pairs(self, asked: Any = None) -> dict[str, Any]:
        """The votes that are counted on the page as a data set; its name and place."""
        contest = chosen_pair(self.supervisor.registry, parse_values(CompareChoice, asked or {}, ""))
        given = (
            blind_voting.votes_on_pair(
                self.supervisor.registry, current_votes(votes.votes_path(self.supervisor.workspace)), contest
            )
            if contest
            else []
        )
        if contest is None or not given:
            raise DataError("There are no votes on these lanes yet, so there are no pairs to make.")
        place = preference_data.write_vote_data_set(self.supervisor.workspace, given, contest)
        count = len(preference_data.make_preference_rows(given))
        return {"source": str(place), "name": place.stem, "count": count}

    def start_judge(self, asked: Any = None) -> dict[str, Any]:
        """Let a model judge two lanes; one judge at a time."""
        wanted = parse_values(JudgeRequest, asked, "")
        path_policy.check_source(self.supervisor.workspace, wanted.source, prompts.PROMPT_SET_NAMES)
        if not wanted.lane and path_policy.is_remote():
            raise ConfigError(
                "A judge's URL is taken only at the computer that Tunebench runs on, since its key is sent there. Nothing was "
                "sent. Let one of the lanes judge, or start the judge there."
            )
        current = self.require_comparison()
        if current.open_question:
            raise BusyError("A blind vote is going. End it first, so that the judge does not make you wait.")
        if current.judge_run and not current.judge_run.state.over:
            raise BusyError("A judge is at work. Wait for it, or press Stop.")
        between = blind_voting.lane_pair(current.run, [lane.name for lane in current.job.lanes], *wanted.lanes)
        order = JudgeTask(
            contest=between, source=wanted.source, lane=wanted.lane, endpoint=wanted.endpoint, cases=wanted.cases
        )
        current.add_judge(JudgeRun(self.supervisor.registry, current, order).start())
        return {}

    def stop_judge(self, asked: Any = None) -> dict[str, Any]:
        """No more judging."""
        if trial := self.require_comparison().judge_run:
            trial.stop()
        return {}

    def download_votes(self, asked: Any = None) -> dict[str, Any]:
        """Every vote ever given, as it stands in the file."""
        path = votes.votes_path(self.supervisor.workspace)
        return {"text": path.read_text(encoding="utf-8") if path.exists() else ""}

    def reload_lanes(self, asked: Any = None) -> dict[str, Any]:
        """The lanes of a worker that is gone, loaded again; an open question is asked once more."""
        current = self.require_comparison()
        if current.open_question:
            blind_voting.reload_lanes(self.supervisor.compare)
        else:
            fresh = self.supervisor.compare.compare_run(current.run, current.job.lanes)
            if current.last_prompt:
                fresh.ask(current.last_prompt, current.sampling, system=current.system)
        return {}

    def stop(self, asked: Any = None) -> dict[str, Any]:
        self.require_comparison().send(CancelRequest())
        return {}

    def adjust_lane(self, asked: Any = None) -> dict[str, Any]:
        """From the next answer on. Lanes of an open question are not turned: their names would show."""
        wanted, current = parse_values(LaneStrength, asked, ""), self.require_comparison()
        if current.open_question:
            raise BusyError("A blind vote is going. End it before you turn a dial.")
        current.send(AdjustLaneRequest(id=uuid4().hex[:8], **wanted.model_dump()))
        return {}

    def show_heatmap(self, asked: Any = None) -> dict[str, Any]:
        """How likely two lanes find an answer, token by token; it comes over the bus."""
        wanted, current = parse_values(HeatmapQuery, asked, ""), self.require_comparison()
        said = current.current_answers
        if current.open_question or said is None or wanted.answer not in said.ends:
            raise BusyError("Look closer once the lanes have answered under their names.")
        end, text = said.ends[wanted.answer], said.answers[wanted.answer]
        if not text:
            raise ConfigError(f"{wanted.answer} said nothing, so there is nothing to look at.")
        said_first = (ChatMessage(role="system", content=current.system),) if current.system else ()
        before = (
            *said_first,
            *lane_messages(current.turns, wanted.answer),
            ChatMessage(role="user", content=current.last_prompt),
        )
        ask = uuid4().hex[:8]
        current.send(HeatmapRequest(id=ask, messages=before, answer=text, ended=end.ended_itself, lanes=wanted.lanes))
        return {"ask": ask}

    def score_lanes(self, asked: Any = None) -> dict[str, Any]:
        """Score the loaded lanes on what their run held out; into the run's scores.json."""
        current = self.require_comparison()
        run_dir = self.supervisor.registry.run_dir(current.run)
        held_out = run_dir / "held-out.jsonl"
        if not held_out.exists() or not held_out.stat().st_size:
            raise DataError(f"The run {current.run} held no pairs out, so there is nothing to score on.")
        current.send(score_request(held_out))
        return {}

    def require_comparison(self) -> CompareSession:
        """The lanes.

        Raises:
            BusyError: none are loaded.
        """
        if self.supervisor.registry.comparison is None:
            raise BusyError("No lanes are loaded. Press Generate.")
        return self.supervisor.registry.comparison
