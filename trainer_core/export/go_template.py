"""A chat shape in the language of Ollama's templates (Go's text/template).

Ollama gives `.System`, the system prompts in one, and `.Messages`, each with `.Role` and `.Content`; the system prompts are among
them. Neighbours of one role are joined before.
"""

from __future__ import annotations

import json
from dataclasses import replace

from trainer_core.export.chat_shape import ChatShape

LAST = "eq (len (slice $.Messages $i)) 1"


def write_template(shape: ChatShape) -> str:
    """The template of these shape's prompts. Every text stands as a quoted string, so that nothing in it is read as Go."""
    system = shape.system
    opening = quote_literal(shape.opening)
    if system and not system.is_in_last_question:
        given = f"{quote_literal(system.before)}{{{{ .System }}}}{quote_literal(system.after)}"
        opening = f"{{{{ if .System }}}}{given}{{{{ else }}}}{opening}{{{{ end }}}}"
    in_last = ""
    if system and system.is_in_last_question:
        in_last = f"{{{{ if and $last $.System }}}}{{{{ $.System }}}}{quote_literal(system.after)}{{{{ end }}}}"
    return (
        f"{opening}{{{{ range $i, $_ := .Messages }}}}{{{{ $last := {LAST} }}}}"
        f'{{{{ if eq .Role "user" }}}}{in_last}{{{{ .Content }}}}{{{{ if $last }}}}{quote_literal(shape.ending)}{{{{ end }}}}'
        f'{{{{ else if eq .Role "assistant" }}}}{quote_literal(shape.reply)}{{{{ .Content }}}}'
        f"{{{{ if not $last }}}}{quote_literal(shape.question)}{{{{ end }}}}"
        f"{{{{ end }}}}{{{{ end }}}}"
    )


def quote_literal(text: str) -> str:
    """A string literal: Go reads what JSON writes."""
    return f"{{{{ {json.dumps(text, ensure_ascii=False)} }}}}" if text else ""


def without_begin(shape: ChatShape, begin: str) -> ChatShape:
    """The shape without the begin token, for an engine that writes it by itself."""
    system = shape.system and replace(shape.system, before=shape.system.before.removeprefix(begin))
    return replace(shape, opening=shape.opening.removeprefix(begin), system=system)
