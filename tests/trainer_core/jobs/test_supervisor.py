"""Starting, watching and re-attaching, with real processes that play a scripted worker."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.support.faults import run_with_fault
from tests.support.readings import replay
from tests.support.scripted import scripted_app
from tests.support.serve import machine
from trainer_core.config.recipe import Recipe
from trainer_core.errors import BusyError, DeviceError, ModelError
from trainer_core.jobs import stall
from trainer_core.jobs.spawn import detached_options
from trainer_core.jobs.supervisor import Supervisor, wait_for
from trainer_core.models import starter
from trainer_core.runs import checkpoints, control, heartbeat, run_folder
from trainer_core.runs.events import Phase
from trainer_core.runs.heartbeat import Heartbeat
from trainer_core.runs.run_state import RunState, read_run_state
from trainer_core.runs.workspace import Workspace
from trainer_core.system import hardware, project
from trainer_core.system.file_lock import ProcessLock
from trainer_core.system.hardware import Machine
from trainer_core.texts import Text

pytestmark = pytest.mark.real

RECIPE = Recipe(name="scripted")


HURRIED = stall.StopTimeouts(step=1.0, load=1.0, kill=1.0)


def test_nvml_is_kept_open_until_something_is_wrong(tmp_path: Path) -> None:
    """Started once for the session and cheaply again for each reading; anew for every session after a card was lost."""
    nvml, opened = replay("two_reversed", "two_reversed", "one_of_two_lost", "two_reversed"), []

    @contextmanager
    def session() -> Iterator[None]:
        opened.append(1)
        with hardware.nvml_session(nvml):
            yield

    seen: list[int] = []

    def read() -> Machine:
        machine = hardware.detect_machine(nvml, environ={})
        seen.append(len(machine.gpus))
        return machine

    boss = Supervisor(Workspace(tmp_path), read_machine=read, session=session).watch()
    try:
        assert wait_for(lambda: len(seen) >= 6, 30)
    finally:
        boss.close()
    assert seen[:6] == [2, 2, 1, 2, 2, 2]
    assert len(opened) == 2
    assert nvml.calls["nvmlInit"] == nvml.calls["nvmlShutdown"] == len(seen) + len(opened)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., tuple[Supervisor, str]]]:
    """Starts a run of a behaviour; whatever still runs at the end is ended."""
    bosses: list[Supervisor] = []

    def started(
        behaviour: str, speed: int = 60, patience: stall.StopTimeouts = stall.STOP_TIMEOUTS
    ) -> tuple[Supervisor, str]:
        bosses.append(scripted_app(tmp_path, speed, patience))
        return bosses[-1], bosses[-1].control.start(RECIPE.model_copy(update={"name": behaviour}))

    yield started
    for boss in bosses:
        boss.close()
        for watched in boss.registry.watchers.values():
            heartbeat.terminate(watched.run_dir, kill=True)
            if watched.process:
                watched.process.wait()


def until(boss: Supervisor, run_id: str, condition: Callable[[RunState], bool], seconds: float = 30) -> RunState:
    assert wait_for(
        lambda: (
            boss.registry.refresh()
            or boss.shutdown.enforce_stop_requests()
            or condition(boss.registry.run_state(run_id))
        ),
        seconds,
    ), boss.registry.run_state(run_id)
    return boss.registry.run_state(run_id)


def ended(view: RunState) -> bool:
    return not view.phase.is_active


@pytest.mark.parametrize("fault", ["kill", "enospc"])
def test_a_run_made_longer_after_an_earlier_step_was_kept(start, tmp_path: Path, fault: str) -> None:
    """Whatever ends it on the way, the kept adapter is there and the run is finished, or waits to be gone on with."""
    boss, run_id = start("scripted", 2000)
    until(boss, run_id, ended)
    boss.control.use_checkpoint(run_id, "dpo", 8)
    phases, at, code = [], 0, 1
    while code:
        at += 1
        folder = tmp_path / f"{fault}{at}"
        shutil.copytree(boss.registry.run_dir(run_id), folder / "runs" / run_id)
        idle = Supervisor(Workspace(folder), (sys.executable, "-c", "pass"), read_machine=lambda: machine(24))
        code = run_with_fault(lambda idle=idle: idle.control.extend(run_id), f"{fault}:{at}")
        assert code in (0, -signal.SIGKILL if fault == "kill" else 1)
        view = read_run_state(folder / "runs" / run_id)
        least = int(view.effective_value("dpo.max_steps", "0"))
        assert checkpoints.verify(folder / "runs" / run_id / "adapter-dpo").step == 8
        if view.phase is Phase.PAUSED:
            assert checkpoints.verify(folder / "runs" / run_id / "adapter-dpo-000008").step == 8
            assert least > 20 and checkpoints.finished_adapter(folder / "runs" / run_id, "dpo", least).folder is None
        phases.append(view.phase)
    assert at > 10 and phases[0] is Phase.DONE and phases[-1] is Phase.PAUSED
    assert checkpoints.adapters_by_step(folder / "runs" / run_id, "dpo").keys() >= {8, 20}


def test_a_run_goes_through_its_phases_to_the_end(start) -> None:
    boss, run_id = start("scripted")
    view = until(boss, run_id, ended)
    assert view.phase is Phase.DONE and set(view.adapters) == {"sft", "dpo"}
    assert [lane.name for lane in boss.registry.run_lanes(run_id)] == ["Base", "SFT", "DPO"]
    assert boss.registry.run_file(run_id).job.recipe.name == "scripted"


def test_a_second_run_is_refused_by_name_and_leaves_no_folder(start) -> None:
    boss, run_id = start("scripted", speed=5)
    for app in (boss, scripted_app(boss.workspace.root)):
        with pytest.raises(BusyError) as error:
            app.control.start(RECIPE)
        assert error.value.text == Text("run_registry.busy", run=run_id)
    assert len(run_folder.list_runs(boss.workspace.runs)) == 1


def test_twenty_clicks_at_once_start_one_run(tmp_path: Path) -> None:
    boss, refused, threads = scripted_app(tmp_path, 200), [], []

    def click() -> None:
        try:
            boss.control.start(RECIPE)
        except BusyError as error:
            refused.append(error)

    for _ in range(20):
        threads.append(threading.Thread(target=click))
        threads[-1].start()
    for thread in threads:
        thread.join()
    assert len(refused) == 19 and len(run_folder.list_runs(boss.workspace.runs)) == 1
    until(boss, boss.registry.run_states[0].id, ended)


def test_a_start_waits_for_another_apps_start(tmp_path: Path) -> None:
    """It looks for a run at work when the other one has its folder, not before."""
    boss = scripted_app(tmp_path, 200)
    click = threading.Thread(target=boss.control.start, args=(RECIPE,))
    with ProcessLock(boss.spawner.start_lock_file):
        click.start()
        assert not wait_for(lambda: bool(run_folder.list_runs(boss.workspace.runs)), 1)
    click.join()
    until(boss, boss.registry.run_states[0].id, ended)


def test_stop_keeps_what_was_learned(start) -> None:
    boss, run_id = start("scripted", speed=20)
    until(boss, run_id, lambda view: len(view.points) > 2)
    boss.control.stop(run_id)
    view = until(boss, run_id, ended)
    assert view.phase is Phase.STOPPED and set(view.adapters) == {"sft"}


@pytest.mark.parametrize(
    ("behaviour", "words", "traceback"), [("fails", "NaN at DPO step 8", False), ("bug", "something", True)]
)
def test_a_failure_is_the_runs_last_word(start, behaviour: str, words: str, traceback: bool) -> None:
    boss, run_id = start(behaviour)
    view = until(boss, run_id, ended)
    assert view.phase is Phase.FAILED and words in str(view.error) and bool(view.traceback) == traceback


def test_a_lost_card_is_said_with_what_is_safe_and_what_to_do(start) -> None:
    boss, run_id = start("unplugged")
    view = until(boss, run_id, ended)
    assert view.phase is Phase.FAILED and view.error.code == "card.lost_in_run"
    assert "CUDA error: unspecified launch failure" in view.error.params["line"]
    assert view.error.params["hint"] == Text("resume.from_step", stage="SFT", step=5)
    assert "a hook failed" in view.traceback and not view.out_of_memory
    boss.control.resume(run_id)
    assert until(boss, run_id, ended).phase is Phase.DONE


def test_a_run_of_a_card_does_not_go_on_with_the_processor_unasked(start) -> None:
    boss, run_id = start("fails", speed=200)
    until(boss, run_id, ended)
    with (boss.registry.run_dir(run_id) / "events.jsonl").open("a") as file:
        file.write('{"kind": "Placed", "card": "GPU-1"}\n')
    lost = Machine(boss.device.machine.cpu, problem="Graphics card 0 does not respond: GPU is lost.")
    later = Supervisor(boss.workspace, command=boss.spawner.command, read_machine=lambda: lost)
    with pytest.raises(DeviceError) as error:
        later.control.resume(run_id)
    told = error.value.text
    assert (told.code, told.params["problem"]) == (
        "run_control.card_lost",
        "Graphics card 0 does not respond: GPU is lost.",
    )
    boss.registry.refresh()
    boss.control.resume(run_id)  # --device cpu: it was asked for
    assert until(boss, run_id, ended).phase is Phase.DONE


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")  # no log is left open
def test_a_run_that_goes_on_with_another_starter_says_so_once(start) -> None:
    boss, run_id = start("unplugged", speed=200)
    until(boss, run_id, ended)
    file = boss.registry.run_file(run_id)
    assert file.versions[starter.NAME] == "conversion 2"
    earlier = file.model_copy(update={"versions": {}})
    (boss.registry.run_dir(run_id) / "run.json").write_text(earlier.model_dump_json(), encoding="utf-8")
    boss.control.resume(run_id)
    assert until(boss, run_id, ended).phase is Phase.DONE
    boss.control.extend(run_id)
    said = [change for change in until(boss, run_id, ended).changes if change.what == starter.NAME]
    assert [(change.asked, change.used) for change in said] == [("conversion 1", "conversion 2")]


def test_a_run_of_this_starter_goes_on_without_a_word(start) -> None:
    boss, run_id = start("unplugged", speed=200)
    until(boss, run_id, ended)
    boss.control.resume(run_id)
    assert not [change for change in until(boss, run_id, ended).changes if change.what == starter.NAME]


def test_a_killed_worker_is_failed_with_its_signal_and_never_running(start) -> None:
    boss, run_id = start("killed")
    view = until(boss, run_id, ended)
    assert view.phase is Phase.FAILED and view.error.code == "worker.error_and_exit"
    assert "SIGKILL" in str(view.error) and view.error.params["error"].code.startswith("worker.silent_end")
    assert "memory" not in str(view.error), "nobody has seen that memory ran out"
    assert scripted_app(boss.workspace.root).registry.run_state(run_id).phase is Phase.FAILED, (
        "an app that starts anew says the same"
    )


@pytest.mark.skipif(os.name != "posix", reason="a keeper is a fork")
@pytest.mark.parametrize("keeper", ["kept", "spawned"])
@pytest.mark.parametrize(
    ("behaviour", "codes", "signal_name", "log"),
    [
        ("killed", {"worker.killed", "worker.killed_with_memory_left"}, "SIGKILL", ""),
        ("crashes", {"worker.crashed"}, "SIGSEGV", "misbehave"),
    ],
)
def test_a_worker_cut_short_is_explained_to_any_app(
    start, behaviour: str, codes: set[str], signal_name: str, log: str, keeper: str
) -> None:
    boss, run_id = start(f"{behaviour}-{keeper}")
    view = until(boss, run_id, ended)
    assert view.error.code in codes and view.error.params["exit"] == Text("exit.signal", name=signal_name)
    assert view.error.params["hint"] == Text("resume.from_step", stage="SFT", step=5)
    assert log in view.traceback and bool(log) == bool(view.traceback)
    later = scripted_app(boss.workspace.root).registry.run_state(run_id)
    assert (later.phase, later.error) == (Phase.FAILED, view.error)


def hung(boss: Supervisor, run_id: str) -> RunState:
    """A run whose worker makes no further step."""
    return until(boss, run_id, lambda view: bool(view.checkpoints))


@pytest.mark.parametrize("wish", ["stop", "pause"])
@pytest.mark.parametrize("name", ["hangs", "hangs-kept", "hangs-spawned"])
def test_a_run_that_does_not_answer_is_ended_and_can_be_gone_on_with(start, name: str, wish: str) -> None:
    boss, run_id = start(name, patience=HURRIED)
    hung(boss, run_id)
    assert not wait_for(
        lambda: (
            boss.registry.refresh() or boss.shutdown.enforce_stop_requests() or ended(boss.registry.run_state(run_id))
        ),
        2,
    ), "nobody has asked it"
    getattr(boss.control, wish)(run_id)
    view = until(boss, run_id, ended)
    hint = Text("resume.from_step", stage="SFT", step=5)
    assert view.phase is Phase.STOPPED and view.detail.params["hint"] == hint and not view.error
    assert view.detail.params["why"] in [str(Text("stall.no_answer", seconds=seconds)) for seconds in range(1, 10)]
    assert not heartbeat.list_processes(boss.registry.run_dir(run_id)) and not boss.registry.active_run
    again = scripted_app(boss.workspace.root)
    assert (again.registry.run_state(run_id).phase, again.registry.run_state(run_id).detail) == (
        Phase.STOPPED,
        view.detail,
    )
    boss.control.resume(run_id)
    assert until(boss, run_id, ended).phase is Phase.DONE


@pytest.mark.skipif(os.name != "posix", reason="Windows halts no process by signal")
def test_one_that_is_halted_is_killed_by_an_app_that_started_later(start) -> None:
    first, run_id = start("slow-kept")
    until(first, run_id, lambda view: len(view.points) > 2)
    family = heartbeat.list_processes(first.registry.run_dir(run_id))
    assert len(family) == 2, "the keeper and its worker"
    for process in family:
        process.suspend()
    first.control.pause(run_id)
    later = scripted_app(first.workspace.root, patience=HURRIED)
    assert until(later, run_id, ended).phase is Phase.STOPPED
    until(first, run_id, ended)  # which also waits for its child
    assert not heartbeat.list_processes(first.registry.run_dir(run_id))


def test_without_a_fork_a_fresh_worker_goes_on_with_less_as_well(start) -> None:
    """Windows' way: each worker is a command of its own, below a small parent that stays."""
    boss, run_id = start("crams-spawned", speed=200)
    until(boss, run_id, lambda view: bool(view.points))
    first = boss.registry.watchers[run_id].process
    assert first
    view = until(boss, run_id, ended)
    assert len(view.out_of_memory) == 2 and view.phase is Phase.FAILED and view.offers
    assert boss.registry.watchers[run_id].process is first and first.wait(10) == 1


def test_in_a_folder_with_spaces_and_accents_a_run_goes_to_its_end(tmp_path: Path) -> None:
    folder = tmp_path / "Jané Doe’s Рабочий стол 工作"
    boss = scripted_app(folder, speed=200)
    for name in ("scripted", "scripted-kept", "scripted-spawned"):
        run_id = boss.control.start(RECIPE.model_copy(update={"name": name}))
        assert until(boss, run_id, ended).phase is Phase.DONE, name
    lanes = boss.compare.compare_run(run_id)
    assert wait_for(lambda: boss.registry.refresh() or lanes.state.phase is Phase.READY, 30), lanes.state
    boss.close()


class Shown:
    """A process as psutil shows it."""

    def __init__(self, *arguments: str, parent: Shown | None = None):
        self.cmdline, self.parent, self.children = lambda: list(arguments), lambda: parent, lambda recursive: []


def test_all_that_stands_above_a_worker_is_found_outermost_first() -> None:
    """On Windows .venv's python.exe starts Python's own, of the keeper and of its worker; `Popen.pid` is the first one's."""
    arguments = "-m", "trainer_core.worker", "C:/Users/Jané Doe/workspace/runs/run-1"
    app = Shown("python.exe", "app.py")
    keeper = Shown(
        "C:/Python311/python.exe", *arguments, parent=(first := Shown(".venv/python.exe", *arguments, parent=app))
    )
    worker = Shown(
        "C:/Python311/python.exe", *arguments, parent=(second := Shown(".venv/python.exe", *arguments, parent=keeper))
    )
    assert list(heartbeat.process_family(worker)) == [first, keeper, second, worker]
    assert len(list(heartbeat.process_family(Shown("python", parent=Shown("sh"))))) == 1, "no arguments, nothing alike"


@pytest.mark.parametrize(
    ("system", "options"), [("win32", {"creationflags": 0x08000200}), ("linux", {"start_new_session": True})]
)
def test_on_windows_a_worker_has_a_console_without_a_window(system: str, options: dict[str, object]) -> None:
    assert detached_options(system) == options


def test_a_run_can_be_ended_in_mid_step(start) -> None:
    boss, run_id = start("hangs-kept")
    hung(boss, run_id)
    boss.control.kill(run_id)
    view = until(boss, run_id, ended)
    assert view.phase is Phase.STOPPED
    assert view.detail.params["why"] == str(Text("run_control.ended"))
    assert view.detail.params["hint"] == Text("resume.from_step", stage="SFT", step=5)
    with pytest.raises(BusyError) as error:
        boss.control.kill(run_id)
    assert error.value.text == Text("run_control.not_running", run=run_id)


def test_a_run_that_answers_slowly_is_let_be(start) -> None:
    boss, run_id = start("slow", patience=stall.StopTimeouts(step=0.1, load=0.1))
    until(boss, run_id, lambda view: len(view.points) > 3)
    boss.control.stop(run_id)
    assert until(boss, run_id, ended).adapters, "0.25 s a step: three of them are waited for"


def test_time_that_the_computer_slept_does_not_count(start) -> None:
    boss, run_id = start("hangs", patience=HURRIED)
    hung(boss, run_id)
    boss.control.stop(run_id)
    for file in (control.control_file(boss.registry.run_dir(run_id)), boss.registry.run_dir(run_id) / "events.jsonl"):
        os.utime(file, (file.stat().st_mtime - 3600,) * 2)
    boss.shutdown.last_round -= 3600
    boss.shutdown.enforce_stop_requests()
    assert control.read_request(boss.registry.run_dir(run_id)) == "stop"
    until(boss, run_id, ended)


def test_no_process_of_another_birth_is_ended(tmp_path: Path) -> None:
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", "run-1"])
    try:
        born = psutil.Process(other.pid).create_time() - 100
        beat = Heartbeat(pid=other.pid, created=born, run_id="run-1")
        (tmp_path / "run-1").mkdir()
        (tmp_path / "run-1" / "heartbeat.json").write_text(beat.model_dump_json())
        heartbeat.terminate(tmp_path / "run-1", kill=True)
        assert not wait_for(lambda: other.poll() is not None, 0.5)
    finally:
        other.kill()
        other.wait()


@pytest.mark.skipif(os.name != "posix", reason="a keeper is a fork")
def test_a_worker_that_lost_its_keeper_still_works(start) -> None:
    boss, run_id = start("slow-kept")
    until(boss, run_id, lambda view: len(view.points) > 2)
    keeper = boss.registry.watchers[run_id].process
    assert keeper
    keeper.kill()
    keeper.wait()
    boss.registry.refresh()
    assert boss.registry.active_run
    with pytest.raises(BusyError) as error:
        boss.control.start(RECIPE)
    assert error.value.text == Text("run_registry.busy", run=run_id)


APP = """
import sys, time, pathlib
from tests.support.scripted import scripted_app
from tests.trainer_core.jobs.test_supervisor import RECIPE
boss = scripted_app(pathlib.Path(sys.argv[1]), 10)
print(boss.control.start(RECIPE), flush=True)
time.sleep(600)
"""


def test_a_run_outlives_its_app_and_is_found_again(tmp_path: Path) -> None:
    app = subprocess.Popen(
        [sys.executable, "-c", APP, str(tmp_path)], stdout=subprocess.PIPE, cwd=project.PROJECT, start_new_session=True
    )
    assert app.stdout
    run_id = app.stdout.readline().decode().strip()
    assert wait_for(
        lambda: (beat := heartbeat.read_heartbeat(tmp_path / "runs" / run_id)) is not None and heartbeat.is_alive(beat),
        20,
    )
    os.killpg(app.pid, signal.SIGKILL)
    app.wait()
    again = scripted_app(tmp_path)
    view = until(again, run_id, lambda view: len(view.points) > 3)
    assert view.phase.is_active and again.registry.active_run == view
    with pytest.raises(BusyError):
        again.control.start(RECIPE)
    workers = [p for p in psutil.process_iter(["cmdline"]) if run_id in " ".join(p.info["cmdline"] or [])]
    assert len(workers) == 1
    until(again, run_id, ended)
    assert again.registry.run_state(run_id).phase is Phase.DONE


def test_a_worker_without_its_first_heartbeat_is_not_declared_dead(tmp_path: Path) -> None:
    boss = Supervisor(
        Workspace(tmp_path), command=("/bin/sh", "-c", "sleep 2 # tests.support.fake_worker"), device="cpu"
    )
    run_id = boss.control.start(RECIPE)
    boss.registry.refresh()
    assert boss.registry.run_state(run_id).phase.is_active
    until(boss, run_id, ended)
    assert boss.registry.run_state(run_id).phase is Phase.FAILED


def test_an_unknown_model_is_refused_before_a_folder_is_made(tmp_path: Path) -> None:
    boss = scripted_app(tmp_path)
    with pytest.raises(ModelError, match="Hub id"):
        boss.control.start(RECIPE.model_copy(update={"model": "/no/such/model"}))
    assert run_folder.list_runs(boss.workspace.runs) == []


def test_the_workers_environment_keeps_the_network_and_the_cards_out(tmp_path: Path) -> None:
    boss = scripted_app(tmp_path)
    local, hub = boss.spawner.worker_environment("starter"), boss.spawner.worker_environment("owner/name")
    assert local["HF_HUB_OFFLINE"] == "1" and hub.get("HF_HUB_OFFLINE") == os.environ.get("HF_HUB_OFFLINE")
    compiled = boss.workspace.root / "compiled"
    assert local["TORCHINDUCTOR_CACHE_DIR"] == str(compiled / "inductor")
    assert local["TRITON_CACHE_DIR"] == str(compiled / "triton")
    assert local["CUDA_VISIBLE_DEVICES"] == "" and local["UNSLOTH_DISABLE_STATISTICS"] == "1"


def test_a_paused_run_goes_on_in_another_app(start, tmp_path: Path) -> None:
    """Paused by one app, gone on with by the next; what was asked of the first worker does not stop the second."""
    boss, run_id = start("scripted", speed=20)
    until(boss, run_id, lambda view: len(view.points) > 3)
    boss.control.pause(run_id)
    paused = until(boss, run_id, ended)
    assert paused.phase is Phase.PAUSED and not paused.adapters
    later = scripted_app(tmp_path, 200)
    later.control.resume(run_id)
    view = until(later, run_id, ended)
    later.close()
    assert view.phase is Phase.DONE
    for stage in ("sft", "dpo"):
        steps = [point.step for point in view.points if point.stage == stage]
        assert steps == list(range(1, len(steps) + 1))
    assert until(boss, run_id, lambda view: view.phase is Phase.DONE), "the first app sees what the second did"


def test_a_run_at_its_end_cannot_be_gone_on_with(start) -> None:
    boss, run_id = start("scripted", speed=200)
    until(boss, run_id, ended)
    with pytest.raises(BusyError) as error:
        boss.control.resume(run_id)
    assert error.value.text == Text("run_control.finished", run=run_id)


def test_only_one_run_can_be_gone_on_with_at_a_time(start) -> None:
    boss, first = start("fails", speed=200)
    until(boss, first, ended)
    second = boss.control.start(RECIPE.model_copy(update={"name": "slow"}))
    with pytest.raises(BusyError) as error:
        boss.control.resume(first)
    assert error.value.text == Text("run_registry.busy", run=second)
