"""Every way to change one field or one file of a run folder into what its reader does not expect."""

from __future__ import annotations

import copy
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reliability.harness.sound_run import BESIDE, RUN_DIR
from trainer_core.runs import checkpoints
from trainer_core.runs.events import EVENT_KINDS

CANARY = "CANARY-5d11c0"
"""In every file outside of the workspace that a link leads to."""
VALUES: Mapping[str, Any] = {
    "NaN": float("nan"), "+inf": float("inf"), "-inf": float("-inf"), "10**25": 10**25, "half a surrogate": "\ud83d",
    "empty list": [], "list": [1], "empty object": {}, "object": {"a": 1}, "text": "text", "empty text": "",
    "number": 7, "fraction": 0.5, "0": 0, "-1": -1, "true": True, "null": None, "2**63-1": 2**63 - 1, "1e308": 1e308,
}  # fmt: skip
MISSING = "missing"
KINDS = (
    ("NaN",), ("+inf",), ("-inf",), ("10**25",), ("half a surrogate",), ("list", "empty list"), ("object", "empty object"),
    ("text", "empty text"), ("number", "0", "-1", "fraction", "2**63-1", "1e308"), ("true", "null"), (MISSING,),
)  # fmt: skip
"""Kinds of values, of which each field gets each: one of the kind, by turns."""
PLACES = ("pipe", "link out", "folder", "file", "missing")
"""What may stand in place of a file or a folder."""
REPEATED = tuple(
    f"{folder}/{name}"
    for folder, names in (
        ("adapter-dpo", ("MANIFEST.json", "adapter_config.json")),
        ("adapter-sft-000004", ("MANIFEST.json", "adapter_config.json")),
        ("checkpoints/dpo-000004", ("adapter_config.json",)),
    )
    for name in names
)
"""Are read as the same file of another folder is."""
Files = Mapping[str, bytes]
"""A run folder: name → content."""
Key = str | int


@dataclass(frozen=True)
class FolderFault:
    """One change of a run folder: `value` at `place` in the JSON of a file, or, without a place, instead of the file itself. The
    place in a log begins with the kind of an event: the last one in a finished run, the first one in another."""

    file: str
    place: tuple[Key, ...] | None
    value: str
    done: bool
    """Of a finished run, or of one that can be resumed."""

    def __str__(self) -> str:
        where = "" if self.place is None else " " + ".".join(map(str, self.place))
        return f"{self.file}{where} = {self.value} ({'finished' if self.done else 'failed'} run)"


def list_faults(files: Files) -> Iterator[FolderFault]:
    """A value of each kind in each field of each JSON file, and everything that is no file in place of each file and folder; by
    turns in a finished run and in one that can be resumed."""
    for name, content in files.items():
        places = list_places(name, content) if name not in REPEATED else ()
        for number, place in enumerate(places):
            kinds = KINDS if place else KINDS[:-1]  # a file that is missing is listed below
            for turn, values in enumerate(kinds, number):
                value = values[number // 2 % len(values)]
                yield FolderFault(name, place, value, done=turn % 2 == 1 or place[:1] == ("RunEnded",))
    folders = {parent for name in files if (parent := name.rpartition("/")[0]) and parent != BESIDE.rstrip("/")}
    for number, name in enumerate((*files, *sorted(folders))):
        for turn, value in enumerate(PLACES, number):
            yield FolderFault(name, None, value, done=turn % 2 == 1 or name.startswith("adapter-dpo"))


def list_places(name: str, content: bytes) -> Iterator[tuple[Key, ...]]:
    """The places of all fields of a file; of a log those of the last event of each kind."""
    if name.endswith(".jsonl"):
        rows = [json.loads(line) for line in content.splitlines()]
        seen = (
            {"ScoresReady"} if name == "events.jsonl" else set(EVENT_KINDS) - {"ScoresReady"}
        )  # a comparison has the scores
        for row in reversed(rows):
            if (kind := row.get("kind", "")) not in seen:
                seen.add(kind)
                yield from walk_fields(row, (kind,))
    elif name.endswith(".json"):
        yield from walk_fields(json.loads(content), ())


def walk_fields(value: Any, place: tuple[Key, ...]) -> Iterator[tuple[Key, ...]]:
    yield place
    inner: list[tuple[Key, Any]] = list(value.items()) if isinstance(value, dict) else []
    if isinstance(value, list):
        inner = [(0, one) for one in value[:1]]
    for key, one in inner:
        yield from walk_fields(one, (*place, key))


def write_run(files: Files, workspace: Path, run_id: str, fault: FolderFault | None = None) -> None:
    """The folder of a run, with a fault in it. A comparison is written beside it if the fault is in one; the run has no scores
    of its own then."""
    beside = fault is not None and fault.file.startswith(BESIDE)
    for name, content in files.items():
        if name == "scores.json" if beside else name.startswith(BESIDE):
            continue
        if fault and name == fault.file and fault.place is not None:
            content = change_content(content, fault)
        path = file_path(workspace, run_id, name)
        os.makedirs(path.parent, exist_ok=True)
        path.write_bytes(content.replace(RUN_DIR, str(workspace / "runs" / run_id).encode()))
    if fault and fault.place is None:
        replace_file(file_path(workspace, run_id, fault.file), fault.value, workspace.with_name("outside") / run_id)


def file_path(workspace: Path, run_id: str, name: str) -> Path:
    beside = name.startswith(BESIDE)
    return workspace / ("compare" if beside else "runs") / run_id / name.removeprefix(BESIDE)


def change_content(content: bytes, fault: FolderFault) -> bytes:
    """The file with the fault in it; a manifest is sealed again, as somebody may who knows how."""
    assert fault.place is not None
    if not fault.file.endswith(".jsonl"):
        values = change_value(json.loads(content), fault.place, fault.value)
        if fault.file.endswith(checkpoints.MANIFEST) and isinstance(values, dict) and "own" not in fault.place:
            values["own"] = checkpoints.manifest_hash(values)
        return json.dumps(values).encode()
    lines = content.splitlines()
    found = [at for at, line in enumerate(lines) if json.loads(line).get("kind", "") == fault.place[0]]
    at = found[-1] if fault.done else found[0]
    row = change_value(json.loads(lines[at]), fault.place[1:], fault.value)
    lines[at : at + 1] = [] if row is MISSING else [json.dumps(row).encode()]
    return b"".join(line + b"\n" for line in lines)


def change_value(values: Any, place: tuple[Key, ...], value: str) -> Any:
    """The values with another one at a place. MISSING: without it."""
    if not place:
        return MISSING if value == MISSING else copy.deepcopy(VALUES[value])
    changed = copy.deepcopy(values)
    holder: Any = changed
    for key in place[:-1]:
        holder = holder[key]
    if value != MISSING:
        holder[place[-1]] = copy.deepcopy(VALUES[value])
    elif not isinstance(holder, dict):
        del holder[place[-1]]
    else:
        holder.pop(place[-1], None)  # the first event of a kind may have fewer fields than the last
    return changed


def replace_file(path: Path, kind: str, outside: Path) -> None:
    """Something else in place of a file or folder. A link leads to the same outside of the workspace, with the canary in it."""
    outside.parent.mkdir(exist_ok=True)
    shutil.move(path, outside)
    match kind:
        case "pipe":
            os.mkfifo(path)
        case "link out":
            plant_canary(outside)
            path.symlink_to(outside)
        case "folder":
            path.mkdir()
        case "file":
            path.write_bytes(b"no such thing\n")


def plant_canary(outside: Path) -> None:
    for file in [outside] if outside.is_file() else [one for one in outside.rglob("*") if one.is_file()]:
        text = file.read_bytes()
        for known in (b"A name", b"A note", b"A reason", b"a line", b"the base", b"Why?", b"So.", b"a traceback"):
            text = text.replace(known, CANARY.encode())
        file.write_bytes(text)
