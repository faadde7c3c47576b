"""The page's scripts, as one element for its head."""

from __future__ import annotations

import json
from pathlib import Path

from trainer_core.system import project
from ui.format import page_texts
from ui.payloads.curves import CURVES, DETAIL_SERIES


def page_script(folder: Path = project.PROJECT / "assets" / "web") -> str:
    """All scripts inline, so that no file is fetched later."""
    code = "\n".join(
        (folder / name).read_text(encoding="utf-8")
        for name in (
            "texts.js",
            "chart.js",
            "page.js",
            "compare.js",
            "train.js",
            "samples.js",
            "exports.js",
            "storage.js",
            "runs.js",
            "data.js",
            "memory_sliders.js",
            "form_errors.js",
        )
    )
    used = {name: say for name, say in page_texts().items() if f'"{name}"' in code}
    curves, detail, texts = map(embed_json, (CURVES, [*DETAIL_SERIES], used))
    return f"<script>\nconst CURVES = {curves}, DETAIL = {detail}, PAGE_TEXTS = {texts};\n{code}\n</script>"


def embed_json(value: object) -> str:
    """JSON in which no text can end the script element."""
    return json.dumps(value, ensure_ascii=False).replace("</", "<\\/")
