"""A test that cannot fail is a defect: each guard in tests/support/mutations.toml, once broken, turns its tests red."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import mutations
from tests.support.mutations import Mutation
from trainer_core.system.project import PROJECT

MUTATIONS = mutations.read_mutations()
POSIX = pytest.mark.skipif(os.name != "posix", reason="links, pipes and signals, as the tests that are run")


def test_there_are_enough_and_each_has_its_name() -> None:
    assert len(MUTATIONS) >= 60 and len({one.name for one in MUTATIONS}) == len(MUTATIONS)
    assert all(bool(one.tests) != bool(one.proof) for one in MUTATIONS)


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda one: one.name)
def test_each_changes_one_place_of_todays_code(mutation: Mutation) -> None:
    """Not a comment alone, and into code that compiles."""
    before = (PROJECT / mutation.file).read_text(encoding="utf-8")
    assert ast.dump(ast.parse(mutation.apply(before))) != ast.dump(ast.parse(before))


@pytest.mark.parametrize("test", sorted({test for one in MUTATIONS for test in one.tests}))
def test_the_tests_are_there(test: str) -> None:
    file, _, name = test.partition("::")
    defined = rf"^def {name.partition('[')[0]}\(" if name else "^def test_"
    assert re.search(defined, (PROJECT / file).read_text(encoding="utf-8"), re.MULTILINE)


def test_no_change_leaves_a_name_undefined(tmp_path: Path) -> None:
    """It would fail every test, whatever that test looks at."""
    for at, one in enumerate(MUTATIONS):
        text = one.apply((PROJECT / one.file).read_text(encoding="utf-8"))
        (tmp_path / f"mutation_{at}.py").write_text(text, encoding="utf-8")
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "E9,F82", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout


PRODUCT = "LIMIT = 3  # as measured\n\n\ndef is_allowed(size: int) -> bool:\n    return size <= LIMIT\n"
TESTS = "import product\n\n\ndef test_limit() -> None:\n    assert not product.is_allowed(4)\n"


@pytest.mark.real
@pytest.mark.parametrize(
    ("old", "new", "outcome"),
    [
        ("size <= LIMIT", "size <= 9", "caught"),
        ("as measured", "as guessed", "stays green"),
        ("LIMIT = 3", "LIMIT = missing", "no test failed"),
        ("LIMIT", "MOST", "out of date"),
        ("SIZE", "size", "out of date"),
    ],
)
def test_a_mutation_counts_as_caught_only_if_a_test_fails(tmp_path: Path, old: str, new: str, outcome: str) -> None:
    (tmp_path / "product.py").write_text(PRODUCT)
    (tmp_path / "test_product.py").write_text(TESTS)
    mutation = Mutation("x", "product.py", old, new, ("test_product.py",))
    found = mutations.judge_mutation(mutation, tmp_path)
    assert found.outcome == outcome, found.output
    assert (tmp_path / "product.py").read_text() == PRODUCT


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("mutations") / "project"
    mutations.copy_project(folder)
    yield folder


@pytest.mark.long
@POSIX
def test_without_a_mutation_all_is_green(tree: Path) -> None:
    tests = tuple(sorted({test for one in MUTATIONS for test in one.tests}))
    proofs = sorted({one.proof for one in MUTATIONS if one.proof})
    for command in (mutations.test_command(tests), *map(mutations.proof_command, proofs)):
        done = mutations.run_module(command, tree, seconds=3600)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]


@pytest.mark.long
@POSIX
@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda one: one.name)
def test_it_is_caught(mutation: Mutation, tree: Path) -> None:
    found = mutations.judge_mutation(mutation, tree)
    assert found.outcome == "caught", found.output
