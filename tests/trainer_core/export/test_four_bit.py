"""A base in 4 bits: the weights that training computed with, and the choice between them and those before the rounding."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from tests.support import export_case, tiny
from trainer_core.config.jobs import Lane
from trainer_core.errors import ModelError
from trainer_core.export.base_choice import CHOICE, ROUNDED_BASE, require_twin
from trainer_core.export.four_bit import (
    count_packed_weights,
    is_four_bit,
    is_packed,
    round_weights,
    write_four_bit_base,
)
from trainer_core.export.merge import weight_files
from trainer_core.export.pipeline import estimate_cost
from trainer_core.inference.load import weight_options
from trainer_core.runs.events import Event, Phase
from trainer_core.runs.export_events import ExportFinished, ExportProgress

pytestmark = pytest.mark.real

WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base in 16 bits and packed, and what a 4-bit model computes with."""
    folder = tmp_path_factory.mktemp("four-bit")
    base = export_case.write_base(folder / "models" / "base")
    model = AutoModelForCausalLM.from_pretrained(base, **weight_options("nf4"))
    shutil.copytree(base, folder / "models" / "packed")
    model.save_pretrained(folder / "models" / "packed")
    return folder


@pytest.fixture(scope="module")
def lane(folder: Path) -> Lane:
    return Lane(name="DPO", adapter=str(tiny.adapter(folder / "adapter", folder / "models" / "base", scale=0.2)))


def rounded(folder: Path, base: str, target: Path) -> dict[str, torch.Tensor]:
    target.mkdir()
    round_weights(folder / "models" / base, target, lambda done, total: None)
    return load_file(target / WEIGHTS)


def test_the_weights_are_those_that_a_4_bit_model_computes_with(folder: Path, tmp_path: Path) -> None:
    packed = folder / "models" / "packed"
    own, read = rounded(folder, "base", tmp_path / "own"), rounded(folder, "packed", tmp_path / "read")
    assert own.keys() == read.keys() and all(torch.equal(own[name], read[name]) for name in own)
    exact = load_file(folder / "models" / "base" / WEIGHTS)
    changed = {name for name in own if not torch.equal(own[name], exact[name])}
    assert changed == {name for name in own if name.endswith("proj.weight")} and len(changed) == 14
    shutil.copy(folder / "models" / "base" / "config.json", tmp_path / "own" / "config.json")
    ids = torch.arange(40)[None]
    logits = [
        AutoModelForCausalLM.from_pretrained(one, dtype=torch.bfloat16)(ids).logits
        for one in (packed, tmp_path / "own")
    ]
    assert torch.equal(*logits)


def test_weights_are_counted_before_they_were_packed(folder: Path) -> None:
    counts = {sum(map(count_packed_weights, weight_files(folder / "models" / name))) for name in ("base", "packed")}
    assert len(counts) == 1
    assert is_packed(folder / "models" / "packed") and not is_packed(folder / "models" / "base")
    assert is_four_bit(folder / "models" / "base", "nf4") and not is_four_bit(folder / "models" / "base", "bf16")


def test_the_weights_nearer_to_the_lane_are_taken_and_both_are_told(folder: Path, lane: Lane) -> None:
    events = list[Event]()
    job = export_case.export_job(folder, lane, ("merged",), precision="nf4")
    assert export_case.run_export(folder, job, events.append) is Phase.DONE
    (finished,) = (event for event in events if isinstance(event, ExportFinished))
    first, second = finished.bases
    assert (first.base, second.base) == ("rounded", "original")
    assert first.divergence is not None and second.divergence is not None
    assert first.divergence < 0.001 and second.divergence > 10 * first.divergence
    assert finished.forms[0].verdict in ("same", "ties")
    assert sorted(path.name for path in job.folder.iterdir()) == [
        "MANIFEST.json",
        "certificate.html",
        "export.json",
        "merged",
    ]
    assert "quantization_config" not in json.loads((job.folder / "merged" / "config.json").read_text())
    assert [one["base"] for one in json.loads((job.folder / "export.json").read_text())["bases"]] == [
        "rounded",
        "original",
    ]
    said = [event for event in events if isinstance(event, ExportProgress)]
    assert {event.number for event in said} == set(range(1, 8)) and {event.parts for event in said} == {7}


def test_a_packed_base_without_its_original_is_merged_into_what_training_used(folder: Path, lane: Lane) -> None:
    events = list[Event]()
    model = str(folder / "models" / "packed")
    job = export_case.export_job(folder, lane, ("merged",), model=model, held_out="", out=str(folder / "from-packed"))
    assert export_case.run_export(folder, job, events.append) is Phase.DONE
    (finished,) = (event for event in events if isinstance(event, ExportFinished))
    assert [one.base for one in finished.bases] == ["rounded", "original"]
    assert finished.bases[1].problem.code == "export.unknown_original" and finished.bases[1].divergence is None
    assert finished.forms[0].verdict in ("same", "ties")


def test_an_export_that_goes_on_keeps_its_choice(folder: Path, lane: Lane, tmp_path: Path) -> None:
    job = export_case.export_job(folder, lane, ("merged",), precision="nf4", held_out="", out=str(tmp_path))
    context = export_case.open_context(job)
    context.make_part(CHOICE, lambda context, target: target.write_text("original") and None)
    context.make_part(ROUNDED_BASE, write_four_bit_base)
    events = list[Event]()
    assert export_case.run_export(folder, job, events.append) is Phase.DONE
    (finished,) = (event for event in events if isinstance(event, ExportFinished))
    assert [one.base for one in finished.bases] == ["original", "rounded"]
    assert finished.forms[0].divergence == pytest.approx(finished.bases[0].divergence, rel=0.1)


def test_the_cost_counts_the_rounded_weights(folder: Path, lane: Lane) -> None:
    base = folder / "models" / "base"
    job = export_case.export_job(folder, lane, ("merged",))
    size = (base / WEIGHTS).stat().st_size
    plain = estimate_cost(job, base)
    with_rounding = estimate_cost(job.model_copy(update={"precision": "nf4"}), base)
    assert with_rounding.peak - plain.peak == pytest.approx(size, rel=0.01)
    packed = estimate_cost(job, folder / "models" / "packed")
    assert packed.parts["merged"] == pytest.approx(size, rel=0.01)


def test_another_model_is_no_original(folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "rounded"
    rounded(folder, "base", target)
    require_twin(folder / "models" / "base", target, "it")
    other = load_file(folder / "models" / "base" / WEIGHTS)
    name = "model.layers.0.mlp.down_proj.weight"
    tuned = other[name] + 0.05 * other[name].float().abs().mean() * torch.randn(other[name].shape)
    (tmp_path / "other").mkdir()
    for changed in (tuned.to(torch.bfloat16), other[name][:32]):
        save_file(other | {name: changed.contiguous()}, tmp_path / "other" / WEIGHTS)
        with pytest.raises(ModelError) as error:
            require_twin(tmp_path / "other", target, "it")
        assert error.value.text.code == "export.other_original"
