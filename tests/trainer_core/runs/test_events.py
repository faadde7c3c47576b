"""Events: what is written comes back, torn lines never count, and folding gives the state."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from trainer_core.runs.compare_events import (
    AdapterCheck,
    AnswersFinished,
    AnswerStats,
    ConfidenceInterval,
    ForgettingCheck,
    LaneAdjusted,
    LaneScore,
    LanesLoaded,
    PromptStarted,
    RequestFailed,
    ScoresReady,
    ScoringFailed,
    ScoringProgress,
    TextChunk,
    TokenHeatmap,
    TokenLogprobs,
)
from trainer_core.runs.event_log import EventLog, Tail, decode_event, encode_event
from trainer_core.runs.events import (
    AdapterSaved,
    CheckpointSaved,
    DataPrepared,
    DeviceAcquired,
    Evaluation,
    Event,
    MemoryProbed,
    Notice,
    OutOfMemory,
    Phase,
    PhaseChanged,
    ReferenceCheck,
    RowLengths,
    RunEnded,
    RunFailed,
    SampleAnswer,
    SampleAnswers,
    SettingChanged,
    StageResumed,
    StepsPlanned,
    Suggestion,
    TrainStep,
)
from trainer_core.runs.export_events import (
    AnswerComparison,
    BaseMeasure,
    CertificateRow,
    ExportFinished,
    ExportPart,
    ExportProgress,
    ExportRegistered,
)
from trainer_core.runs.run_state import RunState, apply, mark_dead  # fmt: skip
from trainer_core.texts import Text, verbatim

HALF = ConfidenceInterval(0.5, 0.25, None, 48)
FORM = CertificateRow(
    "gguf:q8_0",
    1000,
    8.5,
    True,
    True,
    True,
    AnswerComparison(1, 2, (0.05,)),
    None,
    0.001,
    None,
    HALF,
    None,
    Text("export.no_engine"),
)
STEP = TrainStep("sft", 1, 4, 2.5, 1e-4, 0.3, 2.0, 100.0, 6.0)
METRICS = {"margin": 0.1, "accuracy": 0.5, "chosen": -10.0, "rejected": -12.0}
DPO_STEP = replace(
    STEP,
    stage="dpo",
    total=2,
    seconds_left=2.0,
    metrics=METRICS,
)
EXAMPLES: list[Event] = [
    PhaseChanged(Phase.TRAINING, verbatim("go"), "sft"),
    DeviceAcquired("GPU-1"),
    DataPrepared(3, 2, 1, "ab", (verbatim("one left out"),)),
    SettingChanged("precision", "auto", "bf16", Text("out_of_memory.why_half_batch", batch=8)),
    Notice(verbatim("2 cut")),
    StepsPlanned({"sft": 4, "dpo": 2}),
    ReferenceCheck("dpo", 0.6931, 0.6931, 0.0, 0.0, 1e-3, verbatim("the SFT adapter"), verbatim("its copy"), True),
    STEP,
    DPO_STEP,
    StageResumed("sft", 2, (verbatim("one skipped"),)),
    Evaluation("dpo", 2, 0.6, {"accuracy": 0.75, "margin": 0.3}, 40, 1.5),
    SampleAnswers("dpo", 2, (SampleAnswer("hi", "Hé </script>", 3, True),), 0.5),
    CheckpointSaved("sft", 2, "checkpoints/sft-000002", 10, 0.1),
    OutOfMemory("dpo", "CUDA out of memory"),
    AdapterSaved("sft", "adapter-sft", 10, 4),
    ScoringProgress(verbatim("answers"), 1, 2, 10, 40, None),
    ExportProgress(verbatim("merged"), 1, 3, 10, 40, 2.5),
    ExportPart("merged", 1000),
    ExportFinished(
        "/out/it", (FORM,), 24, (BaseMeasure("rounded", 0.1, HALF), BaseMeasure("original", problem=verbatim("no")))
    ),
    ExportRegistered("ollama", verbatim("it"), verbatim("down")),
    ScoresReady((LaneScore("Base", HALF, HALF, HALF, HALF, forgetting=ForgettingCheck(2, 1, HALF, 0.3)),)),
    PromptStarted("a1", "hi", ("Base", "DPO")),
    TextChunk("a1", {"Base": "Hé \u2028 </script>", "DPO": ""}),
    AnswersFinished("a1", {"Base": AnswerStats(3, 0.5, True)}),
    RequestFailed("a1", verbatim("too long")),
    ScoringFailed(verbatim("no pairs")),
    LaneAdjusted("a1", AdapterCheck("SFT", "12ab", 0.5, 0.5)),
    TokenHeatmap("a2", ("SFT", "DPO"), (TokenLogprobs("hi", -0.5, -0.25),)),
    LanesLoaded((AdapterCheck("DPO", "ab12", 0.5),)),
    RunEnded(Phase.DONE),
    RunFailed(verbatim("no"), "trace"),
    RunFailed(verbatim("no"), offers=(Suggestion(verbatim("Halve it"), {"sft.learning_rate": 1e-4}),)),
    RowLengths("sft", 512, 300, 0.012),
    MemoryProbed("sft", 2048, 900, 1400, 2000, 1.5, True),
]


@pytest.mark.parametrize("event", EXAMPLES, ids=lambda event: type(event).__name__)
def test_an_event_survives_its_line(event: Event) -> None:
    line = encode_event(event, 1, datetime.now(UTC))
    assert line.endswith(b"\n") and line.count(b"\n") == 1
    back = decode_event(line)
    assert encode_event(back, 1, datetime(2026, 1, 1, tzinfo=UTC)) == encode_event(
        event, 1, datetime(2026, 1, 1, tzinfo=UTC)
    )


def test_every_event_class_has_an_example() -> None:
    assert {type(event) for event in EXAMPLES} == set(Event.__args__)


def test_a_tail_reads_whole_lines_only(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    tail = Tail(path)
    assert list(tail) == []
    log = EventLog(path)
    log(Notice(verbatim("one")))
    with path.open("ab") as file:
        file.write(b'{"seq": 2, "kind": "Noted", "te')
    assert list(tail) == [Notice(verbatim("one"))]
    with path.open("ab") as file:
        file.write(b'xt": "two"}\n')
    assert list(tail) == [Notice(verbatim("two"))]


def test_a_log_cuts_a_torn_last_line_and_goes_on_counting(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    EventLog(path)(Notice(verbatim("one")))
    with path.open("ab") as file:
        file.write(b'{"seq": 2, "kind"')
    EventLog(path)(Notice(verbatim("two")))
    assert list(Tail(path)) == [Notice(verbatim("one")), Notice(verbatim("two"))]
    assert b'"seq": 2' in path.read_bytes()


def test_folding_a_whole_run() -> None:
    view = RunState("r")
    seen = [view := apply(view, event) for event in EXAMPLES[:15]]
    assert view.points == (STEP, DPO_STEP)
    assert [str(note) for note in view.notes] == ["one left out", "2 cut", "one skipped"]
    assert view.effective_value("precision", "auto") == "bf16" and view.effective_value("rank", "16") == "16"
    assert [one.metrics["accuracy"] for one in view.evaluated] == [0.75]
    assert view.adapters == {"sft": "adapter-sft"}
    assert view.card == "GPU-1"
    assert view.progress == pytest.approx(2 / 6)
    assert view.proof and view.proof.holds
    assert seen[7].seconds_left == 6.0 + 2 * 2.0  # the rest of SFT, and DPO's two steps at SFT's pace
    assert apply(view, RunEnded(Phase.DONE)).progress == 1.0


def test_lanes_grow_together() -> None:
    view = apply(RunState("c"), PromptStarted("a", "hi", ("Base", "DPO")))
    view = apply(view, TextChunk("a", {"Base": "He", "DPO": "Yo"}))
    view = apply(view, TextChunk("a", {"Base": "llo"}))
    assert view.answers == {"Base": "Hello", "DPO": "Yo"} and view.phase is Phase.ANSWERING
    assert apply(view, AnswersFinished("a", {})).phase is Phase.READY


@pytest.mark.parametrize("phase", Phase)
@pytest.mark.parametrize("alive", [True, False])
def test_only_an_active_run_without_a_process_is_settled(phase: Phase, alive: bool) -> None:
    settled = mark_dead(RunState("r", phase), alive, "Killed")
    if phase.is_active and not alive:
        assert settled.phase is Phase.FAILED and settled.error.params["line"] == "Killed"
    else:
        assert settled.phase is phase and not settled.error


def test_metrics_that_the_method_does_not_have_are_left_out_with_a_note(tmp_path: Path) -> None:
    line = json.loads(encode_event(DPO_STEP, 1, datetime.now(UTC)))
    line["metrics"] |= {"x" * 500: 1.0, "loss": 7.0}
    (tmp_path / "events.jsonl").write_text(json.dumps(line) + "\n", encoding="utf-8")
    note, event = Tail(tmp_path / "events.jsonl")
    assert (
        event == DPO_STEP
        and isinstance(note, Notice)
        and "metrics.loss" in str(note.text)
        and len(str(note.text)) < 400
    )
