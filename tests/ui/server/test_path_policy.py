"""Which paths another computer may open: where they lead counts, not how they are spelled."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from gradio.context import LocalContext

from trainer_core.errors import UserError
from trainer_core.runs.workspace import Workspace
from ui.server import path_policy

NEIGHBOUR = "192.168.0.7"


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """With a file outside, and links to it in the folders that are open."""
    made = Workspace(tmp_path / "workspace")
    (tmp_path / "outside").mkdir()
    for folder in (made.data, made.models):
        (folder / "link").symlink_to(tmp_path / "outside")
        (folder / "own").mkdir()
    return made


@pytest.fixture
def ask_from() -> Iterator[Callable[[str], None]]:
    """Sets the address that the request comes from."""
    tokens = []

    def ask(host: str) -> None:
        request: Any = SimpleNamespace(client=SimpleNamespace(host=host))
        tokens.append(LocalContext.request.set(request))

    yield ask
    for token in reversed(tokens):
        LocalContext.request.reset(token)


@pytest.mark.parametrize(
    ("host", "remote"),
    [
        ("127.0.0.1", False),
        ("127.8.8.8", False),
        ("::1", False),
        (NEIGHBOUR, True),
        ("10.0.0.1", True),
        ("fe80::1", True),
    ],
)
def test_another_computer_is_known_by_its_address(ask_from: Callable[[str], None], host: str, remote: bool) -> None:
    ask_from(host)
    assert path_policy.is_remote() is remote


def refusals(check: Callable[[str], None], paths: list[str]) -> list[str]:
    """The paths that are refused."""
    refused = []
    for path in paths:
        try:
            check(path)
        except UserError:
            refused.append(path)
    return refused


OUT = (
    "/etc/passwd",
    "~",
    "{home}/../outside",
    "{home}/own/../../../outside",
    "{home}/link",
    "{home}/link/x",
    "{home}-2/x",
)


def test_data_of_the_workspace_alone_is_open_to_the_network(
    workspace: Workspace, ask_from: Callable[[str], None]
) -> None:
    out = [path.format(home=workspace.data) for path in OUT]
    ours = [f"{workspace.data}/own", f"{workspace.data}/new.jsonl", "sample", "", "owner/name"]

    def check(path: str) -> None:
        path_policy.check_source(workspace, path, ("sample",))

    assert refusals(check, out) == []
    ask_from(NEIGHBOUR)
    assert refusals(check, out + ours) == out


def test_models_of_the_workspace_alone_are_open_to_the_network(
    workspace: Workspace, ask_from: Callable[[str], None]
) -> None:
    out = [path.format(home=workspace.models) for path in OUT]
    ours = [f"{workspace.models}/own", "starter", "owner/name"]

    def check(path: str) -> None:
        path_policy.check_model_access(workspace, path)

    assert refusals(check, out) == []
    ask_from(NEIGHBOUR)
    assert refusals(check, out + ours) == out


def test_from_another_computer_exports_go_to_their_folder_alone(
    workspace: Workspace, ask_from: Callable[[str], None]
) -> None:
    (workspace.exports / "link").symlink_to(workspace.root.parent / "outside")
    out = [path.format(home=workspace.exports) for path in OUT] + [f"{workspace.exports}/own"]

    def check(path: str) -> None:
        path_policy.check_export_folder(workspace, path)

    assert refusals(check, out) == []
    ask_from(NEIGHBOUR)
    assert refusals(check, [*out, str(workspace.exports)]) == out
