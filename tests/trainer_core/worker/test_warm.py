"""The worker that waits for its run: real processes, real imports, and runs of a tiny model."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.training_runs import recipe, write_inputs
from trainer_core.config.recipe import Recipe
from trainer_core.jobs.spawn import IDLE_SECONDS, PRELOAD_SECONDS
from trainer_core.jobs.supervisor import Supervisor, wait_for
from trainer_core.jobs.warm_worker import WarmWorker
from trainer_core.runs import heartbeat, run_folder
from trainer_core.runs.events import Phase
from trainer_core.runs.run_state import RunState
from trainer_core.runs.workspace import Workspace
from trainer_core.system import project
from trainer_core.worker import device_lock

pytestmark = pytest.mark.real

Boss = Callable[..., Supervisor]
STEPS = {"batch_size": 2, "accumulation": 1, "max_length": 128, "max_steps": 3}


@pytest.fixture(scope="module")
def wanted(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    folder = tmp_path_factory.mktemp("waiting")
    write_inputs(folder)
    return recipe(folder, sft=STEPS, dpo=STEPS, sample_tokens=0)


@pytest.fixture
def boss(tmp_path: Path) -> Iterator[Boss]:
    bosses: list[Supervisor] = []

    def opened(folder: str = "", ahead: bool = True) -> Supervisor:
        bosses.append(Supervisor(Workspace(tmp_path / folder), device="cpu", ahead=ahead))
        return bosses[-1]

    yield opened
    for one in bosses:
        one.close()


def expecting(boss: Supervisor, model: str) -> WarmWorker:
    """The worker that waits after somebody has been at Start for a while."""
    boss.spawner._expected = model, time.monotonic() - PRELOAD_SECONDS
    boss.spawner.update_warm_worker()
    assert boss.spawner.waiting
    return boss.spawner.waiting


def importing(process: subprocess.Popen[bytes]) -> psutil.Process:
    """The child that imports."""
    parent = psutil.Process(process.pid)
    assert wait_for(parent.children, 10)
    return parent.children()[0]


def imported(process: subprocess.Popen[bytes]) -> bool:
    """Has it imported, so that it waits now?"""
    return wait_for(lambda: any("bitsandbytes" in one.path for one in importing(process).memory_maps()), 60)


def to_the_end(boss: Supervisor, run_id: str) -> RunState:
    assert wait_for(lambda: boss.registry.refresh() or not boss.registry.run_state(run_id).phase.is_active, 180), (
        boss.registry.run_state(run_id)
    )
    return boss.registry.run_state(run_id)


def losses(view: RunState) -> list[tuple[str, int, float]]:
    return [(point.stage, point.step, point.loss) for point in view.points]


def test_a_worker_that_waited_makes_the_same_run_as_a_cold_one(boss: Boss, wanted: Recipe) -> None:
    warm, cold = boss("warm"), boss("cold", ahead=False)
    ready = expecting(warm, wanted.model)
    assert imported(ready.process)
    run_id = warm.control.start(wanted)
    assert warm.registry.watchers[run_id].process is ready.process
    first, second = to_the_end(warm, run_id), to_the_end(cold, cold.control.start(wanted))
    assert first.phase is second.phase is Phase.DONE, first.error
    assert losses(first) == losses(second) and len(first.points) == 6
    assert ready.process.wait(10) == 0
    assert run_folder.read_log_tail(warm.registry.run_dir(run_id), 5)  # its words are the run's, not the app's
    warm.spawner.update_warm_worker()
    assert warm.spawner.waiting and warm.spawner.waiting.process.pid != ready.process.pid  # replaced after the run


def test_the_run_goes_on_without_the_app_that_started_it(tmp_path: Path, boss: Boss, wanted: Recipe) -> None:
    """The app is killed right after the click, with the libraries half imported."""
    script = (
        "import os, pathlib, signal, sys, time; from trainer_core.config.recipe import Recipe\n"
        "from trainer_core.jobs.spawn import PRELOAD_SECONDS; from trainer_core.jobs.supervisor import Supervisor\n"
        "from trainer_core.runs.workspace import Workspace\n"
        "boss = Supervisor(Workspace(pathlib.Path(sys.argv[1])), device='cpu', ahead=True)\n"
        "recipe = Recipe.model_validate_json(sys.argv[2])\n"
        "boss.spawner._expected = recipe.model, time.monotonic() - PRELOAD_SECONDS\n"
        "boss.spawner.update_warm_worker(); assert boss.spawner.waiting\n"
        "time.sleep(1); boss.control.start(recipe); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    ended = subprocess.run([sys.executable, "-c", script, tmp_path, wanted.model_dump_json()], cwd=project.PROJECT)
    assert ended.returncode == -signal.SIGKILL
    found = boss()
    (run,) = (tmp_path / "runs").iterdir()
    assert to_the_end(found, run.name).phase is Phase.DONE


def test_a_run_has_a_process_before_its_worker_has_read_a_line(boss: Boss, wanted: Recipe) -> None:
    """Another app looks at the run while its worker, which no argument names, is halted."""
    app = boss()
    ready = expecting(app, wanted.model)
    ready.process.send_signal(signal.SIGSTOP)
    run_id = app.control.start(wanted)
    found = boss(ahead=False).registry.run_state(run_id)
    ready.process.kill()
    assert found.phase is Phase.QUEUED, found.error


def test_without_the_app_it_ends(tmp_path: Path) -> None:
    script = (
        "import os, pathlib, sys, time; from trainer_core.jobs import warm_worker\n"
        "one = warm_worker.start_warm_worker(pathlib.Path(sys.argv[1]) / 'log', os.environ, start_new_session=True)\n"
        "print(one.process.pid, flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, tmp_path], cwd=project.PROJECT, stdout=subprocess.PIPE, text=True
    ) as app:
        assert app.stdout
        parent = psutil.Process(int(app.stdout.readline()))
        assert wait_for(parent.children, 10)
        both = [parent, *parent.children()]
        app.kill()
    gone, left = psutil.wait_procs(both, 60)
    assert not left, left


def test_a_run_gives_signs_of_life_while_its_worker_imports(boss: Boss, wanted: Recipe) -> None:
    """Its child is halted, as one that imports for a minute on a busy computer."""
    app = boss()
    ready = expecting(app, wanted.model)
    child = importing(ready.process)
    child.suspend()
    run_id = app.control.start(wanted)
    beat = app.registry.run_dir(run_id) / "heartbeat.json"
    assert wait_for(beat.exists, 10)
    first = beat.stat().st_mtime
    assert wait_for(lambda: beat.stat().st_mtime >= first + 1.5 * heartbeat.BEAT_SECONDS, 4 * heartbeat.BEAT_SECONDS)
    app.registry.refresh()
    assert app.registry.run_state(run_id).detail.code == "loading.libraries"
    child.kill()
    assert ready.process.wait(3 * heartbeat.BEAT_SECONDS) == -signal.SIGKILL


@pytest.mark.parametrize("which", [pytest.param("it", marks=pytest.mark.long), "what it keeps"])
def test_one_that_was_killed_costs_nothing_but_time(boss: Boss, wanted: Recipe, which: str) -> None:
    app = boss()
    ready = expecting(app, wanted.model)
    child = importing(ready.process)
    os.kill(ready.process.pid if which == "it" else child.pid, signal.SIGKILL)
    psutil.wait_procs([child], 60 if which == "it" else 0)
    if which == "it":
        ready.process.wait(10)
    run_id = app.control.start(wanted)
    assert (app.registry.watchers[run_id].process is ready.process) == (which != "it")
    assert to_the_end(app, run_id).phase is Phase.DONE


def test_another_kind_of_run_gets_a_worker_of_its_own(boss: Boss, wanted: Recipe) -> None:
    """What lies on the Hub is loaded with the network on, which is settled when the libraries are imported."""
    app = boss()
    ready = expecting(app, "someone/a-model")
    assert "HF_HUB_OFFLINE" not in ready.environment
    run_id = app.control.start(wanted)
    process = app.registry.watchers[run_id].process
    assert process and process is not ready.process and not ready.is_alive
    process.kill()
    process.wait()


def test_one_waits_only_while_a_run_is_likely(boss: Boss, wanted: Recipe) -> None:
    app = boss()
    app.spawner.update_warm_worker()
    assert app.spawner.waiting is None  # nobody has been at Start
    app.spawner.preload_for(wanted.model)
    app.spawner.update_warm_worker()
    assert app.spawner.waiting is None  # the page is still being drawn
    ready = expecting(app, wanted.model)
    app.spawner.update_warm_worker()
    assert app.spawner.waiting is ready
    app.spawner._expected = wanted.model, time.monotonic() - IDLE_SECONDS - 1
    app.spawner.update_warm_worker()
    assert app.spawner.waiting is None and not ready.is_alive


def test_none_waits_unless_it_is_wanted(boss: Boss, wanted: Recipe) -> None:
    app = boss(ahead=False)
    app.spawner._expected = wanted.model, time.monotonic() - PRELOAD_SECONDS
    app.spawner.update_warm_worker()
    assert app.spawner.waiting is None


def test_it_is_no_trainer(boss: Boss, wanted: Recipe) -> None:
    app = boss()
    expecting(app, wanted.model)
    assert not any(heartbeat.WARM_WORKER_MODULE in process.info["cmdline"] for process in heartbeat.worker_processes())
    assert app.registry.active_run is None and not device_lock.read_holder(app.workspace.root / "gpu")
