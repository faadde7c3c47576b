"""Ollama and LM Studio are given their forms; whatever they do, the export is whole. Ollama is a server of its protocol."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support import export_case
from tests.support.ollama_server import Ollama, run_ollama
from trainer_core.config.jobs import Lane
from trainer_core.config.recipe import Sampling
from trainer_core.data.render import render_chat
from trainer_core.errors import ConfigError, DiskError, ModelError
from trainer_core.export import lm_studio, measure, ollama
from trainer_core.export.chat_shape import NoShape, Render
from trainer_core.export.context import ExportContext
from trainer_core.export.ollama_client import OllamaClient, local_address
from trainer_core.planning.export_cost import FREE_BYTES, free_bytes
from trainer_core.runs.checkpoints import file_sha256
from trainer_core.runs.events import Event, Phase
from trainer_core.runs.export_events import ExportFinished, ExportRegistered

pytestmark = pytest.mark.real

TARGETS = ("ollama", "lmstudio")
SAMPLING = Sampling(temperature=0.3, top_p=0.8, seed=7)
Q8, F16 = "it-Q8_0.gguf", "it-F16.gguf"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("programs")


@pytest.fixture(scope="module")
def lane(folder: Path) -> Lane:
    return export_case.write_lane(folder).model_copy(update={"system": "Be brief."})


@pytest.fixture(scope="module")
def render(folder: Path) -> Render:
    """As training writes prompts."""
    tokenizer = measure.load_tokenizer(folder / "models" / "base")
    return lambda messages: render_chat(tokenizer, messages, asking=True)


@pytest.fixture(scope="module")
def served(render: Render) -> Iterator[tuple[Ollama, str]]:
    here = Ollama(render)
    with run_ollama(here) as address:
        yield here, address


@pytest.fixture(scope="module")
def events(folder: Path, lane: Lane, served: tuple[Ollama, str]) -> list[Event]:
    """An export into both. What the user's environment says is set for it alone."""
    (folder / "home" / ".lmstudio" / "models").mkdir(parents=True)
    found = list[Event]()
    job = export_case.export_job(folder, lane, TARGETS, sampling=SAMPLING, held_out="")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("OLLAMA_HOST", served[1])
        environment.setenv("HOME", str(folder / "home"))
        environment.setenv("USERPROFILE", str(folder / "home"))
        assert export_case.run_export(folder, job, found.append) is Phase.DONE
    return found


def open_finished(folder: Path, lane: Lane) -> ExportContext:
    """The context of the finished export."""
    job = export_case.export_job(folder, lane, TARGETS, sampling=SAMPLING, held_out="")
    return export_case.open_context(job, begin=False)


def registered(events: list[Event]) -> dict[str, ExportRegistered]:
    return {event.target: event for event in events if isinstance(event, ExportRegistered)}


def test_each_program_has_its_form(folder: Path, events: list[Event], served: tuple[Ollama, str]) -> None:
    found = registered(events)
    assert [found[target].said.code for target in TARGETS] == ["ollama.ready", "lm_studio.ready"]
    out = folder / "out" / "it"
    assert sorted(path.name for path in out.iterdir()) == [
        "MANIFEST.json",
        "certificate.html",
        "export.json",
        "lmstudio",
        "ollama",
    ]
    model = served[0].models["it"]
    (digest,) = model["files"].values()
    assert digest == f"sha256:{file_sha256(out / 'ollama' / Q8)}"
    assert served[0].blobs[digest] == (out / "ollama" / Q8).read_bytes()
    assert model["system"] == "Be brief." and model["parameters"]["stop"] == ["<|im_end|>"]
    wanted = {
        "temperature": 0.3,
        "top_p": 0.8,
        "top_k": 0,
        "min_p": 0.0,
        "repeat_penalty": 1.0,
        "seed": 7,
        "num_ctx": 512,
    }
    assert {name: model["parameters"][name] for name in wanted} == wanted
    library = folder / "home" / ".lmstudio" / "models" / "tunebench" / "it"
    assert [path.name for path in library.iterdir()] == [Q8]
    assert (library / Q8).samefile(out / "lmstudio" / "tunebench" / "it" / Q8)
    assert (library / Q8).samefile(out / "ollama" / Q8)  # three names, one file


def test_what_a_program_runs_is_what_was_measured(events: list[Event]) -> None:
    (finished,) = (event for event in events if isinstance(event, ExportFinished))
    assert [row.form for row in finished.forms] == ["gguf:q8_0"]


def test_the_modelfile_says_the_same(folder: Path, events: list[Event], served: tuple[Ollama, str]) -> None:
    text = (folder / "out" / "it" / "ollama" / "Modelfile").read_text(encoding="utf-8")
    model = served[0].models["it"]
    assert text.startswith(f'FROM ./{Q8}\nTEMPLATE """{model["template"]}"""\nSYSTEM """Be brief."""\n')
    for line in ('PARAMETER stop """<|im_end|>"""', "PARAMETER temperature 0.3", "PARAMETER num_ctx 512"):
        assert f"\n{line}\n" in text
    assert str(folder) not in text


def test_ollama_quantises_the_f16_file(
    folder: Path, lane: Lane, events: list[Event], render: Render, tmp_path: Path
) -> None:
    """Any file stands for the F16 one here: it is Ollama that rounds it."""
    job = export_case.export_job(folder, lane, ("ollama:q4_k_m",), held_out="", out=str(tmp_path))
    context, here = export_case.open_context(job), Ollama(render)
    shutil.copy(folder / "out" / "it" / "ollama" / Q8, context.part_path("gguf:f16"))
    job.folder.mkdir()
    ollama.write_ollama(context, job.folder / "ollama-q4_k_m", "ollama:q4_k_m")
    with run_ollama(here) as address:
        said = ollama.register_ollama(context, "ollama:q4_k_m", OllamaClient(address))
    assert said.code == "ollama.ready" and here.models["it"]["quantize"] == "q4_K_M"
    assert list(here.models["it"]["files"]) == [F16]


def test_a_model_that_is_there_already_is_not_made_again(
    folder: Path, lane: Lane, events: list[Event], served: tuple[Ollama, str]
) -> None:
    before = served[0].models["it"]
    said = ollama.register_ollama(open_finished(folder, lane), "ollama", OllamaClient(served[1]))
    assert said.code == "ollama.ready" and served[0].models["it"] is before


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"render": lambda messages: "other"}, "ollama.other_prompts"),
        ({"version": "0.3.14"}, "ollama.old"),
        ({"refusal": "no space left"}, "ollama.refused"),
        ({"models": {"it": {"files": {"x": "sha256:0"}}}}, "ollama.name_taken"),
    ],
    ids=["other prompts", "old", "refuses", "name taken"],
)
def test_what_ollama_may_do(
    folder: Path, lane: Lane, events: list[Event], render: Render, changes: dict[str, Any], code: str
) -> None:
    here = replace(Ollama(render), **changes)
    with run_ollama(here) as address, pytest.raises(ModelError) as error:
        ollama.register_ollama(open_finished(folder, lane), "ollama", OllamaClient(address))
    assert error.value.text.code == code
    assert list(here.models) == (["it"] if code == "ollama.name_taken" else [])


def test_a_version_that_does_not_tell_its_prompts_is_no_proof(folder: Path, lane: Lane, events: list[Event]) -> None:
    with run_ollama(Ollama(None)) as address:
        said = ollama.register_ollama(open_finished(folder, lane), "ollama", OllamaClient(address))
    assert said.code == "ollama.unproved"


def test_an_ollama_that_does_not_run(folder: Path, lane: Lane, events: list[Event]) -> None:
    with run_ollama(Ollama(None)) as address:
        pass
    with pytest.raises(ModelError) as error:
        ollama.register_ollama(open_finished(folder, lane), "ollama", OllamaClient(address))
    assert error.value.text.code == "ollama.down"


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("", "http://127.0.0.1:11434"),
        ("0.0.0.0", "http://127.0.0.1:11434"),
        ("0.0.0.0:8080", "http://127.0.0.1:8080"),
        ("[::]:8080", "http://127.0.0.1:8080"),
        ("desk:8080", "http://desk:8080"),
        ("https://desk", "https://desk"),
    ],
)
def test_the_address_is_read_as_ollamas_client_reads_it(host: str, address: str) -> None:
    assert local_address(host).rstrip("/") == address


def test_a_template_without_a_shape_is_refused_before_any_work(folder: Path, lane: Lane, tmp_path: Path) -> None:
    base = tmp_path / "models" / "base"
    shutil.copytree(folder / "models" / "base", base)
    (base / "chat_template.jinja").write_text("{% for m in messages[-1:] %}{{ m.content }}{% endfor %}")
    job = export_case.export_job(tmp_path, lane, ("ollama",), held_out="")
    with pytest.raises(NoShape):
        export_case.run_export(tmp_path, job)
    assert [path.name for path in (tmp_path / "out").rglob("*") if path.is_file()] == []


def test_a_text_that_a_modelfile_cannot_hold() -> None:
    for text in ('say """hi"""', 'say "hi"'):
        with pytest.raises(ModelError) as error:
            ollama.quote_text(text)
        assert error.value.text.code == "ollama.quotes"
    assert ollama.quote_text('"hi" there') == '""""hi" there"""'


def test_lm_studio_that_is_not_here(folder: Path, lane: Lane, events: list[Event], tmp_path: Path) -> None:
    with pytest.raises(ModelError) as error:
        lm_studio.register_lm_studio(open_finished(folder, lane), "lmstudio", tmp_path)
    assert error.value.text.code == "lm_studio.missing"


def test_lm_studios_folder_may_be_elsewhere(folder: Path, lane: Lane, events: list[Event], tmp_path: Path) -> None:
    (tmp_path / "moved" / "models").mkdir(parents=True)
    (tmp_path / ".lmstudio-home-pointer").write_text(f"{tmp_path / 'moved'}\n")
    context = open_finished(folder, lane)
    for _ in range(2):  # once more changes nothing
        assert lm_studio.register_lm_studio(context, "lmstudio", tmp_path).code == "lm_studio.ready"
    target = tmp_path / "moved" / "models" / "tunebench" / "it" / Q8
    assert file_sha256(target) == file_sha256(context.job.folder / "ollama" / Q8)
    target.unlink()
    target.write_bytes(b"another")
    with pytest.raises(ConfigError) as error:
        lm_studio.register_lm_studio(context, "lmstudio", tmp_path)
    assert error.value.text.code == "export.name_taken" and target.read_bytes() == b"another"


def test_a_copy_asks_for_room_first(tmp_path: Path) -> None:
    big = tmp_path / "big"
    with big.open("wb") as file:
        os.truncate(file.fileno(), free_bytes(tmp_path) - FREE_BYTES // 2)
    with pytest.raises(DiskError) as error:
        lm_studio.require_room(big, tmp_path / "copy")
    assert error.value.text.code == "export.no_room"


def test_a_registration_that_was_killed_is_made_up_for(
    folder: Path, lane: Lane, events: list[Event], render: Render
) -> None:
    """The export is complete and in no program when it goes on."""
    (run_dir,) = (folder / "export-jobs").iterdir()
    log, here = run_dir / "events.jsonl", Ollama(render)
    lines = log.read_text().splitlines(keepends=True)
    log.write_text("".join(line for line in lines if json.loads(line)["kind"] != "ExportRegistered"))
    job = export_case.export_job(folder, lane, TARGETS, sampling=SAMPLING, held_out="")
    found = list[Event]()
    with pytest.MonkeyPatch.context() as environment, run_ollama(here) as address:
        environment.setenv("OLLAMA_HOST", address)
        environment.setenv("HOME", str(folder / "home"))
        environment.setenv("USERPROFILE", str(folder / "home"))
        assert export_case.run_export(folder, job, found.append, run_dir) is Phase.DONE
    assert list(here.models) == ["it"] and list(registered(found)) == list(TARGETS)
    assert not [event for event in found if isinstance(event, ExportFinished)]
