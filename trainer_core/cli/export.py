"""`export`: a trained lane as files, with its progress and its certificate in the terminal."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from trainer_core.cli import terminal
from trainer_core.config.export_targets import OFFERED_TARGETS
from trainer_core.config.jobs import Lane
from trainer_core.errors import ConfigError
from trainer_core.evaluation.certificate_chart import smallest_form
from trainer_core.evaluation.certificate_text import base_lines
from trainer_core.evaluation.score_table import KEPT_FORMAT, format_measure
from trainer_core.jobs.export_control import ExportRequest
from trainer_core.jobs.lane_choices import given_run_name, lanes_by_name, step_lane_name
from trainer_core.jobs.supervisor import Supervisor
from trainer_core.planning.serving_lines import serving_lines
from trainer_core.runs.events import Phase
from trainer_core.runs.export_events import CertificateRow
from trainer_core.runs.run_folder import slugify_name
from trainer_core.runs.run_state import RunState
from trainer_core.system.format import format_clock, format_file_size
from trainer_core.system.project import expand_home
from trainer_core.texts import Text

REFRESH_SECONDS = 0.3
GGUF_PREFIX = "gguf:"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("id", help="the run's id, or 'last'")
    known = ", ".join(OFFERED_TARGETS)
    parser.add_argument("--to", default="gguf:q8_0", metavar="FORMS", help=f"with commas between: {known}")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--stage", help="the stage whose adapter is exported; without it the last one")
    which.add_argument("--step", type=int, help="an earlier step of the last stage")
    which.add_argument("--lane", help="a lane of Compare by its name, also a strength or a blend")
    parser.add_argument("--out", type=Path, help="the folder to write into; without it exports in the workspace")
    parser.add_argument(
        "--repo", default="", metavar="OWNER/NAME", help="with the form hub: the repository, made private"
    )
    parser.add_argument("--name", help="the name of the export; without it that of the run")


def run_export(supervisor: Supervisor, run_id: str, args: argparse.Namespace) -> int:
    lane = choose_lane(supervisor, run_id, args)
    run_name = given_run_name(supervisor.registry, run_id) or "run"
    name = args.name or "-".join(filter(None, (slugify_name(run_name), slugify_name(lane.name))))
    out: Path = expand_home(args.out) if args.out else supervisor.workspace.exports
    asked = ExportRequest(run_id, lane, split_targets(args.to), out, name, args.repo)
    export_id = supervisor.exports.start(asked)
    return follow_export(supervisor, export_id)


def split_targets(text: str) -> list[str]:
    """`adapter,gguf:q8_0,bf16`: a form after a comma may leave out the `gguf:` that it shares with the one before."""
    targets = list[str]()
    for one in text.lower().replace(" ", "").split(","):
        follows = bool(targets) and targets[-1].startswith(GGUF_PREFIX)
        targets.append(f"{GGUF_PREFIX}{one}" if follows and one not in OFFERED_TARGETS else one)
    return targets


def choose_lane(supervisor: Supervisor, run_id: str, args: argparse.Namespace) -> Lane:
    """The lane of the command line.

    Raises:
        ConfigError: there is no such lane.
    """
    known = lanes_by_name(supervisor.registry, run_id)
    own = [lane for lane in supervisor.registry.run_lanes(run_id) if lane.adapter]
    if args.lane or args.stage or args.step is not None or not own:
        name = args.lane or (args.stage.upper() if args.stage else last_stage_lane(supervisor, run_id, args.step or 0))
        if name not in known or not known[name].adapter:
            raise ConfigError("export.no_lane", lane=name, known=", ".join(one for one in known if known[one].adapter))
        return known[name]
    return own[-1]


def last_stage_lane(supervisor: Supervisor, run_id: str, step: int) -> str:
    return step_lane_name(supervisor.registry.run_recipe(run_id).method.stages[-1], step)


def follow_export(supervisor: Supervisor, export_id: str) -> int:
    """Print an export until its end. Ctrl-C stops it; what is complete is kept for the next try."""
    shown = ""
    while True:
        try:
            supervisor.exports.refresh()
            state = supervisor.exports.export_state(export_id)
            if (line := progress_line(state)) != shown:
                terminal.print_line(shown := line)
            if not state.phase.is_active:
                return print_end(supervisor, export_id)
            time.sleep(REFRESH_SECONDS)
        except KeyboardInterrupt:
            supervisor.exports.stop(export_id)


def progress_line(state: RunState) -> str:
    at = state.exporting
    if at is None:
        return str(state.detail or state.phase.value)
    left = f", {format_clock(at.seconds_left)} left" if at.seconds_left else ""
    return f"[{at.number}/{at.parts}] {at.part} {at.done / at.total:.0%}{left}"


def print_end(supervisor: Supervisor, export_id: str) -> int:
    state = supervisor.exports.export_state(export_id)
    if state.phase is not Phase.DONE or state.exported is None:
        stopped = Text("export.stopped_safely")
        terminal.print_error(str(state.error or (state.detail if state.phase is Phase.PAUSED else stopped)))
        return 1
    for line in base_lines(state.exported.bases):
        terminal.print_line(line)
    for row in state.exported.forms:
        terminal.print_line(row_line(row))
    if smallest := smallest_form(state.exported.forms):
        terminal.print_line(str(smallest))
    job = supervisor.exports.export_job(export_id)
    programs = [given.said or given.problem for given in state.registered.values()]
    for one in (*programs, *serving_lines(job, supervisor.workspace.runs / job.run)):
        terminal.print_line(str(one))
    terminal.print_line(str(Text("export.done", folder=state.exported.folder)))
    return 0


def row_line(row: CertificateRow) -> str:
    """One form of the certificate: size, equal answers, KL, and the share of the margin that it keeps."""
    answers, kl = row.served_answers, row.served_divergence
    parts = [f"{row.form:<12}", f"{format_file_size(row.bytes):>9}"]
    parts.append(f"{answers.equal}/{answers.count} equal answers" if answers else "answers not checked")
    parts.append(f"KL {kl:.2g}" if kl is not None else "KL not checked")
    if row.kept:
        parts.append(f"keeps {format_measure(row.kept, KEPT_FORMAT)} of the margin")
    problem = f" ({row.problem})" if row.problem else ""
    return "  ".join(parts) + f"  {Text(f'verdicts.{row.verdict}')}{problem}"
