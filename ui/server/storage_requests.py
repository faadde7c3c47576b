"""What the page asks about space: what takes it, a move to another drive, and freeing an item."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from trainer_core.errors import UserError
from trainer_core.jobs.supervisor import Supervisor
from trainer_core.schema import StrictModel, parse_values
from trainer_core.storage.places import StorageKind
from trainer_core.system.project import expand_home
from ui.payloads import storage
from ui.server import path_policy


class MoveForm(StrictModel):
    """Which files move where; an empty `to`: back into the workspace."""

    kind: StorageKind
    to: str


class FreeForm(StrictModel):
    key: str


def storage_functions(supervisor: Supervisor) -> list[Callable[..., dict[str, Any]]]:
    """What the page asks about space. `problem`: why nothing was done."""

    def storage_report(_: Any = None) -> dict[str, Any]:
        return answer_or_problem(lambda: storage.storage_report(supervisor))

    def move_storage(asked: dict[str, Any]) -> dict[str, Any]:
        return answer_or_problem(lambda: start_move(supervisor, parse_values(MoveForm, asked, "storage")))

    def free_storage(asked: dict[str, Any]) -> dict[str, Any]:
        return answer_or_problem(lambda: free_item(supervisor, parse_values(FreeForm, asked, "storage")))

    def stop_move(_: Any = None) -> dict[str, Any]:
        return answer_or_problem(lambda: stop_moving(supervisor))

    return [storage_report, move_storage, free_storage, stop_move]


def answer_or_problem(answer: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    try:
        return answer()
    except UserError as error:
        return {"problem": str(error)}


def start_move(supervisor: Supervisor, asked: MoveForm) -> dict[str, Any]:
    path_policy.check_storage()
    supervisor.storage.start_move(asked.kind, expand_home(asked.to) if asked.to else None)
    return {}


def stop_moving(supervisor: Supervisor) -> dict[str, Any]:
    path_policy.check_storage()
    supervisor.storage.stop_move()
    return {}


def free_item(supervisor: Supervisor, asked: FreeForm) -> dict[str, Any]:
    path_policy.check_storage()
    supervisor.storage.free(asked.key)
    return storage.storage_report(supervisor)
