"""The app's words on a terminal: a run as it goes, scores as a table, answers side by side."""

from __future__ import annotations

import shutil
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from tqdm import tqdm

from trainer_core.data.source import Progress
from trainer_core.events import LaneScore, Measured, Phase, Proof, RunView, Scored, Step
from trainer_core.supervisor import Supervisor

GLANCE_SECONDS = 0.3


def say(text: str = "") -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


@contextmanager
def bar() -> Iterator[Callable[[Progress], None]]:
    """A line on stderr with how far the reading of a file is and the time left; nothing where nobody looks at it."""
    with tqdm(unit="B", unit_scale=True, disable=None, leave=False, file=sys.stderr) as line:

        def going(at: Progress) -> None:
            if line.desc != f"{at.file}: ":
                line.reset(at.of)
                line.set_description(at.file)
            line.update(at.bytes - line.n)

        yield going


def follow(supervisor: Supervisor, run_id: str) -> RunView:
    """Print a run until its last word; Ctrl-C asks it to stop and keep what it has learned. Returns the last view."""
    seen = RunView(run_id)
    while True:
        try:
            supervisor.look()
            view = supervisor.run(run_id)
            for line in news(seen, view):
                say(line)
            if not view.phase.active:
                return view
            seen = view
            time.sleep(GLANCE_SECONDS)
        except KeyboardInterrupt:
            supervisor.stop(run_id)
            say("Stopping after this step; what was learned is saved. (The run goes on by itself if you close this.)")


def news(before: RunView, now: RunView) -> Iterator[str]:
    """What happened between two looks at a run, a line each."""
    yield from now.notes[len(before.notes) :]
    for change in now.changes[len(before.changes) :]:
        yield f"{change.what}: {change.used} instead of {change.asked} ({change.why})"
    if now.proof and not before.proof:
        yield proof_line(now.proof)
    if latest := now.points[len(before.points) :]:
        yield step_line(latest[-1])
    if (now.phase, now.detail) != (before.phase, before.detail) and now.phase.active:
        yield f"{now.phase.value}: {now.detail}" if now.detail else now.phase.value
    if now.stalled and not before.stalled:
        yield f"Stalled: {now.stalled}"
    if now.error and not before.error:
        yield f"Failed: {now.error}"


def proof_line(proof: Proof) -> str:
    """The proof in one line: what was measured, what it must be, and against which reference."""
    expected = "depends on the data" if proof.expected_loss is None else f"{proof.expected_loss:.4f}"
    verdict = "holds" if proof.holds else "DOES NOT HOLD"
    return (
        f"Step-0 proof {verdict}: margin {proof.margin:.4f} (must be 0), loss {proof.loss:.4f} (must be {expected}). "
        f"Policy: {proof.policy}; reference: {proof.reference}."
    )


def step_line(step: Step) -> str:
    preference = "" if step.margin is None else f"  margin {step.margin:6.3f}  accuracy {step.accuracy or 0:4.2f}"
    return (
        f"{step.stage.upper()} {step.step:>4}/{step.total}  loss {step.loss:7.4f}{preference}  "
        f"lr {step.learning_rate:.1e}  {step.tokens_per_second:5.0f} tokens/s  {clock(step.seconds_left)} left"
    )


def clock(seconds: float) -> str:
    """75 → 1:15, 3700 → 1:01:40."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def score_table(scored: Scored) -> str:
    """What was measured × lanes, each with its 95 % interval."""
    width = max(25, *(len(score.lane) + 2 for score in scored.scores))
    rows = [(title, [cell(read(score), spell) for score in scored.scores]) for title, read, spell in MEASURES]
    told = [(title, cells) for title, cells in rows if any(cells)]
    head = f"{'':<24}" + "".join(f"{score.lane:>{width}}" for score in scored.scores)
    lines = [f"{title:<24}" + "".join(f"{one or '–':>{width}}" for one in cells) for title, cells in told]
    return "\n".join([head, "-" * len(head), *lines, *textwrap.wrap(legend(scored), 100), *warnings(scored)])


def warnings(scored: Scored) -> list[str]:
    """A line for every lane that lost what the base knew."""
    return [
        f"{red('Forgotten')}: {score.lane} answers {score.forgetting.lost} general questions wrongly that the base answers "
        f"rightly, and {score.forgetting.gained} the other way round (exact McNemar test, p = "
        f"{score.forgetting.p_value:.2g}). Train with a lower rate, fewer steps or a smaller rank."
        for score in scored.scores
        if score.forgetting and score.forgetting.harmed
    ]


def red(text: str) -> str:
    """Red on a terminal, plain in a file."""
    return f"\x1b[31m{text}\x1b[0m" if sys.stdout.isatty() else text


def cell(measured: Measured | None, spell: str) -> str:
    """74 [61, 88]; without an interval the number alone, and nothing where there is none."""
    if measured is None:
        return ""
    if measured.low is None or measured.high is None:
        return format(measured.value, spell)
    return f"{measured.value:{spell}} [{measured.low:{spell}}, {measured.high:{spell}}]"


def legend(scored: Scored) -> str:
    """What the lines of the table mean, as far as they are there."""
    first = scored.scores[0]
    told = [
        f"On {first.accuracy.count} held-out pairs, in brackets the 95 % interval.",
        "Accuracy: how often the chosen answer is likelier per token than the rejected one; margin: by how much, in nats "
        "per token.",
        f"Reward: the same for whole answers and against {scored.reference}, in nats; times beta it is DPO's margin.",
        "KL: in nats per token of the chosen answers.",
    ]
    if first.own:
        told.append(f"Answers: to {first.own.tokens.count} bundled prompts.")
    if first.general:
        told.append(f"General questions: {first.general.count} bundled ones; their change is that against the base.")
    return " ".join(told)


MEASURES: tuple[tuple[str, Callable[[LaneScore], Measured | None], str], ...] = (
    ("Held-out accuracy", lambda score: score.accuracy, ".0%"),
    ("Mean margin", lambda score: score.margin, ".3f"),
    ("Reward accuracy", lambda score: score.reward_accuracy, ".0%"),
    ("Reward margin", lambda score: score.reward_margin, ".2f"),
    ("Perplexity of chosen", lambda score: score.perplexity, ".1f"),
    ("KL to the base", lambda score: score.divergence, ".2f"),
    ("Answer length, tokens", lambda score: score.own.tokens if score.own else None, ".0f"),
    ("Length ÷ base", lambda score: score.own.ratio if score.own else None, ".2f"),
    ("Repeated phrases", lambda score: score.own.repetition if score.own else None, ".0%"),
    ("Ends by itself", lambda score: score.own.ended if score.own else None, ".0%"),
    ("General questions", lambda score: score.general, ".0%"),
    ("Change of these", lambda score: score.forgetting.change if score.forgetting else None, "+.0%"),
)
"""Every line of the table: its title, how it is read from a score, and how it is spelt."""


def side_by_side(prompt: str, answers: Mapping[str, str]) -> str:
    """The lanes' answers in columns as wide as the terminal allows."""
    width = max((min(shutil.get_terminal_size((120, 40)).columns, 160) - 3 * (len(answers) - 1)) // len(answers), 24)
    columns = [
        [name, "-" * width, *(line for part in text.splitlines() for line in textwrap.wrap(part, width) or [""])]
        for name, text in answers.items()
    ]
    height = max(map(len, columns))
    lines = (" | ".join((c[i] if i < len(c) else "").ljust(width) for c in columns).rstrip() for i in range(height))
    return "\n".join([f"> {prompt}", "", *lines, ""])


def run_line(view: RunView) -> str:
    last = view.last
    numbers = (
        f"{last.stage.upper()} {last.step}/{last.total}, loss {last.loss:.3f}" if last else view.error or view.detail
    )
    mark = {Phase.DONE: "✓", Phase.FAILED: "✗", Phase.STOPPED: "■"}.get(view.phase, "…")
    return f"{mark} {view.phase.value:<9}{view.id:<52}{numbers}"
