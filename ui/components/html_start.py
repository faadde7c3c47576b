"""The Start tab as HTML: the plan, the data, the origin of the settings, and the memory."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from trainer_core.planning.forecast import Forecast
from trainer_core.planning.memory_model import MemoryPart, certain_bytes
from trainer_core.system.format import GIB, format_gb
from trainer_core.texts import Text
from ui.format import page_text, setting_label
from ui.payloads.memory_fit import FIT_MARKS, MemorySlider


@dataclass(frozen=True)
class PlanLine:
    """One line of "What will happen": a stage, what it does, and its duration."""

    stage: str
    what: str
    takes: str = ""


def render_plan(lines: Sequence[PlanLine], notes: Sequence[str] = ()) -> str:
    rows = "".join(
        f"<li><b>{escape(line.stage)}</b><span>{escape(line.what)}</span>"
        f'<span class="quiet">{escape(line.takes)}</span></li>'
        for line in lines
    )
    more = "".join(f"<li>{escape(note)}</li>" for note in notes)
    title = page_text("start_tab.plan")
    return f'<section class="card plan"><h2>{title}</h2><ol>{rows}</ol><ul class="reasons">{more}</ul></section>'


HARMLESS_NOTES = frozenset({"selection.held_out"})
"""Codes of notes on the data that need nobody's attention; all others are warnings."""


def render_data_facts(facts: Sequence[str], notes: Sequence[Text]) -> str:
    """Facts about the data, and notes on its rows."""
    good = "".join(f'<li class="ok">{escape(fact)}</li>' for fact in facts)
    tones = ("told" if note.code in HARMLESS_NOTES else "warn" for note in notes)
    more = "".join(f'<li class="{tone}">{escape(str(note))}</li>' for tone, note in zip(tones, notes, strict=True))
    preview = page_text("start_tab.preview_data")
    return f'<ul class="checked">{good}{more}</ul><button class="link" data-preview>{preview}</button>'


def render_start_choices(values: str) -> str:
    """The recipe's data settings as JSON, read by the Data tab."""
    return f'<span data-choices="{escape(values)}"></span>'


def render_origin(of: str, changes: Sequence[str], more: str = "") -> str:
    """The origin of the form's settings, their differences from it, and a note."""
    rows = "".join(f"<li>{escape(change)}</li>" for change in changes)
    note = escape(more or page_text("start_tab.starts_new_run"))
    if not changes:
        note += f" {page_text('start_tab.no_changes')}"
    return (
        f'<div class="verdict origin" role="status"><h3>{escape(of)}</h3><ul>{rows}</ul>'
        f'<p class="quiet small">{note}</p></div>'
    )


FIT_TONES = {"fits": "good", "tight": "busy", "too big": "bad"}


def render_sliders(sliders: Sequence[MemorySlider]) -> str:
    """The head of the memory card: sliders, which memory_sliders.js sets and reads."""
    rows = "".join(
        f'<label data-key="{escape(one.key)}"><span class="row">{escape(one.title)}<output></output></span>'
        f'<input type="range" min="0" max="{len(one.notches) - 1}" step="1" data-notches="{escape(json.dumps(one.notches))}">'
        "</label>"
        for one in sliders
    )
    title, label = page_text("memory.title"), page_text("memory.sliders")
    return f'<h2>{title}</h2><div id="memory-sliders" role="group" aria-label="{label}">{rows}</div>'


def render_memory(plan: Forecast, sliders: dict[str, int], way: tuple[str, str]) -> str:
    """The fit: verdict, bar by part with its legend, other users of memory, costs of edits, and reasons."""
    mark, word = map(str, FIT_MARKS[plan.verdict.level])
    most = max(plan.free, plan.peak.upper, 1)
    parts = largest_parts(plan.peak.parts)
    rest = f'<i class="spread" style="flex-basis:{50 * (plan.peak.upper - plan.peak.lower) / most:.2f}%"></i>'
    bar = "".join(render_segment(part, most, at) for at, part in enumerate(parts)) + rest
    least, most_needed, free = format_gb(plan.peak.lower), format_gb(plan.peak.upper), format_gb(plan.free)
    summary = page_text("memory.summary", stage=plan.peak_stage.upper(), least=least, most=most_needed, free=free)
    model, words = way
    button = f'<button type="button" class="button small" data-suggest="{escape(model)}">{escape(words)}</button>'
    lines = [plan.holders, plan.too_big, *plan.notes]
    return f"""<section class="memory" aria-label="{page_text("memory.memory")}" data-sliders="{escape(json.dumps(sliders))}">
<p class="fit"><span class="badge" data-tone="{FIT_TONES[plan.verdict.level]}">{mark} {word.capitalize()}</span>
  <span>{escape(plan.verdict.sentence.partition(": ")[2])}</span></p>
<div class="stack" role="img" aria-label="{escape(summary)}">{bar}<b style="left:{100 * plan.free / most:.2f}%"></b></div>
<ul class="parts">{"".join(render_legend_entry(part, at) for at, part in enumerate(parts))}</ul>
{"".join(f'<p class="hint">{escape(line)}</p>' for line in lines if line)}
{render_costs(plan)}{button if words else ""}{render_reasons(plan)}</section>"""


def largest_parts(parts: Sequence[MemoryPart]) -> list[MemoryPart]:
    """At most seven parts, the largest first, so that each has its own colour; those that would read 0.0 GB are summed."""
    large = sorted((part for part in parts if part.upper >= 0.05 * GIB), key=lambda part: -part.upper)[:7]
    small = [part for part in parts if part not in large]
    rest = MemoryPart(page_text("memory.other"), sum(part.lower for part in small), sum(part.upper for part in small))
    return [*large, *([rest] if small else [])]


def render_segment(part: MemoryPart, most: int, at: int) -> str:
    return f'<i class="p{at % 8}" style="flex-basis:{50 * (part.lower + part.upper) / most:.2f}%"></i>'


def render_legend_entry(part: MemoryPart, at: int) -> str:
    amount = (
        format_gb(part.upper)
        if part.upper - part.lower < 0.05 * GIB
        else page_text("memory.amount_range", least=part.lower / GIB, most=format_gb(part.upper))
    )
    return f'<li><i class="p{at % 8}"></i>{escape(part.name)} <b>{amount}</b></li>'


def render_costs(plan: Forecast) -> str:
    """Settings that differ from the recommended ones and move memory."""
    rows = "".join(
        f"<li><b>{escape(setting_label(one.key))}:</b> {escape(one.sentence)}</li>" for one in plan.costly_changes
    )
    return f'<ul class="edits">{rows}</ul>' if rows else ""


def render_reasons(plan: Forecast) -> str:
    """Main memory, disk, and every value with its reason, folded."""
    rows = "".join(
        f"<dt>{escape(setting_label(one.key))}: {escape(one.value)}</dt><dd>{escape(one.sentence)}</dd>"
        for one in plan.values
    )
    files = ", ".join(f"{part.name.lower()} {format_gb(part.upper)}" for part in plan.disk)
    needed, free = format_gb(certain_bytes(plan.disk)), format_gb(plan.disk_free)
    room = [page_text("memory.disk", needed=needed, free=free, files=files)]
    if host := plan.peak.host:
        needed, free = format_gb(sum(part.upper for part in host)), format_gb(plan.host_free)
        room.append(page_text("memory.ram", needed=needed, free=free))
    return f"""<details><summary>{page_text("memory.details")}</summary>
<p>{" ".join(room)}</p><dl>{rows}</dl></details>"""


def render_unknown_memory(sentence: str, sliders: dict[str, int]) -> str:
    return (
        f'<section class="memory" aria-label="{page_text("memory.memory")}" data-sliders="{escape(json.dumps(sliders))}">'
        f'<p class="quiet">{escape(sentence)}</p></section>'
    )
