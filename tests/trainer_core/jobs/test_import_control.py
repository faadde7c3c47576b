"""Imports as the app sees them: names, lanes beside a run on the same base, removal and return."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import model_files
from trainer_core.config.jobs import ImportJob, TrainJob
from trainer_core.config.recipe import Recipe
from trainer_core.errors import BusyError, ConfigError, ModelError
from trainer_core.jobs import lane_choices
from trainer_core.jobs.import_control import network_model
from trainer_core.jobs.supervisor import Supervisor
from trainer_core.runs import run_folder, trash
from trainer_core.runs.event_log import EventLog
from trainer_core.runs.events import AdapterSaved, Phase, RunEnded
from trainer_core.runs.import_origin import ORIGIN, ImportKind, Origin
from trainer_core.runs.workspace import Workspace


@pytest.fixture
def boss(tmp_path: Path) -> Iterator[Supervisor]:
    found = Supervisor(
        Workspace(tmp_path / "workspace"), command=(sys.executable, "-c", "raise SystemExit(1)"), device="cpu"
    )
    yield found
    found.close()


def finish_import(boss: Supervisor, name: str, base: str = "", kind: ImportKind = "adapter") -> str:
    """An import as its worker leaves it, without weights."""
    run_dir = run_folder.create_run(boss.workspace.imports, ImportJob(source="owner/it", name=name), name)
    origin = Origin(kind=kind, source="owner/it", date="2026-12-01", base=base, files={})
    (run_dir / kind).mkdir()
    (run_dir / kind / ORIGIN).write_text(origin.model_dump_json())
    EventLog(run_dir / "events.jsonl")(RunEnded(Phase.DONE))
    boss.registry.refresh()
    return run_dir.name


def finish_run(boss: Supervisor, model: str) -> str:
    run_dir = run_folder.create_run(boss.workspace.runs, TrainJob(recipe=Recipe(model=model)), "run")
    say = EventLog(run_dir / "events.jsonl")
    say(AdapterSaved("sft", "adapter-sft", 5, 9))
    say(RunEnded(Phase.DONE))
    boss.registry.refresh()
    return run_dir.name


def lane_names(boss: Supervisor, run_id: str) -> list[str]:
    return list(lane_choices.lanes_by_name(boss.registry, run_id))


def test_an_imported_adapter_is_a_lane_of_every_comparison_on_its_base(boss: Supervisor) -> None:
    on_base, elsewhere = finish_run(boss, "owner/base"), finish_run(boss, "owner/other")
    found = finish_import(boss, "mine", "owner/base")
    assert "mine · imported" in lane_names(boss, on_base)
    assert "mine · imported" not in lane_names(boss, elsewhere)
    assert lane_names(boss, found)[:3] == ["Base", "mine · imported", "mine · imported at 50%"]
    assert boss.registry.run_base(found) == ("owner/base", "auto")
    (lane,) = lane_choices.select_lanes(boss.registry, on_base, ["mine · imported"])
    assert Path(lane.adapter or "") == boss.registry.run_dir(found) / "adapter"


def test_an_imported_model_is_a_base_with_the_adapters_on_it(boss: Supervisor) -> None:
    whole = finish_import(boss, "whole", kind="model")
    folder = str((boss.registry.run_dir(whole) / "model").resolve())
    assert boss.registry.run_base(whole) == (folder, "auto") and lane_names(boss, whole) == ["Base"]
    finish_import(boss, "on it", folder)
    assert lane_names(boss, whole) == ["Base", "on it · imported"]


def test_its_origin_names_source_base_and_template(boss: Supervisor) -> None:
    found = finish_import(boss, "mine", "/models/base")
    assert [text.code for text in boss.registry.describe_import(found)] == ["imports.adapter_origin"]
    folder, origin = boss.registry.read_import(found)
    other = origin.model_copy(update={"named_base": "owner/other", "own_template": True, "commit": "a" * 40})
    (folder / ORIGIN).write_text(other.model_dump_json())
    told = boss.registry.describe_import(found)
    assert [text.code for text in told] == ["imports.adapter_origin", "imports.other_base", "imports.own_template"]
    assert told[0].params["source"] == "owner/it @ aaaaaaa" and told[0].params["base"] == "/models/base"
    whole = finish_import(boss, "whole", kind="model")
    assert [text.code for text in boss.registry.describe_import(whole)] == ["imports.model_origin"]


def test_a_damaged_import_hides_no_other_lane(boss: Supervisor) -> None:
    run = finish_run(boss, "owner/base")
    finish_import(boss, "good", "owner/base")
    bad = finish_import(boss, "bad", "owner/base")
    (boss.registry.run_dir(bad) / "adapter" / ORIGIN).write_text(json.dumps({"kind": "other"}))
    assert [name for name in lane_names(boss, run) if "imported" in name] == ["good · imported"]
    with pytest.raises(ModelError) as error:
        boss.registry.run_base(bad)
    assert error.value.text.code == "imports.bad_origin"


@pytest.mark.parametrize("name", ["../up", "a/b", ".hidden", "x" * 41, "two\nlines"])
def test_a_name_that_no_lane_can_have_is_refused(boss: Supervisor, name: str) -> None:
    with pytest.raises(ConfigError) as error:
        boss.imports.start("owner/it", name)
    assert error.value.keys == ("name",) and not list(boss.workspace.imports.iterdir())


def test_a_taken_name_and_a_missing_folder_are_refused_before_a_worker_starts(boss: Supervisor) -> None:
    finish_import(boss, "Mine", "owner/base")
    for source, name, code in (("owner/it", "mine", "imports.name_taken"), ("/no/such", "new", "imports.not_found")):
        with pytest.raises((ConfigError, ModelError)) as error:
            boss.imports.start(source, name)
        assert error.value.text.code == code
    assert len(list(boss.workspace.imports.iterdir())) == 1


@pytest.mark.real
def test_a_failed_import_leaves_its_name_free(boss: Supervisor) -> None:
    import_id = boss.imports.start("owner/it", "again")
    watcher = boss.registry.imports[import_id]
    assert watcher.process and watcher.process.wait(30) == 1
    boss.registry.refresh()
    assert boss.registry.run_state(import_id).phase is Phase.FAILED
    assert boss.imports.start("owner/it", "again") != import_id


def test_a_removed_import_returns_from_the_trash(boss: Supervisor) -> None:
    run, found = finish_run(boss, "owner/base"), finish_import(boss, "mine", "owner/base")
    boss.imports.remove(found)
    boss.registry.refresh()
    assert "mine · imported" not in lane_names(boss, run) and found not in boss.registry.imports
    trash.restore_run(boss.workspace, found)
    boss.registry.refresh()
    assert "mine · imported" in lane_names(boss, run) and found not in boss.registry.watchers


def test_the_base_of_a_run_is_not_removed(boss: Supervisor) -> None:
    whole = finish_import(boss, "whole", kind="model")
    finish_run(boss, boss.registry.run_base(whole)[0])
    with pytest.raises(BusyError) as error:
        boss.imports.remove(whole)
    assert error.value.text.code == "imports.in_use" and boss.registry.run_dir(whole).is_dir()


def test_the_worker_reaches_the_hub_only_for_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "adapter_model.safetensors").write_bytes(model_files.pack_safetensors({"a": [1]}))
    for named, expected in (("owner/base", "owner/base"), (str(tmp_path), str(tmp_path))):
        (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": named}))
        assert network_model(ImportJob(source=str(tmp_path), name="it")) == expected
    assert network_model(ImportJob(source=str(tmp_path), name="it", base="owner/other")) == "owner/other"
    assert network_model(ImportJob(source="owner/it", name="it", base="starter")) == "owner/it"
