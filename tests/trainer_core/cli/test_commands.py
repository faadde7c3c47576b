"""The command line where nobody looks at it: no terminal, closed pipes, narrow encodings, names that cannot be."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from trainer_core.cli import commands, demo, terminal
from trainer_core.data.read_events import ReadProgress
from trainer_core.errors import ConfigError, TrainingError
from trainer_core.schema import read_toml
from trainer_core.system import hardware
from trainer_core.system.project import PROJECT
from trainer_core.texts import Text

pytestmark = pytest.mark.real

SECONDS = 120


def command(*asked: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    line = [sys.executable, "-m", "trainer_core", *asked]
    return subprocess.run(line, cwd=PROJECT, env={**os.environ, **environment}, capture_output=True, timeout=SECONDS)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("many") / "rows.jsonl"
    path.write_text("".join(f'{{"question": "{n} é?", "answer": "日本 {n}"}}\n' for n in range(4100)), encoding="utf-8")
    return path


def test_check_of_many_rows_without_a_terminal(many: Path) -> None:
    done = command("check", str(many))
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"4,100 of 4,100 rows are usable" in done.stdout


def test_check_finds_prompts_of_the_held_out_file(tmp_path: Path) -> None:
    lines = [json.dumps({"prompt": f"{n}?", "chosen": f"It is {n}.", "rejected": "No."}) for n in range(40)]
    rows, held_out = tmp_path / "rows.jsonl", tmp_path / "held-out.jsonl"
    rows.write_text("\n".join(lines))
    held_out.write_text("\n".join(lines[:3]))
    relative = os.path.relpath(held_out, PROJECT)
    done = command("check", str(rows), "--held-out", relative)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"3 of 40 rows: the prompt is also in the held-out file." in done.stdout
    assert b"held-out file" not in command("check", str(rows)).stdout


@pytest.mark.skipif(os.name != "posix", reason="the shell's redirections")
@pytest.mark.parametrize("closed", ["2>&-", ">&- 2>&-", ">&-"])
def test_check_with_closed_streams(many: Path, closed: str) -> None:
    line = f'"{sys.executable}" -m trainer_core check "{many}" {closed}'
    done = subprocess.run(line, shell=True, cwd=PROJECT, capture_output=True, timeout=SECONDS)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize("asked", ["check", "check --json"])
def test_a_reader_that_goes_away_is_no_crash(many: Path, asked: str) -> None:
    verb, *flags = asked.split()
    line = [sys.executable, "-m", "trainer_core", verb, str(many), *flags]
    with subprocess.Popen(line, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout and process.stderr
        process.stdout.close()
        said = process.stderr.read()
    assert (process.returncode, said) == (terminal.PIPE_CLOSED, b"")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "cp437", "shift_jis"])
def test_an_output_of_few_letters_says_the_same(many: Path, encoding: str) -> None:
    done = command("check", str(many), PYTHONIOENCODING=encoding, PYTHONUTF8="0")
    assert (done.returncode, done.stderr) == (0, b"")
    assert "4,100 of 4,100 rows are usable" in done.stdout.decode(encoding)
    told = command("check", str(many), "--json", PYTHONIOENCODING=encoding, PYTHONUTF8="0")
    assert json.loads(told.stdout.decode(encoding))["preview"][0]["messages"][1]["content"] == "日本 0"


def test_letters_that_cannot_be_written_are_written_in_ascii() -> None:
    terminal.prepare_streams()
    assert "a ← b ✓ é\udcff".encode("ascii", "tunebench") == b"a <- b + \\xe9\\udcff"


LONG = "a" * 300


@pytest.mark.parametrize(
    "asked",
    [
        ("check", LONG),
        ("train", LONG),
        ("plan", LONG),
        ("check", f"{LONG}/{LONG}"),
        ("check", "~nobody-of-that-name/x"),
        ("fetch", LONG),
        ("--workspace", f"/tmp/{LONG}", "starter"),
        ("--workspace", f"/tmp/{LONG}", "runs"),
        ("--workspace", "/dev/null/x", "starter"),
    ],
)
def test_a_name_that_cannot_be_is_refused_with_a_sentence(
    asked: tuple[str, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    code, said = commands.main([*asked]), capfd.readouterr().err
    assert (code, "Traceback" in said, said.count("\n")) == (1, False, 1), said


def test_a_recipe_may_name_what_cannot_be(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "long.toml"
    recipe.write_text(f'method = "sft"\n[data]\npairs = "{LONG}.jsonl"')
    assert (commands.main(["plan", str(recipe)]), "Traceback" in capfd.readouterr().err) == (1, False)
    recipe.write_text(f'model = "{LONG}"\nmethod = "sft"')
    for verb, code in (("plan", 0), ("train", 1)):
        found = commands.main(["--workspace", str(tmp_path / "w"), verb, str(recipe)])
        assert (found, "Traceback" in capfd.readouterr().err) == (code, False)


def test_a_plan_for_a_card_that_is_not_there(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('method = "sft"')
    problem = hardware.detect_machine().problem
    if not problem:
        pytest.skip("this computer has a card")
    for asked, code in (("cuda", 1), ("cpu", 0)):
        line = ["--workspace", str(tmp_path / "w"), "--device", asked, "plan", str(recipe)]
        assert commands.main(line) == code
    assert str(Text("device_choice.no_gpu", problem=problem)) in capfd.readouterr().err


def test_progress_goes_on_through_files_and_passes() -> None:
    with terminal.progress_bar() as going:
        for file in ("a", "b"):
            for at in (10, 20):
                going(ReadProgress(file, at, 20, at))


class Lanes:
    """Compare as the command line meets it, with a worker that answers as told."""

    def __init__(self, problem: str) -> None:
        from trainer_core.runs.events import Phase
        from trainer_core.runs.run_state import PromptAnswers, RunState

        self.said = PromptAnswers({}, {}, problem) if problem else PromptAnswers({"Base": "yes"}, {})
        self.state = RunState("x", phase=Phase.READY)

    def final_answers(self, request: object, seconds: float) -> object:
        return self.said


def test_a_refused_prompt_ends_the_command_at_once() -> None:
    lanes = Lanes("The prompt has 4,512 tokens; this model reads at most 512. Shorten it.")
    with pytest.raises(TrainingError, match="word word .* … .*4,512 tokens; this model reads at most 512"):
        demo.wait_for_answers(lanes, "word " * 900)  # type: ignore[arg-type]
    fine = Lanes("")
    assert demo.wait_for_answers(fine, "Yes?").answers == {"Base": "yes"}  # type: ignore[arg-type]


def test_recipes_as_windows_editors_save_them(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_bytes(b'\xef\xbb\xbfname = "marked"\n')
    assert read_toml(path) == {"name": "marked"}
    for model in (r'"C:\Users\me\small"', r'"D:\models\small"', r'"\\server\share"'):
        path.write_text(f'name = "x"\nmodel = {model}\n')
        with pytest.raises(ConfigError) as windows:
            read_toml(path)
        assert windows.value.text.code == "toml.backslash"
    path.write_text("name = 'C:\\Users'\nwrong = = 1\n")
    with pytest.raises(ConfigError) as other:
        read_toml(path)
    assert other.value.text.code == "toml.not_valid"
    path.write_bytes('name = "é"'.encode("latin-1"))
    with pytest.raises(ConfigError) as latin:
        read_toml(path)
    assert latin.value.text.code == "toml.not_utf8"
    path.write_text("a = " + "[" * 20_000)
    with pytest.raises(ConfigError):
        read_toml(path)
