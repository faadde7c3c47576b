"""A Hub model as a checked local folder: files to download, progress, and errors."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

from trainer_core.errors import ModelError
from trainer_core.models import resolve
from trainer_core.system.format import format_duration, format_part_of_size
from trainer_core.system.network import HUB, is_reachable
from trainer_core.texts import Text

if TYPE_CHECKING:
    import httpx

DOWNLOAD_PATTERNS = [
    "*.safetensors",
    "*.safetensors.index.json",
    "*config*.json",
    "*token*",
    "vocab.*",
    "merges.txt",
    "*.jinja",
]
"""The files that loading a model needs. Nothing that could run code is downloaded."""
IGNORED_PATTERNS = ["*/*", "*.bin", "*.pt", "*.py", "consolidated*"]
FREE_BYTES = 1 << 30
"""Bytes of free disk space that a download leaves."""
POLL_SECONDS = 1.0
NAME_HEADERS = ("etag", "x-linked-etag", "x-repo-commit")
PLAIN_NAME = re.compile(r"[\w.+=-]{1,200}", re.ASCII)


def fetch_model(name: str, say: Callable[[Text], None], leave: Callable[[], bool] = lambda: False) -> Path | None:
    """The folder in the Hub cache with all files; None if `leave` returned True first.

    An interrupted download resumes. Offline, the cached copy is used.

    Args:
        say: receives "Downloading owner/name: 0.4 of 4.1 GB, 3 min left" whenever it changes.
        leave: return True to cancel.

    Raises:
        ModelError: the model does not exist, is unreachable or unsafe to load, or the disk is too full.
    """
    folder = fetch_files(name, say, leave)
    return folder and resolve.check_model_folder(folder)


def fetch_files(name: str, say: Callable[[Text], None], leave: Callable[[], bool]) -> Path | None:
    """The same for a repository that may hold an adapter: its files are not checked yet."""
    with hub_errors(name):
        return find_in_cache(name) if not is_hub_online() else download_missing(name, say, leave)


def fetch_tokenizer(name: str) -> Path:
    """The folder in the Hub cache with a model's tokenizer, downloaded if missing; the weights may be missing.

    Raises:
        ModelError: as for `fetch_model`.
    """
    from huggingface_hub import snapshot_download

    words = [one for one in DOWNLOAD_PATTERNS if "safetensors" not in one]
    with hub_errors(name):
        place = snapshot_download(
            name, allow_patterns=words, ignore_patterns=IGNORED_PATTERNS, local_files_only=not is_hub_online()
        )
    return resolve.check_tokenizer_folder(Path(place))


class UnsafeName(Exception):
    """A Hub names a commit or a file's content by something that is no plain name."""


def check_names(response: httpx.Response) -> None:
    """Refuse an answer whose tags or commit are no plain names: the library makes paths of them, wherever those lead.

    Raises:
        UnsafeName: with the name.
    """
    names = [response.headers.get(name, "") for name in NAME_HEADERS] if response.request.method == "HEAD" else []
    path = response.url.path
    if "/api/" in path and "/resolve/" not in path and response.is_success:
        response.read()
        names += names_in(json_answer(response))
    for name in (one.removeprefix("W/").strip('"') for one in names):
        if name and (not PLAIN_NAME.fullmatch(name) or not name.strip(".")):
            raise UnsafeName(name)


def names_in(answer: Any) -> list[str]:
    """The commit of a repository, or the tags of its large files; the library itself complains about other answers."""
    if isinstance(answer, dict):
        return [str(answer.get("sha") or "")]
    files = [one.get("lfs") for one in answer if isinstance(one, dict)] if isinstance(answer, list) else []
    return [str(one.get("oid", "")) for one in files if isinstance(one, dict)]


def json_answer(response: httpx.Response) -> Any:
    try:
        return response.json()
    except ValueError:
        return None


@cache
def use_checked_client() -> None:
    """Let the library's requests go through `check_names`, in this process."""
    from huggingface_hub import set_client_factory
    from huggingface_hub.utils._http import default_client_factory

    def checked_client() -> httpx.Client:
        client = default_client_factory()
        hooks = client.event_hooks
        client.event_hooks = {**hooks, "response": [*hooks["response"], check_names]}
        return client

    set_client_factory(checked_client)


@contextmanager
def hub_errors(name: str) -> Iterator[None]:
    """Checks the Hub's answers, and turns its errors into sentences about a model.

    Raises:
        ModelError: instead of the Hub's own error.
    """
    import httpx
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    use_checked_client()
    try:
        yield
    except UnsafeName as error:
        raise ModelError("model_hub.bad_name", name=name, given=str(error)[:100]) from error
    except GatedRepoError as error:
        raise ModelError("model_hub.gated", name=name) from error
    except RepositoryNotFoundError as error:
        raise ModelError("model_hub.not_found", name=name) from error
    except LocalEntryNotFoundError as error:
        raise ModelError("model_hub.out_of_reach", name=name) from error
    except HfHubHTTPError as error:
        raise ModelError("model_hub.refused", name=name, answer=str(error).splitlines()[0]) from error
    except httpx.HTTPError as error:  # the line broke, or redirects without end
        raise ModelError("model_hub.broken_off", name=name, reason=str(error) or type(error).__name__) from error
    except ValueError as error:  # no JSON, or a file whose name leads out of the cache
        raise ModelError("model_hub.bad_answer", name=name, reason=str(error).splitlines()[0]) from error


def is_hub_online() -> bool:
    from huggingface_hub import constants

    return not constants.HF_HUB_OFFLINE and is_reachable(os.environ.get("HF_ENDPOINT", HUB))


def find_in_cache(name: str) -> Path:
    from huggingface_hub import snapshot_download

    return Path(
        snapshot_download(
            name, local_files_only=True, allow_patterns=DOWNLOAD_PATTERNS, ignore_patterns=IGNORED_PATTERNS
        )
    )


def download_missing(name: str, say: Callable[[Text], None], leave: Callable[[], bool]) -> Path | None:
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import DryRunError
    from huggingface_hub.file_download import repo_folder_name

    try:
        missing = snapshot_download(
            name, allow_patterns=DOWNLOAD_PATTERNS, ignore_patterns=IGNORED_PATTERNS, dry_run=True
        )
    except DryRunError as error:
        raise error.__cause__ or error from None  # it hides the Hub's own error
    total, cache = sum(one.file_size or 0 for one in missing if one.will_download), Path(constants.HF_HUB_CACHE)
    if not total:
        return find_in_cache(name)
    require_disk_space(name, total, cache)
    load = ModelDownload(name)
    load.start()
    report_download(name, load, cache / repo_folder_name(repo_id=name, repo_type="model") / "blobs", total, say, leave)
    return None if load.is_alive() else load.folder()


class ModelDownload(Thread):
    """One download; a daemon, so that the process can exit without waiting for it."""

    def __init__(self, name: str) -> None:
        super().__init__(daemon=True)
        self.model, self.place = name, ""
        self.error: Exception | None = None

    def run(self) -> None:
        from huggingface_hub import snapshot_download

        try:
            self.place = snapshot_download(
                self.model, allow_patterns=DOWNLOAD_PATTERNS, ignore_patterns=IGNORED_PATTERNS
            )
        except Exception as error:  # raised in the waiting thread
            self.error = error

    def folder(self) -> Path:
        if self.error:
            raise self.error
        return Path(self.place)


def report_download(
    name: str, load: Thread, blobs: Path, total: int, say: Callable[[Text], None], leave: Callable[[], bool]
) -> None:
    """Report progress until the download ends or `leave` returns True. Counts bytes on disk, which any download method writes."""
    began, before, told = time.monotonic(), bytes_on_disk(blobs), ""
    while load.is_alive() and not leave():
        done = min(bytes_on_disk(blobs) - before, total)
        part = format_part_of_size(done, total)
        if done and part != told:
            left = format_duration((time.monotonic() - began) * (total - done) / done)
            say(Text("model_hub.downloading", name=name, part=part, left=left))
            told = part
        load.join(POLL_SECONDS)


def bytes_on_disk(blobs: Path) -> int:
    return sum(file.stat().st_size for file in blobs.glob("*") if file.exists())


def require_disk_space(name: str, total: int, cache: Path) -> None:
    there = next(place for place in (cache, *cache.parents) if place.exists())
    free = shutil.disk_usage(there).free
    if free < total + FREE_BYTES:
        raise ModelError("model_hub.no_room", name=name, size=total / 1e9, folder=str(there), free=free / 1e9)
