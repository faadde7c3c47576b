"""Folders that are complete or not there: killed at every point, flipped bits, a full disk; with a control that must fail."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from hashlib import sha256
from pathlib import Path

import pytest

from tests.support.faults import damage_file, run_with_fault
from trainer_core.config.changes import with_changes
from trainer_core.config.jobs import TrainJob
from trainer_core.config.recipe import Recipe
from trainer_core.data import Message, Pair, tokenize
from trainer_core.errors import DiskError, ModelError
from trainer_core.jobs.supervisor import Supervisor
from trainer_core.runs import checkpoints
from trainer_core.runs.checkpoints import (
    CheckpointSource,
    ResumePoint,
    checkpoint_dir,
    latest_valid,
    rotate_checkpoints,
    staged_write,
    verify,
)
from trainer_core.runs.event_log import EventLog
from trainer_core.runs.events import Phase, RunEnded
from trainer_core.runs.run_folder import create_run
from trainer_core.runs.workspace import Workspace
from trainer_core.system import durable
from trainer_core.texts import Text

ORIGIN = CheckpointSource("dpo", 20, "data")
FILES = {"adapter_model.safetensors": 40_000, "optimizer.pt": 80_000, "trainer_state.json": 900, "inner/rng.pth": 1000}


def fill(folder: Path, step: int) -> None:
    for name, size in FILES.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(random.Random(f"{name}{step}").randbytes(size))


def save(run_dir: Path, step: int) -> None:
    with staged_write(checkpoint_dir(run_dir, "dpo", step), ORIGIN, step) as staging:
        fill(staging, step)
    rotate_checkpoints(run_dir, "dpo", keep=2)


def adapter(run_dir: Path, step: int, folder: str = "adapter-dpo") -> None:
    with staged_write(run_dir / folder, ORIGIN, step) as staging:
        fill(staging, step)
        (staging / "adapter_config.json").write_text(f"config {step}")
        (staging / "tokenizer.json").write_text("tokens")


def test_rotation_spares_what_is_looked_back_at(tmp_path: Path) -> None:
    for step in range(1, 9):
        with staged_write(checkpoint_dir(tmp_path, "dpo", step), ORIGIN, step) as staging:
            fill(staging, step)
        rotate_checkpoints(tmp_path, "dpo", spared=frozenset({2, 5}))
    assert list(checkpoints.adapters_by_step(tmp_path, "dpo")) == [2, 5, 7, 8]


def test_an_earlier_step_becomes_the_adapter_and_can_be_undone(tmp_path: Path) -> None:
    adapter(tmp_path, 20)
    adapter(tmp_path, 8, "checkpoints/dpo-000008")
    last, config = ((tmp_path / "adapter-dpo" / name).read_bytes() for name in checkpoints.ADAPTER_FILES[::-1])
    checkpoints.use_step(tmp_path, "dpo", 8)
    kept = verify(tmp_path / "adapter-dpo")
    assert kept.step == 8 and set(kept.files) == {*FILES, *checkpoints.ADAPTER_FILES, "tokenizer.json"}
    assert (tmp_path / "adapter-dpo" / "adapter_config.json").read_text() == "config 8"
    assert sorted(checkpoints.adapters_by_step(tmp_path, "dpo")) == [8, 20]
    checkpoints.use_step(tmp_path, "dpo", 20)
    again = [(tmp_path / "adapter-dpo" / name).read_bytes() for name in checkpoints.ADAPTER_FILES[::-1]]
    assert again == [last, config] and verify(tmp_path / "adapter-dpo").step == 20


def never(*_: Path) -> bool:
    """A system that cannot make two names change places."""
    return False


@pytest.mark.parametrize("swap", [durable.swap_paths, never], ids=["exchanged", "one after the other"])
@pytest.mark.parametrize("fault", ["kill", "enospc"])
def test_what_is_replaced_is_never_lost(tmp_path: Path, fault: str, swap: Callable[[Path, Path], bool]) -> None:
    """At every point there is the one before or the new one, whole: at once, or after what was half done is swept."""
    if swap is durable.swap_paths and os.name != "posix":
        pytest.skip("Windows cannot exchange")
    seen, code, at = [], 1, 0
    while code:
        at += 1
        folder = tmp_path / f"{at}"
        for name in ("adapter", ".staging-adapter"):
            (folder / name).mkdir(parents=True)
            (folder / name / "weights").write_text(name)
        publish = partial(durable.publish_staged, folder / ".staging-adapter", folder / "adapter", swap=swap)
        code = run_with_fault(lambda publish=publish: disk(publish), f"{fault}:{at}")
        if swap is never:
            durable.clean_leftovers(folder)
        seen.append((folder / "adapter" / "weights").read_text())
        durable.clean_leftovers(folder)
        assert [path.name for path in folder.iterdir()] == ["adapter"]
    assert seen[0] == "adapter" and seen[-1] == ".staging-adapter" and sorted(seen) == seen[::-1] and at > 2


def disk(work: Callable[[], object]) -> None:
    with durable.disk_errors(Path("x")):
        work()


@pytest.mark.parametrize("fault", ["kill", "enospc"])
def test_an_adapter_that_is_replaced_is_never_lost(tmp_path: Path, fault: str) -> None:
    adapter(tmp_path / "whole", 20)
    adapter(tmp_path / "whole", 8, "checkpoints/dpo-000008")
    seen, code, at = set(), 1, 0
    while code:
        at += 1
        folder = tmp_path / f"{fault}{at}"
        shutil.copytree(tmp_path / "whole", folder)
        code = run_with_fault(lambda folder=folder: checkpoints.use_step(folder, "dpo", 8), f"{fault}:{at}")
        seen.add(verify(folder / "adapter-dpo").step)
        checkpoints.clean_run_leftovers(folder)
        assert not [*folder.glob(".*"), *folder.glob("checkpoints/.*")]
        assert {20, 8} & {*checkpoints.adapters_by_step(folder, "dpo"), verify(folder / "adapter-dpo").step} == {20, 8}
        shutil.rmtree(folder)
    assert at > 20 and seen == {20, 8}


def denied(*names: str) -> Callable[[Path, Path], None]:
    """A rename that Windows refuses where a file in one of these is mapped; the rest is done."""

    def move(source: Path, target: Path) -> None:
        if source.name in names:
            error = PermissionError(13, "Access is denied", str(source))
            error.winerror = 5  # type: ignore[attr-defined]
            raise error
        os.replace(source, target)

    return move


@pytest.mark.parametrize("held", ["adapter", ".staging-adapter"])
def test_an_adapter_that_cannot_be_replaced_stays(tmp_path: Path, held: str) -> None:
    """Compare maps a file of the one before, or a scanner looks into the new one."""
    for name in ("adapter", ".staging-adapter"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "weights").write_text(name)
    with pytest.raises(DiskError) as refused, durable.disk_errors(tmp_path / "adapter"):
        durable.publish_staged(tmp_path / ".staging-adapter", tmp_path / "adapter", denied(held), never)
    assert refused.value.text.params["reason"].code == "disk.in_use"
    assert (tmp_path / "adapter" / "weights").read_text() == "adapter"
    durable.publish_staged(tmp_path / ".staging-adapter", tmp_path / "adapter")
    assert (tmp_path / "adapter" / "weights").read_text() == ".staging-adapter"
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


def test_a_rename_is_tried_again_while_a_scanner_looks(tmp_path: Path) -> None:
    (tmp_path / "one").touch()
    left = iter([PermissionError, PermissionError])

    def replace(source: Path, target: Path) -> None:
        for error in left:
            raise error
        os.replace(source, target)

    durable.rename_with_retry(tmp_path / "one", tmp_path / "two", tries=3, replace=replace)
    assert (tmp_path / "two").exists()
    with pytest.raises(PermissionError):
        durable.rename_with_retry(tmp_path / "two", tmp_path / "one", tries=2, replace=denied("two"))


def test_a_checkpoint_that_is_in_use_does_not_end_the_run(tmp_path: Path) -> None:
    for step in range(1, 5):
        with staged_write(checkpoint_dir(tmp_path, "dpo", step), ORIGIN, step) as staging:
            fill(staging, step)

    def discard(folder: Path, tries: int) -> None:
        if folder.name == "dpo-000002":
            raise PermissionError
        durable.delete_via_trash(folder, tries)

    rotate_checkpoints(tmp_path, "dpo", discard=discard)
    assert list(checkpoints.adapters_by_step(tmp_path, "dpo")) == [2, 3, 4]
    rotate_checkpoints(tmp_path, "dpo")
    assert list(checkpoints.adapters_by_step(tmp_path, "dpo")) == [3, 4]


def test_the_next_start_brings_back_what_was_to_be_replaced(tmp_path: Path) -> None:
    """Killed between two renames, on a system that needs two."""
    workspace = Workspace(tmp_path)
    run_dir = create_run(workspace.runs, TrainJob(recipe=Recipe()), "x")
    EventLog(run_dir / "events.jsonl")(RunEnded(Phase.DONE))
    adapter(run_dir, 20)
    adapter(run_dir, 8, ".staging-adapter-dpo")
    (run_dir / "adapter-dpo").rename(run_dir / ".before-adapter-dpo")
    assert checkpoints.adapter_step(run_dir, "dpo") is None
    Supervisor(workspace, device="cpu")
    assert checkpoints.adapter_step(run_dir, "dpo") == 20 and not list(run_dir.glob(".staging-*"))


def test_a_damaged_or_missing_step_is_not_kept(tmp_path: Path) -> None:
    adapter(tmp_path, 20)
    adapter(tmp_path, 8, "checkpoints/dpo-000008")
    (tmp_path / "checkpoints/dpo-000008/adapter_model.safetensors").write_bytes(b"short")
    for step, code in ((8, "checkpoints.other_size"), (12, "checkpoints.gone")):
        with pytest.raises(ModelError) as refused:
            checkpoints.use_step(tmp_path, "dpo", step)
        assert refused.value.text.code == code
    assert verify(tmp_path / "adapter-dpo").step == 20 and not list(tmp_path.glob("adapter-dpo-*"))


def saved_with(run_dir: Path, fault: str) -> int:
    """Three saves in a process with a fault; its exit code."""
    run_dir.mkdir(parents=True)

    def three() -> None:
        for step in (2, 4, 6):
            save(run_dir, step)
            (run_dir / "counted").write_text(str(step))

    return run_with_fault(three, fault)


def sound(folder: Path) -> bool:
    """Every byte as it was written."""
    step = verify(folder).step
    return all(
        (folder / name).read_bytes() == random.Random(f"{name}{step}").randbytes(size) for name, size in FILES.items()
    )


@pytest.mark.parametrize("fault", ["kill", "enospc"])
def test_a_fault_at_every_point_leaves_the_newest_or_the_one_before(tmp_path: Path, fault: str) -> None:
    """Step 2 may be lost whole while it is the first; after that there is always one to go on from, and it is sound."""
    seen, at = set(), 0
    while True:
        at += 1
        run_dir = tmp_path / f"{fault}{at}"
        code = saved_with(run_dir, f"{fault}:{at}")
        if code == 0:
            break
        assert code == (-signal.SIGKILL if fault == "kill" else 1)
        counted = int((run_dir / "counted").read_text()) if (run_dir / "counted").exists() else 0
        found = latest_valid(run_dir, "dpo", "data")
        assert found.step in (counted, counted + 2), f"point {at}: {counted} was complete, {found} was found"
        assert found.folder is None or sound(found.folder)
        durable.clean_leftovers(run_dir / checkpoints.CHECKPOINTS_FOLDER)
        assert all(sound(folder) for folder in checkpoints.list_checkpoints(run_dir, "dpo")), (
            "a half is seen under its name"
        )
        seen.add(found.step)
        shutil.rmtree(run_dir)
    assert at > 30 and seen == {0, 2, 4, 6}


def test_without_the_staging_folder_a_kill_leaves_a_half(tmp_path: Path) -> None:
    """The control: files written in place, as the stock trainer does, and killed between two of them."""
    folder = checkpoint_dir(tmp_path, "dpo", 2)
    folder.mkdir(parents=True)
    (folder / "trainer_state.json").write_text("{}")
    assert checkpoints.list_checkpoints(tmp_path, "dpo") == [folder], "the stock way would go on from it"
    assert latest_valid(tmp_path, "dpo", "data").folder is None


@pytest.mark.real
def test_500_damaged_files_are_each_noticed_and_the_one_before_is_taken(tmp_path: Path) -> None:
    dice = random.Random(1)
    for step in (2, 4):
        save(tmp_path, step)
    folder = checkpoint_dir(tmp_path, "dpo", 4)
    whole = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    silent = []
    for _ in range(500):
        path = dice.choice(sorted(whole))
        name = damage_file(path, dice)
        found = latest_valid(tmp_path, "dpo", "data")
        same = path.read_bytes() == whole[path]
        if not same and (found.step != 2 or name not in " ".join(map(str, found.skipped))):
            silent.append((name, found))
        path.write_bytes(whole[path])
    assert silent == []
    assert latest_valid(tmp_path, "dpo", "data").step == 4


def test_a_missing_file_and_other_data_are_named(tmp_path: Path) -> None:
    for step in (2, 4):
        save(tmp_path, step)
    (checkpoint_dir(tmp_path, "dpo", 4) / "optimizer.pt").unlink()
    missing = Text("checkpoints.missing", file="dpo-000004/optimizer.pt")
    assert latest_valid(tmp_path, "dpo", "data").skipped == (Text("checkpoints.skipped", problem=missing),)
    found = latest_valid(tmp_path, "dpo", "other")
    assert found.folder is None and found.skipped[1] == Text("checkpoints.other_data", name="dpo-000002")


def resealed(folder: Path, **changes: object) -> None:
    """The manifest with other values, and a hash that fits them."""
    manifest = verify(folder).model_copy(update=changes)
    text = manifest.model_copy(update={"own": manifest.hash}).model_dump_json()
    (folder / checkpoints.MANIFEST).write_text(text)


def test_another_major_version_is_named_with_both(tmp_path: Path) -> None:
    for step in (2, 4):
        save(tmp_path, step)
    now = verify(checkpoint_dir(tmp_path, "dpo", 4)).versions
    older = str(int(now["transformers"].partition(".")[0]) - 1)
    resealed(checkpoint_dir(tmp_path, "dpo", 4), versions={**now, "transformers": f"{older}.57.1"})
    resealed(
        checkpoint_dir(tmp_path, "dpo", 2),
        versions={**now, "datasets": "1.0", "torch": now["torch"].partition(".")[0] + ".0"},
    )
    found = latest_valid(tmp_path, "dpo", "data")
    versions = {"then": f"{older}.57.1", "now": now["transformers"]}
    said = Text("checkpoints.other_package", name="dpo-000004", package="transformers", **versions)
    assert found.step == 2 and found.skipped == (said,)


def test_other_settings_are_not_gone_on_with_and_unknown_ones_are(tmp_path: Path) -> None:
    save(tmp_path, 2)
    with staged_write(checkpoint_dir(tmp_path, "dpo", 4), replace(ORIGIN, spec="rank 8"), 4) as staging:
        fill(staging, 4)
    assert latest_valid(tmp_path, "dpo", "data", "rank 8").step == 4
    found = latest_valid(tmp_path, "dpo", "data", "rank 16")
    assert found.step == 2 and found.skipped == (Text("checkpoints.other_settings", name="dpo-000004"),)


def test_a_manifest_of_before_there_were_settings_in_it_is_read(tmp_path: Path) -> None:
    save(tmp_path, 2)
    file = checkpoint_dir(tmp_path, "dpo", 2) / checkpoints.MANIFEST
    values = json.loads(file.read_text())
    assert values.pop("spec") == ""
    facts = {name: value for name, value in values.items() if name != "own"}
    assert values["own"] == sha256(json.dumps(facts, separators=(",", ":")).encode()).hexdigest()
    file.write_text(json.dumps(values))
    assert latest_valid(tmp_path, "dpo", "data", "rank 16").step == 2


def test_only_settings_that_change_the_result_are_in_the_hash() -> None:
    asked = Recipe()
    same = {"dpo.batch_size": 1, "sft.accumulation": 9, "dpo.max_steps": 3, "memory.probe": "off", "name": "x"}
    free = {
        **same,
        "dpo.evaluations": 0,
        "sft.patience": 3,
        "data.pairs": "moved.jsonl",
        "sampling.seed": 1,
        "sample_tokens": 0,
    }
    assert {checkpoints.settings_hash(with_changes(asked, {key: value})) for key, value in free.items()} == {
        checkpoints.settings_hash(asked)
    }
    for key, value in {"lora.rank": 8, "dpo.beta": 0.2, "seed": 1, "data.template": "plain", "sft.epochs": 2.0}.items():
        assert checkpoints.settings_hash(with_changes(asked, {key: value})) != checkpoints.settings_hash(asked), key


def test_too_little_room_is_said_with_bytes_before_anything_is_written(tmp_path: Path) -> None:
    save = staged_write(checkpoint_dir(tmp_path, "sft", 2), CheckpointSource("sft", 4, "data"), 2, needs=2**60)
    with pytest.raises(DiskError, match=r"needs [\d,]+ MB .* is free") as refused, save:
        raise AssertionError("it went on")
    assert refused.value.text.code == "checkpoints.no_room"
    assert not (tmp_path / checkpoints.CHECKPOINTS_FOLDER).exists()


@pytest.mark.parametrize(
    "name", ["../canary", "/canary", "a/../../canary", "a\\b", "", ".", "a//b", "a\0b", "c:d", "a/.."]
)
def test_a_manifest_names_files_of_its_folder_alone(tmp_path: Path, name: str) -> None:
    save(tmp_path, 2)
    folder = checkpoint_dir(tmp_path, "dpo", 2)
    files = verify(folder).files
    resealed(folder, files={**files, name: files["optimizer.pt"]})
    found = latest_valid(tmp_path, "dpo", "data")
    assert found.folder is None and found.skipped[0].params["problem"].code == "checkpoints.bad_manifest"


def test_no_link_is_followed(tmp_path: Path) -> None:
    """Of a file, of the folder, and of the folder above: what they lead to is neither read nor written nor deleted."""
    for step in (2, 4):
        save(tmp_path / "outside", step)
    for run, inner in (("a", "checkpoints"), ("b", "checkpoints/dpo-000004")):
        (tmp_path / run / inner).parent.mkdir(parents=True)
        (tmp_path / run / inner).symlink_to(tmp_path / "outside" / inner)
        assert latest_valid(tmp_path / run, "dpo", "data").folder is None
    with pytest.raises(DiskError) as refused:
        save(tmp_path / "a", 6)
    assert refused.value.text.code == "checkpoints.linked_folder"
    (tmp_path / "outside/checkpoints/.staging-x").mkdir()
    checkpoints.clean_run_leftovers(tmp_path / "a")
    rotate_checkpoints(tmp_path / "a", "dpo", keep=0)
    left = {path.name for path in (tmp_path / "outside/checkpoints").iterdir()}
    assert left == {"dpo-000002", "dpo-000004", ".staging-x"}
    save(tmp_path / "c", 2)
    (checkpoint_dir(tmp_path / "c", "dpo", 2) / "optimizer.pt").unlink()
    (checkpoint_dir(tmp_path / "c", "dpo", 2) / "optimizer.pt").symlink_to(
        checkpoint_dir(tmp_path / "outside", "dpo", 2) / "optimizer.pt"
    )
    link = {"file": "dpo-000002/optimizer.pt", "reason": str(Text("untrusted_files.link"))}
    problem = Text("checkpoints.not_read", **link)
    assert latest_valid(tmp_path / "c", "dpo", "data").skipped == (Text("checkpoints.skipped", problem=problem),)


def test_a_manifest_with_a_key_more_is_read_and_sealed(tmp_path: Path) -> None:
    save(tmp_path, 2)
    file = checkpoint_dir(tmp_path, "dpo", 2) / checkpoints.MANIFEST
    values = {**json.loads(file.read_text()), "spec": "x", "of_a_later_version": [1, "ü"]}
    facts = {name: value for name, value in values.items() if name != "own"}
    for words, found in ((facts, 2), ({**facts, "total": 7}, 0)):
        own = sha256(json.dumps(facts, separators=(",", ":"), ensure_ascii=False).encode()).hexdigest()
        file.write_text(json.dumps(words | {"own": own}), encoding="utf-8")
        assert latest_valid(tmp_path, "dpo", "data").step == found


def test_a_key_of_the_manifest_that_changed_is_seen(tmp_path: Path) -> None:
    """Also one whose value is the default."""
    save(tmp_path, 2)
    file = checkpoint_dir(tmp_path, "dpo", 2) / checkpoints.MANIFEST
    whole = file.read_text()
    for key in json.loads(whole):
        file.write_text(whole.replace(f'"{key}"', f'"w{key[1:]}"', 1))
        assert latest_valid(tmp_path, "dpo", "data").step == 0, key


def test_the_newest_are_kept(tmp_path: Path) -> None:
    for step in (2, 4, 6):
        save(tmp_path, step)
    assert [verify(folder).step for folder in checkpoints.list_checkpoints(tmp_path, "dpo")] == [6, 4]
    assert list((tmp_path / checkpoints.CHECKPOINTS_FOLDER).glob(".*")) == []


def test_only_a_stage_at_its_end_counts_as_finished(tmp_path: Path) -> None:
    folder = tmp_path / "adapter-dpo"
    assert checkpoints.finished_adapter(tmp_path, "dpo") == ResumePoint(None)
    for step, expected in ((12, None), (20, folder)):
        with staged_write(folder, ORIGIN, step) as staging:
            fill(staging, step)
        assert checkpoints.finished_adapter(tmp_path, "dpo").folder == expected
    assert checkpoints.finished_adapter(tmp_path, "dpo", least=20).folder == folder
    assert checkpoints.finished_adapter(tmp_path, "dpo", least=21).folder is None, "the run was made longer"
    damage_file(folder / "adapter_model.safetensors", random.Random(1))
    (said,) = checkpoints.finished_adapter(tmp_path, "dpo").skipped
    problem = said.params["problem"]
    assert said.code == "checkpoints.remade" and problem.params["file"] == "adapter-dpo/adapter_model.safetensors"
    assert problem.code in ("checkpoints.other_size", "checkpoints.changed")


def test_a_text_is_old_or_new_at_every_point(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    for at in (1, 2, 3):
        path.write_text("old")
        assert run_with_fault(lambda: durable.write_atomically(path, "new"), f"kill:{at}") == -signal.SIGKILL
        assert path.read_text() == "old"
    assert run_with_fault(lambda: durable.write_atomically(path, "new"), "kill:4") == 0
    assert path.read_text() == "new"


def test_a_text_is_the_owners_alone_from_its_first_instant(tmp_path: Path) -> None:
    path = tmp_path / "app.secret"
    for at in (2, 3):
        assert run_with_fault(lambda: durable.write_atomically(path, "secret"), f"kill:{at}") == -signal.SIGKILL
    left = [*tmp_path.iterdir()]
    durable.write_atomically(path, "secret")
    assert left and {one.stat().st_mode & 0o777 for one in (*left, path)} == {0o600}


def test_held_out_pairs_on_a_full_disk_are_a_sentence(tmp_path: Path) -> None:
    pair = Pair((Message("user", "q"),), (Message("assistant", "a"),), (Message("assistant", "b"),))
    path = tmp_path / "held-out.jsonl"
    assert run_with_fault(lambda: tokenize.write_pairs(path, [pair]), "enospc:1") == 1
    assert list(tmp_path.iterdir()) == []
    tokenize.write_pairs(path, [pair, pair])
    assert [json.loads(line)["chosen"][0]["content"] for line in path.read_text().splitlines()] == ["a", "a"]


def test_a_full_disk_is_said_in_megabytes(tmp_path: Path) -> None:
    def broken() -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(DiskError, match=r"disk is full: .* MB is free"), durable.disk_errors(tmp_path / "x"):
        broken()
