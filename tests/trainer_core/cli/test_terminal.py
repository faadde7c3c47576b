"""What the terminal says about scores."""

from __future__ import annotations

from trainer_core.cli import terminal
from trainer_core.evaluation import score_table
from trainer_core.evaluation.confidence import measure_forgetting
from trainer_core.runs.compare_events import ConfidenceInterval, GenerationStats, LaneScore, ScoresReady

SOME = ConfidenceInterval(0.5, 0.25, 0.75, 50)


def test_the_table_has_every_lane_and_its_intervals() -> None:
    own = GenerationStats(ConfidenceInterval(21.4, 16.0, 25.0, 12), SOME, SOME)
    text = terminal.render_score_table(ScoresReady((LaneScore("Base", SOME, SOME, SOME, SOME, own=own),), "the base"))
    assert "Base" in text and "Held-out accuracy" in text and "50% [25%, 75%] (n 50)" in text and "21 [16, 25]" in text
    assert "On 50 held-out pairs" in text and "to 12 bundled prompts" in text
    assert "General questions" not in text and "Reward accuracy" not in text, "what was not measured has no line"


def test_a_lane_that_forgot_is_said_aloud() -> None:
    lost = measure_forgetting([True] * 20, [False] * 9 + [True] * 11)
    kept = measure_forgetting([True] * 20, [True] * 20)
    lanes = [
        LaneScore(name, SOME, SOME, SOME, SOME, general=SOME, forgetting=one)
        for name, one in (("Broken", lost), ("Fine", kept))
    ]
    last = terminal.render_score_table(ScoresReady(tuple(lanes))).splitlines()[-1]
    assert last.startswith("Forgotten: Broken gets 9 general questions wrong") and "p = 0.0039" in last


def test_a_number_without_an_interval_stands_alone() -> None:
    assert (
        score_table.format_measure(ConfidenceInterval(0.5, None, None, 1), ".0%") == "50% (n 1)"
        and score_table.format_measure(None, ".0%") == ""
    )


def test_the_interval_of_a_share_stays_between_nothing_and_all() -> None:
    assert score_table.format_measure(ConfidenceInterval(0.01, -0.01, 0.02, 8), ".0%") == "1% [0%, 2%] (n 8)"
    assert score_table.format_measure(ConfidenceInterval(-0.01, -0.04, 0.02, 8), "+.0%") == "-1% [-4%, +2%]", (
        "a change may be below 0"
    )
    assert score_table.format_measure(ConfidenceInterval(2.0, 1.0, 3.0, 8), ".2f") == "2.00 [1.00, 3.00]", (
        "no share has no n"
    )


def test_what_data_says_to_the_terminal_is_shown_and_not_obeyed(capsys) -> None:
    terminal.print_line("\x1b]0;title\x07 \x1b[2J \x9b1m \u202eabc\r\ttab\nline \x1b[31mred\x1b[0m é")
    terminal.print_error("\x1b[2J")
    told = capsys.readouterr()
    assert told.out == "\\x1b]0;title\\x07 \\x1b[2J \\x9b1m \\u202eabc\\r\ttab\nline \x1b[31mred\x1b[0m é\n"
    assert told.err == "\\x1b[2J\n"
