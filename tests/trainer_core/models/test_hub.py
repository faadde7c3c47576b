"""Models of the Hub, fetched from a local one in a process of its own, as the worker does it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import httpx
import pytest

from tests.support import tiny
from tests.support.hub_server import NAME, Fault, served
from tests.support.training_runs import recipe, run, write_data
from trainer_core.errors import ModelError
from trainer_core.models import hub
from trainer_core.runs.events import Phase
from trainer_core.system import project
from trainer_core.texts import Text

pytestmark = pytest.mark.real

FETCH = """
import json, sys
from huggingface_hub import constants
constants.DOWNLOAD_CHUNK_SIZE = 1 << 16  # a small model's progress can be seen on the disk
from trainer_core.errors import ModelError
from trainer_core.models import hub
said, leave = [], sys.argv[2] == "leave"
try:
    if sys.argv[2] == "with_tokenizer":
        folder = hub.fetch_tokenizer(sys.argv[1])
    else:
        folder = hub.fetch_model(sys.argv[1], said.append, lambda: leave and bool(said))
    print(json.dumps({"folder": folder and str(folder), "said": [*map(str, said)]}))
except ModelError as error:
    print(json.dumps({"error": str(error), "said": [*map(str, said)]}))
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A two-layer model and a pickle beside it that nobody may fetch."""
    folder = tmp_path_factory.mktemp("model")
    tiny.model(folder)
    found = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    return {**found, "pytorch_model.bin": b"never", "modeling_x.py": b"never"}


def fetch(place: Path, address: str, name: str = NAME, leave: bool = False, how: str = "stay") -> dict:
    ours = {"HF_ENDPOINT": address, "HF_HOME": str(place), "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
    command = [sys.executable, "-c", FETCH, name, "leave" if leave else how]
    environment = {**os.environ, **ours}
    done = subprocess.run(
        command, cwd=project.PROJECT, env=environment, capture_output=True, text=True, timeout=120, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def changed(files: Mapping[str, bytes], **values: object) -> dict[str, bytes]:
    return {**files, "config.json": json.dumps(json.loads(files["config.json"]) | values).encode()}


def test_it_is_fetched_with_its_progress_and_then_there_without_a_network(
    files: dict[str, bytes], tmp_path: Path
) -> None:
    with served("models", files, pause=0.6) as address:
        first = fetch(tmp_path, address)
        again = fetch(tmp_path, address)
    assert first["said"] and all(text.startswith(f"Downloading {NAME}: ") and " left" in text for text in first["said"])
    assert {path.name for path in Path(first["folder"]).iterdir()} == set(files) - {
        "pytorch_model.bin",
        "modeling_x.py",
    }
    offline = fetch(tmp_path, "http://127.0.0.1:9")
    assert again == offline == {"folder": first["folder"], "said": []}


def test_who_leaves_in_the_middle_goes_on_there(files: dict[str, bytes], tmp_path: Path) -> None:
    with served("models", files, pause=0.6) as address:
        assert fetch(tmp_path, address, leave=True)["folder"] is None
        assert fetch(tmp_path, address)["folder"]


def test_a_tokenizer_alone_is_fetched_without_weights_and_checked(files: dict[str, bytes], tmp_path: Path) -> None:
    """As the Data tab does; one whose template reaches for code is refused before anything of it is read."""
    bad = {**files, "chat_template.jinja": b"{{ ''.__class__ }}"}
    for place, held in (("good", files), ("bad", bad)):
        with served("models", held) as address:
            found = fetch(tmp_path / place, address, how="with_tokenizer")
        if place == "good":
            names = {path.name for path in Path(found["folder"]).iterdir()}
            assert "tokenizer.json" in names and not any(name.endswith((".safetensors", ".bin")) for name in names)
        else:
            assert str(Text("chat_template.python_objects")) in found["error"]


def test_what_wants_to_run_code_is_refused(files: dict[str, bytes], tmp_path: Path) -> None:
    with served("models", changed(files, auto_map={"AutoModel": "modeling_x.X"})) as address:
        assert "auto_map" in fetch(tmp_path, address)["error"]


def test_no_such_model_and_no_network_are_said(files: dict[str, bytes], tmp_path: Path) -> None:
    with served("models", files) as address:
        assert fetch(tmp_path, address, "some/other")["error"] == str(Text("model_hub.not_found", name="some/other"))
    assert fetch(tmp_path, "http://127.0.0.1:9")["error"] == str(Text("model_hub.out_of_reach", name=NAME))


WAY_OUT = "../../canary"
TAGS = [
    {"ETag": f'"{WAY_OUT}"'},
    {"X-Linked-ETag": WAY_OUT},
    {"ETag": f'W/"{WAY_OUT}"'},
    {"ETag": '"..\\\\canary"'},
    {"ETag": '".."'},
]


@pytest.mark.parametrize("tags", TAGS, ids=str)
@pytest.mark.parametrize("how", ["stay", "with_tokenizer"])
def test_a_hub_whose_tag_is_a_path_writes_no_file(
    files: dict[str, bytes], tmp_path: Path, tags: dict[str, str], how: str
) -> None:
    with served("models", files, tags=tags) as address:
        refused = fetch(tmp_path / "hub", address, how=how)
    (tag,) = (value.removeprefix("W/").strip('"') for value in tags.values())
    assert refused["error"] == str(Text("model_hub.bad_name", name=NAME, given=tag))
    assert not list(tmp_path.rglob("canary*"))


def answer(method: str, path: str, content: object = None, **headers: str) -> httpx.Response:
    request = httpx.Request(method, f"http://127.0.0.1{path}")
    return httpx.Response(200, headers=headers, json=content, request=request)


@pytest.mark.parametrize("tag", ["a/b", "..", ".", "C:x", "a\\b", "a\x00b", "é", "x" * 300, "/etc/passwd"])
def test_tags_of_a_list_of_files_are_checked_too(tag: str) -> None:
    listed = [{"type": "file", "path": "x", "lfs": {"oid": tag, "size": 3}}]
    with pytest.raises(hub.UnsafeName):
        hub.check_names(answer("GET", "/api/models/a/b/tree/main", listed))


@pytest.mark.parametrize("tag", ["", '"d41d8cd98f00b204-12"', 'W/"0x8D9A"', "a" * 64])
def test_tags_of_sound_hubs_are_taken(tag: str) -> None:
    hub.check_names(answer("HEAD", "/a/b/resolve/main/x", ETag=tag))
    hub.check_names(answer("GET", "/api/models/a/b/tree/main", [{"lfs": {"oid": tag.strip('W/"')}}, {"lfs": None}, 3]))
    hub.check_names(answer("GET", "/elsewhere", ETag='"a/b"'))
    hub.check_names(answer("GET", "/api/models/a/b/tree/main", {"error": "x"}))


def test_a_full_disk_is_said_before_the_download(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"needs 10000000.0 GB, but the disk of .* GB free") as refused:
        hub.require_disk_space("some/model", 10**16, tmp_path / "not" / "there")
    assert refused.value.text.code == "model_hub.no_room"


def test_a_run_trains_on_it_and_its_adapter_names_the_model(
    files: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with served("models", files) as address:
        assert fetch(tmp_path / "cache", address)["folder"]
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    write_data(tmp_path)
    (view,) = run(tmp_path, ("", recipe(tmp_path, model=NAME)))
    assert view.phase is Phase.DONE, view.error
    (folder,) = (tmp_path / "runs").iterdir()
    described = json.loads((folder / "adapter-dpo" / "adapter_config.json").read_text())
    assert described["base_model_name_or_path"] == NAME


@pytest.mark.parametrize("fault", ["breaks off", "redirects"])
@pytest.mark.parametrize("how", ["stay", "with_tokenizer"])
def test_a_line_that_breaks_or_leads_in_circles_is_a_sentence(
    files: dict[str, bytes], tmp_path: Path, fault: Fault, how: str
) -> None:
    with served("models", files, fault=fault) as address:
        refused = fetch(tmp_path, address, how=how)
    begin, end = str(Text("model_hub.broken_off", name=NAME, reason="|")).split("|")
    assert refused["error"].startswith(begin) and refused["error"].endswith(end)


@pytest.mark.parametrize("commit", [f"../../../{WAY_OUT}", ".."])
@pytest.mark.parametrize("how", ["stay", "with_tokenizer"])
def test_a_commit_that_is_a_path_writes_no_file(files: dict[str, bytes], tmp_path: Path, commit: str, how: str) -> None:
    place = tmp_path / "a" / "b" / "c" / "hub"
    with served("models", files, commit=commit) as address:
        refused = fetch(place, address, how=how)
    assert refused["error"] == str(Text("model_hub.bad_name", name=NAME, given=commit))
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize("how", ["stay", "with_tokenizer"])
def test_a_page_in_place_of_an_answer_is_a_sentence(files: dict[str, bytes], tmp_path: Path, how: str) -> None:
    with served("models", files, fault="page") as address:
        refused = fetch(tmp_path, address, how=how)
    assert refused["error"].startswith(str(Text("model_hub.bad_answer", name=NAME, reason="|")).partition("|")[0])
