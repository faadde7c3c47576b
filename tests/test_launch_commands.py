"""What launch.py does without a .venv: the report to paste, the update by git, the starter on the desktop, the version."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

import launch
from launcher import SetupError, info, shortcut
from launcher.nvidia_driver import DriverGpu, NvidiaDriver
from launcher.paths import ROOT
from launcher.system import System
from launcher.update import pull_update
from launcher.version import read_commit, read_version
from trainer_core.cli.commands import build_cli_parser
from trainer_core.runs.event_log import EventLog
from trainer_core.runs.events import RunFailed

SECRET = "hf_abcdefghijklmnop"


def test_the_version_has_one_place() -> None:
    assert read_version() == tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    shown = subprocess.run([sys.executable, ROOT / "launch.py", "--version"], capture_output=True, text=True)
    assert shown.stdout == f"Tunebench {read_version()}\n"
    assert read_version(ROOT / "nowhere") == "unknown"


# ---- the workspace of a command


def test_a_command_takes_the_workspace_that_stands_before_it(tmp_path: Path) -> None:
    arguments = ["--workspace", str(tmp_path), "demo"]
    command = launch.target_command(launch.parse_arguments(arguments), "cpu")
    assert command[:3] == ["-P", "-m", "trainer_core"]
    assert build_cli_parser().parse_args(command[3:]).workspace == tmp_path


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("demo --workspace w", "python launch.py --workspace DIR demo"),
        ("report last --workspace=w", "python launch.py --workspace DIR report"),
        ("info --workspace w", "python launch.py --workspace DIR info"),
        ("--workspace w setup", "setup uses no workspace"),
        ("--workspace w test", "test uses no workspace"),
    ],
)
def test_a_workspace_in_the_wrong_place_is_refused(given: str, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        launch.parse_arguments(given.split())
    assert told in capsys.readouterr().err


# ---- info


def run_that_failed(workspace: Path, name: str, message: str) -> Path:
    folder = workspace / "runs" / name
    folder.mkdir(parents=True)
    EventLog(folder / "events.jsonl")(RunFailed(message, details=f"Traceback\nValueError: {message}"))
    return folder


def test_the_report_holds_what_a_helper_must_know_and_no_secret(tmp_path: Path) -> None:
    """As a user without .venv runs it: the launcher's own files and two of trainer_core/system, nothing else."""
    project = tmp_path / "project"
    (project / "trainer_core" / "system").mkdir(parents=True)
    shutil.copytree(ROOT / "launcher", project / "launcher", ignore=shutil.ignore_patterns("__pycache__"))
    for name in (
        "launch.py",
        "pyproject.toml",
        "trainer_core/__init__.py",
        "trainer_core/system/__init__.py",
        "trainer_core/system/project.py",
        "trainer_core/system/redact.py",
    ):
        shutil.copy(ROOT / name, project / name)
    old = run_that_failed(tmp_path / "w", "old", "the older one")
    os.utime(old, (1, 1))
    folder = run_that_failed(tmp_path / "w", "new", "placeholder")
    events = folder / "events.jsonl"
    events.write_text(events.read_text().replace("placeholder", f"token {SECRET} \\u001b[31mrefused"), encoding="utf-8")
    environ = {"PATH": os.environ["PATH"], "HF_TOKEN": SECRET, "HOME": str(tmp_path)}
    command = [sys.executable, "-S", str(project / "launch.py"), "--workspace", str(tmp_path / "w"), "info"]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, cwd="/", timeout=60)
    assert done.returncode == 0, done.stderr
    facts = dict(line.split(maxsplit=1) for line in done.stdout.splitlines() if not line.startswith(" "))
    assert facts["Tunebench"] == read_version()
    assert facts[".venv"].startswith("missing")
    assert facts["Packages"].startswith("could not be read: FileNotFoundError")
    assert "new, " in done.stdout
    assert "token [secret] ?[31mrefused" in done.stdout
    assert "the older one" not in done.stdout
    assert SECRET not in done.stdout
    assert str(tmp_path) not in done.stdout  # the home folder is written as ~
    assert not [line for line in done.stdout.splitlines() if not line.isprintable()]


@pytest.mark.real
def test_the_report_tells_the_card_and_the_installed_packages(tmp_path: Path) -> None:
    card = DriverGpu("NVIDIA GeForce RTX 4090", (8, 9), free_bytes=3 * 2**30, total_bytes=24 * 2**30)
    sources = info.InfoSources(
        tmp_path,
        {"PATH": os.environ["PATH"], "CUDA_VISIBLE_DEVICES": "0"},
        lambda: NvidiaDriver(version="570.86.10", cuda=12_080, gpus=(card,)),
        lambda: System(title="Ubuntu 24.04"),
        Path(sys.executable),
    )
    block = info.system_report(sources)
    for fact in (
        "NVIDIA 570.86.10, CUDA up to 12.8",
        "capability 8.9, 3.0 of 24.0 GB free",
        "CUDA_VISIBLE_DEVICES=0",
        "torch 2.",
    ):
        assert fact in block
    assert "no run has failed" in block


def test_a_child_that_fails_or_hangs_is_a_line_of_the_report(tmp_path: Path) -> None:
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho 'ImportError: libcudart.so.12' >&2\nexit 3\n")
    broken.chmod(0o755)
    assert info.packages_line(broken) == "asking .venv failed with status 3: ImportError: libcudart.so.12"
    said = info.read_fact(lambda: info.packages_line(tmp_path / "none"))
    assert said.startswith("could not be read: FileNotFoundError")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
def test_a_strangers_events_are_read_in_bounds(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    for name in ("pipe", "link", "huge", "odd"):
        (runs / name).mkdir(parents=True)
    os.mkfifo(runs / "pipe" / "events.jsonl")
    (tmp_path / "outside").write_text('{"kind": "Failed", "message": "outside"}\n')
    (runs / "link" / "events.jsonl").symlink_to(tmp_path / "outside")
    (runs / "huge" / "events.jsonl").write_bytes(b'{"kind": "Failed", "message": "far back"}\n' + b"x" * 300_000)
    (runs / "odd" / "events.jsonl").write_bytes(b"[" * 50_000 + b"\n3\n\xff\n")
    assert info.last_error(runs) == "no run has failed"
    assert info.last_error(tmp_path / "none") == "no run has failed"
    long: dict[str, Any] = {
        "kind": "Failed",
        "message": "m" * 20_000,
        "details": "line\n" * 1000 + "x" * 20_000 + "the end",
    }
    (runs / "odd" / "events.jsonl").write_text(json.dumps(long) + "\n")
    shown = info.last_error(runs)
    assert len(shown) < 4000
    assert len(shown.splitlines()) <= 31
    assert shown.endswith("the end")


# ---- update


def git(folder: Path, *words: str) -> str:
    done = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def add_commit(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(text, encoding="utf-8")
    git(folder, "add", "-A")
    git(folder, "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-q", "-m", text)


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A clone with a workspace, of a repository that is one commit ahead."""
    if not shutil.which("git"):
        pytest.skip("no git here")
    origin, made = tmp_path / "origin", tmp_path / "clone"
    subprocess.run(["git", "init", "-q", "-b", "main", str(origin)], check=True)
    add_commit(origin, ".gitignore", "workspace/\n")
    subprocess.run(["git", "clone", "-q", str(origin), str(made)], check=True)
    (made / "workspace").mkdir()
    (made / "workspace" / "run").write_text("mine")
    add_commit(origin, "launch.py", "newer")
    return made


def test_an_update_is_the_newest_commit_and_keeps_the_workspace(
    clone: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert read_commit(clone) == git(clone, "rev-parse", "--short", "HEAD")
    assert pull_update(clone) is True
    assert (clone / "launch.py").read_text() == "newer"
    assert (clone / "workspace" / "run").read_text() == "mine"
    assert "origin/main: 1 new commits" in capsys.readouterr().out
    assert pull_update(clone) is False


def test_an_update_refuses_what_it_cannot_do_and_changes_nothing(clone: Path, tmp_path: Path) -> None:
    before = git(clone, "rev-parse", "HEAD")
    (clone / ".gitignore").write_text("workspace/\nmine/\n")
    with pytest.raises(SetupError, match=r"changed here: 1 .*\(\.gitignore\).*git stash"):
        pull_update(clone)
    git(clone, "checkout", "-q", ".gitignore")

    add_commit(clone, "other", "a commit of the user's own")
    with pytest.raises(SetupError, match="pull --ff-only"):
        pull_update(clone)
    assert git(clone, "rev-parse", "HEAD~1") == before
    assert not (clone / "launch.py").exists()

    git(clone, "checkout", "-q", "-b", "own")
    with pytest.raises(SetupError, match="follows no branch"):
        pull_update(clone)
    inner = clone / "workspace"
    with pytest.raises(SetupError, match="lies in another repository"):
        pull_update(inner)
    assert read_commit(inner) == ""
    with pytest.raises(SetupError, match="is no git checkout"):
        pull_update(tmp_path)
    with pytest.raises(SetupError, match="`no-such-git` is not installed"):
        pull_update(clone, git="no-such-git")


# ---- shortcut

PYTHON = "/opt/my $python 100%/bin/python3"


def answering(text: str, asked: list[Any], returncode: int = 0) -> shortcut.RunCommand:
    def run(command: list[str], env: dict[str, str], **options: Any) -> subprocess.CompletedProcess[bytes]:
        asked.append((command, env))
        return subprocess.CompletedProcess(command, returncode, text.encode(), b"denied")

    return run


@pytest.mark.skipif(sys.platform == "win32", reason="a shell reads the entry back")
def test_linux_gets_a_desktop_entry_in_the_menu_and_on_the_desktop(tmp_path: Path) -> None:
    desktop = tmp_path / "Schreibtisch"
    desktop.mkdir()
    files = shortcut.make_shortcut("linux", tmp_path, {}, PYTHON, answering(f"{desktop}\n", []))
    assert files == [tmp_path / ".local/share/applications/tunebench.desktop", desktop / "tunebench.desktop"]
    assert all(os.access(file, os.X_OK) for file in files)
    entry = dict(line.split("=", 1) for line in files[0].read_text().splitlines()[1:])
    assert Path(entry["Icon"]).is_file()
    assert entry["Terminal"] == "true"
    # read back as the specification says: the file's own escapes, then %%, then the quotes of a shell
    assert "100%%/bin" in entry["Exec"]
    quoted = entry["Exec"].replace("\\\\", "\\").replace("%%", "%")
    words = subprocess.run(["/bin/sh", "-c", f"printf '%s\\n' {quoted}"], capture_output=True, text=True).stdout
    assert words.splitlines() == ["/bin/sh", str(ROOT / "launcher" / "start.sh"), PYTHON, str(ROOT / "launch.py")]
    if checker := shutil.which("desktop-file-validate"):
        assert subprocess.run([checker, files[0]], capture_output=True, text=True).stdout == ""
    no_desktop = shortcut.make_shortcut("linux", tmp_path, {}, PYTHON, answering(f"{tmp_path}\n", []))
    assert no_desktop == files[:1]


def test_a_mac_gets_a_command_file(tmp_path: Path) -> None:
    (file,) = shortcut.make_shortcut("darwin", tmp_path, {}, PYTHON)
    assert file == tmp_path / "Desktop" / "Tunebench.command"
    assert os.access(file, os.X_OK)
    assert shlex.split(file.read_text().splitlines()[1])[-2:] == [PYTHON, str(ROOT / "launch.py")]


def test_windows_gets_a_link_made_by_powershell(tmp_path: Path) -> None:
    asked: list[Any] = []
    (file,) = shortcut.make_shortcut(
        "win32", tmp_path, {"A": "b"}, PYTHON, answering("C:\\Desk\\Tunebench.lnk\r\n", asked)
    )
    assert str(file) == "C:\\Desk\\Tunebench.lnk"
    ((command, env),) = asked
    assert command[:3] == ["powershell", "-NoProfile", "-NonInteractive"]
    assert PYTHON not in " ".join(command)
    assert env["TUNEBENCH_ARGUMENTS"] == f'/c ""{PYTHON}" "{ROOT / "launch.py"}" || pause"'
    assert Path(env["TUNEBENCH_ICON"]).read_bytes()[:4] == b"\0\0\1\0"
    with pytest.raises(SetupError, match="denied"):
        shortcut.make_shortcut("win32", tmp_path, {}, PYTHON, answering("", [], 1))


@pytest.mark.skipif(sys.platform == "win32", reason="a shell script")
@pytest.mark.parametrize(("status", "shown"), [(0, ""), (3, "Press Enter")])
def test_the_window_of_a_failed_start_stays_open(status: int, shown: str, tmp_path: Path) -> None:
    program = tmp_path / "my launch.py"
    program.write_text(f"raise SystemExit({status})")
    command = ["/bin/sh", str(shortcut.START), sys.executable, str(program)]
    done = subprocess.run(command, input="\n", capture_output=True, text=True, timeout=20)
    assert re.sub(r"\s+", " ", done.stdout).strip().startswith(shown)
    assert bool(done.stdout) == bool(shown)
