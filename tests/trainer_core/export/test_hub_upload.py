"""An export on the Hub: its files, its card, and everything that may go wrong. The Hub is a server of its protocol."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import HfApi, ModelCard

from tests.support import export_case
from tests.support.hub_upload_server import UploadHub, run_hub
from trainer_core.config.jobs import ExportJob, TrainJob
from trainer_core.config.recipe import Recipe
from trainer_core.errors import ConfigError, ModelError
from trainer_core.export import hub_upload
from trainer_core.export.context import ExportContext
from trainer_core.runs import run_folder
from trainer_core.runs.compare_events import ConfidenceInterval, ForgettingCheck, LaneScore, ScoresReady
from trainer_core.runs.event_log import EventLog
from trainer_core.runs.events import DataPrepared, Event, Phase, ReferenceCheck
from trainer_core.runs.export_events import ExportRegistered
from trainer_core.runs.workspace import Workspace
from trainer_core.schema import parse_values
from trainer_core.texts import verbatim

pytestmark = pytest.mark.real

REPO, TOKEN = "somebody/it", "hf_verysecrettoken"
HALF = ConfidenceInterval(0.7, 0.5, 0.9, 24)


@pytest.fixture(autouse=True)
def no_xet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Xet is a service of its own."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)


def write_run(folder: Path) -> str:
    """A training run with data, a proof and scores; its id."""
    recipe = Recipe.model_validate(
        {"model": str(folder / "models" / "base"), "data": {"pairs": str(folder / "mine.jsonl")}}
    )
    run_dir = run_folder.create_run(Workspace(folder).runs, TrainJob(recipe=recipe), "it", versions={"peft": "0.21.2"})
    forgetting = ForgettingCheck(2, 1, HALF, 0.3)
    score = LaneScore("DPO", HALF, HALF, HALF, HALF, general=HALF, forgetting=forgetting)
    with EventLog(run_dir / "events.jsonl") as log:
        log(DataPrepared(120, 80, 24, "ab" * 32))
        log(ReferenceCheck("dpo", 0.6931, 0.6931, 0.0, 0.0, 0.01, verbatim("a"), verbatim("b"), True))
        log(ScoresReady((score,)))
    return run_dir.name


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> ExportContext:
    """A finished export of an adapter and a merged model."""
    folder = tmp_path_factory.mktemp("hub")
    lane = export_case.write_lane(folder)
    job = export_case.export_job(folder, lane, ("adapter", "merged"), run=write_run(folder), repo=REPO)
    run_dir = export_case.make_run(folder, job)
    assert export_case.run_export(folder, job, run_dir=run_dir) is Phase.DONE
    return export_case.open_context(job, begin=False, run_dir=run_dir)


@pytest.fixture
def hub() -> UploadHub:
    return UploadHub()


@pytest.fixture
def api(hub: UploadHub) -> Iterator[HfApi]:
    with run_hub(hub) as address:
        yield HfApi(endpoint=address, token=TOKEN)


def test_the_files_arrive_in_a_private_repository(export: ExportContext, hub: UploadHub, api: HfApi) -> None:
    assert hub_upload.register_hub(export, "hub", api).code == "hub_upload.ready"
    assert hub.private == {REPO: True}
    there = hub.files[REPO]
    out = export.job.folder
    assert there["model.safetensors"] == (out / "merged" / "model.safetensors").read_bytes()
    assert there["config.json"] == (out / "merged" / "config.json").read_bytes()
    weights = "adapter/adapter_model.safetensors"
    assert there[weights] == (out / weights).read_bytes()
    assert {"certificate.html", "export.json", "README.md"} < there.keys() and "MANIFEST.json" not in there
    assert hub.puts and not any("authorization" in map(str.lower, headers) for headers in hub.puts)


def test_nothing_tells_of_this_computer(export: ExportContext, hub: UploadHub, api: HfApi) -> None:
    hub_upload.register_hub(export, "hub", api)
    folder = export.job.folder.parents[1]
    for name, content in hub.files[REPO].items():
        for secret in (str(folder), str(Path.home()) + "/", TOKEN):
            assert secret.encode() not in content, name


def test_the_card_says_what_it_is(export: ExportContext, hub: UploadHub, api: HfApi) -> None:
    hub_upload.register_hub(export, "hub", api)
    card = ModelCard(hub.files[REPO]["README.md"].decode())
    assert (card.data.library_name, card.data.model_name, card.data.pipeline_tag) == (
        "transformers",
        "it",
        "text-generation",
    )
    assert card.data.tags == ["tunebench", "adapter", "merged"]
    assert "base_model" not in card.data.to_dict()  # a folder of this computer
    assert {one.dataset_name for one in card.data.eval_results} == {"held-out accuracy", "general questions"}
    for one in card.data.eval_results:
        assert (one.metric_value, one.metric_args) == (0.7, {"interval": [0.5, 0.9], "n": 24})
    assert ModelCard(str(card)).data.to_dict() == card.data.to_dict()
    for told in ("ab" * 32, "120", "0.6931", "| merged |", "peft 0.21.2"):
        assert told in card.text
    assert "mine.jsonl" not in card.text


def test_what_nobody_measured_is_said(export: ExportContext, hub: UploadHub, api: HfApi) -> None:
    bare = ExportContext(**{**vars(export), "job": export.job.model_copy(update={"run": ""})})
    hub_upload.register_hub(bare, "hub", api)
    bare_card = hub.files.pop(REPO)["README.md"].decode()
    hub_upload.register_hub(export, "hub", api)
    known_card = hub.files[REPO]["README.md"].decode()
    untested = [card.rpartition("\n## ")[2].count("\n- ") for card in (bare_card, known_card)]
    assert untested == [3, 1]


def test_the_files_of_one_form_lie_at_the_root(export: ExportContext, tmp_path: Path) -> None:
    job = export.job.model_copy(update={"out": str(tmp_path)})
    shutil.copytree(export.job.folder / "adapter", job.folder / "adapter")
    (job.folder / ".hidden").write_text("x")
    found = hub_upload.uploaded_files(ExportContext(**{**vars(export), "job": job}))
    assert "adapter_config.json" in found and "README.md" not in found and ".hidden" not in found


def test_an_upload_that_broke_off_goes_on(export: ExportContext, hub: UploadHub, api: HfApi) -> None:
    hub_upload.register_hub(export, "hub", api)
    sent = len(hub.puts)
    hub.files[REPO] = {".gitattributes": b"*"}  # killed before the commit: the large files are there
    hub_upload.register_hub(export, "hub", api)
    assert len(hub.puts) == sent and "model.safetensors" in hub.files[REPO]


def test_what_is_there_already_is_not_sent_again(export: ExportContext, hub: UploadHub, api: HfApi) -> None:
    hub_upload.register_hub(export, "hub", api)
    edited = hub.files[REPO]["README.md"] + b"edited"
    hub.files[REPO]["README.md"] = edited
    hub.refusals["/commit/"] = 500
    assert hub_upload.register_hub(export, "hub", api).code == "hub_upload.ready"
    assert hub.files[REPO]["README.md"] == edited


def test_another_model_is_left_alone(export: ExportContext, hub: UploadHub, api: HfApi) -> None:
    hub.files[REPO] = {"model.safetensors": b"theirs"}
    with pytest.raises(ModelError) as error:
        hub_upload.register_hub(export, "hub", api)
    assert error.value.text.code == "hub_upload.name_taken" and hub.files[REPO] == {"model.safetensors": b"theirs"}


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (401, "hub_upload.token_refused"),
        (403, "hub_upload.forbidden"),
        (409, "hub_upload.conflict"),
        (400, "hub_upload.refused"),
    ],
)
def test_each_refusal_has_its_sentence(
    export: ExportContext, hub: UploadHub, api: HfApi, status: int, code: str
) -> None:
    hub.refusals["/commit/"] = status
    with pytest.raises(ModelError) as error:
        hub_upload.register_hub(export, "hub", api)
    assert error.value.text.code == code and TOKEN not in str(error.value)


def test_a_hub_that_cannot_be_reached(export: ExportContext) -> None:
    with run_hub(UploadHub()) as address:
        pass
    with pytest.raises(ModelError) as error:
        hub_upload.register_hub(export, "hub", HfApi(endpoint=address, token=TOKEN))
    assert error.value.text.code == "hub_upload.broken_off"


def test_a_file_that_names_a_folder_of_this_computer_is_not_uploaded(
    export: ExportContext, hub: UploadHub, api: HfApi, tmp_path: Path
) -> None:
    job = export.job.model_copy(update={"out": str(tmp_path)})
    shutil.copytree(export.job.folder, job.folder)
    (job.folder / "adapter" / "notes.txt").write_text(f"from {Path.home()}/secret")
    with pytest.raises(ModelError) as error:
        hub_upload.register_hub(ExportContext(**{**vars(export), "job": job}), "hub", api)
    assert error.value.text.code == "export.path_in_file" and not hub.files


@pytest.mark.parametrize(
    ("offline", "token", "code"),
    [(True, TOKEN, "hub_upload.offline"), (False, None, "hub_upload.no_token")],
)
def test_without_access_nothing_is_begun(
    export: ExportContext, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, offline: bool, token: str | None, code: str
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", offline)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    values = export.job.model_dump() | {"targets": ("adapter", "hub"), "out": str(tmp_path / "out")}
    found = list[Event]()
    with pytest.raises(ModelError) as error:
        export_case.run_export(tmp_path, ExportJob.model_validate(values), found.append)
    assert error.value.text.code == code
    assert not [event for event in found if isinstance(event, ExportRegistered)] and not list(tmp_path.glob("out/it"))


@pytest.mark.parametrize(
    ("changes", "valid"),
    [
        ({"repo": "somebody/it"}, True),
        ({"repo": ""}, False),
        ({"repo": "it"}, False),
        ({"repo": "../it"}, False),
        ({"repo": "a/b/c"}, False),
        ({"repo": "somebody/it", "targets": ("hub",)}, False),
    ],
)
def test_the_repository_must_have_a_name_that_the_hub_takes(
    export: ExportContext, changes: dict[str, Any], valid: bool
) -> None:
    values = export.job.model_dump() | {"targets": ("adapter", "hub")} | changes
    make: Callable[[], ExportJob] = lambda: parse_values(ExportJob, values, "export")  # noqa: E731
    if valid:
        assert json.loads(make().model_dump_json())["repo"] == "somebody/it"
    else:
        with pytest.raises(ConfigError):
            make()
