"""What the tally says in words, and that a vote in the page is the only thing that tells who was who."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from tests.test_ballot import ask, contest, supervisor  # noqa: F401  (fixtures)
from tests.test_votes import CONTEST, vote
from trainer_core import ballot, votes
from trainer_core.config import Sampling
from trainer_core.events import Heated, LaneProof, LaneScore, Measured, Piece, Scored, Scoring
from trainer_core.supervisor import wait_for
from ui import compared
from ui.booth import Booth


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
        (5, 15, "75% DPO (95 % interval 53–89) · p = 0.041", "Leaning DPO, not settled. Next check at 30"),
        (4, 16, "80% DPO (95 % interval 58–92) · p = 0.012", "Clear: DPO is better, by the check at 20 votes. Next check at 30"),
        (16, 4, "20% DPO", "Clear: Base is better, by the check at 20 votes."),
        (21, 19, "48% DPO", "No difference seen in 40 votes."),
    ],
)  # fmt: skip
def test_words_of_the_tally(first: int, second: int, odds: str, verdict: str) -> None:
    found = votes.tally(given(first, second), CONTEST)
    assert compared.odds(found).startswith(odds) and compared.verdict(found).startswith(verdict)


def test_seventeen_votes_keep_the_verdict_of_ten() -> None:
    ten = [vote(at, "left" if at else "right", left="DPO") for at in range(10)]
    told = compared.verdict(votes.tally(ten, CONTEST))
    more = [*ten, *(vote(10 + at, "right", left="DPO") for at in range(7))]
    assert told.startswith("Clear: DPO") and compared.verdict(votes.tally(more, CONTEST)) == told


def test_ties_alone_decide_nothing() -> None:
    found = votes.tally(given(0, 0, ties=12), CONTEST)
    assert (found.decided, found.share, compared.others(found)) == (0, None, "12 ties")
    assert compared.verdict(found) == "Not decided yet. Next check at 10 decided votes."
    assert compared.bias(found) == compared.lengths(found) == ""


def test_a_habit_of_one_side_is_told() -> None:
    found = votes.tally([vote(at, "left", left="Base" if at % 2 else "DPO") for at in range(20)], CONTEST)
    assert compared.bias(found).startswith("You picked the left side 100% of the time. That is more than chance")
    few = votes.tally([vote(at, "left", left="Base") for at in range(compared.FEW_SIDES - 1)], CONTEST)
    assert compared.bias(few) == "", "nine votes are no habit"


def test_the_lanes_of_a_measure_share_one_scale() -> None:
    lanes = [
        LaneScore(name, Measured(0.5, 0.25, 0.75, 40), margin, some, some)
        for name, margin, some in (
            ("Base", Measured(-1.0, -2.0, 0.0, 40), Measured(10.0, None, None, 1)),
            ("DPO", Measured(1.0, 0.0, 2.0, 40), Measured(20.0, None, None, 1)),
        )
    ]
    told = compared.table(Scored(tuple(lanes)))
    assert [one["title"] for one in told["first"]] == ["Held-out accuracy"]
    margin, perplexity, _ = told["rest"]
    assert told["first"][0]["spans"] == [[0.5, 0.25, 0.75]] * 2, "a share stands on the whole of 0 to 1"
    assert margin["spans"] == [[0.25, 0.0, 0.5], [0.75, 0.5, 1.0]] and margin["zero"] == 0.5
    assert perplexity["spans"] == [[0.5, 0.5, 0.5], [1.0, 1.0, 1.0]] and perplexity["zero"] == 0


def test_what_an_adapter_does_is_one_word_and_its_hash_a_tooltip() -> None:
    proof = LaneProof("DPO", "3f9a12cd" + 56 * "0", 4.2)
    assert compared.proof_words(proof) == "Adapter active ✓" and compared.proof_words(None) == ""
    assert compared.proof_words(replace(proof, strength=0.5)) == "Adapter active ✓ at 50%"
    assert compared.proof_words(replace(proof, difference=0.0)).startswith("Adapter changes nothing")
    assert compared.hash_words(proof) == "adapter 3f9a12cd, moves logits by up to 4.2"


def test_heat_and_dials_are_not_told_while_names_are_hidden(supervisor, contest) -> None:  # noqa: F811
    ask(supervisor, contest)
    current = supervisor.comparison
    heated = Heated("x", ("Base", "DPO"), (Piece("a", -1.0, -2.0),))
    current.watched.view = replace(current.view, heated=heated)
    told = compared.parts(supervisor)
    assert told["heat"] is None and all(lane["dial"] is None for lane in told["compare"]["lanes"])
    with pytest.raises(Exception, match="A blind vote is going"):
        Booth(supervisor).dial({"lane": "DPO", "strength": 0.5})
    with pytest.raises(Exception, match="under their names"):
        Booth(supervisor).heat({"answer": "DPO", "lanes": ["Base", "DPO"]})
    ballot.leave(supervisor)
    assert compared.parts(supervisor)["heat"]["pieces"] == [["a", -1.0, -2.0]]


def test_a_scoring_tells_how_far_it_is(supervisor, contest) -> None:  # noqa: F811
    current = supervisor.compare_run(contest.run)
    assert wait_for(lambda: supervisor.look() or bool(current.view.lanes), 30, 0.02)
    current.watched.view = replace(current.view, scoring=Scoring("held-out pairs", 1, 3, 30, 120, 90.0))
    told = compared.scores(supervisor)
    assert told["going"].startswith("Scoring, part 1 of 3: held-out pairs, 25%") and told["done"] == 0.25


def test_scores_of_an_earlier_day_are_shown(supervisor, contest) -> None:  # noqa: F811
    share = Measured(0.5, 0.4, 0.6, 40).__dict__
    score = {"lane": "Base", "accuracy": share, "margin": share, "perplexity": share, "divergence": share}
    (supervisor.run_dir(contest.run) / "scores.json").write_text(json.dumps({"scores": [score]}))
    supervisor.compare_run(contest.run)
    (accuracy,) = compared.scores(supervisor)["table"]["first"]
    assert (accuracy["title"], accuracy["cells"]) == ("Held-out accuracy", ["50% [40%, 60%]"])


def test_a_conversation_goes_on_in_every_lane(supervisor, contest) -> None:  # noqa: F811
    current = supervisor.compare_run(contest.run)
    first = current.ask("One?", Sampling())
    assert wait_for(
        lambda: supervisor.look() or bool(current.view.said_to(first)) and bool(current.said.ends), 30, 0.02
    )
    current.ask("Two?", Sampling(), follow=True)
    assert [turn.prompt for turn in current.talk] == ["One?"]
    assert compared.comparison(supervisor)["lanes"][1]["before"][0]["text"] == current.talk[0].answers["SFT"] != ""
    current.ask("Three?", Sampling())
    assert current.talk == ()


def test_damaged_files_are_named_and_the_page_lives_on(supervisor, contest) -> None:  # noqa: F811
    votes.file_of(supervisor.workspace).write_text('{"kind": "nothing"}\n')
    (supervisor.run_dir(contest.run) / "scores.json").write_text("{")
    supervisor.compare_run(contest.run)
    told = compared.parts(supervisor)
    assert "votes.jsonl, line 1: this is no vote of this version" in told["tally"]["problem"]
    assert "holds no scores of this version. Score the lanes again" in told["scores"]["problem"]
