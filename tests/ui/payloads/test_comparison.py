"""What the tally says in words, and that a vote in the page is the only thing that tells who was who."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from tests.trainer_core.evaluation.test_votes import CONTEST, vote
from tests.trainer_core.jobs.test_blind_voting import ask, contest, supervisor  # noqa: F401  (fixtures)
from tests.trainer_core.jobs.test_lane_choices import finished
from trainer_core.config.recipe import Sampling
from trainer_core.errors import BusyError, DataError
from trainer_core.evaluation import tally, votes
from trainer_core.evaluation.votes import LanePair
from trainer_core.jobs import blind_voting, lane_choices
from trainer_core.jobs.supervisor import wait_for
from trainer_core.runs import metadata
from trainer_core.runs.compare_events import (
    AdapterCheck,
    ConfidenceInterval,
    LaneScore,
    ScoresReady,
    ScoringProgress,
    TokenHeatmap,
    TokenLogprobs,
)
from trainer_core.runs.compare_requests import AdjustLaneRequest
from trainer_core.runs.metadata import RunMetadata
from trainer_core.texts import verbatim
from ui.payloads import comparison
from ui.payloads.comparison import CompareChoice
from ui.payloads.scores import score_table_payload
from ui.payloads.vote_tally import (
    MIN_SIDES,
    describe_bias,
    describe_length_effect,
    describe_share,
    describe_undecided,
    describe_verdict,
)
from ui.tabs.compare_actions import CompareActions, HeatmapQuery

pytestmark = pytest.mark.real


def given(first: int, second: int, ties: int = 0) -> list[votes.Vote]:
    """Votes in alternation, the surplus last."""
    pairs = [one for _ in range(min(first, second)) for one in ("left", "right")]
    rest = ["left" if first > second else "right"] * abs(first - second)
    return [vote(at, choice, left="Base") for at, choice in enumerate([*pairs, *rest, *["tie"] * ties])]


@pytest.mark.parametrize(
    ("first", "second", "odds", "verdict"),
    [
        (0, 0, "5 more decided votes until", "Not decided yet. Next check at 10"),
        (3, 1, "1 more decided vote until", "Not decided yet. Next check at 10"),
        (0, 6, "100% DPO (95 % interval 61–100) · p = 0.031, exact sign test", "Not decided yet. Next check at 10"),
        (5, 15, "75% DPO (95 % interval 53–89) · p = 0.041", "Leaning towards DPO, not settled. Next check at 30"),
        (4, 16, "80% DPO (95 % interval 58–92) · p = 0.012", "DPO is clearly better (check at 20 votes). Next check at 30"),
        (16, 4, "20% DPO", "Base is clearly better (check at 20 votes)."),
        (21, 19, "48% DPO", "No difference seen in 40 votes."),
    ],
)  # fmt: skip
def test_words_of_the_tally(first: int, second: int, odds: str, verdict: str) -> None:
    found = tally.tally_votes(given(first, second), CONTEST)
    assert describe_share(found).startswith(odds) and describe_verdict(found).startswith(verdict)


def test_seventeen_votes_keep_the_verdict_of_ten() -> None:
    ten = [vote(at, "left" if at else "right", left="DPO") for at in range(10)]
    told = describe_verdict(tally.tally_votes(ten, CONTEST))
    more = [*ten, *(vote(10 + at, "right", left="DPO") for at in range(7))]
    assert told.startswith("DPO is clearly better") and describe_verdict(tally.tally_votes(more, CONTEST)) == told


def test_ties_alone_decide_nothing() -> None:
    found = tally.tally_votes(given(0, 0, ties=12), CONTEST)
    assert (found.decided_votes, found.share, describe_undecided(found)) == (0, None, "12 ties")
    assert describe_verdict(found) == "Not decided yet. Next check at 10 decided votes."
    assert describe_bias(found) == describe_length_effect(found) == ""


def test_a_habit_of_one_side_is_told() -> None:
    found = tally.tally_votes([vote(at, "left", left="Base" if at % 2 else "DPO") for at in range(20)], CONTEST)
    assert describe_bias(found).startswith("You picked the left side 100% of the time. That is more than chance")
    few = tally.tally_votes([vote(at, "left", left="Base") for at in range(MIN_SIDES - 1)], CONTEST)
    assert describe_bias(few) == "", "nine votes are no habit"


def test_the_lanes_of_a_measure_share_one_scale() -> None:
    lanes = [
        LaneScore(name, ConfidenceInterval(0.5, 0.25, 0.75, 40), margin, some, some)
        for name, margin, some in (
            ("Base", ConfidenceInterval(-1.0, -2.0, 0.0, 40), ConfidenceInterval(10.0, None, None, 1)),
            ("DPO", ConfidenceInterval(1.0, 0.0, 2.0, 40), ConfidenceInterval(20.0, None, None, 1)),
        )
    ]
    told = score_table_payload(ScoresReady(tuple(lanes)))
    assert [one["title"] for one in told["first"]] == ["Held-out accuracy"]
    margin, perplexity, _ = told["rest"]
    assert told["first"][0]["spans"] == [[0.5, 0.25, 0.75]] * 2, "a share stands on the whole of 0 to 1"
    assert margin["spans"] == [[0.25, 0.0, 0.5], [0.75, 0.5, 1.0]] and margin["zero"] == 0.5
    assert perplexity["spans"] == [[0.5, 0.5, 0.5], [1.0, 1.0, 1.0]] and perplexity["zero"] == 0


def test_what_an_adapter_does_is_one_word_and_its_hash_a_tooltip() -> None:
    proof = AdapterCheck("DPO", "3f9a12cd" + 56 * "0", 4.2)
    assert comparison.describe_effect(proof) == "Adapter active ✓" and comparison.describe_effect(None) == ""
    assert comparison.describe_effect(replace(proof, strength=0.5)) == "Adapter active ✓ at 50%"
    assert comparison.describe_effect(replace(proof, difference=0.0)).startswith("The adapter changes nothing")
    assert comparison.describe_hash(proof) == "adapter 3f9a12cd, moves logits by up to 4.2"


def test_heat_and_dials_are_not_told_while_names_are_hidden(supervisor, contest) -> None:  # noqa: F811
    ask(supervisor, contest)
    current = supervisor.registry.comparison
    heated = TokenHeatmap("x", ("Base", "DPO"), (TokenLogprobs("a", -1.0, -2.0),))
    current.watcher.state = replace(current.state, heated=heated)
    told = comparison.compare_parts(supervisor.registry)
    assert told["heatmap"] is None and all(lane["strength"] is None for lane in told["compare"]["lanes"])
    with pytest.raises(Exception, match="A blind vote is in progress"):
        CompareActions(supervisor).adjust_lane(AdjustLaneRequest(lane="DPO", strength=0.5))
    with pytest.raises(Exception, match="under their names"):
        CompareActions(supervisor).show_heatmap(HeatmapQuery(answer="DPO", lanes=("Base", "DPO")))
    blind_voting.end_voting(supervisor.registry)
    assert comparison.compare_parts(supervisor.registry)["heatmap"]["pieces"] == [["a", -1.0, -2.0]]


def test_a_scoring_tells_how_far_it_is(supervisor, contest) -> None:  # noqa: F811
    current = supervisor.compare.compare_run(contest.run)
    assert wait_for(lambda: supervisor.registry.refresh() or bool(current.state.lanes), 30, 0.02)
    current.watcher.state = replace(
        current.state, scoring=ScoringProgress(verbatim("held-out pairs"), 1, 3, 30, 120, 90.0)
    )
    told = comparison.scores_payload(supervisor.registry)
    assert told["progress"].startswith("Scoring, part 1 of 3: held-out pairs, 25%") and told["done"] == 0.25


def test_scores_of_an_earlier_day_are_shown(supervisor, contest) -> None:  # noqa: F811
    share = ConfidenceInterval(0.5, 0.4, 0.6, 40).__dict__
    score = {"lane": "Base", "accuracy": share, "margin": share, "perplexity": share, "divergence": share}
    (supervisor.registry.run_dir(contest.run) / "scores.json").write_text(json.dumps({"scores": [score]}))
    supervisor.compare.compare_run(contest.run)
    (accuracy,) = comparison.scores_payload(supervisor.registry)["table"]["first"]
    assert (accuracy["title"], accuracy["cells"]) == ("Held-out accuracy", ["50% [40%, 60%] (n 40)"])


def test_a_conversation_goes_on_in_every_lane(supervisor, contest) -> None:  # noqa: F811
    current = supervisor.compare.compare_run(contest.run)
    first = current.ask("One?", Sampling())
    assert wait_for(
        lambda: (
            supervisor.registry.refresh()
            or bool(current.state.answers_to(first))
            and bool(current.current_answers.ends)
        ),
        30,
        0.02,
    )
    current.ask("Two?", Sampling(), follow=True)
    assert [turn.prompt for turn in current.turns] == ["One?"]
    assert (
        comparison.comparison_payload(supervisor.registry)["lanes"][1]["turns"][0]["text"]
        == current.turns[0].answers["SFT"]
        != ""
    )
    current.ask("Three?", Sampling())
    assert current.turns == ()


def test_damaged_files_are_named_and_the_page_lives_on(supervisor, contest) -> None:  # noqa: F811
    votes.votes_path(supervisor.workspace).write_text('{"kind": "nothing"}\n')
    (supervisor.registry.run_dir(contest.run) / "scores.json").write_text("{")
    supervisor.compare.compare_run(contest.run)
    told = comparison.compare_parts(supervisor.registry)
    assert "votes.jsonl, line 1: this version cannot read the vote" in told["tally"]["problem"]
    assert "holds no scores that this version can read. Score the lanes again" in told["scores"]["problem"]


# ---- whose votes and scores are shown


def give(supervisor, count: int, contest: LanePair, **more: object) -> None:  # type: ignore[no-untyped-def]  # noqa: F811
    """Votes for the second lane, kept on the disk."""
    path = votes.votes_path(supervisor.workspace)
    for at in range(len(votes.read_vote_records(path)), len(votes.read_vote_records(path)) + count):
        votes.append_record(path, vote(at, "right", left=contest.first, contest=contest, **more))


def load(supervisor, run: str, names: tuple[str, ...] = (), prompted: str = ""):  # type: ignore[no-untyped-def]  # noqa: F811
    """The lanes of a run, loaded until they are known."""
    current = supervisor.compare.compare_run(run, lane_choices.select_lanes(supervisor.registry, run, names, prompted))
    assert wait_for(lambda: supervisor.registry.refresh() or bool(current.state.lanes), 30, 0.02)
    return current


def wins(supervisor, *chosen: str) -> list[int]:  # type: ignore[no-untyped-def]  # noqa: F811
    told = comparison.tally_payload(
        supervisor.registry, CompareChoice(**dict(zip(("run", "first", "second"), chosen, strict=False)))
    )
    return told["wins"] if told else []


def test_the_votes_of_another_run_are_never_shown(supervisor, contest) -> None:  # noqa: F811
    """Its lanes have the same names."""
    other = finished(supervisor, name="other")
    give(supervisor, 11, contest)
    load(supervisor, other)
    told = comparison.tally_payload(supervisor.registry)
    assert (told["run"], told["name"], told["wins"], told["pairs"]) == (other, "other", [0, 0], 0)
    assert told["empty"] == "No votes for this run yet. Press B." and not told["advice"]
    assert wins(supervisor, contest.run, "Base", "DPO") == [0, 0], "what is loaded counts, not what the form says"
    with pytest.raises(DataError, match="no votes on these two models"):
        CompareActions(supervisor).export_pairs(CompareChoice())
    load(supervisor, contest.run)
    assert wins(supervisor) == [0, 11] and not comparison.tally_payload(supervisor.registry)["empty"]


def test_two_lanes_of_a_run_have_a_count_of_their_own(supervisor, contest) -> None:  # noqa: F811
    give(supervisor, 3, contest)
    give(supervisor, 2, LanePair(run=contest.run, first="SFT", second="DPO"))
    load(supervisor, contest.run)
    assert wins(supervisor) == wins(supervisor, contest.run, "DPO", "Base") == [0, 3]
    assert wins(supervisor, contest.run, "SFT", "DPO") == [0, 2]
    assert wins(supervisor, contest.run, "Base", "Base") == wins(supervisor, contest.run, "Base", "gone") == [0, 3]
    told = comparison.tally_payload(supervisor.registry, CompareChoice(run=contest.run, first="Base", second="SFT"))
    chosen = CompareChoice(run=contest.run, first="SFT", second="DPO")
    assert told["empty"] == "No votes on these two models yet. Press B."
    assert CompareActions(supervisor).export_pairs(chosen)["count"] == 2


def test_before_lanes_are_loaded_the_run_of_the_form_is_meant(supervisor, contest) -> None:  # noqa: F811
    finished(supervisor, name="other")
    newest, older = [view.id for view in supervisor.registry.run_states]
    give(supervisor, 4, LanePair(run=older, first="Base", second="DPO"))
    assert wins(supervisor) == wins(supervisor, newest, "Base", "DPO") == [0, 0]
    assert wins(supervisor, older, "Base", "DPO") == [0, 4]
    assert wins(supervisor, "../somewhere", "Base", "DPO") == [0, 0]


def test_a_run_that_is_renamed_keeps_its_votes(supervisor, contest) -> None:  # noqa: F811
    give(supervisor, 2, contest)
    load(supervisor, contest.run)
    assert comparison.tally_payload(supervisor.registry)["name"] == "ok"
    metadata.write_metadata(supervisor.registry.run_dir(contest.run), RunMetadata(name="better"))
    told = comparison.tally_payload(supervisor.registry)
    assert (told["name"], told["wins"]) == ("better", [0, 2])


def test_votes_on_another_adapter_of_the_same_name_are_not_counted(supervisor, contest) -> None:  # noqa: F811
    """An earlier step was kept since, or the run was made longer."""
    current = load(supervisor, contest.run)
    now = current.lane_identities
    assert now == {"Base": "", "SFT": "3f9a12cd" * 8, "DPO": "3f9a12cd" * 8}
    give(supervisor, 11, contest, adapters={"Base": "", "DPO": "of before"})
    told = comparison.tally_payload(supervisor.registry)
    assert told["wins"] == [0, 0] and told["checks"] == [
        "11 earlier votes are not counted: the adapter or the system prompt of a model was different then."
    ]
    give(supervisor, 1, contest, adapters={"Base": "", "DPO": now["DPO"]})
    assert wins(supervisor) == [0, 1] and CompareActions(supervisor).export_pairs(CompareChoice())["count"] == 1
    ask(supervisor, contest)
    assert blind_voting.undo_vote(supervisor.registry).adapters["DPO"] == now["DPO"]
    with pytest.raises(BusyError) as error:
        blind_voting.undo_vote(supervisor.registry)
    assert error.value.text.code == "blind_voting.no_vote"


def test_a_prompted_base_is_another_lane_under_another_prompt(supervisor, contest) -> None:  # noqa: F811
    between = LanePair(run=contest.run, first="Base", second=lane_choices.PROMPTED)
    short = load(supervisor, contest.run, ("Base",), "Be short.")
    made = short.lane_identities[lane_choices.PROMPTED]
    assert made.startswith("system prompt ")
    give(supervisor, 2, between, adapters={"Base": "", lane_choices.PROMPTED: made})
    assert wins(supervisor) == [0, 2]
    long = load(supervisor, contest.run, ("Base",), "Be long.")
    assert long is not short and wins(supervisor) == [0, 0]


def test_the_same_lanes_of_two_runs_are_two_comparisons(supervisor, contest) -> None:  # noqa: F811
    """The base alone and prompted is the same job in both; what was asked, voted and scored in one is not the other's."""
    other = finished(supervisor, name="other")
    first = load(supervisor, contest.run, ("Base",), "Be short.")
    between = blind_voting.lane_pair(contest.run, ("Base", lane_choices.PROMPTED), "Base", lane_choices.PROMPTED)
    blind_voting.start_question(supervisor.compare, between, "bundled", Sampling(), first.job.lanes)
    second = load(supervisor, other, ("Base",), "Be short.")
    assert second is not first and second.job == first.job
    assert (first.run, second.run, second.open_question) == (contest.run, other, None)


def test_scores_are_of_the_loaded_lanes_alone(supervisor, contest) -> None:  # noqa: F811
    share = ConfidenceInterval(0.5, 0.4, 0.6, 40).__dict__
    numbers = {name: share for name in ("accuracy", "margin", "perplexity", "divergence")}
    scores = [{"lane": lane, **numbers} for lane in ("Base", "SFT", "DPO", "DPO at 50%", lane_choices.PROMPTED)]
    (supervisor.registry.run_dir(contest.run) / "scores.json").write_text(json.dumps({"scores": scores}))
    other = finished(supervisor, name="other")
    load(supervisor, contest.run, ("Base", "DPO"))
    assert comparison.scores_payload(supervisor.registry)["table"]["lanes"] == ["Base", "DPO"]
    load(supervisor, contest.run, ("DPO at 150%",), "Be short.")
    assert comparison.scores_payload(supervisor.registry)["table"] is None
    load(supervisor, other)
    assert comparison.scores_payload(supervisor.registry)["table"] is None
