"""Runs, device and lanes as plain values for the page, in words and numbers ready to show."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from trainer_core.config.recipe import METHODS, Recipe
from trainer_core.errors import UserError
from trainer_core.evaluation import preference_data
from trainer_core.jobs.registry import RunRegistry
from trainer_core.jobs.supervisor import Supervisor
from trainer_core.runs import checkpoints, control, heartbeat
from trainer_core.runs.events import Phase, Stage, TrainStep
from trainer_core.runs.run_state import RunState
from trainer_core.system.format import GIB, format_duration, format_gb
from trainer_core.system.hardware import Gpu
from trainer_core.system.hardware_history import HardwareReading
from trainer_core.texts import Text
from ui.format import STAGE_LABELS, method_label, model_name, page_text
from ui.payloads.curves import MAX_POINTS, drawn_value
from ui.payloads.imports import import_choices, import_stamp
from ui.payloads.run_settings import display_name, read_run_settings, run_metadata

MAX_RECENT = 6


def device_payload(supervisor: Supervisor) -> dict[str, Any]:
    """Constant facts about the device: its name, and any problem."""
    try:
        gpu = supervisor.device.gpu
    except UserError as error:
        return {"name": page_text("run.no_gpu"), "kind": "", "problem": str(error)}
    cpu, problem = supervisor.device.machine.cpu, supervisor.device.machine.problem
    if gpu:
        several = len(supervisor.device.machine.usable_gpus)
        return {
            "name": gpu.name,
            "kind": page_text("run.most_free_gpu", gpus=several) if several > 1 else "",
            "problem": problem,
        }
    return {"name": cpu.name, "kind": page_text("run.processor", cores=cpu.cores), "problem": problem}


def hardware_payload(supervisor: Supervisor, since: float) -> dict[str, Any]:
    """Hardware readings since the page's last one (-1: not shown): seconds since then, GB, °C, W, percent."""
    if since < 0:
        return {}
    new = supervisor.device.readings.readings_since(since)
    every = max(1, len(new) // (MAX_POINTS // 2))
    return {"hardware": [reading_row(one, since) for one in new[::every]]}


def reading_row(one: HardwareReading, since: float) -> list[float | None]:
    """Seconds (since the page's last reading, or by the clock), then the values that the machine reports."""
    seconds = drawn_value(round(one.at - since, 1)) if since else round(one.at, 1)
    values = (one.memory, one.celsius, one.watts, one.busy)
    return [seconds, *(None if value is None else drawn_value(value) for value in values)]


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
        "free": page_text("run.free_memory", free=cpu.free_bytes / GIB, total=cpu.total_bytes / GIB),
        "facts": "",
    }


def gpu_payload(gpu: Gpu, pids: list[int]) -> dict[str, Any]:
    ours = gpu.bytes_used_by(pids)
    used = gpu.total_bytes - gpu.free_bytes
    readings = [f"{gpu.celsius} °C" if gpu.celsius is not None else "", f"{gpu.watts:.0f} W" if gpu.watts else ""]
    return {
        "used": round(used / gpu.total_bytes, 3),
        "ours": round(ours / gpu.total_bytes, 3),
        "free": page_text("run.free_gpu_memory", free=gpu.free_bytes / GIB, total=format_gb(gpu.total_bytes)),
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
        "comparable": any(map(is_comparable, registry.run_states)) or bool(import_choices(registry)),
        "imports": import_stamp(registry),
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
        "speed": page_text("run.speed", speed=last.tokens_per_second) if last and view.phase.is_active else "",
    }


END_STATES = {
    Phase.DONE: (Text("page.run.finished"), "good"),
    Phase.STOPPED: (Text("page.run.stopped"), "plain"),
    Phase.PAUSED: (Text("page.run.paused"), "plain"),
    Phase.FAILED: (Text("page.run.failed"), "bad"),
    Phase.QUEUED: (Text("page.run.starting"), "busy"),
    Phase.LOADING: (Text("page.run.loading"), "busy"),
    Phase.SAVING: (Text("page.run.saving"), "busy"),
}
PENDING_REQUESTS = {
    "stop": Text("page.run.stopping"),
    "pause": Text("page.run.pausing"),
    "end": Text("page.run.killing"),
}


def status_badge(run_dir: Path, view: RunState) -> dict[str, str]:
    """The state in one word, and its tone."""
    if pending := pending_request(run_dir, view):
        return {"badge": str(PENDING_REQUESTS[pending]), "tone": "busy"}
    if view.unreadable:
        return {"badge": page_text("run.unreadable"), "tone": "bad"}
    if view.stalled:
        return {"badge": page_text("run.stalled"), "tone": "bad"}
    word, tone = END_STATES.get(view.phase, (Text("page.run.running"), "busy"))
    return {"badge": str(word), "tone": tone}


def describe_step(last: TrainStep) -> str:
    return page_text("run.step_of_total", stage=STAGE_LABELS[last.stage], step=last.step, total=last.total)


def status_detail(view: RunState) -> str:
    """The worker's last message; empty after a stage's first step."""
    return "" if view.last_step and view.last_step.stage == view.training_stage else str(view.detail)


def current_activity(view: RunState) -> str:
    """What the run does besides its steps; empty while it trains or has ended."""
    if view.stalled:
        return view.stalled
    return str(view.detail) if view.phase.is_active and view.phase is not Phase.TRAINING else ""


def describe_time_left(view: RunState) -> str:
    return "" if view.seconds_left is None else page_text("run.time_left", time=format_duration(view.seconds_left))


def stage_states(recipe: Recipe | None, view: RunState) -> list[dict[str, str]]:
    """Load, each stage, Compare: each done, now, failed or pending."""
    names = ["load", *(recipe.method.stages if recipe else stages_in_events(view)), "compare"]
    words = {"load": page_text("run.load"), "compare": page_text("run.compare"), **STAGE_LABELS}
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
    return {
        "model": model_name(recipe.model) if recipe and recipe.name else "",
        "data": " + ".join(data_names(recipe)) if recipe else "",
        "steps": " + ".join(f"{point.step}" for point in last.values()),
        "loss": " · ".join(f"{STAGE_LABELS[stage]}\u00a0{point.loss:.3f}" for stage, point in last.items()),
        "accuracy": describe_accuracy(recipe, last) if recipe else "",
        "error": str(view.error),
        "comparable": is_comparable(view),
    }


def describe_accuracy(recipe: Recipe, last: Mapping[str, TrainStep]) -> str:
    """The accuracy at the last step of the last stage that measures it, and the number of pairs in a step."""
    found = [(stage, point.metrics["accuracy"]) for stage, point in last.items() if "accuracy" in point.metrics]
    if not found:
        return ""
    stage, accuracy = found[-1]
    return page_text("run_list.accuracy", accuracy=accuracy, batch=recipe.stage_settings(stage).effective_batch)


def is_comparable(view: RunState) -> bool:
    return bool(view.adapters) and not view.phase.is_active


def last_steps(view: RunState) -> Mapping[str, TrainStep]:
    return {point.stage: point for point in view.points}


def data_names(recipe: Recipe) -> list[str]:
    sources = [recipe.data.chat if recipe.trains_on("chat") else None]
    sources.append(recipe.data.pairs if recipe.trains_on("pairs") or not sources[0] else None)
    return [Path(source).name for source in sources if source]
