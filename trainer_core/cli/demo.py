"""The main workflow without a page: SFT, then DPO, scores on held-out pairs, and three answers per lane."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

from trainer_core.cli import terminal
from trainer_core.config.recipe import Recipe
from trainer_core.errors import TrainingError
from trainer_core.evaluation.prompts import DEMO_SAMPLING, read_bundled_prompts, score_request
from trainer_core.jobs.comparison import CompareSession, new_ask_id
from trainer_core.jobs.supervisor import Supervisor
from trainer_core.runs.compare_events import ScoresReady
from trainer_core.runs.compare_requests import ChatMessage, GenerateRequest
from trainer_core.runs.events import Phase
from trainer_core.runs.run_state import PromptAnswers, RunState
from trainer_core.texts import Text

ANSWERS = 3
LOAD_SECONDS = 600.0
SCORE_SECONDS = 1800.0


def train_and_compare(supervisor: Supervisor, recipe: Recipe) -> None:
    """Run the demo and print the table and the answers.

    Raises:
        TrainingError: the run failed, a number is not finite, or the step-0 proof failed.
    """
    run_id = supervisor.control.start(recipe)
    terminal.print_line(f"Run {run_id}")
    view = terminal.follow_run(supervisor, run_id)
    if view.phase is not Phase.DONE:
        raise TrainingError(view.error) if view.error else TrainingError("demo.not_done", phase=view.phase.value)
    check_training(view)
    print_comparison(supervisor, run_id, read_bundled_prompts()[:ANSWERS])


def print_comparison(supervisor: Supervisor, run_id: str, asked: Sequence[str]) -> None:
    """Print scores of the base and all adapters of a run on its held-out pairs, and their answers.

    Raises:
        TrainingError: the compare worker failed, or a score is not finite.
    """
    comparison = supervisor.compare.compare_run(run_id)
    lanes = ", ".join(lane.name for lane in comparison.job.lanes)
    terminal.print_line(str(Text("demo.loading", lanes=lanes)))
    wait_for_comparison(comparison, lambda view: view.phase is Phase.READY, LOAD_SECONDS)
    held_out, said = supervisor.registry.run_dir(run_id) / "held-out.jsonl", dict[str, dict[str, str]]()
    if held_out.exists() and held_out.stat().st_size:
        found = wait_for_scores(comparison, held_out)
        terminal.print_line("\n" + terminal.render_score_table(found) + "\n")
        if not all(math.isfinite(score.margin.value) for score in found.scores):
            raise TrainingError("demo.infinite_score")
        said = {one.prompt: one.answers for one in found.written}
    for prompt in asked:
        answers = said.get(prompt) or wait_for_answers(comparison, prompt).answers
        terminal.print_line(terminal.render_columns(prompt, answers))


def check_training(view: RunState) -> None:
    """Check that every loss is finite and that DPO started at its reference.

    Raises:
        TrainingError: names the step.
    """
    for point in view.points:
        if not math.isfinite(point.loss):
            raise TrainingError("demo.infinite_loss", stage=point.stage.upper(), step=point.step, loss=point.loss)
    if not view.proof or not view.proof.holds:
        raise TrainingError("demo.failed_proof")


def wait_for_scores(comparison: CompareSession, pairs: Path) -> ScoresReady:
    """The scores of all lanes, also written to scores.json beside the pairs.

    Raises:
        TrainingError: scoring failed.
    """
    before = comparison.state.detail
    comparison.send(score_request(pairs))

    def over(view: RunState) -> bool:
        return view.phase is Phase.READY and view.detail != before

    view = wait_for_comparison(comparison, over, SCORE_SECONDS)
    if not view.scored:
        raise TrainingError(view.detail)
    return view.scored


def wait_for_answers(comparison: CompareSession, prompt: str) -> PromptAnswers:
    """Every lane's answer to a prompt.

    Raises:
        TrainingError: the lanes failed or refused the prompt, for example because it is too long for the model.
    """
    user = ChatMessage(role="user", content=prompt)
    request = GenerateRequest(id=new_ask_id(), messages=(user,), sampling=DEMO_SAMPLING)
    said = comparison.final_answers(request, SCORE_SECONDS)
    view = checked_state(comparison, said is not None or not comparison.state.phase.is_active, SCORE_SECONDS)
    said = said or PromptAnswers({}, {}, view.detail or Text("demo.closed"))
    if said.problem:
        raise TrainingError("demo.no_answer", prompt=terminal.shorten_text(prompt), problem=said.problem)
    return said


def wait_for_comparison(comparison: CompareSession, until: Callable[[RunState], bool], seconds: float) -> RunState:
    """Wait until the comparison's state satisfies `until`.

    Raises:
        TrainingError: the worker failed, or the time is up.
    """
    in_time = any(until(state) or not state.phase.is_active for state in comparison.states(seconds))
    return checked_state(comparison, in_time, seconds)


def checked_state(comparison: CompareSession, in_time: bool, seconds: float) -> RunState:
    view = comparison.state
    if view.phase is Phase.FAILED or not in_time:
        raise TrainingError(view.error) if view.error else TrainingError("demo.timed_out", seconds=seconds)
    return view
