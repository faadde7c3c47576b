"""The README.md of an exported folder: what it is, what it was made from, under which licence.

llama.cpp's converter reads licence, base and tags from it too.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Literal

from trainer_core.export.context import ExportContext
from trainer_core.texts import Text

Relation = Literal["adapter", "merge"]
CARD = "README.md"


def write_card(context: ExportContext, target: Path, relation: Relation) -> None:
    front = {
        "base_model": context.base_name or None,
        "base_model_relation": relation if context.base_name else None,
        "license": base_license(context.base),
        "library_name": "peft" if relation == "adapter" else "transformers",
        "pipeline_tag": "text-generation",
        "model_name": context.job.name,
    }
    lines = [f"{key}: {json.dumps(value)}" for key, value in front.items() if value]
    base = context.base_name or str(Text("export.local_base"))
    body = str(Text(f"model_card.{relation}", name=context.job.name, lane=context.job.lane.name, base=base))
    (target / CARD).write_text("\n".join(["---", *lines, "---", "", body, ""]), encoding="utf-8")


def base_license(base: Path) -> str:
    """The licence that the base's folder names, in SOURCE.json or at the head of its README.md; empty if it names none."""
    try:
        return str(json.loads((base / "SOURCE.json").read_bytes())["licence"]).lower()
    except (OSError, ValueError, LookupError, TypeError):
        pass
    try:
        card = (base / CARD).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    named = re.match(r"---\n(?:.*\n)*?license: *[\"']?([\w.-]+)", card)
    return named[1].lower() if named else ""
