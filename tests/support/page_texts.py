"""The texts in the page's scripts: their codes and parameters, and the placeholders of a text."""

from __future__ import annotations

import re
import string
from collections.abc import Iterator

from trainer_core.system.project import PROJECT
from ui.format import page_texts

SCRIPTS = sorted((PROJECT / "assets" / "web").glob("*.js"))


def script_codes() -> set[str]:
    """The codes in the page's scripts: each string that begins with a section of the page's texts, except file names."""
    sections = {code.split(".")[0] for code in page_texts()}
    code = "\n".join(path.read_text(encoding="utf-8") for path in SCRIPTS)
    return {found for found in re.findall(r'"(\w+\.(?!jsonl)\w+)"', code) if found.split(".")[0] in sections}


def script_calls() -> Iterator[tuple[str, set[str]]]:
    """Code and parameter names of each `pageText("…", { … })`. Not those with a code of a table or a spread object."""
    for path in SCRIPTS:
        code = path.read_text(encoding="utf-8")
        for call in re.finditer(r"pageText\(", code):
            first, *rest = split_arguments(code[call.end() :])
            params = split_arguments(rest[0].strip()[1:]) if rest else []
            if not any(one.strip().startswith("...") for one in params):
                names = {one.partition(":")[0].strip() for one in params}
                yield from ((found, names) for found in re.findall(r'"(\w+\.\w+)"', first))


def split_arguments(code: str) -> list[str]:
    """The parts between commas up to the bracket that ends them."""
    parts, depth = [""], 0
    for letter in code:
        depth += (letter in "([{") - (letter in ")]}")
        if depth < 0:
            return [one for one in parts if one.strip()]
        if letter == "," and not depth:
            parts.append("")
        else:
            parts[-1] += letter
    raise AssertionError("no end")


def text_placeholders(template: str) -> set[str]:
    return {name.split(".")[0].split("[")[0] for _, name, _, _ in string.Formatter().parse(template) if name}
