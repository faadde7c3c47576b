"""The live channel: what a page does not have yet, said once a second.

A page sends a cursor: which run's points it holds and how many, how much of each answer, and a checksum of each part
it has drawn. It gets back only what is new, so a quiet second costs next to nothing and a reload costs one whole answer.
"""

from __future__ import annotations

import json
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

import gradio as gr
import orjson
from pydantic import Field
from starlette.responses import Response

from trainer_core.diagnosis import html_report
from trainer_core.jobs.supervisor import Supervisor
from trainer_core.runs import run_folder
from trainer_core.runs.events import STAGES, Stage, Step
from trainer_core.runs.run_state import RunView
from trainer_core.schema import Strict, parse
from trainer_core.system import project, untrusted_files
from ui.payloads import comparison, findings, run_list, samples
from ui.payloads import run as run_module
from ui.payloads.run import device, facts, gates, meter, pace, recent

BUS_JS = (project.PROJECT / "assets" / "web" / "live.js").read_text(encoding="utf-8")
MOST_POINTS = 2000
"""Points per series in one answer; a longer history is thinned."""
FEW_POINTS = 20
"""So many new points are sent step by step, which takes a third of the room."""
OVERLAY_POINTS = 300
QUICK = ("pace", "active_pace", "meter")
"""The parts that may change every second."""
LOG_LINES = 60

Read = Callable[[Step], float | None]
SERIES: dict[str, tuple[Stage, Read]] = {
    "sft.loss": ("sft", lambda step: step.loss),
    "dpo.loss": ("dpo", lambda step: step.loss),
    "dpo.margin": ("dpo", lambda step: step.margin),
    "dpo.accuracy": ("dpo", lambda step: step.accuracy if step.margin else None),
    "dpo.chosen": ("dpo", lambda step: step.chosen),
    "dpo.rejected": ("dpo", lambda step: step.rejected),
}
"""Every curve: its stage, and how it is read from a step. Without a margin no side is preferred, so there is no accuracy."""
CURVES = {stage: [name for name, (of, _) in SERIES.items() if of == stage] for stage in STAGES}
"""Stage → its curves, in the order in which a row of new points holds them."""
DEEP: dict[str, Read] = {
    "deep.rate": lambda step: step.learning_rate,
    "deep.norm": lambda step: step.grad_norm,
    "deep.speed": lambda step: step.tokens_per_second,
    "deep.seconds": lambda step: step.seconds,
}
"""Curves for those who look under the hood, over all steps of a run; sent only where they are shown."""


class Cursor(Strict):
    """What one page holds and wants."""

    show: str = ""
    """The run the page shows; empty: the one at work, or else the newest."""
    run: str = ""
    """Whose points it holds; left out where `whole` says it too."""
    points: int = Field(default=0, ge=0)
    ask: str = ""
    chars: dict[str, int] = {}
    marks: dict[str, int] = {}
    whole: int | None = None
    """The checksum over all parts but the quick ones, which the last answer gave; sent in place of their marks."""
    quick: tuple[int, ...] = ()
    """The marks of the quick parts, in their order; sent beside `whole`."""
    tab: str = ""
    log: bool = False
    deep: int = -1
    """How many points of the deep curves the page holds; -1: it does not show them."""
    chosen: tuple[str, ...] = ()
    """The runs that are drawn over each other."""
    vote: comparison.Chosen = comparison.Chosen()
    """Whose votes it shows, where nothing says it better, see `compared.contest_of`."""
    machine: float = -1.0
    """When the last reading that the page holds was made; -1: it does not show them."""


def build(supervisor: Supervisor) -> gr.HTML:
    """The bus: an element without a look whose script asks, keeps what it gets and tells the page."""

    rows = run_list.Rows(supervisor)
    threading.Thread(
        target=rows, name="rows", daemon=True
    ).start()  # ahead of who opens Runs: reading all takes a while

    def poll(cursor: Any = None) -> Response:
        asked = parse(Cursor, cursor or {}, "cursor")
        # Written here: Gradio would look through every number of it for things to convert, 30 ms for 10,000 points.
        return Response(written(lean(news(supervisor, asked, rows), asked)), media_type="application/json")

    def told(run_id: str) -> str:
        return html_report.page(html_report.told(supervisor.run_dir(run_id)))

    return gr.HTML(html_template="<span></span>", js_on_load=BUS_JS, server_functions=[poll, told], elem_id="bus")


def written(answer: dict[str, Any]) -> bytes:
    """An answer as JSON; what JSON cannot hold is replaced, so that one odd value does not take the whole answer away."""
    try:
        return orjson.dumps(answer)
    except TypeError:
        return orjson.dumps(writable(answer))


def writable(value: Any) -> Any:
    match value:
        case str():
            return untrusted_files.valid(value)
        case int() if abs(value) > untrusted_files.MOST_INTEGER:
            return None
        case dict():
            return {untrusted_files.valid(str(key)): writable(one) for key, one in value.items()}
        case list() | tuple():
            return [writable(one) for one in value]
        case int() | float() | None:
            return value
    return untrusted_files.valid(str(value))


class Making:
    """Makes parts of an answer, each for itself: one that cannot be made is empty, and `trouble` says why."""

    trouble = ""

    def __call__(self, make: Callable[[], Any], instead: Any = None) -> Any:
        try:
            return make()
        except Exception:
            self.trouble = traceback.format_exc()
            return instead


def news(supervisor: Supervisor, cursor: Cursor, rows: run_list.Rows | None = None) -> dict[str, Any]:
    """What this page does not have yet."""
    view, made = shown(supervisor, cursor.show), Making()
    parts = all_parts(supervisor, view, cursor, made)
    if cursor.tab == "runs":
        parts |= listed(supervisor, cursor, rows or run_list.Rows(supervisor), made)
    if made.trouble and not parts["gates"]["trouble"]:
        parts["gates"] = parts["gates"] | {"trouble": made.trouble}
    summed = {name: run_list.mark(part) for name, part in parts.items()}
    whole = run_list.mark([pair for pair in sorted(summed.items()) if pair[0] not in QUICK])
    if cursor.whole is None:
        held = cursor.marks
    elif cursor.whole == whole:
        held = {**summed, **dict.fromkeys(QUICK, 0), **dict(zip(QUICK, cursor.quick, strict=False))}
        cursor = cursor.model_copy(update={"run": view.id if view else ""})  # the run's id is in the sum
    else:
        return {"stale": True}  # the page asks again, naming what it holds
    return {
        "parts": {name: {"mark": mark, "is": parts[name]} for name, mark in summed.items() if held.get(name) != mark},
        "whole": whole,
        **made(lambda: curves(view, cursor), {}),
        **made(lambda: deep(view, cursor), {}),
        **made(lambda: readings(supervisor, cursor), {}),
        **made(lambda: answers(supervisor, cursor), {}),
    }


def lean(news: dict[str, Any], cursor: Cursor) -> dict[str, Any]:
    """The same without what the page said itself: a quiet second is worth no more than a few bytes."""
    same = ["from"]
    whole = cursor.whole is not None and news.get("whole") == cursor.whole
    if (whole or news.get("run") == cursor.run) and news.get("from") == cursor.points:
        same.append("run")  # where a page reads "run", it forgets its curves
    if news.get("points") == cursor.points:
        same.append("points")
    if news.get("ask") == cursor.ask and not any(news.get("text", {}).values()):
        same += ["ask", "text"]
    if whole:
        same.append("whole")
    if "deep" in news:
        news = news | {"deep": deep_rows(news["deep"], cursor)}
    kept = {name: value for name, value in news.items() if name not in same and value not in ({}, [])}
    return in_rows(kept) if len(kept.get("series", {})) > 1 else kept


def deep_rows(deep: dict[str, Any], cursor: Cursor) -> Any:
    """A few deep points that go on where the page ends, as a row of values each; their places follow from what it holds."""
    if deep["from"] != cursor.deep or deep["points"] - deep["from"] > FEW_POINTS:
        return deep
    return list(zip(*([value for _, value in points] for points in deep["series"].values()), strict=True))


def in_rows(news: dict[str, Any]) -> dict[str, Any]:
    """A few new points step by step, as stage → [step, a value for each of its curves]; many stay curve by curve."""
    if max(map(len, news["series"].values())) > FEW_POINTS:
        return news
    rows: dict[Stage, dict[int, dict[str, float]]] = {}
    for name, points in news["series"].items():
        for step, value in points:
            rows.setdefault(SERIES[name][0], {}).setdefault(step, {})[name] = value
    if sum(map(len, rows.values())) > FEW_POINTS:
        return news
    steps = {
        stage: [[step, *(found.get(name) for name in CURVES[stage])] for step, found in by_step.items()]
        for stage, by_step in rows.items()
    }
    return {name: value for name, value in news.items() if name != "series"} | {"steps": steps}


def shown(supervisor: Supervisor, run_id: str) -> RunView | None:
    return next((view for view in supervisor.views if view.id == run_id), supervisor.view)


NOTHING: dict[str, Any] = {
    "device": {"name": "", "kind": "", "problem": ""},
    "meter": {"used": 0, "ours": 0, "free": "", "facts": ""},
    "recent": [],
    "gates": {
        "busy": "",
        "leaving": "",
        "stalled": False,
        "compare": "",
        "runs": 0,
        "comparable": False,
        "room": [],
        "sets": 0,
        "trouble": "",
    },
    "held": {},
    "doctor": [],
    "best": {},
}
"""What a part is that cannot be made, where the page needs more than none."""


def all_parts(supervisor: Supervisor, view: RunView | None, cursor: Cursor, made: Making) -> dict[str, Any]:
    """Every part of the page as it is now; the long ones only where they can be seen.

    active, active_pace: of the run at work, or else the newest, where the page shows another one.
    """
    at_work = supervisor.view
    if at_work and view and at_work.id == view.id:
        at_work = None
    makers: dict[str, Callable[[], Any]] = {
        "device": lambda: device(supervisor),
        "meter": lambda: meter(supervisor),
        "recent": lambda: recent(supervisor),
        "gates": lambda: gates(supervisor),
        "run": lambda: run_module.run(supervisor, view),
        "pace": lambda: pace(view),
        "active": lambda: run_module.run(supervisor, at_work),
        "active_pace": lambda: pace(at_work),
        "held": lambda: held_out(view),
        "doctor": lambda: findings.of(supervisor, view),
        "strip": lambda: samples.of(supervisor, view),
        "best": lambda: best(view),
        "facts": lambda: facts(supervisor, view),
    }
    parts = {name: made(make, NOTHING.get(name)) for name, make in makers.items()}
    parts |= made(lambda: comparison.parts(supervisor, cursor.vote), {})
    if cursor.log and view:
        parts["log"] = made(lambda: run_folder.log_tail(supervisor.run_dir(view.id), LOG_LINES), [])
    return parts


def listed(supervisor: Supervisor, cursor: Cursor, rows: run_list.Rows, made: Making) -> dict[str, Any]:
    """The Runs tab: the rows of what is over, apart from that of a run at work, which changes every second."""
    over, going = made(rows, ([], []))
    return {
        "runs": over,
        "going": going,
        "trash": made(lambda: run_list.trash(supervisor), {"runs": [], "size": ""}),
        "overlay": made(
            lambda: run_list.overlay(supervisor, cursor.chosen, all_curves), {"runs": [], "differences": []}
        ),
    }


def all_curves(view: RunView) -> dict[str, list[tuple[int, float]]]:
    """Every curve of a run, thinned to what fits on a small chart."""
    found = {name: curve(view.points, stage, read, OVERLAY_POINTS) for name, (stage, read) in SERIES.items()}
    return {name: points for name, points in found.items() if points}


def curves(view: RunView | None, cursor: Cursor) -> dict[str, Any]:
    """The new points of every curve. `from` 0 means: forget what you have."""
    if view is None:
        return {"run": "", "from": 0, "points": 0, "series": {}}
    begin = cursor.points if cursor.run == view.id and cursor.points <= len(view.points) else 0
    new = view.points[begin:]
    series = {name: curve(new, stage, read, MOST_POINTS) for name, (stage, read) in SERIES.items()}
    return {
        "run": view.id,
        "from": begin,
        "points": len(view.points),
        "series": {name: points for name, points in series.items() if points},
    }


def curve(points: Sequence[Step], stage: Stage, read: Read, most: int) -> list[tuple[int, float]]:
    pairs = ((point.step, read(point)) for point in points if point.stage == stage)
    finite = [(step, value) for step, value in pairs if value is not None and isfinite(value)]
    return [(step, brief(value)) for step, value in thinned(finite, most)]


def brief(value: float) -> float:
    """Four digits draw the same picture as sixteen, and a whole number needs no point."""
    short = float(f"{value:.4g}")
    return int(short) if short.is_integer() and abs(short) < 1e15 else short


def held_out(view: RunView | None) -> dict[str, list[tuple[int, float]]]:
    """The held-out curves, whole: a few dozen points at most."""
    found: dict[str, list[tuple[int, float]]] = {}
    for one in view.evaluated if view else ():
        for name in ("loss", "margin", "accuracy", "rows"):
            value = getattr(one, name)
            if value is not None and isfinite(value):
                found.setdefault(f"{one.stage}.held.{name}", []).append((one.step, brief(value)))
    return found


def best(view: RunView | None) -> dict[str, int]:
    """Stage → the step with the lowest held-out loss."""
    found = {stage: view.best(stage) for stage in STAGES} if view else {}
    return {stage: one.step for stage, one in found.items() if one}


def deep(view: RunView | None, cursor: Cursor) -> dict[str, Any]:
    """The new points of the deep curves, counted over all stages."""
    if view is None or cursor.deep < 0:
        return {}
    begin = cursor.deep if cursor.run == view.id and cursor.deep <= len(view.points) else 0
    new = view.points[begin:]
    read = {
        name: thinned([(begin + at, brief(read(step) or 0)) for at, step in enumerate(new, 1)], MOST_POINTS)
        for name, read in DEEP.items()
    }
    return {"deep": {"from": begin, "points": len(view.points), "series": read if new else {}}}


def readings(supervisor: Supervisor, cursor: Cursor) -> dict[str, Any]:
    """What the machine did since the page heard of it last: seconds since then, GB, °C, W, percent."""
    if cursor.machine < 0:
        return {}
    new = supervisor.readings.since(cursor.machine)
    every = max(1, len(new) // (MOST_POINTS // 2))
    return {
        "machine": [
            [
                brief(round(one.at - cursor.machine, 1)) if cursor.machine else round(one.at, 1),
                *(None if value is None else brief(value) for value in (one.memory, one.celsius, one.watts, one.busy)),
            ]
            for one in new[::every]
        ]
    }


def thinned(points: list[tuple[int, float]], most: int) -> list[tuple[int, float]]:
    """At most `most` points that look the same: of each bin the lowest and the highest, in their order."""
    if len(points) <= most:
        return points
    bins = most // 2
    return [
        point
        for at in range(bins)
        for point in extremes(points[at * len(points) // bins : (at + 1) * len(points) // bins])
    ]


def extremes(points: Sequence[tuple[int, float]]) -> Iterator[tuple[int, float]]:
    low = min(points, key=lambda point: point[1])
    high = max(points, key=lambda point: point[1])
    yield from sorted({low, high})


def answers(supervisor: Supervisor, cursor: Cursor) -> dict[str, Any]:
    """What the lanes have said beyond what the page holds. Offsets count UTF-16 units, as a browser does."""
    supervisor.look_at_comparison()
    current = supervisor.comparison
    said = current.said if current else None
    if current is None or said is None:
        return {"ask": "", "text": {}}
    question = current.round
    ask = question.ask if question else current.ask_id
    shown = {"A": question.left, "B": question.right} if question else {lane: lane for lane in said.answers}
    held = cursor.chars if cursor.ask == ask else {}
    return {
        "ask": ask,
        "text": {name: after(said.answers.get(lane, ""), held.get(name, 0)) for name, lane in shown.items()},
    }


def after(text: str, units: int) -> str:
    """The text after that many UTF-16 units."""
    return text.encode("utf-16-le", "surrogatepass")[2 * units :].decode("utf-16-le", "replace")


def script(folder: Path = project.PROJECT / "assets" / "web") -> str:
    """What draws the page, for its head: no file is fetched later."""
    code = "\n".join(
        (folder / name).read_text(encoding="utf-8")
        for name in (
            "chart.js",
            "page.js",
            "compare.js",
            "train.js",
            "samples.js",
            "runs.js",
            "data.js",
            "memory_sliders.js",
            "form_errors.js",
        )
    )
    return f"<script>\nconst CURVES = {json.dumps(CURVES)}, DEEP = {json.dumps([*DEEP])};\n{code}\n</script>"
