"""Terminal output: a run's progress, scores as a table, answers side by side."""

from __future__ import annotations

import codecs
import contextlib
import errno
import io
import json
import os
import re
import shutil
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import orjson
from tqdm import tqdm

from trainer_core.config.recipe import METHODS
from trainer_core.data.read_events import ReadProgress
from trainer_core.errors import UserError
from trainer_core.evaluation.score_table import forgetting_warnings, format_score_rows, score_legend
from trainer_core.jobs.supervisor import Supervisor
from trainer_core.runs import control
from trainer_core.runs.compare_events import ScoresReady
from trainer_core.runs.events import Phase, ReferenceCheck, TrainStep
from trainer_core.runs.run_state import RunState
from trainer_core.system.format import format_clock
from trainer_core.texts import Text

REFRESH_SECONDS = 0.3
PIPE_CLOSED, INTERRUPTED = 141, 130
USER_PATH_ERRORS = (errno.ENAMETOOLONG, errno.EACCES, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.ENOSPC)
"""System errors about a path that the user chose."""
ASCII_SIGNS = {"←": "<-", "→": "->", "…": "...", "✓": "+", "✗": "x", "■": "#", "–": "-", "—": "-", "·": "-"}
"""ASCII replacements for the signs that we print."""
STOP_MESSAGES = {"stop": Text("cli.stopping"), "end": Text("cli.ending")}


CONTROL = re.compile("\x1b\\[(?:31|0)m|[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""Our own red, and the characters by which a text could speak to the terminal: escapes, and marks that turn its direction."""


def print_line(text: str = "") -> None:
    """Print a text, which may quote data and file names: their control characters are shown, not obeyed."""
    sys.stdout.write(show_controls(text) + "\n")
    sys.stdout.flush()


def show_controls(text: str) -> str:
    return CONTROL.sub(lambda found: found[0] if len(found[0]) > 1 else ascii(found[0])[1:-1], text)


def print_error(text: str) -> None:
    """One sentence on stderr; if that is closed, only the exit code reports the error."""
    with contextlib.suppress(OSError):
        sys.stderr.write(show_controls(text) + "\n")
        sys.stderr.flush()


def print_json(value: Any) -> None:
    """A value as JSON, in ASCII if the output's encoding is not Unicode."""
    text = orjson.dumps(value, option=orjson.OPT_INDENT_2).decode()
    encoding = sys.stdout.encoding or "utf-8"
    wide = codecs.lookup(encoding).name.startswith("utf")
    print_line(text if wide else json.dumps(json.loads(text), indent=2))


def run_command(run: Callable[[], int]) -> int:
    """Run a command. An error the user can fix becomes a sentence on stderr and exit code 1; a closed pipe, as with `head`,
    gives 141, and Ctrl-C 130, as in shells."""
    try:
        return run()
    except UserError as error:
        print_error(str(error))
        return 1
    except BrokenPipeError:
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python reports the broken pipe at exit
        return PIPE_CLOSED
    except OSError as error:
        if error.errno not in USER_PATH_ERRORS or error.filename is None:
            raise
        print_error(str(Text("cli.bad_path", path=shorten_text(str(error.filename)), reason=error.strerror)))
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED


def shorten_text(text: str) -> str:
    """The beginning and end of a long name or prompt."""
    return text if len(text) <= 200 else f"{text[:100]} … {text[-60:]}"


def prepare_streams() -> None:
    """Make stdout and stderr accept every character: those outside their encoding are replaced with ASCII. Closed streams are
    opened on devnull; otherwise the next opened file or pipe would get their number."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # gets the lowest free number
    sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    codecs.register_error("tunebench", ascii_replacement)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="tunebench")


def ascii_replacement(error: UnicodeError) -> tuple[str, int]:
    """Replacement for characters that cannot be encoded: our own signs in ASCII, others as escapes."""
    assert isinstance(error, UnicodeEncodeError)
    lost = error.object[error.start : error.end]
    return "".join(ASCII_SIGNS.get(letter) or ascii(letter)[1:-1] for letter in lost), error.end


@contextmanager
def progress_bar() -> Iterator[Callable[[ReadProgress], None]]:
    """Progress and time left of reading a file, as a line on stderr; silent if stderr is not a terminal."""
    with tqdm(unit="B", unit_scale=True, disable=None, leave=False, file=sys.stderr) as line:
        shown = ""

        def going(at: ReadProgress) -> None:
            nonlocal shown
            if line.disable:
                return
            if shown != at.file:
                shown = at.file
                line.reset(at.of)
                line.set_description(at.file)
            line.update(at.bytes - line.n)

        yield going


def follow_run(supervisor: Supervisor, run_id: str) -> RunState:
    """Print a run until its final event, and return its last state. Ctrl-C stops it and saves; a second one kills it."""
    seen, deeds = RunState(run_id), iter((supervisor.control.stop, supervisor.control.kill))
    while True:
        try:
            supervisor.registry.refresh()
            supervisor.shutdown.enforce_stop_requests()
            view = supervisor.registry.run_state(run_id)
            for line in describe_changes(seen, view):
                print_line(line)
            if not view.phase.is_active:
                return view
            seen = view
            time.sleep(REFRESH_SECONDS)
        except KeyboardInterrupt:
            next(deeds, supervisor.control.kill)(run_id)
            print_line(str(STOP_MESSAGES[control.read_request(supervisor.registry.run_dir(run_id)) or "stop"]))


def describe_changes(before: RunState, now: RunState) -> Iterator[str]:
    """Changes between two states of a run, a line each."""
    yield from map(str, now.notes[len(before.notes) :])
    for change in now.changes[len(before.changes) :]:
        yield f"{change.what}: {change.used} instead of {change.asked} ({change.why})"
    if now.proof and not before.proof:
        yield reference_check_line(now.proof)
    if latest := now.points[len(before.points) :]:
        yield step_line(latest[-1])
    if (now.phase, now.detail) != (before.phase, before.detail) and now.phase.is_active:
        yield f"{now.phase.value}: {now.detail}" if now.detail else now.phase.value
    if now.stalled and not before.stalled:
        yield f"Stalled: {now.stalled}"
    if now.error and not before.error:
        yield f"Failed: {now.error}"
    if now.phase is Phase.STOPPED and now.detail:
        yield f"Stopped: {now.detail}"


def reference_check_line(proof: ReferenceCheck) -> str:
    """The step-0 proof in one line: measured and expected values, and the reference."""
    expected = "depends on the data" if proof.expected_loss is None else f"{proof.expected_loss:.4f}"
    verdict = "holds" if proof.holds else "DOES NOT HOLD"
    margin = "" if proof.margin is None else f"margin {proof.margin:.4f} (must be 0), "
    return (
        f"Step-0 proof {verdict}: {margin}loss {proof.loss:.4f} (must be {expected}). "
        f"Policy: {proof.policy}; reference: {proof.reference}."
    )


def step_line(step: TrainStep) -> str:
    shown = [metric.key for metric in METHODS[step.stage].metrics if metric.held_out and metric.key in step.metrics]
    preference = "".join(f"  {key} {step.metrics[key]:6.3f}" for key in shown)
    return (
        f"{step.stage.upper()} {step.step:>4}/{step.total}  loss {step.loss:7.4f}{preference}  "
        f"lr {step.learning_rate:.1e}  {step.tokens_per_second:5.0f} tokens/s  {format_clock(step.seconds_left)} left"
    )


def render_score_table(scored: ScoresReady) -> str:
    """A table of scores × lanes, each with its 95 % interval."""
    width = max(25, *(len(score.lane) + 2 for score in scored.scores))
    head = f"{'':<24}" + "".join(f"{score.lane:>{width}}" for score in scored.scores)
    lines = [
        f"{title:<24}" + "".join(f"{one:>{width}}" for one in cells)
        for title, *cells in format_score_rows(scored.scores)
    ]
    forgotten = [f"{color_red('Forgotten')}: {line}" for line in forgetting_warnings(scored.scores)]
    return "\n".join([head, "-" * len(head), *lines, *textwrap.wrap(score_legend(scored), 100), *forgotten])


def color_red(text: str) -> str:
    """Red on a terminal, plain in a file."""
    return f"\x1b[31m{text}\x1b[0m" if sys.stdout.isatty() else text


def render_columns(prompt: str, answers: Mapping[str, str]) -> str:
    """The lanes' answers in columns as wide as the terminal allows."""
    width = max((min(shutil.get_terminal_size((120, 40)).columns, 160) - 3 * (len(answers) - 1)) // len(answers), 24)
    columns = [
        [name, "-" * width, *(line for part in text.splitlines() for line in textwrap.wrap(part, width) or [""])]
        for name, text in answers.items()
    ]
    height = max(map(len, columns))
    lines = (" | ".join((c[i] if i < len(c) else "").ljust(width) for c in columns).rstrip() for i in range(height))
    return "\n".join([f"> {prompt}", "", *lines, ""])


def run_line(view: RunState) -> str:
    last = view.last_step
    numbers = (
        f"{last.stage.upper()} {last.step}/{last.total}, loss {last.loss:.3f}" if last else view.error or view.detail
    )
    mark = {Phase.DONE: "✓", Phase.FAILED: "✗", Phase.STOPPED: "■"}.get(view.phase, "…")
    return f"{mark} {view.phase.value:<9}{view.id:<52}{numbers}"
