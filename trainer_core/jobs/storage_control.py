"""Moves models, runs and exports to another drive, and frees what takes space. Neither while a job uses them."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from trainer_core.errors import BusyError, UserError
from trainer_core.jobs.compare_control import CompareControl
from trainer_core.jobs.export_control import ExportControl
from trainer_core.jobs.import_control import ImportControl
from trainer_core.jobs.registry import RunRegistry
from trainer_core.jobs.spawn import WorkerSpawner
from trainer_core.runs import trash
from trainer_core.runs.events import Phase
from trainer_core.storage import move, usage
from trainer_core.storage.folder_copy import CopyStopped
from trainer_core.storage.move import MoveProgress, MoveRecord
from trainer_core.storage.places import StorageKind
from trainer_core.storage.usage import StoredItem
from trainer_core.system.file_lock import ProcessLock
from trainer_core.system.redact import redact_text
from trainer_core.texts import NO_TEXT, Text, verbatim


@dataclass
class StorageMove:
    """A move in a thread of this process.

    Attributes:
        problem: why it ended without having moved all; empty while it goes on, and if it has.
    """

    kind: StorageKind
    to: Path | None
    progress: MoveProgress = field(default_factory=MoveProgress)
    stop: threading.Event = field(default_factory=threading.Event)
    problem: Text = NO_TEXT
    is_active: bool = True


class StorageControl:
    def __init__(
        self,
        registry: RunRegistry,
        spawner: WorkerSpawner,
        compare: CompareControl,
        exports: ExportControl,
        imports: ImportControl,
    ):
        self.registry, self.spawner, self.compare = registry, spawner, compare
        self.exports, self.imports = exports, imports
        self.last_move: StorageMove | None = None
        self._thread: threading.Thread | None = None

    def start_move(self, kind: StorageKind, to: Path | None) -> StorageMove:
        """Move them to folders of `to`, or with None back into the workspace, in a thread.

        Raises:
            BusyError: a run, an export, an import or another move is under way.
        """
        with self.spawner.start_lock():
            self.require_idle()
            self.compare.close_comparison()
            self.spawner.stop_warm_worker()
            lock = ProcessLock(self.spawner.move_lock_file, thread_local=False)
            lock.acquire(timeout=0)
        started = self.last_move = StorageMove(kind, to)
        self._thread = threading.Thread(target=self.run_move, args=(started, lock.release), name="move")
        self._thread.start()
        return started

    def run_move(self, moved: StorageMove, release: Callable[[], None]) -> None:
        try:
            move.move_storage(self.registry.workspace, moved.kind, moved.to, moved.progress, moved.stop.is_set)
        except CopyStopped:
            moved.problem = Text("storage.stopped")
        except UserError as error:
            moved.problem = error.text
        except Exception:  # a bug: shown where the move was asked for
            moved.problem = verbatim(redact_text(traceback.format_exc()))
        finally:
            release()
            moved.is_active = False

    def stop_move(self) -> None:
        """End the move under way, if there is one, and wait for its end."""
        if self.last_move:
            self.last_move.stop.set()
        if self._thread:
            self._thread.join()

    @property
    def interrupted_move(self) -> MoveRecord | None:
        """A move that ended halfway, such as by a power cut; the same move goes on where it ended."""
        moving = self.last_move is not None and self.last_move.is_active
        return None if moving else move.read_record(self.registry.workspace)

    def require_idle(self) -> None:
        """Raises BusyError if a job reads or writes what would move."""
        self.registry.refresh()
        self.exports.refresh()
        self.registry.require_idle()
        for state in (*self.exports.export_states, *self.registry.import_states):
            if state.phase.is_active:
                raise BusyError("storage.busy", job=state.id)

    def list_usage(self) -> list[StoredItem]:
        """Everything that takes space, the largest of each group first."""
        self.registry.refresh()
        finished = [view.id for view in self.registry.run_states if view.phase is Phase.DONE]
        imports = [view.id for view in self.registry.import_states if not view.phase.is_active]
        return usage.list_usage(self.registry.workspace, finished, imports)

    def free(self, key: str) -> int:
        """Free an item. Returns the bytes freed; those of an import are free once the trash is empty.

        Raises:
            BusyError: a job may use it.
            ConfigError: there is no such item.
            DiskError: it is in use and stays.
        """
        group, _, name = key.partition(":")
        if group == "imports" and name in self.registry.imports:
            self.imports.remove(name)
            return 0
        with self.spawner.start_lock():
            self.require_idle()
            if group == "trash":
                return trash.empty_trash(self.registry.workspace)
            self.compare.close_comparison()
            return usage.free_item(self.list_usage(), key)
