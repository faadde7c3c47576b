"""Which paths a user on another computer may open."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection

from gradio.context import LocalContext

from trainer_core.config.recipe import STARTER
from trainer_core.data.hub import datasets
from trainer_core.errors import ConfigError, DataError, DiskError, ModelError
from trainer_core.models import resolve
from trainer_core.runs.workspace import Workspace
from trainer_core.system.project import expand_home


def is_remote() -> bool:
    """Does the current request come from another computer? Gradio knows it for questions and events alike."""
    request = LocalContext.request.get(None)
    return bool(request and request.client and not ipaddress.ip_address(request.client.host).is_loopback)


def check_source(workspace: Workspace, source: str | None, ours: Collection[str]) -> None:
    """A user at this computer may open any file; others a set of `ours`, of the Hub, or of the workspace's data.

    Raises:
        DataError: any other file.
    """
    if not source or source in ours or not is_remote() or datasets.is_dataset_name(source):
        return
    if not expand_home(source).resolve().is_relative_to(workspace.data.resolve()):
        raise DataError("path_policy.data", source=source)


def check_export_folder(workspace: Workspace, out: str) -> None:
    """A user at this computer may export to any folder; others into `exports`.

    Raises:
        DiskError: any other folder.
    """
    if is_remote() and expand_home(out).resolve() != workspace.exports.resolve():
        raise DiskError("path_policy.export", folder=out)


def check_upload() -> None:
    """Uploads to the Hub are made with the token of the user at this computer.

    Raises:
        ConfigError: the request comes from another one.
    """
    if is_remote():
        raise ConfigError("path_policy.hub")


def check_storage() -> None:
    """What lies on this computer's drives is moved and deleted by the user who sits at it.

    Raises:
        ConfigError: the request comes from another one.
    """
    if is_remote():
        raise ConfigError("path_policy.storage")


def check_model_access(workspace: Workspace, name: str) -> None:
    """A user at this computer may open any folder as a model; others the starter, one of the Hub or of `models`.

    Raises:
        ModelError: any other folder, existing or not.
    """
    folder = resolve.model_path(name)
    if not is_remote() or name == STARTER or resolve.is_hub_id(name):
        return
    if folder is None or not folder.resolve().is_relative_to(workspace.models.resolve()):
        raise ModelError("path_policy.model", name=name)
