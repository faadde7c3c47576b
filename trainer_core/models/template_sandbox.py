"""Chat templates are untrusted code. They are rendered in a child process with time and memory limits.

transformers renders them in Jinja's sandbox, which stops access to code but not endless loops or memory use, and a template
can delay these until a conversation that no trial covers.
`python -m trainer_core.models.template_sandbox` renders requests from stdin until stdin closes; only text comes back.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from trainer_core.errors import ModelError, UserError
from trainer_core.system.child_process import (
    ChildLimits,
    ChildProcess,
    Crashed,
    Rejected,
    SharedChild,
    limit_memory,
    serve_requests,
)
from trainer_core.texts import NO_TEXT, Text

COMMAND = (sys.executable, "-m", "trainer_core.models.template_sandbox")
CPU_SECONDS = 1.0
"""Processor seconds for one conversation at most …"""
SECONDS_EACH, SECONDS_PER_LETTER = 0.01, 2e-6
"""… and on average; a real template takes a tenth of a millisecond."""
LIMITS = ChildLimits(answer_seconds=30)
"""For systems that do not count processor time, or a very busy processor."""
MEMORY_BYTES = 512 << 20
MORE_TEMPLATES = "additional_chat_templates"
"""A folder that transformers reads beside chat_template.jinja."""
MAX_TEMPLATE_BYTES = 1 << 20
"""Real templates take up to 30 KB."""
MAX_LETTERS, MAX_GROWTH = 100_000, 4
"""Output limit in characters: a base plus a multiple of the conversation's own; real templates stay below 3,000."""
TEST_CHAT = (("system", "Be brief."), ("user", "Hello"), ("assistant", "Hi"), ("user", "Bye"))
TEST_TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
TemplateVariables = dict[str, Any]


class TemplateRefused(Exception):
    """An error of the template, or of Jinja about it, at conversation `at` of the request."""

    def __init__(self, at: int, words: str):
        super().__init__(words)
        self.at = at


class TemplateUnsafe(UserError):
    """A template's forbidden action, as the end of a sentence."""


def check_templates(folder: Path) -> None:
    """Try every template of a model or adapter folder.

    Raises:
        ModelError: a template reaches for code, does not end, or takes too much memory.
    """
    for place, template in find_templates(folder):
        if problem := template_problem(template):
            raise ModelError("chat_template.refused", file=f"{folder.name}/{place}", problem=problem)


def find_templates(folder: Path) -> Iterator[tuple[str, str]]:
    """Pairs of file and template. A file that is not JSON has none; its reader reports the error.

    Raises:
        ModelError: a template is too large.
    """
    for path in (*folder.glob("*.jinja"), *folder.glob(f"{MORE_TEMPLATES}/*.jinja")):
        name = path.relative_to(folder).as_posix()
        if (size := path.stat().st_size) > MAX_TEMPLATE_BYTES:
            raise ModelError("chat_template.large", file=f"{folder.name}/{name}", size=size, most=MAX_TEMPLATE_BYTES)
        yield name, path.read_text(encoding="utf-8", errors="replace")
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


def main_template(folder: Path) -> str:
    """The template that chats are written with; empty if the folder has none."""
    return next((template for place, template in find_templates(folder) if "/" not in place), "")


def template_problem(template: str) -> Text:
    """Why this template must not be rendered; empty if it may. Refusing our test conversation's roles is harmless."""
    render, talk = TemplateSandbox(), [{"role": role, "content": content} for role, content in TEST_CHAT]
    try:
        render(template, [template_variables(talk, asking, TEST_TOKENS) for asking in (False, True)])
    except TemplateRefused:
        return NO_TEXT  # reported when a real conversation is rendered
    except TemplateUnsafe as harm:
        return harm.text
    finally:
        render.close()
    return NO_TEXT


def template_variables(talk: Sequence[Mapping[str, str]], asking: bool, marks: Mapping[str, Any]) -> TemplateVariables:
    """The variables that transformers passes to a template."""
    return {"messages": talk, "tools": None, "documents": None, "add_generation_prompt": asking, **marks}


class TemplateSandbox:
    """One limited process, started at the first request, restarted after it breaks a limit. Thread-safe."""

    def __init__(self) -> None:
        self.shared = SharedChild(lambda: ChildProcess(COMMAND, LIMITS, stderr=subprocess.DEVNULL))

    def __call__(self, template: str, asked: Sequence[TemplateVariables]) -> list[str]:
        """The text of each conversation.

        Raises:
            TemplateRefused: for the first conversation that the template refuses.
            TemplateUnsafe: it reaches for code, does not end, or takes too much memory.
        """
        texts = list[str]()
        try:
            with self.shared.ask("render", {"template": template, "asked": asked}) as answers:
                for _, text in answers:
                    texts.append(text)
        except Rejected as error:
            if error.kind == TemplateRefused.__name__:
                raise TemplateRefused(len(texts), str(error)) from error
            raise TemplateUnsafe(error.text) from error
        except Crashed as crash:
            raise TemplateUnsafe(explain_crash(crash)) from crash
        return texts

    def close(self) -> None:
        self.shared.close()


shared_sandbox = TemplateSandbox()
"""The sandbox of this process."""


def explain_crash(crash: Crashed) -> Text:
    if crash.code == -getattr(signal, "SIGPROF", 0):
        return Text("chat_template.endless", seconds=CPU_SECONDS)
    if crash.out_of_memory:
        return Text("chat_template.memory")
    return crash.limit or Text("chat_template.ends_process", exit=crash.code)


def patch_transformers(library: Any) -> None:
    """Make transformers (its `utils.chat_template_utils`) render in the sandbox too: unsloth tries a model's template on load,
    and TRL tokenises pairs."""
    assert hasattr(library, "_compile_jinja_template")
    library._compile_jinja_template = SandboxedTemplate


class SandboxedTemplate:
    """A template with the interface that transformers expects."""

    def __init__(self, template: str):
        self.template = template

    def render(self, **variables: Any) -> str:
        from jinja2 import TemplateError

        try:
            return shared_sandbox(self.template, [variables])[0]
        except TemplateRefused as refusal:
            raise TemplateError(str(refusal)) from refusal
        except TemplateUnsafe as harm:
            raise ModelError("chat_template.unsafe", problem=harm.text) from harm


# --- the child


def main() -> None:
    if sys.platform != "win32":
        signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
    limit_memory(MEMORY_BYTES)
    compile_once = lru_cache(maxsize=8)(jinja_environment().from_string)
    serve_requests({"render": partial(render_texts, compile_once)}, (TemplateRefused, TemplateUnsafe))


def render_texts(
    compile_template: Callable[[str], Any], template: str, asked: Sequence[TemplateVariables]
) -> Iterator[str]:
    """Raises TemplateRefused or TemplateUnsafe at the first conversation that cannot be rendered."""
    from jinja2.exceptions import SecurityError

    for at, variables in enumerate(asked):
        letters = len(str(variables["messages"]))
        extend_cpu_time(letters)
        try:
            text = render_bounded(compile_template(template), variables, MAX_LETTERS + MAX_GROWTH * letters)
        except SecurityError as error:
            raise TemplateUnsafe("chat_template.python_objects") from error
        except (MemoryError, OverflowError, RecursionError) as error:
            raise TemplateUnsafe("chat_template.memory") from error
        except Exception as error:  # jinja's and the template's own
            raise TemplateRefused(at, str(error)) from error
        yield text


def render_bounded(template: Any, variables: TemplateVariables, room: int) -> str:
    pieces = list[str]()
    for piece in template.generate(**variables):
        pieces.append(piece)
        room -= len(piece)
        if room < 0:
            raise MemoryError
    return "".join(pieces)


def extend_cpu_time(letters: int) -> None:
    """Add time for one more conversation, up to `CPU_SECONDS`; the system ends the process when it is spent."""
    if sys.platform != "win32":
        left, _ = signal.getitimer(signal.ITIMER_PROF)
        more = SECONDS_EACH + SECONDS_PER_LETTER * letters
        signal.setitimer(signal.ITIMER_PROF, min(left + more, CPU_SECONDS))


def jinja_environment():  # type: ignore[no-untyped-def]
    """transformers' sandbox, except that unsafe access raises an error instead of rendering as empty."""
    from jinja2 import nodes
    from jinja2.exceptions import SecurityError, TemplateError
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Strict(ImmutableSandboxedEnvironment):
        def unsafe_undefined(self, obj: Any, attribute: str) -> Any:
            raise SecurityError(f"{type(obj).__name__}.{attribute}")

    class Generation(Extension):
        """`{% generation %}` marks the assistant's text; here it has no effect."""

        tags = {"generation"}

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):  # type: ignore[no-untyped-def]
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    made = Strict(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
    made.filters["tojson"] = tojson
    made.globals |= {"raise_exception": raise_exception, "strftime_now": lambda form: datetime.now().strftime(form)}
    return made


if __name__ == "__main__":
    main()
