"""Uploads a finished export to the Hub, into a private repository. Making it public is left to the Hub's own page."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from huggingface_hub import CommitOperationAdd, HfApi, constants, get_token
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

from trainer_core.errors import ModelError
from trainer_core.export.context import ExportContext
from trainer_core.export.gguf import check_no_path, own_folders
from trainer_core.export.hub_card import render_card
from trainer_core.runs.checkpoints import MANIFEST
from trainer_core.runs.run_state import read_run_state
from trainer_core.texts import Text

CARD = "README.md"
ROOT_FORMS = ("merged", "adapter")
"""The first of these that an export has lies at the repository's root, where transformers and PEFT look."""
HUB_OWN = (".gitattributes", CARD)
"""Files that a new repository may have."""


def check_hub(context: ExportContext) -> None:
    """Check before any work that there may be an upload.

    Raises:
        ModelError: the Hub is switched off, or there is no token.
    """
    require_access()


def register_hub(context: ExportContext, key: str, api: HfApi | None = None) -> Text:
    """Upload the export. Large files that the Hub has already are not sent again.

    Raises:
        ModelError: no access, another model in the repository, a file that would name a folder of this computer, or the
            Hub's refusal; nothing of it is public, and the export is complete.
    """
    api = api or HfApi(token=require_access())
    job = context.job
    files = uploaded_files(context)
    card = render_card(context, read_run_state(context.run_dir).exported, context.lane_run)
    for path in files.values():
        if path.stat().st_size:
            check_no_path(path, own_folders(context))
    with hub_errors(job.repo):
        if is_uploaded(api, job.repo, files):
            return Text("hub_upload.ready", repo=job.repo, address=f"{api.endpoint}/{job.repo}")
        api.create_repo(job.repo, private=True, exist_ok=True)
        sent: list[Any] = [CommitOperationAdd(name, path) for name, path in files.items()]
        sent.append(CommitOperationAdd(CARD, card.encode()))
        api.create_commit(job.repo, sent, commit_message=f"Upload {job.name}")
    return Text("hub_upload.ready", repo=job.repo, address=f"{api.endpoint}/{job.repo}")


def require_access() -> str:
    """The user's token: HF_TOKEN, or that of the Hub's own login.

    Raises:
        ModelError: the Hub is switched off, or there is no token.
    """
    if constants.HF_HUB_OFFLINE:
        raise ModelError("hub_upload.offline")
    token = get_token()
    if not token:
        raise ModelError("hub_upload.no_token")
    return token


def uploaded_files(context: ExportContext) -> dict[str, Path]:
    """Path in the repository → file, of everything but the manifest, hidden files and what other programs were given."""
    folder = context.job.folder
    root = next((form for form in ROOT_FORMS if (folder / form).is_dir()), "")
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        if not path.is_file() or parts[-1].startswith(".") or parts == (MANIFEST,):
            continue
        if len(parts) > 1 and parts[0] not in ROOT_FORMS:
            continue
        inner = parts[1:] if parts[0] == root and len(parts) > 1 else parts
        if inner != (CARD,):
            found["/".join(inner)] = path
    return found


def is_uploaded(api: HfApi, repo: str, files: dict[str, Path]) -> bool:
    """Is exactly this export there already, from a try that was killed before it could say so?

    Raises:
        ModelError: the repository holds another model.
    """
    try:
        info = api.model_info(repo, files_metadata=True)
    except RepositoryNotFoundError:
        return False
    there = {one.rfilename: one.size for one in info.siblings or () if one.rfilename not in HUB_OWN}
    if not there:
        return False
    if there != {name: path.stat().st_size for name, path in files.items()}:
        raise ModelError("hub_upload.name_taken", repo=repo)
    return True


@contextmanager
def hub_errors(repo: str) -> Iterator[None]:
    """Make sentences of the Hub's refusals."""
    try:
        yield
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else 0
        reason = (error.server_message or str(error)).splitlines()[0][:200]
        code = {401: "hub_upload.token_refused", 403: "hub_upload.forbidden", 409: "hub_upload.conflict"}.get(status)
        if code:
            raise ModelError(code, repo=repo, reason=reason) from error
        raise ModelError("hub_upload.refused", repo=repo, status=status, reason=reason) from error
    except httpx.TransportError as error:
        raise ModelError("hub_upload.broken_off", repo=repo, reason=str(error) or type(error).__name__) from error
