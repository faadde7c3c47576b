"""Exports as the app sees them: beside the card, stopped and gone on with, refused, damaged."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.scripted import finish_runs, scripted_command
from tests.support.serve import machine
from trainer_core.cli.export import split_targets
from trainer_core.errors import BusyError, ConfigError
from trainer_core.jobs.export_control import ExportRequest
from trainer_core.jobs.supervisor import Supervisor, wait_for
from trainer_core.runs.events import Phase
from trainer_core.runs.run_state import RunState
from trainer_core.runs.workspace import Workspace
from ui.payloads import exports

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def boss(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Supervisor]:
    """With a card, and one finished run."""
    folder = tmp_path_factory.mktemp("exports") / "workspace"
    finish_runs(folder, "first")
    found = Supervisor(Workspace(folder), scripted_command(100), read_machine=lambda: machine(24))
    yield found
    found.close()


def start(boss: Supervisor, name: str, targets: tuple[str, ...] = ("merged",)) -> str:
    run_id = boss.registry.run_states[0].id
    lane = boss.registry.run_lanes(run_id)[-1]
    return boss.exports.start(ExportRequest(run_id, lane, targets, boss.workspace.exports, name))


def until(boss: Supervisor, export_id: str, *phases: Phase) -> RunState:
    def reached() -> bool:
        boss.exports.refresh()
        return boss.exports.export_state(export_id).phase in phases

    assert wait_for(reached, 30)
    return boss.exports.export_state(export_id)


def test_its_worker_sees_no_card_and_takes_no_device(boss: Supervisor) -> None:
    """A training run beside it may need the whole card."""
    export_id = start(boss, "holds-card")
    until(boss, export_id, Phase.SAVING)
    process = boss.exports.watchers[export_id].process
    assert process and psutil.Process(process.pid).environ()["CUDA_VISIBLE_DEVICES"] == ""
    assert "DeviceAcquired" not in (boss.exports.watchers[export_id].run_dir / "events.jsonl").read_text()
    boss.exports.stop(export_id)
    until(boss, export_id, Phase.STOPPED)


def test_a_stopped_one_goes_on_to_its_end(boss: Supervisor) -> None:
    export_id = start(boss, "holds-on")
    until(boss, export_id, Phase.SAVING)
    with pytest.raises(BusyError) as busy:
        start(boss, "holds-on")
    assert busy.value.text.code == "export.in_progress"
    boss.exports.stop(export_id)
    until(boss, export_id, Phase.STOPPED)
    boss.exports.resume(export_id)
    with pytest.raises(BusyError) as busy:
        boss.exports.resume(export_id)
    assert busy.value.text.code == "export.not_resumable"
    until(boss, export_id, Phase.SAVING)
    boss.exports.stop(export_id)
    until(boss, export_id, Phase.STOPPED)


def test_a_taken_name_is_refused_before_a_worker_starts(boss: Supervisor) -> None:
    (boss.workspace.exports / "mine").mkdir()
    before = len(boss.exports.watchers)
    with pytest.raises(ConfigError) as error:
        start(boss, "mine")
    assert error.value.text.code == "export.name_taken" and len(boss.exports.watchers) == before


def test_a_program_that_was_down_is_asked_again(boss: Supervisor) -> None:
    export_id = start(boss, "lost", ("gguf:q8_0", "ollama"))
    state = until(boss, export_id, Phase.DONE)
    assert state.refused_programs == ("ollama",)
    (row,) = (one for one in exports.exports_payload(boss.exports) if one["id"] == export_id)
    assert row["resumable"] and row["programs"] == ["It is down."]
    assert start(boss, "lost", ("gguf:q8_0", "ollama")) == export_id  # the same command once more
    assert wait_for(lambda: not until(boss, export_id, Phase.DONE).refused_programs, 30)
    with pytest.raises(BusyError) as busy:
        boss.exports.resume(export_id)
    assert busy.value.text.code == "export.not_resumable"
    with pytest.raises(ConfigError) as error:
        start(boss, "lost", ("merged",))
    assert error.value.text.code == "export.name_taken"


def test_a_full_disk_is_shown_with_its_reason(boss: Supervisor) -> None:
    export_id = start(boss, "full")
    until(boss, export_id, Phase.PAUSED)
    (row,) = (one for one in exports.exports_payload(boss.exports) if one["id"] == export_id)
    assert row["resumable"] and not row["active"] and "no room" in row["error"]


def test_a_damaged_job_is_a_row_with_its_reason_and_hides_no_other(boss: Supervisor) -> None:
    good = start(boss, "good")
    until(boss, good, Phase.DONE)
    bad = boss.workspace.export_jobs / "20990101-000000-bad"
    bad.mkdir()
    (bad / "run.json").write_text(json.dumps({"version": 1, "job": {"kind": "train"}}))
    boss.exports.refresh()
    rows = {row["id"]: row for row in exports.exports_payload(boss.exports)}
    assert rows[bad.name]["error"] and not rows[bad.name]["resumable"]
    assert rows[good]["forms"][0]["kept"] == "98.8% [98.6%, 98.9%]"


@pytest.mark.parametrize(
    ("text", "targets"),
    [
        ("adapter,merged", ["adapter", "merged"]),
        ("GGUF:Q8_0, bf16,adapter", ["gguf:q8_0", "gguf:bf16", "adapter"]),
        ("q8_0", ["q8_0"]),
    ],
)
def test_forms_of_the_command_line(text: str, targets: list[str]) -> None:
    assert split_targets(text) == targets


def test_the_options_name_lanes_forms_and_sizes(boss: Supervisor, tmp_path: Path) -> None:
    found = exports.export_options(boss, boss.registry.run_states[0].id)
    assert found["lane"] == "DPO" and {"SFT", "DPO", "DPO at 50%"} <= set(found["lanes"])
    sizes = {one["key"]: one["size"] for one in found["targets"]}
    assert (sizes["merged"], sizes["gguf:q8_0"]) == ("269.0 MB", "142.9 MB") and "merged-f16" not in sizes
