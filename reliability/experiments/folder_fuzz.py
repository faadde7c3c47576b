"""Run folders of strangers: one field or one file of each is what nobody expects. Does the app show the others, and answer?"""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr
import psutil

import app
from bench.harness.measure import process_seconds
from reliability.experiments.hostile_models import load
from reliability.harness.claim import Proof, count_trials
from reliability.harness.folder_faults import CANARY, MISSING, FolderFault, list_faults, write_run
from reliability.harness.sound_run import BESIDE, DATA, make_sound_files
from trainer_core.cli import terminal
from trainer_core.config.recipe import METHODS
from trainer_core.errors import UserError
from trainer_core.evaluation import prompts
from trainer_core.jobs import lane_choices
from trainer_core.jobs.supervisor import Supervisor
from trainer_core.runs import checkpoints, effective_recipe, run_folder
from trainer_core.runs.run_state import RunState, read_run_state
from trainer_core.runs.workspace import Workspace
from trainer_core.worker import restart, runner
from ui.payloads import findings
from ui.payloads.run import run_option

QUESTION = (
    "Run folders in which one field, or one file, is what nobody expects: NaN, ±inf, 10**25, half a surrogate, every wrong type, "
    "nothing, a pipe, a link out, a folder. A hundred of them and two sound runs in a workspace: does the app start, does every "
    "tab get its answer with the sound runs in it, and do the report, Compare's form, the doctor's offers, resume and continue "
    "work or refuse in words? The control reads the same folders with json.loads and takes what it finds."
)
FOLDERS = 100
"""Run folders of a workspace."""
FOLDER_SECONDS = 3.0
"""Processor seconds that one step with one run folder may take."""
BATCH_SECONDS = 120
"""Processor seconds for all of a workspace; the system then ends the process."""
IDLE_SECONDS, LOOK_SECONDS = 300.0, 0.2
"""So long does only sleep, without a moment on the processor, who waits for the other end of a pipe; on a busy machine a process
that could go on does not sleep."""
TABS = ("start", "data", "train", "compare", "runs")
OVERLAY = 6
"""Runs whose curves the Runs tab draws together."""
SOUND = ("20250101-000000-sound", "20270101-000000-sound")
"""The oldest and the newest run of each workspace."""
QUICK_STRIDE = 233
TRUSTED = ("run.json", "about.json", "events.jsonl")
"""Files that the control reads; without pipes, which it would wait for."""
Files = dict[bool, dict[str, bytes]]
Check = Callable[[Path, Files, Sequence[FolderFault]], list[str]]


def run_folder_id(at: int) -> str:
    return f"20260101-{at:06d}-fuzz"


def run(folder: Path, quick: bool) -> Iterator[Proof]:
    files = {done: make_sound_files(folder / f"sound-{done}", done) for done in (False, True)}
    faults = list(list_faults(files[True]))[:: QUICK_STRIDE if quick else 1]
    if not quick:
        load(folder / "sound-True" / "adapter-sft", adapter=True)  # the sound one is taken; and torch is imported once
    ours = check_batches(folder / "ours", files, faults, partial(check_app, adapters=not quick))
    read = [fault for fault in faults if fault.file in TRUSTED and fault.value != "pipe"][:: 1 if quick else 10]
    control = check_batches(folder / "control", files, read, check_trusting)
    yield Proof(
        "Every answer comes, and the other runs stay",
        count_trials(ours),
        "json.loads and no check",
        count_trials(control),
    )


def check_batches(place: Path, files: Files, faults: Sequence[FolderFault], check: Check) -> list[str]:
    """What went wrong with each fault, or nothing."""
    batches = [faults[at : at + FOLDERS] for at in range(0, len(faults), FOLDERS)]
    return [word for batch in batches for word in check_batch(place, files, batch, check)]


def check_batch(place: Path, files: Files, faults: Sequence[FolderFault], check: Check) -> list[str]:
    """The same for one workspace. A fault that takes all others along is found by halves."""
    place.mkdir()
    found = run_in_child(partial(check, place / "workspace", files, faults), place / "found.json")
    shutil.rmtree(place)
    *words, whole = found if isinstance(found, list) else [*[""] * len(faults), found]
    if not whole:
        return words
    if len(faults) == 1:
        return [f"{faults[0]}: {whole}"]
    half = len(faults) // 2
    halves = [check_batch(place, files, part, check) for part in (faults[:half], faults[half:])]
    return [*halves[0], *halves[1]] if any(map(any, halves)) else [f"all together: {whole}", *words[1:]]


def run_in_child(work: Callable[[], list[str]], file: Path, idle: float = IDLE_SECONDS) -> list[str] | str:
    """What `work` returns, done in a fork with limits; or how the fork ended without a result."""
    child = restart.fork_child(partial(write_result, work, file))
    process, since = psutil.Process(child), time.monotonic()
    spent: float | None = None
    while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0):
        time.sleep(LOOK_SECONDS)
        before, spent = spent, sleeper_seconds(process)
        if spent is None or spent != before:
            since = time.monotonic()
        elif time.monotonic() - since > idle:
            process.kill()
            os.waitpid(child, 0)
            return f"waits for something that does not come, {idle:.0f} s"
    code = os.waitstatus_to_exitcode(ended[1])
    if code == -signal.SIGXCPU:
        return f"takes more than {BATCH_SECONDS} processor seconds"
    found: list[str] | str = json.loads(file.read_text()) if code == 0 else f"the process ended with {code}"
    return found


def sleeper_seconds(process: psutil.Process) -> float | None:
    """Processor seconds of a process that sleeps; None if it does not, or has just ended."""
    try:
        return process_seconds(process) if process.status() == psutil.STATUS_SLEEPING else None
    except psutil.Error:
        return None


def write_result(work: Callable[[], list[str]], file: Path) -> int:
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)
    os.dup2(silent, 2)
    resource.setrlimit(resource.RLIMIT_CPU, (BATCH_SECONDS, BATCH_SECONDS + 5))
    file.write_text(json.dumps(work()))
    return 0


# --- the app


def check_app(place: Path, files: Files, faults: Sequence[FolderFault], adapters: bool = False) -> list[str]:
    """What went wrong with each fault, and at the end with all of them at once.

    Args:
        adapters: check them as Compare does before it loads them, which takes torch.
    """
    words = [""] * len(faults)
    try:
        write_workspace(place, files, faults)
        session = AppSession(place, adapters)
        whole = session.list_error(faults)
        for at, fault in enumerate(faults):
            words[at] = session.folder_error(run_folder_id(at), fault)
        return [*words, whole or session.list_error(())]
    except Exception as error:  # whatever it is, it is a finding
        return [*words, f"{type(error).__name__}: {error}"]


def write_workspace(place: Path, files: Files, faults: Sequence[FolderFault]) -> None:
    for run_id in SOUND:
        write_run(files[True], place, run_id)
    for at, fault in enumerate(faults):
        write_run(files[fault.done], place, run_folder_id(at), fault)


class AppSession:
    """An app on a workspace, asked as its page asks it."""

    def __init__(self, place: Path, adapters: bool):
        self.adapters = adapters
        self.raised: list[str] = []
        threading.excepthook = lambda args: self.raised.append(f"{args.thread}: {args.exc_value!r}")
        self.supervisor = Supervisor(Workspace(place), ("true",), device="cpu")
        page = app.build_page(self.supervisor)
        self.live: Any = next(one for one in page.blocks.values() if isinstance(one, gr.HTML) and one.elem_id == "live")
        for thread in threading.enumerate():
            if thread.name == "rows":
                thread.join()

    def list_error(self, faults: Sequence[FolderFault]) -> str:
        """What is wrong with the answers that the tabs get, or with a run in the list."""
        for tab in TABS:
            told = self.poll(tab=tab)
        rows = {row["id"]: row for row in told["runs"] + told["active_runs"]}
        for run_id in SOUND:
            if run_id not in rows or rows[run_id]["problem"] or not rows[run_id]["comparable"]:
                return f"a sound run is shown as {rows.get(run_id)}"
        for at, fault in enumerate(faults):
            row, gone = rows.get(run_folder_id(at)), (fault.file, fault.value) == ("run.json", MISSING)
            if row is None and not gone:
                return f"{fault}: not in the list of runs"
            if row and not row["command"]:  # made without its state
                return f"{fault}: {row['problem']}"
        lane_choices.lanes_by_name(self.supervisor.registry, SOUND[0])  # with those of all other runs
        for at in range(0, len(faults), OVERLAY):
            self.poll(tab="runs", chosen=[run_folder_id(one) for one in range(at, at + OVERLAY)])
        return "; ".join(self.raised)

    def poll(self, **cursor: Any) -> dict[str, Any]:
        """The parts of an answer."""
        answer = self.live.poll({"log": True, "detail": 0, "hardware": 0, **cursor})
        parts = {name: part["value"] for name, part in json.loads(answer.body)["parts"].items()}
        if problem := parts["buttons"]["error"]:
            raise RuntimeError(problem.strip().splitlines()[-1])
        if CANARY.encode() in answer.body:
            raise RuntimeError("a file from outside is in the answer")
        return parts

    def folder_error(self, run_id: str, fault: FolderFault) -> str:
        """What goes wrong where one run is read, or nothing."""
        if run_id not in self.supervisor.registry.watchers:
            return ""
        steps: list[Callable[[str], object]] = [self.show_run, self.render_report, self.read_prompts]
        if fault.file != "scores.json" and not fault.file.startswith(BESIDE):
            steps += [self.choose_lanes, self.describe_run, self.use_offers]
            steps += [self.extend] if fault.done else [self.start_worker, self.resume]
        if fault.file.startswith("adapter-sft/") and self.adapters:
            steps.append(self.check_adapter)
        if "/" in fault.file:
            steps.append(self.use_checkpoints)
        if fault.place is None:
            steps.append(self.move_to_trash)
        found = (step_error(partial(step, run_id), step.__name__) for step in steps)
        return next((f"{fault}: {word}" for word in found if word), "")

    def show_run(self, run_id: str) -> None:
        self.poll(tab="train", show=run_id)

    def render_report(self, run_id: str) -> None:
        if CANARY in self.live.render_report(run_id):
            raise RuntimeError("a file from outside is in the report")

    def choose_lanes(self, run_id: str) -> None:
        list(lane_choices.checkpoint_lanes(self.supervisor.registry, run_id))

    def describe_run(self, run_id: str) -> None:
        """In the sidebar, in Compare's form, and on the command line."""
        view = self.supervisor.registry.run_state(run_id)
        run_option(self.supervisor.registry.run_dir(run_id), view)
        terminal.run_line(view)
        list(terminal.describe_changes(RunState(run_id), view))

    def use_offers(self, run_id: str) -> None:
        """What the form gets from the doctor's offers, and from those of a failed run."""
        registry = self.supervisor.registry
        view = registry.run_state(run_id)
        keys = [f"offer.{at}" for at in range(len(view.offers))]
        for key in (*keys, *(one.key for one in findings.run_findings(registry, view))):
            findings.apply_suggestion(registry, run_id, key)

    def check_adapter(self, run_id: str) -> None:
        load(self.supervisor.registry.run_dir(run_id) / "adapter-sft", adapter=True)

    def read_prompts(self, run_id: str) -> None:
        prompts.load_prompts(self.supervisor.registry.run_dir(run_id), prompts.HELD_OUT)

    def start_worker(self, run_id: str) -> None:
        read_as_worker(self.supervisor.registry.run_dir(run_id))

    def resume(self, run_id: str) -> None:
        self.supervisor.control.resume(run_id)
        self.wait_for_worker(run_id)

    def extend(self, run_id: str) -> None:
        self.supervisor.control.extend(run_id)
        self.wait_for_worker(run_id)

    def wait_for_worker(self, run_id: str) -> None:
        process = self.supervisor.registry.watchers[run_id].process
        assert process
        process.wait()

    def use_checkpoints(self, run_id: str) -> None:
        for stage in METHODS:
            for step in checkpoints.adapters_by_step(self.supervisor.registry.run_dir(run_id), stage):
                self.supervisor.control.use_checkpoint(run_id, stage, step)

    def move_to_trash(self, run_id: str) -> None:
        self.supervisor.control.move_to_trash(run_id)


def step_error(step: Callable[[], object], name: str) -> str:
    """What went wrong in a step, or nothing; to be refused in words is right."""
    began = time.process_time()
    try:
        step()
    except UserError as error:
        if not str(error):
            return f"{name}: refused without a word"
    except Exception as error:  # whatever it is, it is a finding
        return f"{name}: {type(error).__name__}: {error}"
    seconds = time.process_time() - began
    return f"{name}: {seconds:.1f} processor seconds" if seconds > FOLDER_SECONDS else ""


def read_as_worker(run_dir: Path) -> None:
    """What a worker reads of a run folder: first, see `training/pipeline.py`, and at its end, see `worker/runner.py`."""
    view, job = read_run_state(run_dir), run_folder.train_job_of(run_folder.read_run(run_dir))
    assert job
    recipe = effective_recipe.effective_recipe(job.recipe, view.changes)
    for stage in recipe.method.stages:
        checkpoints.finished_adapter(run_dir, stage, effective_recipe.extended_steps(recipe, view.changes, stage))
        checkpoints.latest_valid(run_dir, stage, DATA, checkpoints.settings_hash(recipe))
    runner.is_detached_run(run_dir)
    silent: Any = lambda event: None  # noqa: E731  (what it says goes to no log)
    runner.plan_oom_retry(run_dir, silent, "out of memory")
    runner.write_final_event(run_dir, -signal.SIGSEGV)


# --- the control


def check_trusting(place: Path, files: Files, faults: Sequence[FolderFault]) -> list[str]:
    """A list of runs as one writes it who believes what is in a folder."""
    write_workspace(place, files, faults)
    words = []
    for at, fault in enumerate(faults):
        try:
            describe_trusting(place / "runs" / run_folder_id(at))
            words.append("")
        except Exception as error:  # whatever it is, it is a finding
            words.append(f"{fault}: {type(error).__name__}: {error}")
    return [*words, ""]


def describe_trusting(run_dir: Path) -> bytes:
    file, about = (json.loads((run_dir / name).read_text()) for name in ("run.json", "about.json"))
    events = [json.loads(line) for line in (run_dir / "events.jsonl").read_text().splitlines()]
    steps = [event for event in events if event["kind"] == "TrainStep"]
    row = {
        "name": about["name"].strip() or file["job"]["recipe"]["name"],
        "when": file["created"][:16],
        "steps": f"{steps[-1]['stage'].upper()} {steps[-1]['step']:d} of {steps[-1]['total']:d}",
        "loss": f"{sum(step['loss'] for step in steps) / len(steps):.3f}",
    }
    return json.dumps([row, file, about, events], allow_nan=False, ensure_ascii=False).encode()
