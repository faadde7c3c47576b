"""Inputs made to hurt, each small and harmless: what they would do is leave a canary, a file outside or a word in a text.

Each case takes an empty folder and returns what went wrong, or nothing. `control_a_sound_run` must hold, or the others prove
nothing. `tests/trainer_core/runs/test_run_folder_hostile.py` runs them; a case that waits for ever ends there.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import NoReturn

import httpx
import orjson
from starlette.datastructures import Headers

import app
from tests.support.faults import run_with_fault
from tests.support.web_attacks import COOKIES
from trainer_core.config.jobs import TrainJob
from trainer_core.config.recipe import Recipe
from trainer_core.errors import UserError
from trainer_core.evaluation import judge_endpoint
from trainer_core.jobs.supervisor import Supervisor
from trainer_core.runs import checkpoints
from trainer_core.runs.compare_requests import ChatMessage
from trainer_core.runs.events import AdapterSaved, DataPrepared, Event, Phase, RunEnded, StepsPlanned, TrainStep
from trainer_core.runs.run_folder import create_run, list_runs
from trainer_core.runs.run_state import read_run_state
from trainer_core.runs.workspace import Workspace
from ui.payloads import run_list
from ui.server import auth, live_updates

Case = Callable[[Path], str]
CASES: dict[str, Case] = {}

DIVERGED = (
    [f'{{"kind": "Step", "stage": "dpo", "step": {at}, "total": 9, "loss": {loss}, "learning_rate": 5e-06, "grad_norm": 1.5, '
     f'"seconds": 0.5, "tokens_per_second": 80.0, "seconds_left": 2.0, "margin": 0.1, "accuracy": 0.6}}'
     for at, loss in enumerate(("0.69", "0.66", "0.61", "0.62", "NaN", "Infinity", "NaN"), 1)]
)  # fmt: skip
"""Four sound steps of DPO, then what a run writes that has gone wrong."""
HALF = '{"kind": "Noted", "text": "half a \\ud83d of a pair"}'
NO_EVENTS = ('{"kind": {"a": 1}}', '{"kind": ["Step"]}', '["kind"]', '{"kind": null}', '{"a":' * 3000, "[" * 5000)


@contextmanager
def time_limit(seconds: int) -> Iterator[None]:
    """Whoever waits for ever, as for the other end of a pipe, is waked by a signal."""

    def late(*_: object) -> NoReturn:
        raise TimeoutError(f"does not end within {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds, 1)  # again and again: somebody may catch the first
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def case(made: Case) -> Case:
    CASES[made.__name__] = made
    return made


def run_folder(root: Path, lines: Iterable[str | Event] = (), name: str = "hostile", done: bool = True) -> Path:
    """A finished run without weights: SFT with ten sound steps, and `lines` before its last word."""
    workspace = Workspace(root / "workspace")
    folder = create_run(workspace.runs, TrainJob(recipe=Recipe(name=name)), name)
    sound: list[str | Event] = [DataPrepared(40, 40, 4, "0" * 64), StepsPlanned({"sft": 10, "dpo": 10})]
    sound += [TrainStep("sft", at, 10, 2.5 - at / 10, 1e-4, 1.0, 1.0, 50.0, 1.0) for at in range(1, 11)]
    sound += [AdapterSaved("sft", "adapter-sft", 100, 10)]
    write(folder, [*sound, *lines, *([RunEnded(Phase.DONE)] if done else [])])
    return folder


def write(folder: Path, lines: Iterable[str | Event]) -> None:
    with (folder / "events.jsonl").open("a", encoding="utf-8") as file:
        for one in lines:
            file.write((one if isinstance(one, str) else json.dumps({"kind": type(one).__name__} | asdict(one))) + "\n")


def page_opens(root: Path) -> str:
    """Does the app build its page, and do the Train and the Runs tab get their answer with every run in it?"""
    supervisor = Supervisor(Workspace(root / "workspace"), device="cpu")
    try:
        app.build_page(supervisor)
    except Exception as error:
        return f"the app does not start: {type(error).__name__}: {error}"
    return answered(supervisor)


def answered(supervisor: Supervisor) -> str:
    """What is wrong with the answers that the tabs get."""
    for tab in ("train", "runs"):
        cursor = live_updates.Cursor(
            tab=tab, log=True, detail=0, chosen=tuple(view.id for view in supervisor.registry.run_states)
        )
        try:
            news = live_updates.strip_unchanged(
                live_updates.page_update(supervisor, cursor, run_list.RunRows(supervisor.registry)), cursor
            )
            told = json.loads(orjson.dumps(news))
        except Exception as error:
            return f"the page gets no answer on {tab}: {type(error).__name__}: {error}"
        if problem := told["parts"]["buttons"]["value"]["error"]:
            return f"a part of {tab} is empty: {problem}"
    there = len(list_runs(supervisor.workspace.runs))
    return "" if len(told["parts"]["runs"]["value"]) == there else "a run is not in the list"


def sentence(run: Callable[..., object], *args: object) -> str:
    """Is it refused in words (a UserError)? Nothing if so."""
    try:
        run(*args)
    except UserError as error:
        return "" if str(error) else "refused without a word"
    except BaseException as error:
        return f"{type(error).__name__} instead of a sentence: {str(error)[:120]}"
    return "taken"


@case
def control_a_sound_run(root: Path) -> str:
    run_folder(root, name="good")
    return page_opens(root)


@case
def nan_after_sound_steps(root: Path) -> str:
    """A run that went well and then had no number as its loss: the list of runs must still be there."""
    run_folder(root, DIVERGED, "wrong", done=False)
    run_folder(root, name="good")
    return page_opens(root)


@case
def run_of_another_version(root: Path) -> str:
    """A finished run whose run.json has keys that this version does not know, and lacks others."""
    folder = run_folder(root)
    values = json.loads((folder / "run.json").read_text())
    values["job"]["recipe"]["sft"]["of_a_later_version"] = {"a": 1}
    del values["created"], values["job"]["recipe"]["dpo"]["beta"]
    (folder / "run.json").write_text(json.dumps({**values, "made_by_a_later_version": True}))
    run_folder(root, name="good")
    return page_opens(root)


@case
def adapter_copied_in_its_run(root: Path) -> str:
    """Somebody kept copies beside an adapter and a checkpoint."""
    folder = run_folder(root)
    for name in (
        "adapter-sft-backup",
        "adapter-sft-",
        "adapter-sft-1e3",
        "checkpoints/sft-000004 (copy)",
        "checkpoints/sft-²",
    ):
        (folder / name).mkdir(parents=True)
    return page_opens(root)


@case
def event_with_a_lone_surrogate(root: Path) -> str:
    run_folder(root, [HALF])
    return page_opens(root)


@case
def event_that_is_no_event(root: Path) -> str:
    """Each line must become a note, as other damaged lines do: the report, a resume and the command line read them unguarded."""
    for at, line in enumerate(NO_EVENTS):
        try:
            view = read_run_state(run_folder(root / str(at), [line]))
        except Exception as error:
            return f"{line[:40]}: {type(error).__name__}: {str(error)[:80]}"
        if len(view.notes) != 1 or view.phase is not Phase.DONE:
            return f"{line[:40]}: {view.notes}, {view.phase}"
    return ""


@case
def pipe_as_a_runs_file(root: Path) -> str:
    """An unpacked folder can hold a pipe under any name; opening it must not wait for ever."""
    for name in ("run.json", "events.jsonl", "about.json", "worker.log", "control.json", "heartbeat.json"):
        folder = run_folder(root, name=name.partition(".")[0])
        (folder / name).unlink(missing_ok=True)
        os.mkfifo(folder / name)
    return page_opens(root)


@case
def manifest_that_names_a_way_out(root: Path) -> str:
    """Train longer lays the adapter aside by the names in its manifest: no file may appear outside of the run's folder."""
    home = root / "home"
    run = home / "workspace" / "runs" / "20260101-000000-hostile-0000"
    adapter = run / "adapter-sft"
    adapter.mkdir(parents=True)
    (run / "p/1/2/3/4").mkdir(parents=True)
    (adapter / "a").symlink_to("../p/1/2/3/4")
    name = "a/../../../../../canary.txt"
    (run / "canary.txt").write_text("canary\n")
    for weights in checkpoints.ADAPTER_FILES:
        (adapter / weights).write_text("x")
    sealed(adapter, (*checkpoints.ADAPTER_FILES, name))
    with suppress(Exception):
        checkpoints.back_up_adapter(run, "sft")
    out = [str(path.relative_to(home)) for path in home.rglob("canary.txt") if run not in path.parents]
    return f"written outside of the run: {out}" if out else ""


def sealed(folder: Path, names: Iterable[str]) -> None:
    """Give a folder a manifest with these names, as somebody may who knows how; the hash in it has no key."""
    content = {name: (folder / name).read_bytes() for name in names}
    files = {
        name: {"bytes": len(found), "sha256": hashlib.sha256(found).hexdigest()} for name, found in content.items()
    }
    facts = {
        "version": 1,
        "stage": "sft",
        "step": 10,
        "total": 10,
        "data": "d",
        "versions": {},
        "files": files,
        "spec": "s",
    }
    own = hashlib.sha256(json.dumps(facts, separators=(",", ":")).encode()).hexdigest()
    (folder / checkpoints.MANIFEST).write_text(json.dumps(facts | {"own": own}))


@case
def adapter_kept_and_killed_at_every_point(root: Path) -> str:
    """Keep another step, killed at each of its writes: one of the two adapters must be there afterwards, whole."""
    return kept_at_every_point(root, "kill")


@case
def adapter_kept_on_a_disk_that_fills_at_every_point(root: Path) -> str:
    return kept_at_every_point(root, "enospc")


def kept_at_every_point(root: Path, fault: str) -> str:
    def save(target: Path, step: int) -> None:
        with checkpoints.staged_write(target, checkpoints.CheckpointSource("sft", 8, "d"), step) as staging:
            (staging / "adapter_model.safetensors").write_bytes(bytes([step]) * 100)
            (staging / "adapter_config.json").write_text("{}")

    for point in range(1, 40):
        place = root / str(point)
        place.mkdir()
        save(checkpoints.checkpoint_dir(place, "sft", 4), 4)
        save(checkpoints.checkpoint_dir(place, "sft", 8), 8)
        save(checkpoints.adapter_dir(place, "sft"), 8)
        through = run_with_fault(partial(checkpoints.use_step, place, "sft", 4), f"{fault}:{point}") == 0
        if checkpoints.adapter_step(place, "sft") not in (4, 8):
            left = sorted(path.name for path in place.iterdir())
            return f"{fault} at point {point}: no adapter is left, only {left}"
        if through:
            return "" if checkpoints.adapter_step(place, "sft") == 4 else "the new one is not there"
    return "never got through"


@case
def key_that_is_no_header_is_not_shown(root: Path) -> str:
    """A key from a file with CRLF, or with anything else that a header cannot hold: no part of it in any words."""
    mark = "sk-canary"
    for odd in ("\r", "\r\n", "\n", " \t", "\r\nX-Other: 1", "\x00", "\x1b[2J", "ü", "\u2028", "\x7f"):
        for key in (f"{mark}-0123456789{odd}", f"{odd}{mark}-0123456789", f"{mark}-01{odd}23456789"):
            said = words_of_a_judge("CANARY_API_KEY", key)
            if mark in said or "23456789" in said:
                return f"the key is in the words: {said!r}"
    return ""


class SilentHandler(BaseHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Nothing on the terminal."""


def words_of_a_judge(variable: str, key: str) -> str:
    """What is said of a judge that answers everything with nothing."""
    server = HTTPServer(("127.0.0.1", 0), SilentHandler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    os.environ[variable] = key if "\0" not in key else key.replace("\0", "\x01")
    place = judge_endpoint.JudgeEndpoint(url=f"http://127.0.0.1:{server.server_port}/v1", model="m", variable=variable)
    try:
        with httpx.Client() as client:
            judge_endpoint.make_ask_function(place, client)((ChatMessage(role="user", content="x"),))
    except Exception as error:
        return f"{error!s} {error!r} {error.__cause__!r}"
    finally:
        del os.environ[variable]
        server.shutdown()
        server.server_close()
    return ""


@case
def judges_url_that_is_none(root: Path) -> str:
    for url in (
        "http://[::1",
        "http://x:port/v1",
        "http://x:99999/v1",
        "http://",
        "http://x/\r\nHost: y",
        "//x/v1",
        "http://x:0",
    ):
        if wrong := sentence(lambda url=url: judge_endpoint.JudgeEndpoint(url=url, model="m").completions_url):
            return f"{url!r}: {wrong}"
    return ""


@case
def cookies_of_neighbours(root: Path) -> str:
    """Cookies know no port: other programs on 127.0.0.1 set theirs in the same jar. Ours must be found among them."""
    return cookie_is_found(COOKIES, root)


def cookie_is_found(lines: Iterable[str], root: Path) -> str:
    root.joinpath("w").mkdir()
    keys = auth.AccessKeys(root / "w", "http://127.0.0.1:7860")
    guard = auth.AuthMiddleware(None, keys)  # type: ignore[arg-type]
    ours = f"{guard.cookie}={keys.secret}"
    for line in lines:
        for sent in (f"{line}; {ours}", f"{ours}; {line}", f"{line};{ours};{line}"):
            if guard.find_cookie(Headers(raw=[(b"cookie", sent.encode())])) != keys.secret:
                return f"locked out by {line!r}"
    return ""
