"""Which rows share a micro-batch, and when the DPO reference is asked: without a model."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.length_sorting_case import BATCH, STEP
from tests.support.training_runs import environment
from tests.support.warm import errors, run_module

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("order")
    log = folder / "log.txt"
    assert run_module(environment(), "tests.support.length_sorting_case", folder, log=log) == 0, errors(log).read_text()
    return json.loads(log.read_text().splitlines()[-1])


def slices(rows: list[int], size: int) -> list[list[int]]:
    return [rows[first : first + size] for first in range(0, len(rows), size)]


def padded(rows: list[int], lengths: list[int]) -> int:
    return sum(max(lengths[row] for row in batch) * len(batch) for batch in slices(rows, BATCH))


def test_each_step_has_the_rows_it_would_have_unsorted(case: dict[str, Any]) -> None:
    for order in case["orders"]:
        for on, off in zip(order["on"], order["off"], strict=True):
            assert [sorted(step) for step in slices(on, STEP)] == [sorted(step) for step in slices(off, STEP)]
        assert len(order["lengths"]) <= STEP or order["on"][0] != order["on"][1], "each epoch has an order of its own"


def test_rows_that_fill_no_batch_stay_where_they_are(case: dict[str, Any]) -> None:
    for order in case["orders"]:
        rest = len(order["lengths"]) % BATCH
        assert not rest or order["on"][0][-rest:] == order["off"][0][-rest:]


def test_less_is_padded(case: dict[str, Any]) -> None:
    """Lengths of 5 to 500 in batches of 4 of 16: a third of all computed tokens was padding."""
    order = case["orders"][-1]
    on, off = padded(order["on"][0], order["lengths"]), padded(order["off"][0], order["lengths"])
    assert on < 0.85 * off
    assert sum(order["lengths"]) <= on


@pytest.mark.parametrize("what", ["padding does not matter", "sides matter", "where the answer begins matters"])
def test_a_pair_is_known_by_its_tokens(case: dict[str, Any], what: str) -> None:
    assert case["keys"][what]


def test_the_reference_is_asked_in_the_first_step_alone(case: dict[str, Any]) -> None:
    first, second, other, damaged, nan = case["said"]
    assert first == {"asked": 1, "used": [[-3.0, -3.0]] * 2}
    assert second == first, "known, and within the tolerance: what was kept is used"
    assert other == {"asked": 1, "used": [[-4.0, -4.0]] * 2}, (
        "what was kept was wrong, so the reference's own word is taken"
    )
    assert damaged["used"] == [[-5.0, -5.0]] * 2
    assert nan["asked"] == 1


def test_few_files_stay(case: dict[str, Any]) -> None:
    assert case["files"] <= 20
