"""Whether a model's chat template can be rendered without harm: tried in a process of its own, short of time and memory.

Jinja's sandbox, in which transformers renders them, stops a template that reaches for code, but none that takes a day or all
memory. `python -m trainer_core.chat_template` reads one from stdin and renders a conversation.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from trainer_core.errors import ModelError

CPU_SECONDS = 1
"""Starting takes 0.2 s, a template a millisecond."""
WAIT_SECONDS = 30.0
"""Where the system does not count processor time, or the processor is very busy."""
MEMORY_BYTES = 512 << 20
LONGEST = 100_000
"""Characters that three short turns may become; real templates stay below 3,000."""
TALK = (("system", "Be brief."), ("user", "Hello"), ("assistant", "Hi"), ("user", "Bye"))
REFUSED, TOO_LONG = 3, 4


def check(folder: Path) -> None:
    """Try every template of a model or adapter folder.

    Raises:
        ModelError: one reaches for code, does not end, or takes too much memory.
    """
    for place, template in templates(folder):
        if problem := tried(template):
            raise ModelError(f"{folder.name}/{place}: the chat template {problem}. Refused.")


def templates(folder: Path) -> Iterator[tuple[str, str]]:
    """The file, and the template in it. A file that is no JSON holds none; whoever needs it says so."""
    for path in (*folder.glob("*.jinja"), *folder.glob("additional_chat_templates/*.jinja")):
        yield path.relative_to(folder).as_posix(), path.read_text(encoding="utf-8", errors="replace")
    for name in ("tokenizer_config.json", "chat_template.json", "processor_config.json"):
        try:
            config = json.loads((folder / name).read_bytes())
        except (OSError, ValueError):
            continue
        kept = config.get("chat_template") if isinstance(config, dict) else None
        for one in kept if isinstance(kept, list) else [kept]:
            template = one.get("template") if isinstance(one, dict) else one
            if isinstance(template, str):
                yield name, template


def tried(template: str) -> str:
    """Why this template may not be rendered, or nothing. One that refuses the roles of our conversation does no harm."""
    command = [sys.executable, "-m", "trainer_core.chat_template"]
    project = Path(__file__).resolve().parent.parent
    child = subprocess.Popen(command, cwd=project, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        child.communicate(template.encode("utf-8", "replace"), WAIT_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()
        child.communicate()
        return f"does not end within {WAIT_SECONDS:.0f} s"
    said = {
        0: "",
        REFUSED: "reaches for Python's own objects, as only an attack does",
        TOO_LONG: "takes too much memory",
    }
    ended = f"does not end within {CPU_SECONDS} s of processor time"
    return said.get(child.returncode, ended if child.returncode < 0 else f"ends its process ({child.returncode})")


# --- the child


def main() -> int:
    limit()
    from jinja2 import TemplateError
    from jinja2.exceptions import SecurityError

    template = sys.stdin.buffer.read().decode("utf-8")
    try:
        compiled = environment().from_string(template)
        for asking in (False, True):
            length = 0
            for piece in compiled.generate(**given(asking)):
                length += len(piece)
                if length > LONGEST:
                    return TOO_LONG
    except SecurityError:
        return REFUSED
    except (MemoryError, OverflowError, RecursionError):
        return TOO_LONG
    except (TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError):
        return 0  # it refuses this conversation, or cannot be read; said where a real one is rendered
    return 0


def limit() -> None:
    if sys.platform == "linux":
        import resource

        resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS + 1))
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def given(asking: bool) -> dict[str, Any]:
    """What transformers hands to a template."""
    talk = [{"role": role, "content": content} for role, content in TALK]
    marks = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    return {"messages": talk, "tools": None, "documents": None, "add_generation_prompt": asking, **marks}


def environment():  # type: ignore[no-untyped-def]
    """The sandbox of transformers, but what it would quietly leave out is an error here."""
    from jinja2 import nodes
    from jinja2.exceptions import SecurityError, TemplateError
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Strict(ImmutableSandboxedEnvironment):
        def unsafe_undefined(self, obj: Any, attribute: str) -> Any:
            raise SecurityError(f"{type(obj).__name__}.{attribute}")

    class Generation(Extension):
        """`{% generation %}` marks the assistant's words; here they are only words."""

        tags = {"generation"}

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    made = Strict(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
    made.filters["tojson"] = lambda value, **how: json.dumps(value, ensure_ascii=False, **how)
    made.globals |= {"raise_exception": raise_exception, "strftime_now": lambda form: datetime.now().strftime(form)}
    return made


if __name__ == "__main__":
    sys.exit(main())
