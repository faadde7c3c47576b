"""What a power cut may leave on disk: replays a record up to each operation, and loses what was not flushed by then.

The model is that of ALICE (Pillai et al., "All File Systems Are Not Created Equal", OSDI 2014) with no more than POSIX promises.
- fsync of a file makes its content durable, and not its name. fsync(2): "does not necessarily ensure that the entry in the
  directory containing the file has also reached disk. For that an explicit fsync() on a file descriptor for the directory is
  also needed."
- fsync of a folder makes its entries durable, and not what is in the files and folders behind them.
- A rename is atomic, and so is a swap of two names.
- Whatever was not flushed is on disk or is not: names before contents (XFS, ext4 with data=writeback: a file of the right length
  full of zeros) or contents before names. ext4 as it is mounted by default keeps more.

Not tried: one unflushed file that is there while another is not, and the blocks of a file out of order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

from reliability.harness.disk_record import Append, Disk, Entry, Flush, Operation, Record, Rename, Return, Truncate

Tree = Mapping[str, bytes | None]
"""Path below the folder → content; None: a folder."""


@dataclass(frozen=True)
class PowerCut:
    """What may be there after a power cut behind so many operations."""

    operations: int
    loss: str
    """What was lost, in words."""
    promises: tuple[str, ...]
    """What functions of the work had promised before."""
    tree: Tree


@dataclass(frozen=True)
class FileState:
    """A file: its content at the last flush, its content now, and how much of the former was never cut off."""

    flushed: bytes
    now: bytes
    same: int

    def append(self, data: bytes) -> FileState:
        return FileState(self.flushed, self.now + data, self.same)

    def truncate(self, size: int) -> FileState:
        return FileState(self.flushed, self.now[:size], min(size, self.same))

    def flush(self) -> FileState:
        return FileState(self.now, self.now, len(self.now))


CONTENTS: Mapping[str, Callable[[FileState], bytes]] = {
    "contents as they were at the last flush": lambda file: file.flushed,
    "files truncated, contents lost": lambda file: file.flushed[: file.same],
    "lengths right, contents zeros": lambda file: file.now[: file.same] + bytes(len(file.now) - file.same),
    "half of the contents lost": lambda file: file.now[: (file.same + len(file.now)) // 2],
    "all contents there": lambda file: file.now,
}


@dataclass
class Replay:
    root: int
    durable: dict[Entry, int]
    files: dict[int, FileState]
    pending: list[Rename] = field(default_factory=list)
    """Changes of names that were not flushed, oldest first."""
    promises: tuple[str, ...] = ()

    @staticmethod
    def start(disk: Disk) -> Replay:
        files = {number: FileState(content, content, len(content)) for number, content in disk.files.items()}
        return Replay(disk.root, dict(disk.entries), files)

    def apply(self, operation: Operation) -> None:
        match operation:
            case Rename(_, new_file):
                self.pending.append(operation)
                if new_file is not None:
                    self.files[new_file] = FileState(b"", b"", 0)
            case Truncate(file, size):
                self.files[file] = self.files[file].truncate(size)
            case Append(file, data):
                self.files[file] = self.files[file].append(data)
            case Flush(number):
                self.flush(number)
            case Return(promise):
                self.promises += (promise,)

    def flush(self, number: int) -> None:
        if number in self.files:
            self.files[number] = self.files[number].flush()
            return
        flushed = [change for change in self.pending if any(folder == number for folder, _ in change.entries)]
        self.pending = [change for change in self.pending if change not in flushed]
        self.durable = change_names(self.durable, flushed)

    def trees(self, quick: bool) -> Iterator[tuple[str, Tree]]:
        for there, contents in self.quick_losses() if quick else product(self.names_left(), CONTENTS):
            loss = f"{len(there)} of {len(self.pending)} names changed, {contents}"
            yield loss, build_tree(self.root, change_names(self.durable, there), self.files, CONTENTS[contents])

    def quick_losses(self) -> Iterator[tuple[Sequence[Rename], str]]:
        yield [], "contents as they were at the last flush"
        yield self.pending, "lengths right, contents zeros"
        yield self.pending, "all contents there"

    def names_left(self) -> Iterator[Sequence[Rename]]:
        """The changes of names that reached the disk: so many in their order, or all but one."""
        last = len(self.pending)
        for there in range(last + 1):
            yield self.pending[:there]
        for lost in range(last - 1):
            yield self.pending[:lost] + self.pending[lost + 1 :]


def change_names(entries: Mapping[Entry, int], changes: Sequence[Rename]) -> dict[Entry, int]:
    after: dict[Entry, int | None] = dict(entries)
    for change in changes:
        after |= change.entries
    return {entry: number for entry, number in after.items() if number is not None}


def build_tree(
    root: int,
    entries: Mapping[Entry, int],
    files: Mapping[int, FileState],
    content: Callable[[FileState], bytes],
) -> Tree:
    """Only what can be reached from the folder is there."""
    children: dict[int, list[tuple[str, int]]] = {}
    for (folder, name), number in entries.items():
        children.setdefault(folder, []).append((name, number))
    tree, left = dict[str, bytes | None](), [("", root)]
    while left:
        path, folder = left.pop()
        for name, number in children.get(folder, ()):
            tree[f"{path}{name}"] = content(files[number]) if number in files else None
            if number not in files:
                left.append((f"{path}{name}/", number))
    return tree


def power_cuts(record: Record, quick: bool = False) -> Iterator[PowerCut]:
    """Every different state that a power cut may leave, before the first operation and behind each.

    Args:
        quick: three for each operation: nothing unflushed is there, the names alone, everything.
    """
    replay, seen = Replay.start(record.before), set[tuple[object, ...]]()
    for at in range(len(record.operations) + 1):
        for loss, tree in replay.trees(quick):
            state = (replay.promises, *sorted(tree.items()))
            if state not in seen:
                seen.add(state)
                yield PowerCut(at, loss, replay.promises, tree)
        if at < len(record.operations):
            replay.apply(record.operations[at])


def without_flushes(record: Record) -> Record:
    """The same work on a disk on which no flush arrives."""
    return Record(record.before, tuple(one for one in record.operations if not isinstance(one, Flush)))


def write_tree(tree: Tree, folder: Path) -> None:
    folder.mkdir(parents=True)
    for path, content in sorted(tree.items()):
        if content is None:
            (folder / path).mkdir()
        else:
            (folder / path).write_bytes(content)
