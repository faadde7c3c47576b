"""Chat templates as code of strangers: which are refused before a model is loaded, and for what."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainer_core.errors import ModelError
from trainer_core.models import template_sandbox
from trainer_core.texts import NO_TEXT, VERBATIM

pytestmark = pytest.mark.real


@pytest.mark.parametrize(
    ("template", "code"),
    [
        ("{% for m in messages %}{% generation %}{{ m['content'] | tojson }}{% endgeneration %}{% endfor %}", VERBATIM),
        ("{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}", VERBATIM),
        (
            "{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}{{ strftime_now('%Y') }}{% endfor %}",
            VERBATIM,
        ),
        ("{{ ''.__class__ }}", "chat_template.python_objects"),
        ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "chat_template.endless"),
        ("{{ 'A' * 2000000000 }}", "chat_template.memory"),
        ("{% set a = 'A' * 600000000 %}so", "chat_template.memory"),
        ("{% for a in range(99999) %}AAAAAAAAAAAA{% endfor %}", "chat_template.memory"),
    ],
    ids=["generation", "refuses a role", "loop controls", "objects", "endless", "long", "hidden", "many"],
)
def test_a_chat_template_is_tried_apart(template: str, code: str) -> None:
    problem = template_sandbox.template_problem(template)
    assert problem.code == code and (code != VERBATIM or problem == NO_TEXT)


def test_a_template_of_a_megabyte_is_refused(tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_text("{# " + "x" * (1 << 20) + " #}", encoding="utf-8")
    with pytest.raises(ModelError) as refused:
        template_sandbox.check_templates(tmp_path)
    assert refused.value.text.code == "chat_template.large"
