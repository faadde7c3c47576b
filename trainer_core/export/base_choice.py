"""The weights that an adapter is merged into, where training computed in 4 bits: those before or those after that rounding.

Both are measured against the trained lane, and the nearer ones are taken.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from huggingface_hub.errors import LocalEntryNotFoundError

from trainer_core.data import Pair
from trainer_core.errors import ModelError
from trainer_core.export import measure
from trainer_core.export.certificate import margin_kept
from trainer_core.export.certify import LaneReference, mean_lane_divergence, score_pairs
from trainer_core.export.context import ExportContext
from trainer_core.export.four_bit import is_four_bit, is_packed, round_weight, write_four_bit_base
from trainer_core.export.merge import weight_files
from trainer_core.export.tensor_file import TensorReader, count_weights
from trainer_core.inference.load import load_lanes
from trainer_core.models import hub, resolve
from trainer_core.planning.serving_lines import original_name
from trainer_core.runs.export_events import BaseMeasure, BaseWeights
from trainer_core.texts import Text

ROUNDED_BASE, CHOICE = "base-rounded", "base-choice.txt"
BASE_STEPS = 3
"""Steps of the progress: the rounded weights are written, and both are measured."""
MAX_TWIN_ERROR = 0.02
"""Mean distance of a packed layer from our own rounding of the original, as a share of its mean weight: 0 but for the rounding of
scales on another device. NF4 itself moves a weight by 0.09, a fine-tuned sibling by some hundredths."""
TWIN_LAYERS = 3


def choose_base(
    context: ExportContext, reference: LaneReference, pairs: list[Pair]
) -> tuple[Path, tuple[BaseMeasure, ...]]:
    """The folder to merge into, and what was measured; nothing is measured for a base that was not in 4 bits.

    Raises:
        Cancelled: the user stopped the export.
    """
    if not is_four_bit(context.base, context.job.precision):
        return context.base, ()
    context.tracker.begin(Text("export.part", part=Text("base_weights.rounded")))
    rounded = context.make_part(ROUNDED_BASE, write_four_bit_base)
    folders: dict[BaseWeights, Path] = {"rounded": rounded}
    measures = [measure_base(context, "rounded", rounded, reference, pairs)]
    try:
        folders["original"] = find_original(context, rounded)
        measures.append(measure_base(context, "original", folders["original"], reference, pairs))
    except ModelError as error:
        measures.append(BaseMeasure("original", problem=error.text))
    chosen = keep_choice(context, measures)
    return folders[chosen], tuple(sorted(measures, key=lambda one: one.base != chosen))


def keep_choice(context: ExportContext, measures: list[BaseMeasure]) -> BaseWeights:
    """The weights nearest to the lane. An export that goes on keeps its first choice: parts may be made from it already."""
    best = min(measures, key=lambda one: math.inf if one.divergence is None else one.divergence).base

    def write(context: ExportContext, target: Path) -> None:
        target.write_text(best, encoding="utf-8")

    kept = context.make_part(CHOICE, write).read_text(encoding="utf-8")
    return "original" if kept == "original" else "rounded"


def measure_base(
    context: ExportContext, base: BaseWeights, folder: Path, reference: LaneReference, pairs: list[Pair]
) -> BaseMeasure:
    """What the lane's adapter does on these weights, in 32 bits."""
    context.tracker.begin(Text("export.measuring_base", base=Text(f"base_weights.{base}")))
    try:
        measure.require_memory(sum(map(count_weights, weight_files(folder))))
    except measure.WeightsUnread as error:
        return BaseMeasure(base, problem=error.text)
    lane = context.job.lane.model_copy(update={"system": ""})
    lanes = load_lanes(str(folder), "fp32", [lane])
    divergence = mean_lane_divergence(lanes, lane.name, reference)
    scored, _ = score_pairs(context, lanes, pairs, lane.name)
    _, kept = margin_kept(reference.lane_preferences, scored, reference.base_preferences)
    return BaseMeasure(base, divergence, kept)


def find_original(context: ExportContext, rounded: Path) -> Path:
    """The weights before the rounding: the base itself, or the 16-bit repository of a packed one.

    Raises:
        ModelError: it is not known or not on this computer, or it is another model.
    """
    if not is_packed(context.base):
        return context.base
    name = original_name(context.job.model)
    try:
        folder = resolve.check_model_folder(hub.find_in_cache(name))
    except LocalEntryNotFoundError as error:
        raise ModelError("export.no_original", model=name) from error
    require_twin(folder, rounded, name)
    return folder


def require_twin(original: Path, rounded: Path, name: str) -> None:
    """Check that two folders hold the same model, by their shapes and by some rounded layers.

    Raises:
        ModelError: they do not.
    """
    first, second = index_tensors(original), index_tensors(rounded)
    shapes = [{name: reader.entries[name].shape for name, reader in one.items()} for one in (first, second)]
    if shapes[0] != shapes[1]:
        raise ModelError("export.other_original", model=name)
    layers = sorted(layer for layer in second if layer.endswith("proj.weight"))
    for layer in layers[:: max(1, len(layers) // TWIN_LAYERS)]:
        exact, found = (index[layer].read_tensor(layer) for index in (first, second))
        if not min(mean_distance(one, found) for one in (exact, round_weight(exact))) <= MAX_TWIN_ERROR:
            raise ModelError("export.other_original", model=name)


def mean_distance(one: torch.Tensor, other: torch.Tensor) -> float:
    """As a share of the mean weight."""
    return ((one.float() - other.float()).abs().mean() / other.float().abs().mean()).item()


def index_tensors(folder: Path) -> dict[str, TensorReader]:
    readers = [TensorReader(path) for path in weight_files(folder)]
    return {name: reader for reader in readers for name in reader.entries}
