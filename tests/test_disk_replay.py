"""What is recorded of work on disk, and what may be left of it when the power is cut."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from reliability.harness.disk_record import Append, Flush, Record, Rename, Return, Truncate, record_work
from reliability.harness.disk_replay import Replay, Tree, power_cuts, without_flushes, write_tree
from trainer_core.system import durable

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="a folder cannot be flushed there")
FOLDER, OLD, NEW = 0, 1, 2
"""Numbers of a folder, of the one file in it and of the next one."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "old").write_bytes(b"before")
    return tmp_path


def record_steps(folder: Path, *steps: Callable[[], object]) -> Record:
    def work() -> Iterator[str]:
        for step in steps:
            step()
        yield "done"

    return record_work(folder, work())


def flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def add_bytes(path: Path, content: bytes) -> None:
    with path.open("ab") as file:
        file.write(content)


def trees_left(record: Record) -> list[Tree]:
    """All that may be there when the power is cut at the end."""
    replay = Replay.start(record.before)
    for operation in record.operations:
        replay.apply(operation)
    return [tree for _, tree in replay.trees(quick=False)]


def contents_left(record: Record, name: str) -> set[bytes | None]:
    """What a file may hold then; None: it is not there."""
    return {tree.get(name) for tree in trees_left(record)}


# --- the record


def test_each_operation_is_recorded_in_its_order(folder: Path) -> None:
    new = folder / "new"
    record = record_steps(
        folder,
        partial(new.write_bytes, b"after"),
        partial(flush, new),
        partial(os.replace, new, folder / "old"),
        partial(flush, folder),
        partial(os.unlink, folder / "old"),
    )
    assert record.before.entries == {(FOLDER, "old"): OLD} and record.before.files == {OLD: b"before"}
    assert record.operations == (
        Rename({(FOLDER, "new"): NEW}, NEW),
        Append(NEW, b"after"),
        Flush(NEW),
        Rename({(FOLDER, "new"): None, (FOLDER, "old"): NEW}),
        Flush(FOLDER),
        Rename({(FOLDER, "old"): None}),
        Return("done"),
    )


def test_a_file_written_anew_is_truncated_first(folder: Path) -> None:
    record = record_steps(
        folder,
        partial((folder / "old").write_bytes, b"after"),
        partial(add_bytes, folder / "old", b"wards"),
        partial(os.truncate, folder / "old", 2),
        partial(flush, folder / "old"),
    )
    assert record.operations[:-2] == (
        Truncate(OLD, 0),
        Append(OLD, b"after"),
        Append(OLD, b"wards"),
        Truncate(OLD, 2),
    )


def test_a_swap_by_a_system_call_is_one_change(folder: Path) -> None:
    (folder / "new").write_bytes(b"after")
    record = record_steps(folder, partial(durable.swap_paths, folder / "new", folder / "old"))
    (swap, _) = record.operations
    assert isinstance(swap, Rename) and swap.entries.keys() == {(FOLDER, "new"), (FOLDER, "old")}
    assert {(tree["new"], tree["old"]) for tree in trees_left(record)} == {(b"after", b"before"), (b"before", b"after")}


def test_an_inode_that_is_used_again_is_another_file(folder: Path) -> None:
    """The system may give the number of a removed file to the next one, which must not get its flushed content."""
    record = record_steps(folder, partial(os.unlink, folder / "old"), partial((folder / "new").write_bytes, b"after"))
    assert Rename({(FOLDER, "new"): NEW}, NEW) in record.operations
    assert contents_left(record, "new") == {None, b"", bytes(5), b"af", b"after"}


def test_other_folders_and_reads_are_not_recorded(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "file"
    record = record_steps(folder, partial(elsewhere.write_bytes, b"x"), partial(flush, elsewhere))
    assert record.operations == (Return("done"),)
    before = os.fsync
    record_steps(folder, (folder / "old").read_bytes)
    assert os.fsync is before, "flushes are real again"


# --- what a power cut leaves


def test_what_is_appended_without_a_flush_may_be_lost_zeros_or_half(folder: Path) -> None:
    record = record_steps(folder, partial(add_bytes, folder / "old", b"wards"))
    assert contents_left(record, "old") == {b"before", b"before" + bytes(5), b"beforewa", b"beforewards"}
    record = record_steps(folder, partial(add_bytes, folder / "old", b"!"), partial(flush, folder / "old"))
    assert contents_left(record, "old") == {b"beforewards!"}


def test_a_file_written_in_place_may_be_empty_until_it_is_flushed(folder: Path) -> None:
    record = record_steps(folder, partial((folder / "old").write_bytes, b"after"))
    assert contents_left(record, "old") == {b"before", b"", bytes(5), b"af", b"after"}


def test_a_new_name_needs_a_flush_of_its_folder(folder: Path) -> None:
    new = folder / "new"
    record = record_steps(folder, partial(new.write_bytes, b"after"), partial(flush, new))
    assert contents_left(record, "new") == {None, b"after"}
    assert contents_left(record_steps(folder, partial(flush, folder)), "new") == {b"after"}


def test_a_flush_of_a_folder_does_not_flush_what_its_files_hold(folder: Path) -> None:
    record = record_steps(folder, partial((folder / "new").write_bytes, b"after"), partial(flush, folder))
    assert contents_left(record, "new") == {b"", bytes(5), b"af", b"after"}


def test_a_flush_of_a_folder_does_not_flush_its_own_name_or_those_in_subfolders(folder: Path) -> None:
    new = folder / "a" / "b" / "new"
    steps = [partial(new.parent.mkdir, parents=True), partial(new.write_bytes, b"after"), partial(flush, new)]
    record = record_steps(folder, *steps, partial(flush, folder), partial(flush, new.parent))
    assert {frozenset(tree) for tree in trees_left(record)} == {
        frozenset(("old", "a")),
        frozenset(("old", "a", "a/b", "a/b/new")),
    }


def test_a_rename_leaves_the_old_or_the_new_only_if_the_new_was_flushed(folder: Path) -> None:
    new, old = folder / "new", folder / "old"
    record = record_steps(folder, partial(new.write_bytes, b"after"), partial(os.replace, new, old))
    assert contents_left(record, "old") == {b"before", b"", bytes(5), b"af", b"after"}
    steps = partial(new.write_bytes, b"later"), partial(flush, new), partial(os.replace, new, old)
    assert contents_left(record_steps(folder, *steps), "old") == {b"after", b"later"}


def test_what_is_removed_may_come_back(folder: Path) -> None:
    record = record_steps(folder, partial(os.unlink, folder / "old"))
    assert contents_left(record, "old") == {None, b"before"}


def test_names_are_lost_from_the_last_on_or_one_alone(folder: Path) -> None:
    record = record_steps(folder, *(partial((folder / name).touch) for name in "abc"))
    left = {"".join(sorted(set(tree) - {"old"})) for tree in trees_left(record)}
    assert left == {"", "a", "ab", "abc", "bc", "ac"}


def test_promises_come_with_what_was_done_after_them(folder: Path) -> None:
    def work() -> Iterator[str]:
        yield "first"
        (folder / "new").touch()
        flush(folder)
        yield "second"

    cuts = list(power_cuts(record_work(folder, work())))
    assert {(cut.promises, "new" in cut.tree) for cut in cuts} == {
        ((), False),
        (("first",), False),
        (("first",), True),
        (("first", "second"), True),
    }
    assert len({(cut.promises, *sorted(cut.tree.items())) for cut in cuts}) == len(cuts), "no state comes twice"


def test_quick_tries_some_of_all_and_a_disk_without_flushes_leaves_more(folder: Path) -> None:
    new, old = folder / "new", folder / "old"
    record = record_steps(
        folder, partial(new.write_bytes, b"after"), partial(flush, new), partial(os.replace, new, old)
    )
    every = [cut.tree for cut in power_cuts(record)]
    quick = [cut.tree for cut in power_cuts(record, quick=True)]
    assert len(quick) < len(every) and all(tree in every for tree in quick)
    assert not any(isinstance(one, Flush) for one in without_flushes(record).operations)
    assert b"" in contents_left(without_flushes(record), "old") and b"" not in contents_left(record, "old")


def test_what_is_left_is_put_on_disk(tmp_path: Path) -> None:
    write_tree({"a/b": b"x", "a": None, "old": b"before"}, tmp_path / "disk")
    assert {one.name: one.is_dir() for one in (tmp_path / "disk").rglob("*")} == {"a": True, "b": False, "old": False}
    assert (tmp_path / "disk" / "a" / "b").read_bytes() == b"x"
