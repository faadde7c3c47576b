"""Each kind of job is one row of a table: its class, the function that does it, and whether it outlives the app."""

import ast
from importlib.util import find_spec
from pathlib import Path
from typing import get_args

import pytest

from trainer_core.config.jobs import JOB_KINDS, Job
from trainer_core.worker import runner


def test_the_table_holds_every_job():
    assert {kind.model for kind in JOB_KINDS.values()} == set(get_args(get_args(Job)[0]))
    assert [kind.model.model_fields["kind"].default for kind in JOB_KINDS.values()] == list(JOB_KINDS)


@pytest.mark.parametrize("kind", JOB_KINDS.values(), ids=list(JOB_KINDS))
def test_its_function_is_there(kind):
    module, name = kind.run.split(":")
    spec = find_spec(module)
    assert spec and spec.origin
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    assert any(getattr(node, "name", getattr(node, "asname", None) or "") == name for node in ast.walk(tree))


def test_the_worker_asks_the_table_alone():
    source = Path(runner.__file__).read_text(encoding="utf-8")
    assert "match " not in source and not [name for name in ("TrainJob", "CompareJob") if name in source]
