"""Sentences have codes; the code, its sentence and its parameters agree everywhere in the source."""

import ast
import string
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

from tests.support.page_texts import script_calls, script_codes, text_placeholders
from trainer_core.data.preview.token_view import LENGTH_FINDINGS
from trainer_core.data.quality.checks import QUALITY_CHECKS
from trainer_core.data.quality.report import IGNORED_CONTENT
from trainer_core.export import certificate_page
from trainer_core.export.model_card import Relation
from trainer_core.runs.export_events import BaseWeights, Verdict
from trainer_core.storage.places import KINDS
from trainer_core.storage.usage import GROUPS, KERNELS, WORKSPACE_CACHES
from trainer_core.texts import FORMATTER, NO_TEXT, Text, parse_text, templates
from ui.format import PAGE, page_texts

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted([*(ROOT / "trainer_core").rglob("*.py"), *(ROOT / "ui").rglob("*.py"), ROOT / "app.py"])
NOT_PARAMS = {"keys", "offers"}
FAMILIES = {
    "storage_kinds": (dict.fromkeys(KINDS), set()),
    "storage_groups": (dict.fromkeys(GROUPS), set()),
    "storage_lost": (dict.fromkeys(GROUPS), set()),
    "storage_caches": (dict.fromkeys((*WORKSPACE_CACHES, KERNELS)), set()),
    "certificate_columns": (dict.fromkeys(certificate_page.COLUMNS), set()),
    "base_weights": (dict.fromkeys(get_args(BaseWeights)), set()),
    "verdicts": (dict.fromkeys(get_args(Verdict)), set()),
    "model_card": (dict.fromkeys(get_args(Relation)), {"name", "lane", "base"}),
    "quality": (QUALITY_CHECKS, set()),
    "quality_titles": (QUALITY_CHECKS, set()),
    "ignored": (IGNORED_CONTENT, {"names"}),
    "ignored_titles": (IGNORED_CONTENT, set()),
    "length": (LENGTH_FINDINGS, {"rows", "total", "length", "answers"}),
    "length_titles": (LENGTH_FINDINGS, set()),
}
"""Sections with one sentence for each entry of a table, and the parameters that each of them may show."""


def source_nodes() -> Iterator[tuple[Path, ast.AST]]:
    for path in SOURCES:
        yield from ((path, node) for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


def text_classes() -> set[str]:
    """The names of what takes a code: Text, and the errors that a person can act on."""
    classes = [node for _, node in source_nodes() if isinstance(node, ast.ClassDef)]
    found = {"Text", "UserError"}
    while more := {one.name for one in classes if {getattr(base, "id", "") for base in one.bases} & found} - found:
        found |= more
    return found


def text_uses() -> Iterator[tuple[str, str, set[str] | None]]:
    """Where, the code and its parameters (None: they are made elsewhere) of each text in the source."""
    names = text_classes()
    for path, node in source_nodes():
        if not isinstance(node, ast.Call) or not node.args:
            continue
        given = {keyword.arg for keyword in node.keywords}
        params = None if None in given else {name for name in given if name and name not in NOT_PARAMS}
        where, called = f"{path.relative_to(ROOT)}:{node.lineno}", getattr(node.func, "id", "")
        if called == "make_finding":
            yield from ((where, code, set()) for code in finding_codes(node.args, given))
        elif called == "page_text":
            yield from ((where, PAGE + code, params) for code in constant_codes(node.args[0]))
        elif called in names:
            yield from ((where, code, params) for code in constant_codes(node.args[0]))


def constant_codes(code: ast.expr) -> Iterator[str]:
    """A code, or the two of which a condition chooses one."""
    for one in (code.body, code.orelse) if isinstance(code, ast.IfExp) else (code,):
        if isinstance(one, ast.Constant):
            yield str(one.value)


def finding_codes(args: list[ast.expr], names: set[str | None]) -> Iterator[str]:
    """The sentences of `make_finding(course, name, …)`, which has an explanation of its own unless `says` names another."""
    assert isinstance(args[1], ast.Constant) and len(args) == 4
    yield from (f"finding.{args[1].value}.{part}" for part in ("title", "says", "source") if part not in names)


def test_each_text_has_a_sentence_with_its_parameters():
    found = {**templates(), "verbatim": "{text}"}
    wrong = [
        f"{where}: {code} takes {sorted(text_placeholders(found[code])) if code in found else 'no sentence'}"
        for where, code, params in text_uses()
        if code not in found or (params is not None and params != text_placeholders(found[code]))
    ]
    assert not wrong, "\n".join(wrong)


def test_no_sentence_is_left_without_use():
    source = "\n".join(path.read_text(encoding="utf-8") for path in SOURCES)
    used = {code for _, code, _ in text_uses()} | {PAGE + code for code in script_codes()}
    assert not [
        code for code in templates() if code not in used and code not in source and code.split(".")[0] not in FAMILIES
    ]


def test_each_text_of_a_script_has_a_sentence_with_plain_placeholders():
    """A script renders names and plurals only."""
    found = page_texts()
    assert script_codes() and not script_codes() - found.keys()
    placed = [part for code in script_codes() for part in string.Formatter().parse(found[code]) if part[1] is not None]
    assert not [spec for _, _, spec, _ in placed if spec and "|" not in spec]
    assert not [conversion for *_, conversion in placed if conversion]


def test_each_text_of_a_script_gets_its_parameters():
    found = page_texts()
    calls = [(code, names) for code, names in script_calls() if code in found]
    assert len(calls) > 150
    assert not [(code, names) for code, names in calls if names != text_placeholders(found[code])]


@pytest.mark.parametrize("section", FAMILIES)
def test_each_entry_of_a_table_has_its_sentence(section):
    table, params = FAMILIES[section]
    found = {
        code.split(".")[1]: text_placeholders(say) for code, say in templates().items() if code.split(".")[0] == section
    }
    assert found.keys() == table.keys() and all(used <= params for used in found.values())


def test_plurals():
    say = "{rows:# row|# rows} of {name}"
    assert FORMATTER.vformat(say, (), {"rows": 1, "name": "a"}) == "1 row of a"
    assert FORMATTER.vformat(say, (), {"rows": 1234, "name": "a"}) == "1,234 rows of a"


def test_a_stored_text_is_read_again():
    text = Text("verbatim", text=Text("verbatim", text="inner"))
    stored = {"code": "verbatim", "params": {"text": {"code": "verbatim", "params": {"text": "inner"}}}}
    assert parse_text(stored) == text and str(text) == "inner"
    assert parse_text("An earlier version's sentence.") == Text("verbatim", text="An earlier version's sentence.")
    assert not NO_TEXT and text


def test_an_unknown_text_is_shown_as_its_code():
    assert str(Text("later.version", rows=3)) == "later.version (rows: 3)"
    assert str(Text("verbatim", other=3)) == "verbatim (other: 3)"


def nested_text(levels: int) -> object:
    return {"code": "verbatim", "params": {"text": nested_text(levels - 1) if levels else ""}}


@pytest.mark.parametrize("value", [None, 3, [], {}, {"code": 3}, {"code": "a", "params": []}, {"code": "a", "params": {"x": []}},
                                   {"code": "a", "params": {str(n): n for n in range(21)}}, nested_text(9)])  # fmt: skip
def test_what_is_no_text_is_refused(value):
    with pytest.raises(ValueError, match="no text"):
        parse_text(value)
