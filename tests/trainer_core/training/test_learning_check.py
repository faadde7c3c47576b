"""No run is done that learned nothing: a run of one step learns, and one that cannot learn ends with the reason."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.support.training_runs import recipe, run, write_inputs
from trainer_core.runs.events import Phase
from trainer_core.runs.run_state import RunState
from trainer_core.texts import Text

pytestmark = pytest.mark.real
ONE = {"batch_size": 2, "accumulation": 1, "max_length": 128, "max_steps": 1, "evaluations": 0}
FOUR = ONE | {"max_steps": 4}


@pytest.fixture(scope="module")
def views(tmp_path_factory: pytest.TempPathFactory) -> dict[str, RunState]:
    folder = tmp_path_factory.mktemp("learning")
    write_inputs(folder)
    usual = {"sample_tokens": 0, "sft": ONE, "dpo": ONE}
    weightless = FOUR | {"losses": ["sigmoid"], "loss_weights": [0.0]}
    cases = {
        "one step": recipe(folder, **usual),
        "without gradient": recipe(folder, **usual | {"method": "dpo", "dpo": weightless}),
        "without effect": recipe(folder, **usual | {"dpo": FOUR | {"learning_rate": 1e-30}}),
    }
    return dict(zip(cases, run(folder, *(("", case) for case in cases.values())), strict=True))


def test_a_run_of_one_step_learns(views: dict[str, RunState]) -> None:
    """With the usual warm-up, which transformers rounds up to the whole run."""
    view = views["one step"]
    assert view.phase is Phase.DONE, view.error
    assert [(point.stage, point.step) for point in view.points] == [("sft", 1), ("dpo", 1)]
    assert [point.learning_rate for point in view.points] == pytest.approx([2e-4, 5e-6])
    sft, dpo = (load_file(Path(view.id) / f"adapter-{stage}/adapter_model.safetensors") for stage in ("sft", "dpo"))
    assert any(weight.any() for name, weight in sft.items() if "lora_B" in name)
    assert any(not dpo[name].equal(sft[name]) for name in sft)


def test_without_a_gradient_a_run_ends_at_its_third_step(views: dict[str, RunState]) -> None:
    view = views["without gradient"]
    assert view.phase is Phase.FAILED and view.error == Text("learning.no_gradient", stage="DPO", steps=3)
    assert len(view.points) == 3 and not view.adapters


def test_an_adapter_that_is_its_start_is_not_saved(views: dict[str, RunState]) -> None:
    view = views["without effect"]
    assert view.phase is Phase.FAILED and view.error.params["rate"] == 1e-30
    assert set(view.adapters) == {"sft"}
