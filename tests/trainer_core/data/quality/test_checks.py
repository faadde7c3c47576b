"""Every fault, planted a known number of times, is found exactly that often, and its remedy takes away exactly those rows."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer_core import data
from trainer_core.config.recipe import Data, MethodChain
from trainer_core.data import CheckOptions, DataFinding, DataReport, Message, Pair, ReadRequest, load_data
from trainer_core.data.quality import analysis, checks, remedies
from trainer_core.data.quality.checks import QUALITY_CHECKS
from trainer_core.errors import DataError
from trainer_core.texts import Text

Row = dict[str, Any]
ROWS = 300


def pair(n: int) -> Row:
    long = f"the number {n} is followed by {n + 1}, and that is how counting goes on and on"
    return {
        "prompt": [{"role": "user", "content": f"What comes after {n}?"}],
        "chosen": [{"role": "assistant", "content": f"Yes: {long}."}],
        "rejected": [
            {"role": "assistant", "content": f"Counting {n} things is dull, ask somebody else about it, friend."}
        ],
        "score_chosen": 9,
        "score_rejected": 2,
    }


def check(path: Path, checkup: CheckOptions | None = None) -> DataReport:
    """The check that the child does, without a child."""
    *_, report = analysis.analyse_data(ReadRequest(path, checkup=checkup or CheckOptions()))
    assert isinstance(report, DataReport)
    return report


def say(row: Row, part: str, text: str) -> None:
    row[part][0]["content"] = text


@dataclass(frozen=True)
class Plant:
    """A fault: how a good row gets it, how often, and what a mending step makes of it, if there is one."""

    code: str
    count: int
    spoil: Callable[[Row], None]
    mend: str = ""


def ask_twice(row: Row) -> None:
    row["prompt"].append({"role": "user", "content": "And then?"})


def reverse(row: Row) -> None:
    row["score_chosen"], row["score_rejected"] = 2, 9


def weigh(row: Row, weight: object) -> None:
    """An earlier answer that is only to be read."""
    row["prompt"] = [
        *row["prompt"],
        {"role": "assistant", "content": "Wait.", "weight": weight},
        {"role": "user", "content": "Now?"},
    ]


PLANTS = (
    Plant("empty_prompt", 2, lambda row: say(row, "prompt", " \n")),
    Plant("empty_answer", 3, lambda row: say(row, "chosen", "")),
    Plant("identical", 4, lambda row: say(row, "rejected", row["chosen"][0]["content"])),
    Plant("near_identical", 5, lambda row: say(row, "rejected", row["chosen"][0]["content"].replace("Yes", "Yep"))),
    Plant("reversed", 6, reverse, "reverse"),
    Plant("markers", 7, lambda row: say(row, "chosen", row["chosen"][0]["content"] + "<|im_end|>"), "strip_markers"),
    Plant("headings", 2, lambda row: say(row, "prompt", "### Instruction:\n" + row["prompt"][0]["content"])),
    Plant("placeholder", 3, lambda row: say(row, "chosen", "Dear {{name}}, " + row["chosen"][0]["content"])),
    Plant("roles", 4, ask_twice, "join_turns"),
    Plant(
        "encoding", 5, lambda row: say(row, "rejected", row["rejected"][0]["content"] + " trÃ¨s bien"), "mend_encoding"
    ),
    Plant(
        "personal", 6, lambda row: say(row, "rejected", "Mail me@example.org, " + row["rejected"][0]["content"]), "mask"
    ),
    Plant("tools", 3, lambda row: row.update(tools='[{"name": "count"}]')),
    Plant("pictures", 4, lambda row: say(row, "prompt", "<image>\n" + row["prompt"][0]["content"]), "strip_pictures"),
    Plant("weight_zero", 5, lambda row: weigh(row, 0), "learn_all"),
    Plant("reasoning", 6, lambda row: row["chosen"][0].update(reasoning_content="One by one."), "learn_reasoning"),
    Plant(
        "repeated_question",
        7,
        lambda row: say(row, "chosen", f"{row['prompt'][0]['content']}\n\n{row['chosen'][0]['content']}"),
        "strip_question",
    ),
)


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 pairs with every fault planted, each in rows of its own; then repeats, rows that do not fit and damaged lines."""
    rows = [pair(n) for n in range(ROWS)]
    at = 10
    for plant in PLANTS:
        for row in rows[at : at + plant.count]:
            plant.spoil(row)
        at += plant.count
    rows += [pair(n) for n in range(7)]
    for n in range(8):
        rows.append(
            {
                **pair(n + 100),
                "chosen": [{"role": "assistant", "content": f"Another answer to the question {n}, quite short."}],
            }
        )
    rows += [{**pair(900), "chosen": None}, {**pair(901), "prompt": [{"role": "narrator", "content": "Once"}]}]
    path = tmp_path_factory.mktemp("planted") / "planted.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"prompt": \n{"chosen"\n', encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def held_out(planted: Path) -> Path:
    path = planted.with_name("held-out.jsonl")
    path.write_text("".join(json.dumps(pair(n)) + "\n" for n in (200, 201, 202, 5000)))
    return path


@pytest.fixture(scope="module")
def report(planted: Path, held_out: Path) -> DataReport:
    return check(planted, checkup=CheckOptions(held_out=held_out))


def counts(report: DataReport) -> dict[str, int]:
    return {finding.code: finding.count for finding in report.findings}


def finding(report: DataReport, code: str) -> DataFinding:
    return next(one for one in report.findings if one.code == code)


def test_every_planted_fault_is_counted_exactly(report: DataReport) -> None:
    expected = {plant.code: plant.count for plant in PLANTS}
    expected |= {"duplicate_row": 7, "duplicate_prompt": 8, "leaked": 3, "damaged": 2}
    expected |= {"misfit: missing": 1, "misfit: unknown role": 1}
    assert counts(report) == expected
    assert (report.rows, report.usable) == (ROWS + 7 + 8 + 2 + 2, ROWS + 7 + 8 - 2 - 3 - 4)
    assert report.train + report.held_out == report.usable


def test_errors_come_first_and_examples_name_their_line(report: DataReport) -> None:
    levels = [finding.level for finding in report.findings]
    assert levels == sorted(levels, key=["error", "warning", "notice"].index)
    example = finding(report, "personal").examples[0]
    assert (example.line, len(finding(report, "personal").examples)) == (52, 5)
    assert "me@example.org" in example.snippet
    told = Text("finding.rows", rows=6, total=319, meaning=Text("quality.personal"))
    assert finding(report, "personal").sentence == str(told)


def test_the_report_of_the_child_is_the_same(planted: Path, held_out: Path, report: DataReport) -> None:
    assert data.check_dataset(planted, checkup=CheckOptions(held_out=held_out)) == report


DROPS = [
    code for code, fault in QUALITY_CHECKS.items() if fault.level != "error" and code not in ("swapped", "unanswered")
]


@pytest.mark.parametrize("code", DROPS)
def test_leaving_out_takes_exactly_the_rows_found(planted: Path, held_out: Path, report: DataReport, code: str) -> None:
    after = check(planted, checkup=CheckOptions(held_out=held_out, steps=(f"drop_{code}",)))
    assert report.usable - after.usable == counts(report)[code]
    assert code not in counts(after)
    about = {"rows": counts(report)[code], "step": f"drop_{code}", "meaning": Text(f"quality.{code}")}
    assert str(Text("left_out.fault", **about)) in after.notes


@pytest.mark.parametrize("plant", [plant for plant in PLANTS if plant.mend], ids=lambda plant: plant.code)
def test_mending_keeps_the_rows_and_takes_the_fault(
    planted: Path, held_out: Path, report: DataReport, plant: Plant
) -> None:
    assert plant.mend in [remedy.step for remedy in finding(report, plant.code).remedies]
    after = check(planted, checkup=CheckOptions(held_out=held_out, steps=(plant.mend,)))
    others = {code: count for code, count in counts(report).items() if code != plant.code}
    assert counts(after) == others
    assert after.usable == report.usable


def test_training_gets_the_same_rows_as_the_report_says(planted: Path, report: DataReport) -> None:
    steps = ("skip_damaged", "drop_markers", "drop_duplicate_row")
    after = check(planted, checkup=CheckOptions(steps=steps))
    loaded = load_data(Data(pairs=str(planted), steps=steps), MethodChain("dpo"))
    assert (len(loaded.pairs), len(loaded.held_out)) == (after.train, after.held_out)
    assert after.usable == report.usable - 7 - 7


def test_chosen_that_is_longer_is_said_with_its_ratio(tmp_path: Path) -> None:
    rows = [
        {"prompt": f"{n}?", "chosen": "word " * 20, "rejected": "word " * (30 if n < 50 else 10)} for n in range(250)
    ]
    path = tmp_path / "p.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = finding(check(path), "long_chosen")
    assert found.count == 200
    assert found.sentence == str(Text("finding.long_chosen", ratio=2.0, share=0.8))


def chats(path: Path, rows: list[list[tuple[str, str]]]) -> Path:
    texts = [{"messages": [{"role": role, "content": text} for role, text in row]} for row in rows]
    path.write_text("".join(json.dumps(row) + "\n" for row in texts))
    return path


def test_faults_of_chats(tmp_path: Path) -> None:
    rows = [[("user", f"Tell {n}"), ("assistant", f"Told {n}")] for n in range(40)]
    rows[3].insert(0, ("system", "Be kind."))
    rows[5].append(("user", "And?"))
    rows[7] = [
        ("user", "The capital of France is Paris, a city on the river Seine."),
        ("assistant", "What is its capital?"),
    ]
    rows[9] = [("assistant", "Hello"), ("user", "Hi"), ("assistant", "How are you?")]
    report = check(chats(tmp_path / "c.jsonl", rows))
    assert counts(report) == {"unanswered": 1, "swapped": 1, "roles": 1, "system": 1, "few": 40}
    swapped = load_data(
        Data(pairs=None, chat=str(tmp_path / "c.jsonl"), steps=("swap", "no_system")), MethodChain("sft")
    )
    asked = {chat.messages[0].content for chat in swapped.chats + swapped.held_out_chats}
    assert "What is its capital?" in asked and "Be kind." not in asked


LONG_QUESTION, SHORT_QUESTION = "What grows in the third bed?", "Why?"


@pytest.mark.parametrize(
    ("question", "answer", "stripped"),
    [
        (LONG_QUESTION, f"{LONG_QUESTION} Beans.", "Beans."),
        (f" {LONG_QUESTION}\n", f"\n{LONG_QUESTION}\n\nBeans.", "Beans."),
        (LONG_QUESTION, f"Question: {LONG_QUESTION}\nAnswer: beans.", ""),
        ("第三块地里种的是什么东西？", "第三块地里种的是什么东西？豆子。", "豆子。"),
        (SHORT_QUESTION, f"{SHORT_QUESTION} Because.", "Because."),
    ],
)
def test_a_question_inside_its_answer_is_found_on_either_side(
    tmp_path: Path, question: str, answer: str, stripped: str
) -> None:
    good = [{"prompt": f"{n}?", "chosen": f"It is {n}.", "rejected": "No."} for n in range(40)]
    for side in ("chosen", "rejected"):
        path = tmp_path / "p.jsonl"
        path.write_text(
            "".join(json.dumps(row) + "\n" for row in [*good, {**good[0], "prompt": question, side: answer}])
        )
        found = finding(check(path), "repeated_question")
        assert (found.level, found.count, found.examples[0].line) == ("warning", 1, 41)
        assert "repeated_question" not in counts(check(path, CheckOptions(steps=("drop_repeated_question",))))
        if stripped:
            row = check(path, CheckOptions(steps=("strip_question",)))
            assert "repeated_question" not in counts(row) and row.usable == 41
    item = Pair((Message("user", question),), (Message("assistant", answer),), (Message("assistant", "No."),))
    mended = remedies.strip_questions(item)
    assert isinstance(mended, Pair) and mended.chosen[0].content == (stripped or answer)
    assert mended.rejected == item.rejected


def test_a_question_in_a_later_turn_of_a_chat(tmp_path: Path) -> None:
    rows = [[("user", f"Tell {n}"), ("assistant", f"Told {n}")] for n in range(40)]
    rows[7] += [("user", LONG_QUESTION), ("assistant", f"{LONG_QUESTION} Beans.")]
    assert counts(check(chats(tmp_path / "c.jsonl", rows)))["repeated_question"] == 1


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("Hello there", "Hello there! How can I help?"),
        ("?", "? is a question mark."),
        ("Why?", "I wonder. Why?"),
        (LONG_QUESTION, "In the third bed grow beans."),
        ("How are you?", "Fine, thanks. How are you?"),
    ],
)
def test_words_that_come_back_by_chance_are_no_repeated_question(asked: str, said: str) -> None:
    assert not checks.repeats_question(asked, said)


def test_lengths_are_told_in_characters(tmp_path: Path) -> None:
    rows = [{"prompt": "a" * 10, "chosen": "b" * 5, "rejected": "c" * (6 + n)} for n in range(39)]
    path = tmp_path / "p.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in rows))
    lengths = {one.part: one for one in check(path).lengths}
    assert {part: (one.median, one.p95, one.longest) for part, one in lengths.items()} == {
        "row": (35, 53, 54),
        "prompt": (10, 10, 10),
        "chosen": (5, 5, 5),
        "rejected": (25, 43, 44),
    }
    assert lengths["row"].bins == ((0, 16, 0), (16, 32, 16), (32, 64, 23))
    chat = chats(tmp_path / "c.jsonl", [[("user", "a" * 3), ("assistant", "b" * 4)]] * 20)
    assert [(one.part, one.median, one.unit) for one in check(chat).lengths] == [
        ("row", 7, "characters"),
        ("prompt", 3, "characters"),
        ("answers", 4, "characters"),
    ]


def test_a_set_written_for_another_template_is_refused_with_the_way_out(tmp_path: Path) -> None:
    rows = [[("user", f"Tell {n}"), ("assistant", f"Told {n}" + "<|eot_id|>" * (n % 5 == 0))] for n in range(50)]
    path = chats(tmp_path / "c.jsonl", rows)
    report = check(path)
    assert (finding(report, "markers").level, len(report.blocked)) == ("error", 1)
    with pytest.raises(DataError) as error:
        load_data(Data(pairs=None, chat=str(path)), MethodChain("sft"))
    assert error.value.text == Text("remedies.many_markers", rows=10, total=50, file="c.jsonl")
    assert report.blocked == (str(error.value),)
    assert check(path, CheckOptions(steps=("strip_markers",))).blocked == ()
    loaded = load_data(Data(pairs=None, chat=str(path), steps=("strip_markers",)), MethodChain("sft"))
    assert {chat.messages[1].content for chat in loaded.chats} < {f"Told {n}" for n in range(50)}


def test_few_markers_are_a_warning_only(tmp_path: Path) -> None:
    rows = [[("user", f"Tell {n}"), ("assistant", f"Told {n}" + "<|eot_id|>" * (n == 7))] for n in range(50)]
    report = check(chats(tmp_path / "c.jsonl", rows))
    assert (finding(report, "markers").level, report.blocked) == ("warning", ())


HEADINGS = ["### Human: why?", "### Assistant: so", "USER: why? ASSISTANT: so", "09:14 USER: root signed in"]
PROSE = ["SUPERUSER: root", "user: root", "USER:root", "The USER manual", "## Human rights"]


@pytest.mark.parametrize(("text", "found"), [*((one, True) for one in HEADINGS), *((one, False) for one in PROSE)])
def test_headings_inside_a_text_are_a_warning_with_a_count(tmp_path: Path, text: str, found: bool) -> None:
    """A line of a log may look like one: nothing is refused or changed unasked."""
    rows = [
        [("user", f"Tell {n}"), ("assistant", f"Told {n}. {text} {n}" if n < 3 else f"Told {n}")] for n in range(50)
    ]
    report = check(chats(tmp_path / "c.jsonl", rows))
    assert counts(report).get("headings", 0) == (3 if found else 0) and report.blocked == ()
    assert not found or (finding(report, "headings").level, report.usable) == ("warning", 50)


def test_sides_of_one_answer_differ_by_reasoning_that_is_learned_alone() -> None:
    """DPO reads no other, so the reason is that the answers are the same."""
    asked, plain = Message("user", "Why?"), Message("assistant", "So.")
    for learned, code in ((False, "identical"), (True, None)):
        thought = Message("assistant", "So.", reasoning="Hm.", learn_reasoning=learned)
        assert checks.unusable_code(Pair((asked,), (plain,), (thought,))) == code
        assert checks.unusable_code(Pair((asked,), (thought,), (thought,))) == "identical"


def test_a_transcript_without_its_last_answer_is_called_that(tmp_path: Path) -> None:
    def side(n: int, answer: str) -> str:
        return f"\n\nHuman: What grows in bed {n}?\n\nAssistant:{answer}"

    rows = [{"chosen": side(n, " Beans."), "rejected": side(n, " Stones." if n else "")} for n in range(40)]
    path = tmp_path / "hh.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert counts(check(path)).get("empty_answer") == 1 and "identical" not in counts(check(path))


def test_a_report_can_be_read_aloud(report: DataReport) -> None:
    text = "\n".join(report.as_lines())
    assert "planted.jsonl: preference pairs as messages (prompt ← prompt, chosen ← chosen" in text
    assert "    planted.jsonl, line 52: " in text
    assert "    Take the markers out: strip_markers" in text
    assert text.endswith(str(Text("blocked.damaged", lines=2, file="planted.jsonl")))


@pytest.mark.parametrize(("changed", "found"), [(4, True), (8, False)])
def test_sides_that_share_95_percent_from_both_ends_are_nearly_identical(
    tmp_path: Path, changed: int, found: bool
) -> None:
    text = "".join(f"{n:04d}" for n in range(25))  # 100 letters
    other = text[:50] + "x" * changed + text[50 + changed :]
    path = tmp_path / "p.jsonl"
    path.write_text(json.dumps({"prompt": "a?", "chosen": text, "rejected": other}))
    assert ("near_identical" in counts(check(path))) is found


SHORT = st.text("aAbB \n", max_size=8)


@settings(max_examples=300)
@given(ends=st.tuples(SHORT, SHORT, SHORT, SHORT), middle=st.integers(0, 60), other=st.booleans())
def test_a_look_at_the_ends_says_what_a_look_at_all_says(
    ends: tuple[str, str, str, str], middle: int, other: bool
) -> None:
    start, other_start, end, other_end = ends
    one = Message("assistant", f"{start}{'.' * middle}{end}")
    two = Message("assistant", f"{other_start}{(',' if other else '.') * middle}{other_end}")
    pair = Pair((), (one,), (two,))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(checks, "END_LETTERS", sys.maxsize)
        of_all = checks.is_near_identical(pair)
    assert checks.is_near_identical(pair) is of_all


def test_skipped_lines_are_a_note_and_no_finding(tmp_path: Path) -> None:
    """The step removes exactly the lines that cannot be read."""
    path = tmp_path / "d.jsonl"
    path.write_text("".join(json.dumps(pair(n)) + "\n" for n in range(40)) + '{"prompt": \n' * 3, encoding="utf-8")
    before, after = check(path), check(path, CheckOptions(steps=("skip_damaged",)))
    damaged = next(one for one in before.findings if one.code == "damaged")
    assert (damaged.count, damaged.remedies[0].label) == (3, "Skip 3 bad lines")
    assert damaged.examples[0].line == 41
    assert before.blocked == (str(Text("blocked.damaged", lines=3, file="d.jsonl")),)
    assert after.blocked == () and after.usable == before.usable == 40
    assert not [one for one in after.findings if one.code == "damaged"]
    assert after.notes == (str(Text("left_out.damaged", lines=3)),)
