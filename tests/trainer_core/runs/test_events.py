"""Events: what is written comes back, torn lines never count, and folding gives the state."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from trainer_core.runs.event_log import EventLog, Tail, decode, encode
from trainer_core.runs.events import (
    Answered,
    Asked,
    AskFailed,
    Changed,
    Checkpointed,
    Dialed,
    Ended,
    Evaluated,
    Event,
    Failed,
    Forgetting,
    Heated,
    LaneEnd,
    LaneProof,
    LaneScore,
    LanesLoaded,
    Measured,
    Noted,
    Offer,
    OutOfMemory,
    Phase,
    Piece,
    Placed,
    Plan,
    Prepared,
    Probed,
    Proof,
    Resumed,
    RowLengths,
    Sample,
    Sampled,
    Saved,
    Scored,
    ScoreFailed,
    Scoring,
    Status,
    Step,
    Text,
)
from trainer_core.runs.run_state import RunView, fold, settle  # fmt: skip

HALF = Measured(0.5, 0.25, None, 48)
STEP = Step("sft", 1, 4, 2.5, 1e-4, 0.3, 2.0, 100.0, 6.0)
DPO_STEP = replace(STEP, stage="dpo", total=2, seconds_left=2.0, margin=0.1, accuracy=0.5, chosen=-10.0, rejected=-12.0)
EXAMPLES: list[Event] = [
    Status(Phase.SFT, "go"),
    Placed("GPU-1"),
    Prepared(3, 2, 1, "ab", ("one left out",)),
    Changed("precision", "auto", "bf16", "because"),
    Noted("2 cut"),
    Plan({"sft": 4, "dpo": 2}),
    Proof("dpo", 0.6931, 0.6931, 0.0, 0.0, 1e-3, "the SFT adapter", "its copy", True),
    STEP,
    DPO_STEP,
    Resumed("sft", 2, ("one skipped",)),
    Evaluated("dpo", 2, 0.6, 0.75, 0.3, 40, 1.5),
    Sampled("dpo", 2, (Sample("hi", "Hé </script>", 3, True),), 0.5),
    Checkpointed("sft", 2, "checkpoints/sft-000002", 10, 0.1),
    OutOfMemory("dpo", "CUDA out of memory"),
    Saved("sft", "adapter-sft", 10, 4),
    Scoring("answers", 1, 2, 10, 40, None),
    Scored((LaneScore("Base", HALF, HALF, HALF, HALF, forgetting=Forgetting(2, 1, HALF, 0.3)),)),
    Asked("a1", "hi", ("Base", "DPO")),
    Text("a1", {"Base": "Hé \u2028 </script>", "DPO": ""}),
    Answered("a1", {"Base": LaneEnd(3, 0.5, True)}),
    AskFailed("a1", "too long"),
    ScoreFailed("no pairs"),
    Dialed("a1", LaneProof("SFT", "12ab", 0.5, 0.5)),
    Heated("a2", ("SFT", "DPO"), (Piece("hi", -0.5, -0.25),)),
    LanesLoaded((LaneProof("DPO", "ab12", 0.5),)),
    Ended(Phase.DONE),
    Failed("no", "trace"),
    Failed("no", offers=(Offer("Halve it", {"sft.learning_rate": 1e-4}),)),
    RowLengths("sft", 512, 300, 0.012),
    Probed("sft", 2048, 900, 1400, 2000, 1.5, True),
]


@pytest.mark.parametrize("event", EXAMPLES, ids=lambda event: type(event).__name__)
def test_an_event_survives_its_line(event: Event) -> None:
    line = encode(event, 1, datetime.now(UTC))
    assert line.endswith(b"\n") and line.count(b"\n") == 1
    back = decode(line)
    assert encode(back, 1, datetime(2026, 1, 1, tzinfo=UTC)) == encode(event, 1, datetime(2026, 1, 1, tzinfo=UTC))


def test_every_event_class_has_an_example() -> None:
    assert {type(event) for event in EXAMPLES} == set(Event.__args__)


def test_a_tail_reads_whole_lines_only(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    tail = Tail(path)
    assert list(tail) == []
    log = EventLog(path)
    log(Noted("one"))
    with path.open("ab") as file:
        file.write(b'{"seq": 2, "kind": "Noted", "te')
    assert list(tail) == [Noted("one")]
    with path.open("ab") as file:
        file.write(b'xt": "two"}\n')
    assert list(tail) == [Noted("two")]


def test_a_log_cuts_a_torn_last_line_and_goes_on_counting(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    EventLog(path)(Noted("one"))
    with path.open("ab") as file:
        file.write(b'{"seq": 2, "kind"')
    EventLog(path)(Noted("two"))
    assert list(Tail(path)) == [Noted("one"), Noted("two")]
    assert b'"seq": 2' in path.read_bytes()


def test_folding_a_whole_run() -> None:
    view = RunView("r")
    seen = [view := fold(view, event) for event in EXAMPLES[:15]]
    assert view.points == (STEP, DPO_STEP)
    assert view.notes == ("one left out", "2 cut", "one skipped")
    assert view.used("precision", "auto") == "bf16" and view.used("rank", "16") == "16"
    assert [one.accuracy for one in view.evaluated] == [0.75]
    assert view.adapters == {"sft": "adapter-sft"}
    assert view.card == "GPU-1"
    assert view.progress == pytest.approx(2 / 6)
    assert view.proof and view.proof.holds
    assert seen[7].seconds_left == 6.0 + 2 * 2.0  # the rest of SFT, and DPO's two steps at SFT's pace
    assert fold(view, Ended(Phase.DONE)).progress == 1.0


def test_lanes_grow_together() -> None:
    view = fold(RunView("c"), Asked("a", "hi", ("Base", "DPO")))
    view = fold(view, Text("a", {"Base": "He", "DPO": "Yo"}))
    view = fold(view, Text("a", {"Base": "llo"}))
    assert view.answers == {"Base": "Hello", "DPO": "Yo"} and view.phase is Phase.ANSWERING
    assert fold(view, Answered("a", {})).phase is Phase.READY


@pytest.mark.parametrize("phase", Phase)
@pytest.mark.parametrize("alive", [True, False])
def test_only_an_active_run_without_a_process_is_settled(phase: Phase, alive: bool) -> None:
    settled = settle(RunView("r", phase), alive, "Killed")
    if phase.active and not alive:
        assert settled.phase is Phase.FAILED and "Killed" in settled.error
    else:
        assert settled.phase is phase and not settled.error
