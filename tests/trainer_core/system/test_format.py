"""Numbers, sizes and durations in words."""

from __future__ import annotations

import pytest

from trainer_core.system.format import (
    GIB,
    MIB,
    format_clock,
    format_duration,
    format_estimated_duration,
    format_file_size,
    format_gb,
    format_mb,
    format_number,
    format_part_of_size,
    format_planned_value,
    format_rate,
    format_setting,
)


def test_memory_counts_like_the_cards_box() -> None:
    assert (format_gb(24 * GIB), format_gb(300 * MIB), format_gb(21.9 * GIB)) == ("24.0 GB", "0.3 GB", "21.9 GB")


@pytest.mark.parametrize(
    ("done", "total", "words"),
    [(120_000_000, 271_000_000, "120 of 271 MB"), (4.1e8, 4_100_000_000, "0.4 of 4.1 GB"), (0, 5, "0 of 0 MB")],
)
def test_sizes(done: int, total: int, words: str) -> None:
    assert format_part_of_size(done, total) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.4, "0 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (125, "2 min 05 s"), (4805, "1 h 20 min")],
)
def test_durations(seconds: float, words: str) -> None:
    assert format_duration(seconds) == words


@pytest.mark.parametrize(
    ("seconds", "words"), [(3, "≈ 10 s"), (44, "≈ 40 s"), (185, "≈ 3 min"), (4900, "≈ 1 h 20 min")]
)
def test_estimates_are_no_finer_than_they_are_known(seconds: float, words: str) -> None:
    assert format_estimated_duration(seconds) == words


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (2e-4, "2e-4"),
        (5e-6, "5e-6"),
        (1.5e-7, "1.5e-7"),
        (0.1, "0.1"),
        (1.0, "1"),
        (0.0, "0"),
        (0.123456789, "0.123456789"),
        (1e6, "1e+06"),
        (16, "16"),
        (1_048_576, "1048576"),
    ],
)
def test_numbers_are_short_and_exact(value: float, text: str) -> None:
    assert format_number(value) == text and float(text) == value


def test_other_texts() -> None:
    assert (format_clock(75), format_clock(3700)) == ("1:15", "1:01:40")
    assert (format_mb(2048 * MIB), format_file_size(400_000), format_file_size(4_100_000_000)) == (
        "2,048 MB",
        "0.4 MB",
        "4.1 GB",
    )
    assert [format_rate(rate) for rate in (0.000234, 5e-6, 1.23e-7)] == ["0.00023", "5e-6", "1.2e-7"]


@pytest.mark.parametrize(
    ("value", "setting", "planned"),
    [
        (True, "yes", "on"),
        (None, "", "none"),
        (2e-4, "2e-4", "0.0002"),
        (1024, "1024", "1,024"),
        (("q_proj", "v_proj"), "q_proj, v_proj", "q_proj, v_proj"),
        ("nf4", "nf4", "nf4"),
    ],
)
def test_settings_and_planned_values(value: object, setting: str, planned: str) -> None:
    assert (format_setting(value), format_planned_value(value)) == (setting, planned)
