"""The command line: `python -m trainer_core COMMAND` does what the page does."""

from __future__ import annotations

import argparse
import json
import os
from contextlib import closing
from pathlib import Path

from trainer_core import data
from trainer_core.cli import export, imports, storage, terminal
from trainer_core.cli.demo import ANSWERS, print_comparison, train_and_compare
from trainer_core.config.recipe import METHODS, STARTER, Columns, Data, Recipe, read_recipe
from trainer_core.data.hub import datasets
from trainer_core.data.preview import MeasureRequest, TokenPreview
from trainer_core.data.select import data_path, held_out_file
from trainer_core.diagnosis import html_report
from trainer_core.errors import ConfigError, UserError
from trainer_core.evaluation.prompts import read_bundled_prompts
from trainer_core.jobs.device import DeviceMonitor
from trainer_core.jobs.supervisor import Supervisor
from trainer_core.methods.steps import count_steps, warmup_text
from trainer_core.models import resolve
from trainer_core.models.resolve import find_tokenizer
from trainer_core.planning import measurements, presets
from trainer_core.planning.forecast import TargetMachine, make_forecast
from trainer_core.planning.forecast_text import forecast_as_json, forecast_lines
from trainer_core.planning.presets import architecture_for_model
from trainer_core.runs import run_folder
from trainer_core.runs.events import Phase
from trainer_core.runs.workspace import Workspace, default_workspace, disk_free, ensure_dir
from trainer_core.schema import parse_values
from trainer_core.system import app_secret, hardware
from trainer_core.texts import Text

MIN_CARD_GIB, MAX_CARD_GIB = 1, 1024
"""Card sizes to plan for, in GiB."""


def main(argv: list[str] | None = None) -> int:
    """Returns 0 on success; 1, with a sentence on stderr, for an error the user can fix."""
    terminal.prepare_streams()
    args = build_cli_parser().parse_args(argv)
    return terminal.run_command(lambda: args.run(args))


def build_cli_parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="tunebench", description="Fine-tune, align and compare adapters.")
    top.add_argument("--workspace", type=Path, default=default_workspace(), help="where runs and models lie")
    top.add_argument("--device", choices=("auto", "cpu", "cuda"), default=os.environ.get("TUNEBENCH_DEVICE", "auto"))
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run, help: str) -> argparse.ArgumentParser:  # type: ignore[no-untyped-def]
        sub = commands.add_parser(name, help=help, description=help)
        sub.set_defaults(run=run)
        return sub

    command("demo", run_demo, "SFT, DPO, scores and answers on the starter model and the sample data")
    train = command("train", run_train, "train a recipe (TOML), or a run.json once more")
    train.add_argument("recipe", type=Path)
    resume = command("resume", run_resume, "resume a paused, stopped or crashed run")
    resume.add_argument("id", help="the run's id, or 'last'")
    longer = command("continue", run_continue, "train the last stage of a finished run for more passes over its data")
    longer.add_argument("id", help="the run's id, or 'last'")
    longer.add_argument("--epochs", type=float, default=1.0, help="how many more; 1 if not said")
    pause = command("pause", run_pause, "let the running run leave the device; resume goes on exactly there")
    pause.add_argument("id", help="the run's id, or 'last'")
    stop = command("stop", run_stop, "let the running run end after its step and keep what it has learned")
    stop.add_argument("id", help="the run's id, or 'last'")
    stop.add_argument("--now", action="store_true", help="end it in mid-step; its checkpoints are kept")
    plan = command("plan", run_plan, "what a recipe will do, and what it takes in memory and on disk")
    plan.add_argument("recipe", type=Path)
    plan.add_argument(
        "--vram", type=float, metavar="GB", help="plan for an empty card of this size instead of this machine"
    )
    plan.add_argument("--json", action="store_true")
    check = command("check", run_check, "what is in a data file, and what is wrong with it")
    check.add_argument("data", help="a file or folder, or 'sample'")
    check.add_argument("--json", action="store_true")
    check.add_argument("--column", action="append", default=[], metavar="PART=NAME", help="such as prompt=question")
    check.add_argument("--held-out", metavar="FILE", help="held-out pairs, whose prompts are looked for in the data")
    check.add_argument("--encoding", default="", metavar="NAME", help="of files that are not UTF-8, such as cp1252")
    check.add_argument("--step", action="append", default=[], help="mend or leave out rows, such as skip_damaged")
    fetch = command("fetch", run_fetch, "get a data set of the Hugging Face Hub as a file")
    fetch.add_argument("name", help="owner/name")
    fetch.add_argument("--config", help="its configuration, if it has several")
    fetch.add_argument("--split", help="its split; without it the first one to train on")
    compare = command("compare", run_compare, "score the base and every adapter of a run, and let them answer")
    compare.add_argument("id", help="the run's id, or 'last'")
    compare.add_argument("prompt", nargs="*", help="what to ask; without one, three of the bundled prompts")
    compare.add_argument("--score", action="store_true", help="only score, and ask nothing")
    told = command(
        "report", run_report, "a run on one page: curves, findings, scores, settings; a file that needs no network"
    )
    told.add_argument("id", help="the run's id, or 'last'")
    told.add_argument("--out", type=Path, help="where to write it; without it report.html in the run's folder")
    certified = "a trained lane as files for other programs, with a certificate of what they keep"
    export.add_arguments(command("export", run_export, certified))
    foreign = "an adapter or a model that was trained elsewhere, as a lane of Compare"
    imports.add_arguments(command("import", run_import, foreign))
    space = "what takes space, freeing it, and moving files to another drive"
    storage.add_arguments(command("storage", run_storage, space))
    command("runs", run_list, "all runs, newest first")
    command("sign-out", run_sign_out, "end the key of every browser that is signed in; the app may be open")
    command("starter", run_starter, "make the starter model ready")
    return top


def create_supervisor(args: argparse.Namespace) -> Supervisor:
    return Supervisor(Workspace(args.workspace.resolve()), device=args.device)


def run_demo(args: argparse.Namespace) -> int:
    supervisor = create_supervisor(args)
    try:
        train_and_compare(supervisor, presets.starter_recipe().model_copy(update={"name": "demo"}))
    finally:
        supervisor.close()
    return 0


def run_train(args: argparse.Namespace) -> int:
    supervisor = create_supervisor(args)
    path: Path = args.recipe
    file = run_folder.read_run(path.parent) if path.name == "run.json" else None
    again = run_folder.train_job_of(file) if file else None
    for note in file.notes if file else ():
        terminal.print_line(str(note))
    run_id = supervisor.control.start(again.recipe if again else read_recipe(path))
    terminal.print_line(f"Run {run_id} in {supervisor.registry.run_dir(run_id)}")
    return follow_to_exit_code(supervisor, run_id)


def run_resume(args: argparse.Namespace) -> int:
    supervisor = create_supervisor(args)
    run_id = find_run_id(supervisor, args.id)
    supervisor.control.resume(run_id)
    return follow_to_exit_code(supervisor, run_id)


def run_continue(args: argparse.Namespace) -> int:
    supervisor = create_supervisor(args)
    run_id = find_run_id(supervisor, args.id)
    supervisor.control.extend(run_id, args.epochs)
    return follow_to_exit_code(supervisor, run_id)


def run_pause(args: argparse.Namespace) -> int:
    supervisor = create_supervisor(args)
    supervisor.control.pause(find_run_id(supervisor, args.id))
    return 0


def run_stop(args: argparse.Namespace) -> int:
    supervisor = create_supervisor(args)
    run_id = find_run_id(supervisor, args.id)
    if not args.now:
        supervisor.control.stop(run_id)
        return 0
    supervisor.control.kill(run_id)
    return follow_to_exit_code(supervisor, run_id)


def find_run_id(supervisor: Supervisor, name: str) -> str:
    """The id of a run, or of an import by its id or name, from the command line.

    Raises:
        UserError: there is no such run.
    """
    ids = [view.id for view in supervisor.registry.run_states]
    if (found := imports.find_import_id(supervisor.registry, name)) is not None:
        return found
    if not ids or (name != "last" and name not in ids):
        raise UserError("cli.no_run", name=name, workspace=str(supervisor.workspace.root))
    return ids[0] if name == "last" else name


def follow_to_exit_code(supervisor: Supervisor, run_id: str) -> int:
    view = terminal.follow_run(supervisor, run_id)
    for stage, folder in view.adapters.items():
        terminal.print_line(f"{stage.upper()} adapter: {supervisor.registry.run_dir(run_id) / folder}")
    return 1 if view.phase is Phase.FAILED else 0


def run_plan(args: argparse.Namespace) -> int:
    recipe, workspace = read_recipe(args.recipe), Workspace(args.workspace.resolve())
    rows = data.count_rows(recipe.data, recipe.method, find_tokenizer(recipe.model, workspace))
    rows = rows.after_truncation({stage: recipe.stage_settings(stage).max_length for stage in recipe.method.stages})
    steps = {stage: count_steps(rows.rows[stage], recipe.stage_settings(stage)) for stage in recipe.method.stages}
    shape = architecture_for_model(recipe.model, workspace, presets.load_catalogue())
    planned = (
        make_forecast(
            recipe, shape, resolve_target_machine(args, workspace), rows, measurements.load_measurements(workspace)
        )
        if shape
        else None
    )
    notes = (*map(str, rows.notes), *unwritten_answers(recipe, workspace))
    if args.json:
        told = {"recipe": recipe.model_dump(mode="json"), "rows": rows.rows, "steps": steps, "notes": notes}
        terminal.print_line(json.dumps(told | {"plan": forecast_as_json(planned) if planned else None}, indent=1))
        return 0
    for stage, count in steps.items():
        settings = recipe.stage_settings(stage)
        terminal.print_line(
            f"{stage.upper()}: {count} steps over {rows.rows[stage]} rows, effective batch {settings.effective_batch}, "
            f"rate {settings.learning_rate:g}, {warmup_text(settings, count) or 'no warm-up'}, length {settings.max_length:,}"
        )
    unknown = [str(Text("cli.unknown_size", model=recipe.model))]
    for line in (*notes, "", *(forecast_lines(planned) if planned else unknown)):
        terminal.print_line(line)
    return 0


def unwritten_answers(recipe: Recipe, workspace: Workspace) -> tuple[str, ...]:
    """Says how many answers the model's template leaves out, or why that cannot be said; nothing for a model elsewhere."""
    stage = next((stage for stage in recipe.method.stages if METHODS[stage].rows == "chat"), None)
    source = recipe.data.chat or recipe.data.pairs
    if stage is None or source is None or not find_tokenizer(recipe.model, workspace):
        return ()
    request = MeasureRequest(
        source=source,
        columns=recipe.data.columns if recipe.data.columns_file == source else Columns(),
        steps=recipe.data.steps,
        model=recipe.model,
        template=recipe.data.template,
        encoding=recipe.data.encoding,
        length=recipe.stage_settings(stage).max_length,
    )
    with closing(TokenPreview(workspace)) as preview:
        try:
            measured = preview.ask(request)
        except UserError as error:
            return (str(error),)
    return tuple(one["sentence"] for one in measured.get("findings", ()) if one["code"] == "unwritten")


def resolve_target_machine(args: argparse.Namespace, workspace: Workspace) -> TargetMachine:
    """This machine now, or an empty card of the given size.

    Raises:
        ConfigError: the card size is out of range.
        DeviceError: `--device cuda`, and there is no card.
    """
    monitor, disk = DeviceMonitor(args.device, hardware.detect_machine), disk_free(workspace)
    if args.vram is not None:
        if not MIN_CARD_GIB <= args.vram <= MAX_CARD_GIB:  # rejects NaN too
            raise ConfigError("cli.card_size", least=MIN_CARD_GIB, most=MAX_CARD_GIB, size=args.vram)
        return TargetMachine.empty_card(args.vram, monitor.machine, disk)
    return TargetMachine.current_machine(monitor.machine, disk_free=disk, use_card=monitor.gpu is not None)


def run_check(args: argparse.Namespace) -> int:
    columns = dict(one.partition("=")[::2] for one in args.column)
    wanted = {"pairs": args.data, "columns": columns, "steps": args.step, "held_out": args.held_out}
    asked = parse_values(Data, wanted | {"encoding": args.encoding}, "check")
    given = asked.columns if asked.columns.column_by_part else None
    with terminal.progress_bar() as going:
        options = data.CheckOptions(held_out_file(asked), asked.steps)
        file = data_path(args.data, "sample_pairs.jsonl")
        checked = data.check_dataset(file, given, options, going, asked.encoding)
    if args.json:
        terminal.print_json(checked)
    else:
        terminal.print_line("\n".join(checked.as_lines()))
    return 1 if checked.blocked else 0


def run_fetch(args: argparse.Namespace) -> int:
    parts = datasets.list_splits(args.name)
    wanted = [one for one in parts if args.config in (None, one.config) and args.split in (None, one.split)]
    if not wanted:
        known = ", ".join(f"{one.config} {one.split}" for one in parts)
        raise UserError("cli.no_split", name=args.name, known=known)
    terminal.print_line(str(datasets.ensure_split_file(Workspace(args.workspace.resolve()), args.name, wanted[0])))
    return 0


def run_compare(args: argparse.Namespace) -> int:
    supervisor = create_supervisor(args)
    try:
        asked = [] if args.score else args.prompt or read_bundled_prompts()[:ANSWERS]
        print_comparison(supervisor, find_run_id(supervisor, args.id), asked)
    finally:
        supervisor.close()
    return 0


def run_report(args: argparse.Namespace) -> int:
    supervisor = create_supervisor(args)
    terminal.print_line(
        str(html_report.save_report(supervisor.registry.run_dir(find_run_id(supervisor, args.id)), args.out))
    )
    return 0


def run_export(args: argparse.Namespace) -> int:
    supervisor = create_supervisor(args)
    return export.run_export(supervisor, find_run_id(supervisor, args.id), args)


def run_import(args: argparse.Namespace) -> int:
    return imports.run_import(create_supervisor(args), args)


def run_storage(args: argparse.Namespace) -> int:
    supervisor = create_supervisor(args)
    try:
        return storage.run_storage(supervisor, args)
    finally:
        supervisor.close()


def run_list(args: argparse.Namespace) -> int:
    for view in create_supervisor(args).registry.run_states:
        terminal.print_line(terminal.run_line(view))
    return 0


def run_sign_out(args: argparse.Namespace) -> int:
    app_secret.renew_secret(ensure_dir(args.workspace.resolve()))
    terminal.print_line(str(Text("cli.signed_out")))
    return 0


def run_starter(args: argparse.Namespace) -> int:
    terminal.print_line(resolve.resolve_model(STARTER, Workspace(args.workspace.resolve())))
    return 0
