"""Imports: the copy does what its source does, what Compare would refuse is refused, and a kill leaves all or nothing."""

from __future__ import annotations

import itertools
import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.support import tiny
from tests.support.faults import run_with_fault
from trainer_core.config.jobs import ImportJob, Lane
from trainer_core.config.recipe import Sampling
from trainer_core.errors import DiskError, ModelError, UserError
from trainer_core.export.lane_adapter import write_lane_adapter
from trainer_core.export.merge import merge_adapter
from trainer_core.inference.generate import GenerationRow, generate_rows
from trainer_core.inference.importing import describe_folder, import_model
from trainer_core.inference.load import load_lanes
from trainer_core.models import resolve
from trainer_core.runs import import_origin, run_folder
from trainer_core.runs.control import StopRequests
from trainer_core.runs.events import Event, Phase, PhaseChanged
from trainer_core.runs.workspace import Workspace
from trainer_core.texts import Text

pytestmark = pytest.mark.real

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, an adapter that PEFT wrote, and both merged."""
    folder = tmp_path_factory.mktemp("elsewhere")
    base = tiny.model(folder / "base")
    adapter = tiny.adapter(folder / "adapter", base)
    (folder / "merged").mkdir()
    merge_adapter(base, adapter, folder / "merged")
    for path in base.iterdir():
        if path.suffix != ".safetensors":
            shutil.copy(path, folder / "merged")
    return folder


def new_import(place: Path, source: Path, base: str = "") -> tuple[ImportJob, Path]:
    job = ImportJob(source=str(source), name="mine", base=base)
    return job, run_folder.create_run(Workspace(place / "workspace").imports, job, job.name)


def make_import(place: Path, source: Path, base: str = "", emit: Callable[[Event], None] = lambda event: None) -> Path:
    """The folder with the imported files."""
    job, run_dir = new_import(place, source, base)
    assert import_model(job, run_dir, emit, StopRequests()) is Phase.DONE
    found = import_origin.find_import(run_dir)
    assert found
    return found


def greedy_answers(model: Path, adapter: Path | None) -> list[list[int]]:
    lanes = load_lanes(str(model), "fp32", [Lane(name="one", adapter=str(adapter) if adapter else None)])
    prompts = ("the quick brown fox", "a short question")
    rows = [GenerationRow("one", text, text) for text in prompts]
    generate_rows(lanes, rows, Sampling(temperature=0, max_new_tokens=24), lambda: True)
    return [row.tokens for row in rows]


def test_an_imported_adapter_answers_as_its_source_token_for_token(folder: Path, tmp_path: Path) -> None:
    found = make_import(tmp_path, folder / "adapter")
    assert greedy_answers(folder / "base", found) == greedy_answers(folder / "base", folder / "adapter")
    assert greedy_answers(folder / "base", found) != greedy_answers(folder / "base", None)
    origin = import_origin.verify_files(found)
    assert (origin.kind, origin.source, origin.named_base) == ("adapter", "adapter", "base")
    assert origin.base == str((folder / "base").resolve()) and set(origin.files) == {WEIGHTS, CONFIG}
    assert not [path for path in found.rglob("*") if path.is_symlink()]


def test_an_imported_model_answers_as_its_source_token_for_token(folder: Path, tmp_path: Path) -> None:
    (source := tmp_path / "merged").mkdir()
    shutil.copytree(folder / "merged", source, dirs_exist_ok=True)
    (source / "modeling_x.py").write_text("raise SystemExit")
    (source / "pytorch_model.bin").write_bytes(pickle.dumps(1))
    found = make_import(tmp_path, source)
    assert greedy_answers(found, None) == greedy_answers(source, None) != greedy_answers(folder / "base", None)
    assert import_origin.verify_files(found).kind == found.name == "model"
    assert {path.suffix for path in found.iterdir()} <= {".json", ".safetensors", ".jinja"}


def test_an_imported_lane_is_exported_with_the_same_weights_until_they_change(folder: Path, tmp_path: Path) -> None:
    found = make_import(tmp_path, folder / "adapter")
    lane = Lane(name="mine", adapter=str(found))
    (tmp_path / "out").mkdir()
    write_lane_adapter(lane, tmp_path / "out", "")
    held, written = load_file(folder / "adapter" / WEIGHTS), load_file(tmp_path / "out" / WEIGHTS)
    assert held.keys() == written.keys() and all(torch.equal(held[name], written[name]) for name in held)
    content = bytearray((found / WEIGHTS).read_bytes())
    content[-1] ^= 1
    (found / WEIGHTS).write_bytes(content)
    with pytest.raises(ModelError) as error:
        write_lane_adapter(lane, tmp_path / "out", "")
    assert error.value.text.code == "adapter_checks.changed_file"


def test_an_adapter_takes_another_base_of_the_same_shapes(folder: Path, tmp_path: Path) -> None:
    other = tiny.model(tmp_path / "other", seed=5)
    origin = import_origin.read_origin(make_import(tmp_path, folder / "adapter", str(other)))
    assert (origin.named_base, origin.base) == ("base", str(other.resolve()))


def change_config(folder: Path, **values: Any) -> None:
    path = folder / CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def poison_weights(folder: Path) -> None:
    held = load_file(folder / WEIGHTS)
    next(iter(held.values())).fill_(float("nan"))
    save_file(held, folder / WEIGHTS)


def link_outside(folder: Path) -> None:
    (folder.parent / "secret").write_text("secret")
    (folder / "NOTICE").symlink_to(folder.parent / "secret")


def replace_by_pickle(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    (folder / "adapter_model.bin").write_bytes(pickle.dumps({}))


SPOILT: dict[str, Callable[[Path], object]] = {
    "adapter_checks.no_safetensors": replace_by_pickle,
    "model_folder.own_code": lambda folder: change_config(
        folder, auto_mapping={"base_model_class": "A", "parent_library": "os"}
    ),
    "adapter_checks.unsupported_setting": lambda folder: change_config(folder, modules_to_save=["lm_head"]),
    "adapter_checks.not_finite": poison_weights,
    "weights.cut_short": lambda folder: (folder / WEIGHTS).write_bytes(b"x" * 50),
    "model_folder.bad_json": lambda folder: (folder / CONFIG).write_text("{"),
    "model_folder.no_config": lambda folder: (folder / CONFIG).unlink(),
    "model_folder.outside_link": link_outside,
    "model_folder.broken_link": lambda folder: (folder / "NOTICE").symlink_to("nowhere"),
    "model_folder.special_file": lambda folder: os.mkfifo(folder / "NOTICE"),
    "imports.unknown_base": lambda folder: change_config(folder, base_model_name_or_path="/home/else/model"),
}


def refusal(place: Path, source: Path, base: str = "", emit: Callable[[Event], None] = lambda event: None) -> Text:
    """Why an import is refused; it leaves nothing, neither under its name nor hidden."""
    job, run_dir = new_import(place, source, base)
    with pytest.raises(UserError) as error:
        import_model(job, run_dir, emit, StopRequests())
    assert [path.name for path in run_dir.iterdir()] == ["run.json"]
    text = error.value.text
    return text.params["problem"] if text.code == "adapter_checks.in_lane" else text


@pytest.mark.parametrize("code", SPOILT)
def test_what_compare_would_refuse_is_not_imported(folder: Path, tmp_path: Path, code: str) -> None:
    shutil.copytree(folder / "adapter", tmp_path / "bad")
    SPOILT[code](tmp_path / "bad")
    assert refusal(tmp_path, tmp_path / "bad").code == code


def test_an_adapter_of_another_base_is_refused_with_layer_and_both_shapes(folder: Path, tmp_path: Path) -> None:
    wide = tiny.model(tmp_path / "wide", hidden_size=96)
    found = refusal(tmp_path, folder / "adapter", str(wide))
    assert found.code == "adapter_checks.other_shape" and "layers.0" in found.params["layer"]
    assert (found.params["shape"], found.params["needed"]) == ("64 × 4", "96 × 4")


def test_an_adapter_of_the_hub_opens_no_folder_that_it_names(folder: Path, tmp_path: Path) -> None:
    """Its configuration names a folder that exists here; only the user may choose one."""
    workspace, job = Workspace(tmp_path), ImportJob(source="owner/it", name="it")
    with pytest.raises(ModelError) as error:
        describe_folder(job, folder / "adapter", workspace, lambda event: None)
    assert error.value.text.code == "imports.unknown_base"
    chosen = job.model_copy(update={"base": str(folder / "base")})
    found = describe_folder(chosen, folder / "adapter", workspace, lambda event: None)
    assert (found.commit, found.base) == ("adapter", str((folder / "base").resolve()))


def test_a_model_without_its_weights_is_refused(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "merged", tmp_path / "bad")
    for path in (tmp_path / "bad").glob("*.safetensors"):
        path.rename(path.with_suffix(".bin"))
    assert refusal(tmp_path, tmp_path / "bad").code == "model_folder.only_pickle"


@pytest.mark.parametrize("changed", [CONFIG, WEIGHTS])
def test_a_folder_that_changes_while_it_is_copied_is_refused(folder: Path, tmp_path: Path, changed: str) -> None:
    shutil.copytree(folder / "adapter", tmp_path / "moving")

    def write_into(event: Event) -> None:
        if isinstance(event, PhaseChanged) and event.detail.params.get("file") == CONFIG:
            with (tmp_path / "moving" / changed).open("ab") as file:
                file.write(b" ")

    found = refusal(tmp_path, tmp_path / "moving", emit=write_into)
    assert (found.code, found.params["file"]) == ("imports.changed", changed)


def test_its_own_template_is_noted_and_kept_only_for_a_base_without_one(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "adapter", tmp_path / "own")
    (tmp_path / "own" / "chat_template.jinja").write_text("{{ messages[0].content }}")
    found = make_import(tmp_path, tmp_path / "own")
    assert import_origin.read_origin(found).own_template and not (found / "chat_template.jinja").exists()
    assert not import_origin.read_origin(make_import(tmp_path, folder / "adapter")).own_template
    shutil.copytree(folder / "base", tmp_path / "bare")
    (tmp_path / "bare" / "chat_template.jinja").unlink()
    kept = make_import(tmp_path, tmp_path / "own", str(tmp_path / "bare"))
    assert not import_origin.verify_files(kept).own_template
    assert (kept / "chat_template.jinja").read_text() == "{{ messages[0].content }}"


def test_a_kill_at_each_write_leaves_a_whole_import_or_none(folder: Path, tmp_path: Path) -> None:
    job, run_dir = new_import(tmp_path, folder / "adapter")
    for at in itertools.count(1):
        code = run_with_fault(lambda: import_model(job, run_dir, lambda event: None, StopRequests()), f"kill:{at}")
        if found := import_origin.find_import(run_dir):
            assert set(import_origin.verify_files(found).files) == {WEIGHTS, CONFIG}
        if code == 0:
            break
        assert code == -9
    assert found and at > 8
    assert import_model(job, run_dir, lambda event: None, StopRequests()) is Phase.DONE


def test_a_full_disk_leaves_nothing(folder: Path, tmp_path: Path) -> None:
    job, run_dir = new_import(tmp_path, folder / "adapter")
    for at in (1, 3, 6):
        assert (
            run_with_fault(lambda: import_model(job, run_dir, lambda event: None, StopRequests()), f"enospc:{at}") == 1
        )
        assert [path.name for path in run_dir.iterdir()] == ["run.json"]


def test_a_folder_larger_than_the_free_space_is_refused_before_it_is_read(folder: Path, tmp_path: Path) -> None:
    """With a file that takes no space itself, and a stop, so that nothing is copied if the check is missing."""
    shutil.copytree(folder / "adapter", tmp_path / "large")
    (tmp_path / "large" / "NOTICE").touch()
    os.truncate(tmp_path / "large" / "NOTICE", psutil.disk_usage(str(tmp_path)).free)
    job, run_dir = new_import(tmp_path, tmp_path / "large")
    wants = StopRequests()
    wants.stop.set()
    with pytest.raises(DiskError) as error:
        import_model(job, run_dir, lambda event: None, wants)
    assert error.value.text.code == "checkpoints.no_room" and {"needed", "free"} <= error.value.text.params.keys()


def test_a_stop_leaves_nothing(folder: Path, tmp_path: Path) -> None:
    job, run_dir = new_import(tmp_path, folder / "adapter")
    wants = StopRequests()
    wants.stop.set()
    assert import_model(job, run_dir, lambda event: None, wants) is Phase.STOPPED
    assert [path.name for path in run_dir.iterdir()] == ["run.json"]


def test_one_model_has_one_name(folder: Path, tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    (workspace.models / resolve.starter.NAME).mkdir()
    assert resolve.canonical_name(str(workspace.models / resolve.starter.NAME), workspace) == "starter"
    (tmp_path / "link").symlink_to(folder / "base")
    assert resolve.canonical_name(str(tmp_path / "link"), workspace) == str((folder / "base").resolve())
    assert resolve.canonical_name("owner/name", workspace) == "owner/name"
