"""Runs, device and lanes as plain values for the page, in words and numbers ready to show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import astuple
from datetime import datetime
from pathlib import Path
from typing import Any

from trainer_core.config.recipe import METHODS, Recipe
from trainer_core.diagnosis.finding import LN2
from trainer_core.errors import UserError
from trainer_core.evaluation import preference_data
from trainer_core.jobs.registry import RunRegistry
from trainer_core.jobs.supervisor import Supervisor
from trainer_core.methods.base import ROW_NOUNS
from trainer_core.runs import checkpoints, control, heartbeat
from trainer_core.runs.events import MemoryProbed, Phase, ReferenceCheck, Stage, TrainStep
from trainer_core.runs.run_state import RunState
from trainer_core.system.format import GIB, format_duration, format_gb
from trainer_core.system.hardware import Gpu
from ui.format import STAGE_LABELS, method_label, model_name
from ui.payloads.run_settings import display_name, read_run_settings, run_metadata

MAX_RECENT = 6


def device_payload(supervisor: Supervisor) -> dict[str, Any]:
    """Constant facts about the device: its name, and any problem."""
    try:
        gpu = supervisor.device.gpu
    except UserError as error:
        return {"name": "No GPU", "kind": "", "problem": str(error)}
    cpu, problem = supervisor.device.machine.cpu, supervisor.device.machine.problem
    if gpu:
        several = len(supervisor.device.machine.usable_gpus)
        return {
            "name": gpu.name,
            "kind": f"Most free memory of {several} GPUs" if several > 1 else "",
            "problem": problem,
        }
    return {"name": cpu.name, "kind": f"Processor, {cpu.cores} core{'s' * (cpu.cores != 1)}", "problem": problem}


def memory_meter(supervisor: Supervisor) -> dict[str, Any]:
    """Facts that may change every second: a memory bar with our share and others'. The page merges it into `device`."""
    try:
        gpu = supervisor.device.gpu
    except UserError:
        return {"used": 0, "ours": 0, "free": "", "facts": ""}
    if gpu:
        return gpu_payload(gpu, own_pids(supervisor.registry))
    cpu = supervisor.device.machine.cpu
    return {
        "used": round(1 - cpu.free_bytes / cpu.total_bytes, 2),
        "ours": 0,
        "free": f"{cpu.free_bytes / GIB:.1f} of {cpu.total_bytes / GIB:.0f} GB free",
        "facts": "",
    }


def gpu_payload(gpu: Gpu, pids: list[int]) -> dict[str, Any]:
    ours = gpu.bytes_used_by(pids)
    used = gpu.total_bytes - gpu.free_bytes
    readings = [f"{gpu.celsius} °C" if gpu.celsius is not None else "", f"{gpu.watts:.0f} W" if gpu.watts else ""]
    return {
        "used": round(used / gpu.total_bytes, 3),
        "ours": round(ours / gpu.total_bytes, 3),
        "free": f"{gpu.free_bytes / GIB:.1f} of {format_gb(gpu.total_bytes)} free",
        "facts": " · ".join(filter(None, readings)),
        "split": [format_gb(ours), format_gb(max(0, used - ours))],
    }


def own_pids(registry: RunRegistry) -> list[int]:
    """The processes of the active run and of Compare."""
    folders = [registry.run_dir(registry.active_run.id)] if registry.active_run else []
    if registry.comparison:
        folders.append(registry.comparison.watcher.run_dir)
    return [beat.pid for beat in map(heartbeat.read_heartbeat, folders) if beat]


def button_state(supervisor: Supervisor) -> dict[str, Any]:
    """Conditions for the buttons. The page calls Python only when this changes."""
    registry = supervisor.registry
    active, comparison = registry.active_run, registry.comparison
    return {
        "busy": active.id if active else "",
        "leaving": pending_request(registry.run_dir(active.id), active) if active else "",
        "stalled": bool(active and active.stalled),
        "compare": comparison.state.phase if comparison else "",
        "runs": len(registry.run_states),
        "comparable": any(map(is_comparable, registry.run_states)),
        "free_memory": [round(2 * gpu.free_bytes / GIB) for gpu in supervisor.device.machine.gpus],
        "vote_sets": len(preference_data.list_vote_data_sets(supervisor.workspace)),
        "error": registry.last_error,
    }


def pending_request(run_dir: Path, view: RunState) -> str:
    """The pending request of an active run: "stop", "pause", "end", or empty."""
    return (view.phase.is_active and control.read_request(run_dir)) or ""


def run_payload(registry: RunRegistry, view: RunState | None) -> dict[str, Any] | None:
    """The run card and the top of Train: state, stages, and how the run ended."""
    if view is None:
        return None
    run_dir = registry.run_dir(view.id)
    recipe = read_run_settings(run_dir).recipe
    return {
        "id": view.id,
        "name": display_name(run_dir),
        "phase": view.phase,
        "active": view.phase.is_active,
        **status_badge(run_dir, view),
        "detail": status_detail(view),
        "doing": current_activity(view),
        "stages": stage_states(recipe, view),
        "planned": dict(view.planned),
        "batches": {stage: recipe.stage_settings(stage).effective_batch for stage in recipe.method.stages}
        if recipe
        else {},
        "error": str(view.error),
        "bug": bool(view.traceback),
        "offers": [{"key": f"offer.{at}", "text": str(offer.text)} for at, offer in enumerate(view.offers)],
        "resumable": view.phase.is_resumable and not view.unreadable,
        "kept": not view.phase.is_active and has_resume_point(run_dir, view),
        "adapters": [STAGE_LABELS[stage] for stage in view.adapters],
    }


def has_resume_point(run_dir: Path, view: RunState) -> bool:
    return bool(view.adapters) or any(checkpoints.adapters_by_step(run_dir, stage) for stage in METHODS)


def progress_payload(view: RunState | None) -> dict[str, Any] | None:
    """Values that change at every step; the page merges them into `run`."""
    if view is None:
        return None
    last, left = view.last_step, view.seconds_left
    return {
        "progress": round(view.progress, 4),
        "step": describe_step(last) if last else "",
        "left": describe_time_left(view),
        "seconds": None if left is None else round(left),
        "speed": f"{last.tokens_per_second:,.0f} tokens/s" if last and view.phase.is_active else "",
    }


END_STATES = {
    Phase.DONE: ("Finished", "good"),
    Phase.STOPPED: ("Stopped", "plain"),
    Phase.PAUSED: ("Paused", "plain"),
    Phase.FAILED: ("Failed", "bad"),
    Phase.QUEUED: ("Starting", "busy"),
    Phase.LOADING: ("Loading", "busy"),
    Phase.SAVING: ("Saving", "busy"),
}


def status_badge(run_dir: Path, view: RunState) -> dict[str, str]:
    """The state in one word, and its tone."""
    if pending := pending_request(run_dir, view):
        return {"badge": {"stop": "Stopping", "pause": "Pausing", "end": "Killing"}[pending], "tone": "busy"}
    if view.unreadable:
        return {"badge": "Unreadable", "tone": "bad"}
    if view.stalled:
        return {"badge": "Stalled", "tone": "bad"}
    word, tone = END_STATES.get(view.phase, ("Running", "busy"))
    return {"badge": word, "tone": tone}


def describe_step(last: TrainStep) -> str:
    return f"{STAGE_LABELS[last.stage]} step {last.step} of {last.total}"


def status_detail(view: RunState) -> str:
    """The worker's last message; empty after a stage's first step."""
    return "" if view.last_step and view.last_step.stage == view.training_stage else str(view.detail)


def current_activity(view: RunState) -> str:
    """What the run does besides its steps; empty while it trains or has ended."""
    if view.stalled:
        return view.stalled
    return str(view.detail) if view.phase.is_active and view.phase is not Phase.TRAINING else ""


def describe_time_left(view: RunState) -> str:
    return f"{format_duration(view.seconds_left)} left" if view.seconds_left is not None else ""


def stage_states(recipe: Recipe | None, view: RunState) -> list[dict[str, str]]:
    """Load, each stage, Compare: each done, now, failed or pending."""
    names = ["load", *(recipe.method.stages if recipe else stages_in_events(view)), "compare"]
    words = {"load": "Load", "compare": "Compare", **STAGE_LABELS}
    here = names.index(current_stage_name(view, names))
    if view.phase is Phase.DONE:
        here = len(names) - 1
    ends = {Phase.FAILED: "failed", Phase.STOPPED: "stopped", Phase.PAUSED: "paused", Phase.DONE: "done"}
    mark = ends.get(view.phase, "now")
    states = ["done"] * here + [mark] + ["todo"] * (len(names) - here - 1)
    return [{"word": words[name], "state": state} for name, state in zip(names, states, strict=True)]


def stages_in_events(view: RunState) -> list[Stage]:
    """Stages named in the events, for a run with an unreadable recipe."""
    found = {*(point.stage for point in view.points), *view.adapters, *view.planned}
    return [stage for stage in METHODS if stage in found]


def current_stage_name(view: RunState, names: list[str]) -> str:
    """The stage a run is in, or ended in: that of its last step, or the next one once its adapter is saved."""
    if view.training_stage in names:
        return view.training_stage
    if not view.last_step or view.last_step.stage not in names:
        return "load"
    stage = view.last_step.stage
    if stage in view.adapters and view.phase in (Phase.LOADING, Phase.QUEUED):
        return names[names.index(stage) + 1]
    return stage


def facts_payload(registry: RunRegistry, view: RunState | None) -> dict[str, Any] | None:
    """Values that rarely change: the proof, changed settings, notes, and the settings used."""
    if view is None:
        return None
    known = read_run_settings(registry.run_dir(view.id))
    return {
        "proof": describe_reference_check(view.proof),
        "holds": view.proof.holds if view.proof else None,
        "changes": [f"{one.what}: {one.asked} → {one.used}. {one.why}" for one in view.changes],
        "notes": [*dict.fromkeys((*known.notes, *map(str, view.notes))), *map(describe_probe, view.probed.values())],
        "rows": describe_rows(known.recipe, view),
        "reasons": list(known.reasons),
        "settings": [
            {"title": group.title, "rows": [astuple(row) for row in group.rows]} for group in known.setting_groups
        ],
    }


def describe_probe(found: MemoryProbed) -> str:
    how = "with half a batch" if found.cut else "on the longest rows"
    return (
        f"{STAGE_LABELS[found.stage]}: memory check before the first step, {how}: "
        f"{format_gb(found.peak)} of {format_gb(found.most)} "
        f"at {found.tokens:,} tokens, in {found.seconds:.1f} s."
    )


def describe_rows(recipe: Recipe | None, view: RunState) -> str:
    if not view.prepared:
        return ""
    made = view.prepared
    stages = recipe.method.stages if recipe else stages_in_events(view)
    given = [(made.row_count(METHODS[stage].rows), ROW_NOUNS[METHODS[stage].rows], stage) for stage in stages]
    counts = [f"{count:,} {noun} for {STAGE_LABELS[stage]}" for count, noun, stage in given if count]
    return " · ".join([*counts, *([f"{made.held_out:,} pairs held out"] if made.held_out else [])])


def describe_reference_check(proof: ReferenceCheck | None) -> str:
    """The step-0 proof as one line."""
    if proof is None:
        return ""
    expected = "" if proof.expected_loss is None else f" (must be {proof.expected_loss:.3f}{explain_ln2(proof)})"
    margin = "" if proof.margin is None else f"margin {proof.margin + 0:.3f} (must be 0), ".replace("-0.000", "0.000")
    return (
        f"{margin}loss {proof.loss:.3f}{expected}, within {proof.tolerance:g}. "
        f"Policy: {proof.policy}. Reference: {proof.reference}."
    )


def explain_ln2(proof: ReferenceCheck) -> str:
    return " = ln 2" if proof.expected_loss is not None and abs(proof.expected_loss - LN2) < 1e-5 else ""


def recent_runs(registry: RunRegistry) -> list[dict[str, str]]:
    return [run_summary(registry.run_dir(view.id), view) for view in registry.run_states[:MAX_RECENT]]


def run_summary(run_dir: Path, view: RunState) -> dict[str, str]:
    """A run in a list: its title, method, start and state."""
    known = read_run_settings(run_dir)
    recipe = known.recipe
    kind = method_label(recipe) if recipe else ""
    name = run_metadata(run_dir).name or (recipe and (recipe.name or model_name(recipe.model))) or view.id
    return {"id": view.id, "name": name, "kind": kind, "when": known.created, **status_badge(run_dir, view)}


def run_option(run_dir: Path, view: RunState) -> str:
    """A run in a list to choose from: its title, adapters and start."""
    known = read_run_settings(run_dir)
    adapters = ", ".join(STAGE_LABELS[stage] for stage in view.adapters)
    began = datetime.fromisoformat(
        known.created
    ).astimezone()  # in the app's time zone, as in the sidebar; see runs.began
    return f"{display_name(run_dir)} ({adapters}) · {began:%Y-%m-%d %H:%M}"


def run_numbers(run_dir: Path, view: RunState) -> dict[str, Any]:
    recipe = read_run_settings(run_dir).recipe
    last = last_steps(view)
    accuracies = [(stage, point.metrics["accuracy"]) for stage, point in last.items() if "accuracy" in point.metrics]
    return {
        "model": model_name(recipe.model) if recipe and recipe.name else "",
        "data": " + ".join(data_names(recipe)) if recipe else "",
        "steps": " + ".join(f"{point.step}" for point in last.values()),
        "loss": " · ".join(f"{STAGE_LABELS[stage]}\u00a0{point.loss:.3f}" for stage, point in last.items()),
        "accuracy": f"{accuracies[-1][1]:.0%} (n {recipe.stage_settings(accuracies[-1][0]).effective_batch})"
        if accuracies and recipe
        else "",
        "error": str(view.error),
        "comparable": is_comparable(view),
    }


def is_comparable(view: RunState) -> bool:
    return bool(view.adapters) and not view.phase.is_active


def last_steps(view: RunState) -> Mapping[str, TrainStep]:
    return {point.stage: point for point in view.points}


def data_names(recipe: Recipe) -> list[str]:
    sources = [recipe.data.chat if recipe.trains_on("chat") else None]
    sources.append(recipe.data.pairs if recipe.trains_on("pairs") or not sources[0] else None)
    return [Path(source).name for source in sources if source]
