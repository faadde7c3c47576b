"""What "all checks" are, and that the workflow file runs them on every system that README.md names."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from launcher.venv import PYTHONS
from tools.check import CHECKS, ROOT


def test_types_are_checked_as_on_every_system() -> None:
    systems = [check[check.index("--platform") + 1] for check in CHECKS if check[0] == "mypy"]
    assert systems == ["linux", "win32", "darwin"]
    caches = [check[check.index("--cache-dir") + 1] for check in CHECKS if check[0] == "mypy"]
    assert len(set(caches)) == 3


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
