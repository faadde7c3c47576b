"""A whole export: its files, its certificate, what happens when it is stopped, killed, or has no room."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from gguf import GGUFReader
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.support import export_case
from trainer_core.config.jobs import Lane
from trainer_core.errors import ConfigError, DiskError, ModelError, UserError
from trainer_core.export import measure, pipeline
from trainer_core.export.certify import certify_forms, held_out_pairs, measure_lane
from trainer_core.export.context import ExportContext
from trainer_core.export.gguf import check_no_path
from trainer_core.planning import export_cost
from trainer_core.runs.checkpoints import MANIFEST, file_sha256
from trainer_core.runs.events import Event, Phase
from trainer_core.runs.export_events import CertificateRow, ExportFinished, ExportPart, ExportProgress

pytestmark = pytest.mark.real

TARGETS = ("adapter", "merged", "gguf:q8_0")
FILE = "it-Q8_0.gguf"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("export")


@pytest.fixture(scope="module")
def lane(folder: Path) -> Lane:
    return export_case.write_lane(folder)


@pytest.fixture(scope="module")
def events(folder: Path, lane: Lane) -> list[Event]:
    pytest.importorskip("xllamacpp", reason="there is no llama.cpp for this system")
    found = list[Event]()
    assert export_case.run_export(folder, export_case.export_job(folder, lane, TARGETS), found.append) is Phase.DONE
    return found


def finished(events: list[Event]) -> ExportFinished:
    (found,) = (event for event in events if isinstance(event, ExportFinished))
    return found


def test_the_folder_holds_what_was_asked_and_nothing_else(folder: Path, events: list[Event]) -> None:
    out = folder / "out" / "it"
    assert [path.name for path in sorted((folder / "out").iterdir())] == ["it"]
    names = ["MANIFEST.json", "adapter", "certificate.html", "export.json", FILE, "merged"]
    assert sorted(path.name for path in out.iterdir()) == sorted(names)
    parts = json.loads((out / MANIFEST).read_text())["parts"]
    held = {name: file["sha256"] for files in parts.values() for name, file in files.items()}
    there = {path.relative_to(out).as_posix(): path for path in out.rglob("*") if path.is_file()}
    assert held == {name: file_sha256(path) for name, path in there.items() if name != MANIFEST}
    assert [event.part for event in events if isinstance(event, ExportPart)] == [
        "adapter",
        "merged",
        "merged-f16",
        FILE,
    ]


def test_the_certificate_says_what_each_form_keeps(folder: Path, events: list[Event]) -> None:
    rows = {row.form: row for row in finished(events).forms}
    assert list(rows) == ["merged", "gguf:q8_0"] and finished(events).pairs == 24
    for row in rows.values():
        assert (row.template_equal, row.tokens_equal, row.special_equal) == (True, True, True)
        assert row.verdict in ("same", "ties") and not row.problem
        assert row.divergence is not None and 0 <= row.divergence < 0.01
        assert row.answers and row.answers.count == 16
    in_engine = rows["gguf:q8_0"]
    assert in_engine.engine_answers and 0 <= (in_engine.engine_divergence or -1) < 0.01
    told = json.loads((folder / "out" / "it" / "export.json").read_text())
    assert [row["form"] for row in told["rows"]] == list(rows)
    page = (folder / "out" / "it" / "certificate.html").read_text(encoding="utf-8")
    assert page.count("<tr>") == 3 and "http" not in page


def test_it_loads_in_plain_transformers_with_the_tokenizer_of_training(folder: Path, events: list[Event]) -> None:
    merged = folder / "out" / "it" / "merged"
    tokenizer = AutoTokenizer.from_pretrained(merged)
    assert tokenizer.chat_template == AutoTokenizer.from_pretrained(folder / "models" / "base").chat_template
    assert AutoModelForCausalLM.from_pretrained(merged).config.tie_word_embeddings is True


def test_a_gguf_file_names_no_folder_of_this_computer(folder: Path, events: list[Event]) -> None:
    file = folder / "out" / "it" / FILE
    assert str(folder).encode() not in file.read_bytes()
    fields = GGUFReader(file).fields
    assert [fields[name].contents() for name in ("general.name", "tokenizer.ggml.pre")] == ["it", "smollm"]


def test_a_file_that_would_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "it.gguf"
    file.write_bytes(b"GGUF" + bytes(1000) + f"made in {tmp_path}/merged".encode())
    with pytest.raises(ModelError) as error:
        check_no_path(file, [tmp_path])
    assert error.value.text.code == "export.path_in_file"


def test_progress_reaches_the_end_of_every_part(events: list[Event]) -> None:
    said = [event for event in events if isinstance(event, ExportProgress)]
    assert {event.number for event in said} == set(range(1, 9)) and {event.parts for event in said} == {8}
    assert all(0 <= event.done <= event.total for event in said)
    assert any(event.seconds_left for event in said)


class Killed(BaseException):
    """Ends the job as a kill would: nothing of ours catches it."""


def test_a_killed_export_goes_on_to_the_same_bytes(folder: Path, lane: Lane, events: list[Event]) -> None:
    """Here at the end of its parts; `python -m reliability exports` kills at every write."""
    job = export_case.export_job(folder, lane, ("merged",), out=str(folder / "killed"))
    growing = job.folder.with_name(".it.part")
    for part in ("adapter", "merged"):

        def kill(event: Event, part: str = part) -> None:
            if isinstance(event, ExportPart) and event.part == part:
                raise Killed

        with pytest.raises(Killed):
            export_case.run_export(folder, job, kill)
        assert not job.folder.exists() and (growing / part).exists()
    made = (growing / "merged" / "model.safetensors").stat().st_mtime_ns
    assert export_case.run_export(folder, job) is Phase.DONE
    file = job.folder / "merged" / "model.safetensors"
    assert file.stat().st_mtime_ns == made and not growing.exists()
    assert file_sha256(file) == file_sha256(folder / "out" / "it" / "merged" / "model.safetensors")


def test_parts_of_another_lane_are_not_taken(folder: Path, lane: Lane) -> None:
    job = export_case.export_job(folder, lane, ("merged",), out=str(folder / "other"))
    context = export_case.open_context(job)
    pipeline.make_part(context, "adapter")
    half = job.model_copy(update={"lane": lane.model_copy(update={"strength": 0.5})})
    assert context.staging.is_complete("adapter")
    assert not export_case.open_context(half).staging.is_complete("adapter")


def test_a_part_that_was_changed_is_made_anew(folder: Path, lane: Lane) -> None:
    job = export_case.export_job(folder, lane, ("adapter",), out=str(folder / "changed"))
    context = export_case.open_context(job)
    pipeline.make_part(context, "adapter")
    file = context.part_path("adapter") / "adapter_model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert not context.staging.is_complete("adapter")
    pipeline.make_part(context, "adapter")
    content[-1] ^= 1
    assert file.read_bytes() == content


def test_the_space_of_complete_parts_is_not_asked_for_again(tmp_path: Path) -> None:
    free = export_cost.free_bytes(tmp_path)
    cost = export_cost.export_cost(("merged",), base_bytes=free, base_bits=16, adapter_bytes=0)
    export_cost.require_space(cost, tmp_path, written=free)
    with pytest.raises(DiskError) as error:
        export_cost.require_space(cost, tmp_path, written=0)
    assert error.value.text.code == "export.no_room"


def test_weights_that_do_not_fit_the_memory_are_not_measured() -> None:
    with pytest.raises(measure.WeightsUnread) as error:
        measure.require_memory(10**13)
    assert error.value.text.code == "export.no_memory"
    measure.require_memory(1000)


def test_a_name_that_is_taken_is_refused_and_left_alone(folder: Path, lane: Lane) -> None:
    job = export_case.export_job(folder, lane, ("adapter",), out=str(folder / "taken"))
    job.folder.mkdir(parents=True)
    (job.folder / "mine").write_text("here")
    with pytest.raises(ConfigError) as error:
        export_case.run_export(folder, job)
    assert error.value.text.code == "export.name_taken" and [path.name for path in job.folder.iterdir()] == ["mine"]
    assert not list(job.folder.parent.glob(".it*"))  # refused before any work


def test_a_tokenizer_that_llama_cpp_does_not_know_is_refused_before_any_name_is_taken(
    folder: Path, tmp_path: Path
) -> None:
    from tests.support import tiny

    base = tiny.model(tmp_path / "models" / "base")
    lane = Lane(name="SFT", adapter=str(tiny.adapter(tmp_path / "adapter", base)))
    job = export_case.export_job(tmp_path, lane, ("gguf:bf16",))
    with pytest.raises(UserError) as error:
        export_case.run_export(tmp_path, job)
    assert error.value.text.code == "export.not_convertible" and not job.folder.exists()


# --- sabotage: each must turn the certificate red


def edit_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def replace_bytes(file: Path, old: bytes, new: bytes) -> None:
    """In the description of a GGUF file, of the same length."""
    content = file.read_bytes()
    assert content.count(old) == 1 and len(old) == len(new)
    file.write_bytes(content.replace(old, new))


def replace_value(file: Path, key: str, new: bytes) -> None:
    """The value of a number in the description: it follows its key and the four bytes of its type."""
    content = bytearray(file.read_bytes())
    at = content.index(key.encode()) + len(key) + 4
    assert content[at : at + len(new)] != new
    content[at : at + len(new)] = new
    file.write_bytes(content)


def remove_template(file: Path) -> None:
    replace_bytes(file, b"tokenizer.chat_template", b"tokenizer.chat_templatX")


def change_template(file: Path) -> None:
    replace_bytes(file, b"<|im_start|>assistant", b"<|im_start|>Assistant")


def add_begin(file: Path) -> None:
    """llama.cpp takes the template's own begin token away and adds one again, so it must be another to do harm."""
    replace_value(file, "tokenizer.ggml.add_bos_token", b"\x01")
    replace_value(file, "tokenizer.ggml.bos_token_id", (17).to_bytes(4, "little"))


def change_end(file: Path) -> None:
    replace_value(file, "tokenizer.ggml.eos_token_id", (17).to_bytes(4, "little"))


def certify(context: ExportContext) -> list[CertificateRow]:
    pairs = held_out_pairs(context)
    return certify_forms(context, measure_lane(context, pairs), pairs)


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (remove_template, "export.other_template"),
        (change_template, "export.other_template"),
        (add_begin, "export.other_tokens"),
        (change_end, "export.other_special"),
    ],
)
def test_a_file_that_reads_prompts_differently_is_not_exported(
    folder: Path, lane: Lane, events: list[Event], tmp_path: Path, spoil: Callable[[Path], None], code: str
) -> None:
    job = export_case.export_job(folder, lane, ("gguf:q8_0",), out=str(tmp_path))
    context = export_case.open_context(job)
    for part in ("adapter", "merged-f16"):
        pipeline.make_part(context, part)
    file = context.part_path("gguf:q8_0")
    shutil.copy(folder / "out" / "it" / FILE, file)
    spoil(file)
    with pytest.raises(ModelError) as error:
        certify(context)
    assert error.value.text.code == code


@pytest.mark.parametrize("sabotage", ["alpha halved", "another base"])
def test_other_weights_are_called_changed(folder: Path, lane: Lane, tmp_path: Path, sabotage: str) -> None:
    job = export_case.export_job(folder, lane, ("merged",), out=str(tmp_path))
    context = export_case.open_context(job)
    pipeline.make_part(context, "adapter")
    if sabotage == "alpha halved":
        config = context.part_path("adapter") / "adapter_config.json"
        edit_json(config, lora_alpha=json.loads(config.read_text())["lora_alpha"] / 2)
        pipeline.make_part(context, "merged")
    else:
        from tests.support import tiny

        other = tiny.model(tmp_path / "another", 7, vocab_size=49152, dtype="bfloat16")
        for path in other.glob("*.json"):
            if path.name.startswith("tokenizer"):
                path.unlink()
        shutil.copytree(Path(job.model), tmp_path / "mixed")
        shutil.copy(other / "model.safetensors", tmp_path / "mixed" / "model.safetensors")
        pipeline.make_part(replace(context, base=tmp_path / "mixed"), "merged")
    (row,) = certify(context)
    assert row.same_words and row.verdict == "changed"
