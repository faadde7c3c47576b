"""The codes of the texts in the page's scripts, and what a text has places for."""

from __future__ import annotations

import re
import string

from trainer_core.system.project import PROJECT
from trainer_core.texts import page_texts

SCRIPTS = sorted((PROJECT / "assets" / "web").glob("*.js"))


def script_codes() -> set[str]:
    """The codes in the page's scripts: each string that begins with a section of the page's texts, except file names."""
    sections = {code.split(".")[0] for code in page_texts()}
    code = "\n".join(path.read_text(encoding="utf-8") for path in SCRIPTS)
    return {found for found in re.findall(r'"(\w+\.(?!jsonl)\w+)"', code) if found.split(".")[0] in sections}


def placeholders(template: str) -> set[str]:
    return {name.split(".")[0].split("[")[0] for _, name, _, _ in string.Formatter().parse(template) if name}
