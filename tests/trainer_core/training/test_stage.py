"""Parts of the training package that a card needs and the processor does not show; see tests/support/training_parts.py."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.training_runs import environment
from tests.support.warm import errors, run_module
from trainer_core.runs.checkpoints import ADAPTER_FILES

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    log = tmp_path_factory.mktemp("parts") / "log.txt"
    assert run_module(environment(), "tests.support.training_parts", log=log) == 0, errors(log).read_text()[-3000:]
    return json.loads(log.read_text().splitlines()[-1])  # type: ignore[no-any-return]


def test_sample_answers_leave_no_trace_in_a_model_of_cuda(found: dict[str, Any]) -> None:
    """Recomputation per layer, inference flags, caches, padding sides, mode and random numbers, also after an error."""
    assert found["interrupted"] == {"after": True, "failed": True, "asked unsloth": True}


def test_tokens_are_counted_with_and_without_padding(found: dict[str, Any]) -> None:
    counted = {"padded": 8, "padding-free": 10, "chats": [3, 8], "pairs": [7, 6], "sides": [4]}
    assert {name: found["counted"][name] for name in counted} == counted


def test_both_sides_of_a_pair_are_cut_and_learned_behind_the_prompt(found: dict[str, Any]) -> None:
    assert found["counted"]["labelled"] == {
        "chosen_input_ids": [1, 2, 3, 4],
        "chosen_attention_mask": [1, 1, 1, 1],
        "chosen_labels": [-100, -100, 3, 4],
        "rejected_input_ids": [1, 2, 6],
        "rejected_attention_mask": [1, 1, 1],
        "rejected_labels": [-100, -100, 6],
    }


def test_the_first_steps_bound_grows_with_the_root_of_the_tokens(found: dict[str, Any]) -> None:
    bounds = found["bounds"]
    assert bounds["noise"] == {"fp32": 1e-5, "bf16": 0.025, "nf4": 0.025}
    assert bounds["6400"] == pytest.approx(10 * bounds["64"]) and bounds["64"] == pytest.approx(0.02)
    assert (bounds["sigmoid"], bounds["ipo"], bounds["mixed"]) == pytest.approx((1.0, 100.0, 10.5))


def test_dpo_begins_at_its_reference_alone(found: dict[str, Any]) -> None:
    """Weights to the last bit, a loss of ln 2 = 0.69315 and a margin of 0 to the fifth place."""
    ended = {"equal": "", "different": "reference.differs", "trainable": "reference.not_frozen"}
    assert found["references"] == ended | {"right": True, "margin": False, "loss": False}


def test_the_reference_is_not_saved_beside_the_policy(found: dict[str, Any]) -> None:
    """On the next load it would take the policy's place."""
    policy = [f"base_model.model.linear.lora_{side}.weight" for side in "AB"]
    assert found["saved"] == dict.fromkeys(("adapter", "checkpoint"), [*ADAPTER_FILES, *policy])


def test_labels_that_are_all_masked_end_a_run(found: dict[str, Any]) -> None:
    said = found["refused"]
    assert "2 tokens" in said["masked"] and not said["learned"]


def test_the_tokenizer_is_taken_out_of_a_processor(found: dict[str, Any]) -> None:
    assert found["unwrapped"] == {"of a processor": True, "itself": True}
