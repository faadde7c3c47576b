"""Votes: nothing acknowledged is lost, sides are fair, a tally is a fold, and pairs of votes are data that can be trained on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from trainer_core import data
from trainer_core.config.recipe import Data, MethodChain, Sampling
from trainer_core.data.stream import CheckOptions, ReadRequest
from trainer_core.errors import DataError, DiskError
from trainer_core.evaluation import preference_data, tally, votes
from trainer_core.evaluation.preference_data import Provenance
from trainer_core.evaluation.votes import BlindQuestion, LanePair, Undo, Vote, WrittenAnswer
from trainer_core.runs.compare_requests import ChatMessage
from trainer_core.runs.workspace import Workspace
from trainer_core.system import project
from trainer_core.texts import Text, verbatim

CONTEST = LanePair(run="r1", first="Base", second="DPO")
NOW = datetime(2026, 11, 23, 8, 0, tzinfo=UTC)


def vote(at: int, choice: str = "left", left: str = "DPO", contest: LanePair = CONTEST, **more: object) -> Vote:
    said = {contest.first: f"The base says {at}.", contest.second: f"Trained to say {at}, and more of it."}
    asked = (ChatMessage(role="user", content=f"Question {at}?"),)
    known = {"messages": asked, "answers": said, "index": at, "seed": 7, "sampling": Sampling(), **more}
    return Vote(id=f"v{at}", at=NOW, contest=contest, choice=choice, left=left, **known)  # type: ignore[arg-type]


def undo(at: int) -> Undo:
    return Undo(vote=f"v{at}", at=NOW)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return votes.votes_path(Workspace(tmp_path))


# ---- the file


def test_what_was_appended_is_read_back_in_order(file):
    said = [vote(0), undo(0), vote(1, "bad"), WrittenAnswer(vote="v1", at=NOW, text="Ünlike «both»\n</script>")]
    for line in said:
        votes.append_record(file, line)
    assert votes.read_vote_records(file) == said


def test_a_torn_last_line_is_cut_before_the_next_vote(file):
    votes.append_record(file, vote(0))
    with file.open("ab") as torn:
        torn.write(b'{"kind":"vote","id":"v1","at":"20')
    assert votes.read_vote_records(file) == [vote(0)]
    votes.append_record(file, vote(2))
    assert votes.read_vote_records(file) == [vote(0), vote(2)]


def test_a_line_of_something_else_is_named_and_nothing_is_changed(file):
    votes.append_record(file, vote(0))
    with file.open("ab") as other:
        other.write(b'{"kind":"poll"}\n')
    before = file.read_bytes()
    with pytest.raises(DataError) as refused:
        votes.read_vote_records(file)
    params = refused.value.text.params
    assert refused.value.text.code == "votes.other_version" and (params["path"], params["line"]) == (str(file), 2)
    assert file.read_bytes() == before


def test_a_full_disk_is_said_and_leaves_the_votes_as_they_were(file, tmp_path):
    votes.append_record(file, vote(0))
    for at in (1, 2):
        with pytest.raises(DiskError, match="disk is full"):
            in_child(file, 1, fault=f"enospc:{at}")
        assert votes.read_vote_records(file) == [vote(0)]


def in_child(file: Path, number: int, fault: str = "") -> None:
    """Append one vote in another process, with a fault at one of its writes."""
    code = (
        "import sys; from pathlib import Path; from tests.trainer_core.evaluation.test_votes import vote, votes\n"
        "from trainer_core.errors import DiskError\n"
        f"try: votes.append_record(Path(sys.argv[1]), vote({number}))\n"
        "except DiskError as error: sys.exit(str(error))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(file)],
        env={**os.environ, "TUNEBENCH_FAULT": fault},
        cwd=project.PROJECT,
        capture_output=True,
        text=True,
    )
    if done.returncode == 1:
        raise DiskError(verbatim(done.stderr))


@pytest.mark.skipif(os.name != "posix", reason="fork and SIGKILL")
@pytest.mark.parametrize("killed_after", [1, 2, 7, 23])
def test_kill_9_while_voting_loses_no_acknowledged_vote(file, killed_after):
    """A child votes as fast as it can and says each vote that was acknowledged; it is killed in the middle of one."""
    hears, says = os.pipe()
    child = os.fork()
    if child == 0:
        for at in range(100_000):
            votes.append_record(file, vote(at))
            os.write(says, b"%d\n" % at)
        os._exit(0)
    os.close(says)
    with os.fdopen(hears, "rb") as heard:
        acknowledged = [int(heard.readline()) for _ in range(killed_after)]
        os.kill(child, signal.SIGKILL)
        acknowledged += [int(line) for line in heard.read().splitlines()]
    os.waitpid(child, 0)
    kept = [int(line.id[1:]) for line in votes.read_vote_records(file)]
    assert kept[: len(acknowledged)] == acknowledged
    assert len(kept) - len(acknowledged) in (0, 1), "at most the vote it was killed in"
    votes.append_record(file, vote(999_999))
    assert votes.read_vote_records(file)[-1].id == "v999999", "the next app goes on"


@pytest.mark.real
@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
def test_kill_at_every_write_leaves_the_vote_or_none_of_it(file):
    for point in (1, 2, 3):
        before = votes.read_vote_records(file)
        in_child(file, point, fault=f"kill:{point}")
        after = votes.read_vote_records(file)
        assert after[: len(before)] == before and len(after) <= len(before) + 1


# ---- sides


@pytest.mark.parametrize("seed", range(20))
def test_each_lane_is_on_the_left_in_twenty_of_forty_questions(seed):
    sides = [votes.is_first_lane_left(seed, index) for index in range(40)]
    assert sum(sides) == 20
    assert all(
        sum(sides[at : at + votes.BALANCED_BLOCK]) == votes.BALANCED_BLOCK // 2
        for at in range(0, 40, votes.BALANCED_BLOCK)
    )


def test_sides_follow_the_seed():
    drawn = {tuple(votes.is_first_lane_left(seed, index) for index in range(40)) for seed in range(30)}
    assert len(drawn) == 30
    assert votes.is_first_lane_left(7, 3) == votes.is_first_lane_left(7, 3)


def test_a_round_hides_the_names_until_the_vote_and_not_after_an_undo():
    asked = BlindQuestion(CONTEST, vote(0).messages, "", 0, 7, Sampling(), "a1")
    assert asked.is_blind and {asked.left_lane, asked.right_lane} == {"Base", "DPO"}
    assert not replace(asked, vote=vote(0)).is_blind
    assert not replace(asked, again=True).is_blind


def test_the_next_draw_goes_on_with_the_contests_seed_and_an_undone_draw_is_used_up():
    other = LanePair(run="r2", first="Base", second="DPO")
    given = [vote(0), vote(1), undo(1), vote(5, contest=other, seed=9)]
    assert votes.next_draw(given, CONTEST, 99) == (7, 2)
    assert votes.next_draw(given, other, 99) == (9, 6)
    assert votes.next_draw([], CONTEST, 99) == (99, 0)


# ---- the count


def test_a_vote_goes_to_the_lane_that_stood_on_that_side():
    assert vote(0, "left", left="DPO").winner == "DPO"
    assert vote(0, "right", left="DPO").winner == "Base"
    assert vote(0, "right", left="Base").winner == "DPO"
    assert [vote(0, choice).winner for choice in ("tie", "bad", "skip")] == [None, None, None]


def test_a_tally_counts_what_stands():
    given = [vote(0), vote(1), vote(2, "right"), undo(1), vote(3, "tie"), vote(4, "bad"), vote(5, "skip")]
    counted = tally.tally_votes(votes.active_votes(given), CONTEST)
    assert (counted.first, counted.second) == (1, 1)
    assert (counted.ties, counted.bad, counted.skipped, counted.pairs) == (1, 1, 1, 2)
    assert counted.share is None, "no percentage below five decided votes"
    assert counted.bias.left == 1


def test_no_votes_and_only_ties_decide_nothing():
    for given in ([], [vote(at, "tie") for at in range(30)]):
        counted = tally.tally_votes(given, CONTEST)
        assert (counted.decided_votes, counted.p, counted.share) == (0, 1.0, None)
        assert counted.verdict.word == "Not decided yet"


def test_16_to_4_is_clear_and_15_to_5_leans():
    for won, word in ((16, "Clear"), (15, "Leaning")):
        given = [vote(at, "left" if at < won else "right") for at in range(20)]
        counted = tally.tally_votes(given, CONTEST)
        assert (counted.first, counted.second, counted.verdict.word) == (20 - won, won, word)
        assert counted.share and counted.share.value == won / 20


def test_votes_of_another_contest_do_not_count():
    other = LanePair(run="r1", first="SFT", second="DPO")
    assert tally.tally_votes([vote(0), vote(1, contest=other)], CONTEST).decided_votes == 1


def test_kinds_are_counted_apart():
    given = [
        vote(0, tag="explain"),
        vote(1, "right", tag="explain"),
        vote(2, "tie", tag="write"),
        vote(3, "skip", tag="x"),
    ]
    assert tally.tally_votes(given, CONTEST).kinds == {"explain": (1, 0, 1), "write": (0, 1, 0)}


def test_strengths_need_three_lanes():
    pair = LanePair(run="r1", first="SFT", second="DPO")
    two = [vote(at) for at in range(6)]
    assert tally.lane_strengths(two, "r1") == {}
    three = tally.lane_strengths([*two, *(vote(10 + at, left="DPO", contest=pair) for at in range(6))], "r1")
    assert set(three) == {"Base", "SFT", "DPO"}
    assert max(three, key=lambda name: three[name].value) == "DPO"


# ---- pairs


def test_pairs_are_the_decided_votes_and_better_answers_of_ones_own():
    own = WrittenAnswer(vote="v3", at=NOW, text="Mine.")
    given = [vote(0), vote(1, "right"), vote(2, "tie"), vote(3, "bad"), vote(4, "bad"), vote(5, "skip"), own]
    made = preference_data.make_preference_rows(votes.active_votes(given))
    assert [(one.vote, one.chosen[:10], one.rejected[:10]) for one in made] == [
        ("v0", "Trained to", "The base s"),
        ("v1", "The base s", "Trained to"),
        ("v3", "Mine.", "Trained to"),
    ]


def test_equal_or_empty_answers_make_no_pair():
    assert preference_data.make_preference_rows([vote(0, answers={"Base": "Same. ", "DPO": "Same."})]) == []
    assert preference_data.make_preference_rows([vote(0, answers={"Base": "", "DPO": "Something."})]) == []


def test_a_data_set_of_votes_is_read_as_pairs_and_says_where_it_is_from(tmp_path):
    workspace = Workspace(tmp_path)
    given = [vote(at, "left" if at % 3 else "right", adapters={"DPO": "3f9a"}) for at in range(20)]
    given.append(vote(20, "tie", adapters={"DPO": "3f9a"}))
    place = preference_data.write_vote_data_set(workspace, given, CONTEST)
    with data.SandboxReader() as reader:
        report = next(
            news for news in reader.ask(ReadRequest(place, checkup=CheckOptions())) if isinstance(news, data.DataReport)
        )
    assert (report.kind, report.rows, report.usable, report.blocked) == ("pairs", 20, 20, ())
    counted = data.count_rows(Data(pairs=str(place), chat=None), MethodChain("dpo"))
    assert counted.rows["dpo"] + counted.held_out == 20
    [(title, found)] = preference_data.list_vote_data_sets(workspace)
    assert found == place
    assert title.startswith("20 pairs from votes: Base and DPO, ")
    about = Provenance.model_validate_json(preference_data.provenance_path(place).read_bytes())
    assert about.contest == CONTEST and about.votes == {"left": 13, "right": 7, "tie": 1}
    assert about.adapters == {"DPO": "3f9a"}


def test_a_second_data_set_gets_a_name_of_its_own(tmp_path):
    workspace = Workspace(tmp_path)
    places = [preference_data.write_vote_data_set(workspace, [vote(0)], CONTEST) for _ in range(2)]
    assert len(set(places)) == 2 and all(place.exists() for place in places)


def test_without_a_decided_vote_there_is_no_data_set(tmp_path):
    with pytest.raises(DataError, match=str(Text("vote_pairs.none", votes=2))):
        preference_data.write_vote_data_set(Workspace(tmp_path), [vote(0, "tie"), vote(1, "bad")], CONTEST)
    assert list((tmp_path / "data").glob("*.jsonl")) == []
