"""A sound run folder with every file and every field that the app reads, for the proofs that change one of them."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.support.model_files import pack_safetensors
from trainer_core.config.jobs import CompareJob, Lane, TrainJob
from trainer_core.config.recipe import Data, Recipe
from trainer_core.runs import (
    checkpoints,
    compare_events,
    control,
    events,
    export_events,
    heartbeat,
    metadata,
    run_folder,
)
from trainer_core.runs.events import Event, Phase, Stage
from trainer_core.system import hardware
from trainer_core.texts import Text

DATA = "d" * 64
STEPS = 8
BESIDE = "compare/"
"""Before the names of a comparison's files, which lie beside the runs."""
RUN_DIR = b"/RUN-DIR"
"""Stands for the run's folder in the files of a template."""
RECIPE = Recipe(
    name="fuzz",
    data=Data(chat="sample", pairs="sample", held_out="sample", chat_rows=9, pair_rows=9),
    samples=("Why?",),
)
ADAPTER_CONFIG: dict[str, Any] = {
    "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": "starter", "revision": None,
    "inference_mode": True, "r": 2, "lora_alpha": 2, "lora_dropout": 0.0, "bias": "none", "fan_in_fan_out": False,
    "target_modules": ["q_proj"], "exclude_modules": None, "modules_to_save": None, "init_lora_weights": True,
    "layers_to_transform": None, "layers_pattern": None, "rank_pattern": {"q_proj": 2}, "alpha_pattern": {"q_proj": 2},
    "use_rslora": False, "use_dora": False, "loftq_config": {}, "trainable_token_indices": None, "auto_mapping": None,
}  # fmt: skip


def make_sound_files(place: Path, done: bool) -> dict[str, bytes]:
    """Name → content of every file of a run, and of a comparison that scored its lanes.

    Args:
        place: an empty folder to write them in.
        done: the run has finished; if not, it has failed in its last stage and can be resumed.
    """
    write_run_files(place, done)
    write_comparison(place / BESIDE)
    return {file.relative_to(place).as_posix(): file.read_bytes() for file in place.rglob("*") if file.is_file()}


def write_run_files(run_dir: Path, done: bool) -> None:
    run = run_folder.RunFile(
        created="2026-01-01T00:00:00+00:00",
        job=TrainJob(recipe=RECIPE),
        device=hardware.detect_machine().cpu.name,
        reasons=("A reason.",),
        versions={"torch": "2.13.0", "starter": "1"},
    )
    write_json(run_dir / "run.json", run.model_dump(mode="json"))
    write_json(run_dir / "about.json", metadata.RunMetadata(name="A name", note="A note", pinned=True).model_dump())
    write_json(run_dir / "control.json", control.ControlRequest(request="stop", why="A reason").model_dump())
    write_json(run_dir / "heartbeat.json", heartbeat.Heartbeat(pid=7, created=1.0, run_id="a run").model_dump())
    write_json(run_dir / "scores.json", asdict(make_scores()))
    write_lines(run_dir / "held-out.jsonl", [{"prompt": "Why?", "chosen": "So.", "rejected": "No."}])
    write_lines(run_dir / "events.jsonl", list(map(event_fields, make_events(done))))
    (run_dir / "worker.log").write_text("a line\n", encoding="utf-8")
    for name, stage, step in saved_folders(done):
        save_adapter(run_dir / name, stage, step)


def write_comparison(folder: Path) -> None:
    adapter = f"{RUN_DIR.decode()}/adapter-sft"
    lane = Lane(name="SFT", adapter=adapter, other=adapter, share=0.5)
    run = run_folder.RunFile(job=CompareJob(model="starter", lanes=(Lane(name="Base"), lane)))
    write_json(folder / "run.json", run.model_dump(mode="json"))
    write_lines(folder / "events.jsonl", list(map(event_fields, make_compare_events())))


def saved_folders(done: bool) -> list[tuple[str, Stage, int]]:
    """Name, stage and step of each folder with weights."""
    found = [("adapter-sft", "sft", STEPS), ("adapter-sft-000004", "sft", 4), ("checkpoints/dpo-000004", "dpo", 4)]
    return [*found, ("adapter-dpo", "dpo", STEPS)] if done else found


def save_adapter(folder: Path, stage: Stage, step: int) -> None:
    spec = checkpoints.settings_hash(RECIPE)
    with checkpoints.staged_write(folder, checkpoints.CheckpointSource(stage, STEPS, DATA, spec), step) as staging:
        names = (f"base_model.model.model.layers.0.self_attn.q_proj.lora_{side}.weight" for side in "AB")
        tensors = dict(zip(names, ([2, 8], [8, 2]), strict=True))
        (staging / "adapter_model.safetensors").write_bytes(pack_safetensors(tensors))
        write_json(staging / "adapter_config.json", ADAPTER_CONFIG)


def event_fields(event: Event) -> dict[str, Any]:
    """An event as its line holds it."""
    at = datetime(2026, 1, 1, tzinfo=UTC).isoformat()
    return {"seq": 1, "at": at, "kind": type(event).__name__} | asdict(event)


def make_events(done: bool) -> list[Event]:
    """Every kind of event, in an order that a run could have; the last word is where the run ended."""
    offer = events.Suggestion(Text("run.bug", kind="a", message="b"), {"dpo.learning_rate": 1e-6})
    failed = events.RunFailed(Text("run.bug", kind="a", message="b"), "a traceback", (offer,))
    told = [*make_compare_events(), *make_export_events(), *make_first_events()]
    for stage in ("sft", "dpo"):
        told += make_stage_events(stage, done or stage == "sft")
    return [*told, failed, events.RunEnded(Phase.DONE, Text("scoring.done"))] if done else [*told, failed]


def make_first_events() -> list[Event]:
    note = Text("checkpoints.other_data", name="sft-000004")
    return [
        events.PhaseChanged(Phase.LOADING, Text("loading.start"), ""),
        events.DeviceAcquired(""),
        events.DataPrepared(40, 40, 4, DATA, (note,)),
        events.SettingChanged("dpo.batch_size", "4", "2", note),
        events.SettingChanged("memory.skip_layers", "auto", "off", note),
        events.Notice(note),
        events.StepsPlanned({"sft": STEPS, "dpo": STEPS}),
        events.SampleAnswers("sft", 0, make_samples(), 1.0),
    ]


def make_samples() -> tuple[events.SampleAnswer, ...]:
    return tuple(events.SampleAnswer(prompt, "So.", 3, True) for prompt in ("Why?", "How?"))


def make_stage_events(stage: Stage, whole: bool) -> list[Event]:
    text = Text("policy.new_adapter")
    metrics = {"margin": 0.1, "accuracy": 0.6, "chosen": -20.0, "rejected": -25.0} if stage == "dpo" else {}
    told: list[Event] = [
        events.RowLengths(stage, 120, 90, 0.1),
        events.MemoryProbed(stage, 120, 60, 1 << 30, 1 << 31, 1.0, True),
        events.PhaseChanged(Phase.TRAINING, text, stage),
        events.ReferenceCheck(stage, 0.69, 0.69, 0.0, 0.0, 0.01, text, text, True),
        events.StageResumed(stage, 0, (text,)),
        events.OutOfMemory(stage, "no memory"),
    ]
    for step in range(1, STEPS + 1 if whole else STEPS - 1):
        told.append(events.TrainStep(stage, step, STEPS, 2.5 - step / 10, 1e-4, 1.0, 1.0, 50.0, 1.0, metrics))
        if step % 4 == 0:
            told.append(events.Evaluation(stage, step, 2.0 - step / 10, metrics, 4, 1.0))
            told.append(events.SampleAnswers(stage, step, make_samples(), 1.0))
            told.append(events.CheckpointSaved(stage, step, f"checkpoints/{stage}-{step:06d}", 100, 1.0))
    return [*told, events.AdapterSaved(stage, f"adapter-{stage}", 100, STEPS)] if whole else told


def make_scores() -> compare_events.ScoresReady:
    number = compare_events.ConfidenceInterval(0.5, 0.4, 0.6, 50)
    own = compare_events.GenerationStats(number, number, number, number)
    forgot = compare_events.ForgettingCheck(3, 1, number, 0.5)
    lanes = [
        compare_events.LaneScore(lane, number, number, number, number, number, number, own, number, forgot)
        for lane in ("SFT", "DPO")
    ]
    written = compare_events.ScoredAnswers("Why?", {"SFT": "So."})
    return compare_events.ScoresReady(tuple(lanes), "the base", (written,))


def make_compare_events() -> list[Event]:
    text, check = Text("scoring.done"), compare_events.AdapterCheck("SFT", "0123456789ab", 1.0, 1.0, 0.0)
    ends = {"SFT": compare_events.AnswerStats(3, 1.0, True)}
    pieces = (compare_events.TokenLogprobs("So", -1.0, -2.0),)
    return [
        compare_events.LanesLoaded((check,)),
        compare_events.LaneAdjusted("ask", check),
        compare_events.PromptStarted("ask", "Why?", ("SFT",)),
        compare_events.TextChunk("ask", {"SFT": "So."}),
        compare_events.AnswersFinished("ask", ends, False),
        compare_events.RequestFailed("ask", text),
        compare_events.TokenHeatmap("ask", ("SFT", "DPO"), pieces),
        compare_events.ScoringProgress(text, 1, 2, 5, 9, 3.0),
        compare_events.ScoringFailed(text),
        make_scores(),
    ]


def make_export_events() -> list[Event]:
    number, text = compare_events.ConfidenceInterval(0.9, 0.8, 1.0, 24), Text("export.no_engine")
    answers = export_events.AnswerComparison(15, 16, (0.01,))
    form = export_events.CertificateRow(
        "merged", 100, 16.0, True, True, True, answers, answers, 0.001, 0.001, number, number, text
    )
    base = export_events.BaseMeasure("rounded", 0.001, number, text)
    return [
        export_events.ExportProgress(text, 1, 2, 5, 9, 3.0),
        export_events.ExportPart("merged", 100),
        export_events.ExportFinished("/exports/it", (form,), 24, (base,)),
        export_events.ExportRegistered("ollama", text),
    ]


def write_json(path: Path, values: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values), encoding="utf-8")


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
