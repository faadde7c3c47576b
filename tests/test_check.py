"""What "all checks" are, which tests each tier runs, and that the workflow runs them on every system that README.md names."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from launcher.venv import PYTHONS
from tools.check import CHECKS, ROOT, check_commands


def test_types_are_checked_as_on_every_system() -> None:
    systems = [check[check.index("--platform") + 1] for check in CHECKS if check[0] == "mypy"]
    assert systems == ["linux", "win32", "darwin"]
    caches = [check[check.index("--cache-dir") + 1] for check in CHECKS if check[0] == "mypy"]
    assert len(set(caches)) == 3


def test_the_fast_tests_come_without_the_type_checks_and_what_is_given_wins() -> None:
    assert check_commands(["-n", "0"])[:-1] == list(CHECKS) and check_commands(["-n", "0"])[-1][-2:] == ("-n", "0")
    fast = check_commands(["--fast"])
    assert {check[0] for check in fast} == {"ruff", "tools.code_limits", "pytest"} and fast[-1][-1] == "--fast"


TIERS = {
    "test_quick.py": "import pytest\ndef test_quick(): pass\n@pytest.mark.long\ndef test_long(): pass\n",
    "test_real.py": "import pytest, torch\npytestmark = [pytest.mark.real]\ndef test_real(): pass\n",
}
"""Files of tests beside a module named torch."""
UNMARKED = "import torch\ndef test_unmarked(): pass\n"
LATE = "def test_late():\n    import torch\n"


def ran(folder: Path, *options: str, **files: str) -> tuple[int, list[str], str]:
    """Pytest with the project's tiers over those files: how it ended, the tests that passed, and all it said."""
    shutil.copy(ROOT / "tests" / "conftest.py", folder)
    marks = "[pytest]\nmarkers =\n    real\n    long\n"
    for name, text in {**TIERS, **files, "torch.py": "", "pytest.ini": marks}.items():
        (folder / name).write_text(text, encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-rA", "-p", "no:cacheprovider", "-p", "xdist", *options]
    alone = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # the other plugins take seconds to import
    done = subprocess.run(command, cwd=folder, env=alone, capture_output=True, text=True, timeout=120)
    said = [line.split("::")[1] for line in done.stdout.splitlines() if line.startswith("PASSED ")]
    return done.returncode, said, done.stdout


@pytest.mark.real
@pytest.mark.parametrize(
    ("tier", "tests"),
    [([], ["quick", "real", "a"]), (["--fast"], ["quick", "a"]), (["--long"], ["quick", "long", "real", "a"])],
    ids=["default", "fast", "long"],
)
def test_each_tier_has_its_tests_and_files_with_slow_ones_come_first(
    tmp_path: Path, tier: list[str], tests: list[str]
) -> None:
    code, said, _ = ran(tmp_path, "-n", "0", *tier, **{"test_a.py": "def test_a(): pass\n"})
    assert code == 0 and said == [f"test_{name}" for name in tests]


@pytest.mark.real
@pytest.mark.parametrize(("text", "workers"), [(UNMARKED, "2"), (LATE, "0")], ids=["at the top", "in a test"])
def test_a_fast_test_that_imports_torch_is_named(tmp_path: Path, workers: str, text: str) -> None:
    code, _, told = ran(tmp_path, "-n", workers, "--fast", **{"test_slow.py": text})
    assert code not in (0, 5) and "test_slow.py" in told and "mark it as real" in told


@pytest.fixture(scope="module")
def workflow() -> Any:
    return yaml.load((ROOT / ".github" / "workflows" / "test.yml").read_text(encoding="utf-8"), yaml.BaseLoader)


def test_the_workflow_runs_what_the_readme_says_where_it_says(workflow: Any) -> None:
    (job,) = workflow["jobs"].values()
    matrix = job["strategy"]["matrix"]
    assert [name.partition("-")[0] for name in matrix["os"]] == ["ubuntu", "windows", "macos"]
    ends = [".".join(map(str, version)) for version in (min(PYTHONS), max(PYTHONS))]
    assert matrix["python"] == ends, "the oldest and the newest that launch.py takes"
    runs = [step["run"] for step in job["steps"] if "run" in step]
    assert runs == ["python launch.py test"] and runs[0] in (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_workflow_may_only_read_and_ends(workflow: Any) -> None:
    assert workflow["permissions"] == {"contents": "read"} and workflow["concurrency"]["cancel-in-progress"] == "true"
    for job in workflow["jobs"].values():
        assert 0 < int(job["timeout-minutes"]) <= 360 and "permissions" not in job
    assert "secrets." not in (ROOT / ".github" / "workflows" / "test.yml").read_text(encoding="utf-8")
