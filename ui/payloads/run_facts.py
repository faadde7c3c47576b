"""Facts about a run that rarely change, in words: the proof, changed settings, notes, rows, and the settings used."""

from __future__ import annotations

from dataclasses import astuple
from typing import Any

from trainer_core.config.recipe import METHODS, Recipe
from trainer_core.diagnosis.finding import LN2
from trainer_core.jobs.registry import RunRegistry
from trainer_core.methods.base import ROW_NOUNS
from trainer_core.runs.events import MemoryProbed, ReferenceCheck, SettingChanged
from trainer_core.runs.run_state import RunState
from trainer_core.system.format import format_gb
from trainer_core.texts import Text
from ui.format import STAGE_LABELS, page_text
from ui.payloads.run import stages_in_events
from ui.payloads.run_settings import read_run_settings


def facts_payload(registry: RunRegistry, view: RunState | None) -> dict[str, Any] | None:
    """Values that rarely change: the proof, changed settings, notes, and the settings used."""
    if view is None:
        return None
    known = read_run_settings(registry.run_dir(view.id))
    return {
        "proof": describe_reference_check(view.proof),
        "holds": view.proof.holds if view.proof else None,
        "changes": [describe_change(one) for one in view.changes],
        "notes": [*dict.fromkeys((*known.notes, *map(str, view.notes))), *map(describe_probe, view.probed.values())],
        "rows": describe_rows(known.recipe, view),
        "reasons": list(known.reasons),
        "settings": [
            {"title": group.title, "rows": [astuple(row) for row in group.rows]} for group in known.setting_groups
        ],
    }


def describe_change(one: SettingChanged) -> str:
    return str(Text("report.change", what=one.what, asked=one.asked, used=one.used, why=one.why))


def describe_probe(found: MemoryProbed) -> str:
    return page_text(
        "run_facts.memory_check_half" if found.cut else "run_facts.memory_check",
        stage=STAGE_LABELS[found.stage],
        peak=format_gb(found.peak),
        limit=format_gb(found.most),
        tokens=found.tokens,
        seconds=found.seconds,
    )


def describe_rows(recipe: Recipe | None, view: RunState) -> str:
    if not view.prepared:
        return ""
    made = view.prepared
    stages = recipe.method.stages if recipe else stages_in_events(view)
    given = [(made.row_count(METHODS[stage].rows), ROW_NOUNS[METHODS[stage].rows], stage) for stage in stages]
    counts = [
        page_text("run_facts.rows", rows=count, noun=noun, stage=STAGE_LABELS[stage])
        for count, noun, stage in given
        if count
    ]
    return " · ".join([*counts, *([page_text("run_facts.held_out", pairs=made.held_out)] if made.held_out else [])])


def describe_reference_check(proof: ReferenceCheck | None) -> str:
    """The step-0 proof as one line."""
    if proof is None:
        return ""
    measured = [describe_first_loss(proof)]
    if proof.margin is not None:
        margin = f"{proof.margin + 0:.3f}".replace("-0.000", "0.000")
        measured.insert(0, page_text("run_facts.margin", margin=margin))
    return page_text(
        "run_facts.reference_check",
        measured=", ".join(measured),
        tolerance=proof.tolerance,
        policy=proof.policy,
        reference=proof.reference,
    )


def describe_first_loss(proof: ReferenceCheck) -> str:
    if proof.expected_loss is None:
        return page_text("run_facts.loss", loss=proof.loss)
    is_ln2 = abs(proof.expected_loss - LN2) < 1e-5
    return page_text(
        "run_facts.expected_ln2" if is_ln2 else "run_facts.expected_loss",
        loss=proof.loss,
        expected=proof.expected_loss,
    )
