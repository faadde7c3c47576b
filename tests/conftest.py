"""The three tiers of the tests: with `--fast` those that are quick, without it all but the long ones, with `--long` all."""

from __future__ import annotations

import ast
import sys
from collections.abc import Generator
from itertools import chain, groupby, zip_longest
from pathlib import Path
from typing import Any

import pytest

SLOW_KINDS = {"real", "browser", "long", "gpu"}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fast", action="store_true", help="only the tests without torch, a browser, an app or a worker")
    parser.addoption("--long", action="store_true", help="also the tests that take minutes each")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--fast"):
        config.pluginmanager.register(FastTier())


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """For two workers, each with a file at a time: those with slow tests come first, so that both end together, and those of the
    browser, which mostly waits, alternate with those that compute."""
    found = {path: set().union(*map(kinds, tests)) for path, tests in groupby(items, lambda item: item.path)}
    browser = [path for path, marks in found.items() if "browser" in marks]
    others = [path for path, marks in found.items() if marks and path not in browser]
    first = filter(None, chain.from_iterable(zip_longest(browser, others)))
    place = {path: at for at, path in enumerate(first)}
    items.sort(key=lambda item: place.get(item.path, len(place)))
    if not config.getoption("--long"):
        for item in items:
            if "long" in kinds(item):
                item.add_marker(pytest.mark.skip(reason="takes minutes; run with --long"))


def kinds(item: pytest.Item) -> set[str]:
    return {mark.name for mark in item.iter_markers()} & SLOW_KINDS


class FastTier:
    """Leaves out what is marked as slow, and goes red where something else imports torch, which alone takes ten seconds."""

    torch = False

    def pytest_ignore_collect(self, collection_path: Path) -> bool | None:
        """The marks are read without an import."""
        return True if collection_path.name == "browser" or "real" in module_marks(collection_path) else None

    @pytest.hookimpl(wrapper=True)
    def pytest_make_collect_report(self, collector: pytest.Collector) -> Generator[None, Any, Any]:
        report = yield
        if self.torch_came():
            report.outcome, report.longrepr = "failed", f"{collector.nodeid} imports torch: mark it as real"
        return report

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        config.hook.pytest_deselected(items=[item for item in items if kinds(item)])
        items[:] = [item for item in items if not kinds(item)]

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Generator[None, Any, None]:
        yield
        if self.torch_came():
            pytest.fail(f"{item.nodeid} imports torch: mark it as real")

    def torch_came(self) -> bool:
        """Is torch here, and was not when this was asked last?"""
        before, self.torch = self.torch, "torch" in sys.modules
        return self.torch and not before


def module_marks(path: Path) -> set[str]:
    """Those of `pytestmark` in that file."""
    if path.suffix != ".py":
        return set()
    found = [line for line in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(line, ast.Assign)]
    own = [line for line in found if [getattr(name, "id", "") for name in line.targets] == ["pytestmark"]]
    return {node.attr for line in own for node in ast.walk(line.value) if isinstance(node, ast.Attribute)}
