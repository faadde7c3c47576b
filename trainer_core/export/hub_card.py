"""The card of an export on the Hub: what it is, what it was trained on, what was measured, and what was not."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from trainer_core.config.jobs import ExportJob, TrainJob
from trainer_core.errors import UserError
from trainer_core.evaluation.score_table import KEPT_FORMAT, format_measure, format_score_rows
from trainer_core.export.context import ExportContext
from trainer_core.export.model_card import base_license
from trainer_core.runs import run_folder
from trainer_core.runs.compare_events import ConfidenceInterval, LaneScore
from trainer_core.runs.export_events import ExportFinished
from trainer_core.runs.run_state import RunState, read_run_state
from trainer_core.texts import Text

HIDDEN_SETTINGS = {"model", "data", "name"}
"""Settings that may name a folder of this computer, or the user."""
MEASURED = {
    "accuracy": "held-out accuracy",
    "reward_accuracy": "held-out reward accuracy",
    "general": "general questions",
}


def render_card(context: ExportContext, finished: ExportFinished | None, run_dir: Path) -> str:
    """The card as Markdown with its head.

    Args:
        run_dir: of the lane's run; what cannot be read of it is left out, and said.
    """
    job, state = context.job, read_run_state(run_dir)
    scores = state.scored.scores if state.scored else ()
    score = next((one for one in scores if one.lane == job.lane.name), None)
    base = context.base_name or str(Text("export.local_base"))
    parts = [
        f"---\n{card_data(context, score).to_yaml()}\n---",
        f"# {job.name}",
        str(Text("hub_card.intro", base=base, lane=job.lane.name)),
        *data_part(state),
        *settings_part(run_dir),
        *proof_part(state),
        *score_part(scores),
        *form_part(finished),
        section("hub_card.untested", "\n".join(f"- {line}" for line in untested_lines(state, score, finished))),
    ]
    return "\n\n".join(parts) + "\n"


def card_data(context: ExportContext, score: LaneScore | None) -> ModelCardData:
    """The head of the card. Its licence is the base's."""
    job = context.job
    relation = hub_relation(job)
    return ModelCardData(
        license=base_license(context.base) or None,
        library_name={"adapter": "peft", "merge": "transformers"}.get(relation, "gguf"),
        pipeline_tag="text-generation",
        tags=["tunebench", *dict.fromkeys(target.partition(":")[0] for target in job.targets if target != "hub")],
        model_name=job.name,
        eval_results=list(eval_results(score)) or None,
        base_model=context.base_name or None,
        base_model_relation=relation if context.base_name else None,
    )


def hub_relation(job: ExportJob) -> str:
    """As the Hub names how a model comes from its base."""
    if "merged" in job.targets:
        return "merge"
    return "adapter" if "adapter" in job.targets else "quantized"


def eval_results(score: LaneScore | None) -> Iterator[EvalResult]:
    """The lane's shares with their intervals."""
    for field, title in MEASURED.items():
        found: ConfidenceInterval | None = getattr(score, field, None)
        if found is not None:
            yield EvalResult(
                task_type="text-generation",
                dataset_type=title.replace(" ", "-"),  # results with one type would be one
                dataset_name=title,
                metric_type="accuracy",
                metric_value=round(found.value, 4),
                metric_args={"interval": [round(end, 4) for end in found.ends], "n": found.count},
            )


def section(title: str, body: str) -> str:
    return f"## {Text(title)}\n\n{body}"


def data_part(state: RunState) -> Iterator[str]:
    if data := state.prepared:
        counts = {"chats": data.chats, "pairs": data.pairs, "held_out": data.held_out}
        yield section("hub_card.data", str(Text("hub_card.rows", **counts, sha256=data.sha256)))


def settings_part(run_dir: Path) -> Iterator[str]:
    """The settings that differ from the defaults, and the versions."""
    try:
        run = run_folder.read_run(run_dir)
    except UserError:
        return
    if isinstance(run.job, TrainJob):
        told: dict[str, Any] = run.job.recipe.model_dump(mode="json", exclude_defaults=True, exclude=HIDDEN_SETTINGS)
        yield section("hub_card.settings", f"```json\n{json.dumps(told, indent=1)}\n```")
    if run.versions:
        yield ", ".join(f"{name} {version}" for name, version in run.versions.items())


def proof_part(state: RunState) -> Iterator[str]:
    if proof := state.proof:
        code = "hub_card.proof_holds" if proof.holds else "hub_card.proof_fails"
        yield section("hub_card.proof", str(Text(code, stage=proof.stage.upper(), loss=proof.loss)))


def score_part(scores: Sequence[LaneScore]) -> Iterator[str]:
    if scores:
        head = ["", *(score.lane for score in scores)]
        yield section("hub_card.scores", render_table([head, *format_score_rows(scores)]))


def form_part(finished: ExportFinished | None) -> Iterator[str]:
    """What each form keeps, from the certificate."""
    if finished and finished.forms:
        head = [str(Text(f"certificate_columns.{name}")) for name in ("form", "divergence", "kept", "verdict")]
        rows = [
            [
                row.form,
                "–" if row.served_divergence is None else f"{row.served_divergence:.2g}",
                format_measure(row.kept, KEPT_FORMAT) or "–",
                str(Text(f"verdicts.{row.verdict}")),
            ]
            for row in finished.forms
        ]
        yield section("hub_card.forms", render_table([head, *rows]))


def render_table(rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in rows]
    return "\n".join([lines[0], "|---" * len(rows[0]) + "|", *lines[1:]])


def untested_lines(state: RunState, score: LaneScore | None, finished: ExportFinished | None) -> Iterator[Text]:
    """What nobody measured, from what is absent."""
    if score is None:
        yield Text("hub_card.no_scores")
    if score is None or score.forgetting is None:
        yield Text("hub_card.no_forgetting")
    if not finished or not finished.pairs:
        yield Text("hub_card.no_pairs")
    yield Text("hub_card.no_safety")
