"""Measures the trained lane and every exported form on the same prompts and pairs, one model in memory at a time."""

from __future__ import annotations

import gc
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from trainer_core.config.export_targets import EXPORT_TARGETS, merged_source
from trainer_core.config.jobs import Lane
from trainer_core.data import Message, Pair
from trainer_core.errors import ModelError
from trainer_core.evaluation.prompts import BUNDLED, load_prompts
from trainer_core.export import measure
from trainer_core.export.certificate import compare_answers, margin_kept, mean_divergence, top_divergence
from trainer_core.export.context import ExportContext, ExportStopped
from trainer_core.export.llama_child import Rendered
from trainer_core.export.llama_engine import LlamaEngine, engine_problem
from trainer_core.export.measure import RenderedPrompt, WeightsUnread
from trainer_core.inference.load import LaneSet, load_lanes
from trainer_core.inference.progress import ScoringCancelled, ScoringTracker
from trainer_core.inference.scoring import read_score_pairs
from trainer_core.runs.compare_events import ScoringProgress
from trainer_core.runs.export_events import CertificateRow
from trainer_core.texts import Text

PROMPTS = 16
MAX_PAIRS = 48
"""Held-out pairs that are measured: the interval of the share kept is a few percent wide, at a minute for a small model."""
MAX_PAIR_LETTERS = 6_000
"""Longer pairs take long on a processor and say no more."""


@dataclass(frozen=True)
class LaneReference:
    """The trained lane: what every form is held against. logprobs: of the next token, along every answer."""

    conversations: tuple[tuple[Message, ...], ...]
    prompts: tuple[RenderedPrompt, ...]
    special: measure.SpecialTokens
    answers: measure.ModelAnswers
    logprobs: tuple[torch.Tensor, ...]
    lane_preferences: tuple[float, ...]
    base_preferences: tuple[float, ...]


def certify_forms(context: ExportContext) -> tuple[list[CertificateRow], int]:
    """A row for every form that the user asked for or that another is made from, and the number of pairs.

    Raises:
        ModelError: a form reads prompts differently from training.
        ExportStopped: the user stopped the export.
    """
    pairs = held_out_pairs(context)
    context.begin(Text("export.measuring", form=context.job.lane.name))
    reference = measure_lane(context, pairs)
    rows = []
    for target in measured_targets(context.job.targets):
        rows.append(measure_form(context, target, reference, pairs))
    return rows, len(pairs)


def measured_targets(targets: Sequence[str]) -> tuple[str, ...]:
    """The forms of the certificate: all but the adapter, which is the lane itself."""
    return tuple(target for target in targets if target != "adapter")


def count_measurements(targets: Sequence[str]) -> int:
    """The lane, each form's weights, and each GGUF file in its engine."""
    return 1 + sum(2 if EXPORT_TARGETS[target].file_type else 1 for target in measured_targets(targets))


def held_out_pairs(context: ExportContext) -> list[Pair]:
    if not context.job.held_out or not Path(context.job.held_out).is_file():
        return []
    pairs = read_score_pairs(Path(context.job.held_out))
    short = [pair for pair in pairs if pair_letters(pair) <= MAX_PAIR_LETTERS]
    return short[:MAX_PAIRS]


def pair_letters(pair: Pair) -> int:
    return sum(len(message.content) for part in (pair.prompt, pair.chosen, pair.rejected) for message in part)


def measure_lane(context: ExportContext, pairs: Sequence[Pair]) -> LaneReference:
    job = context.job
    lane = job.lane.model_copy(update={"system": ""})
    lanes = load_lanes(str(context.base), job.precision, [lane])
    conversations = prompt_conversations(job.lane)
    prompts = measure.render_prompts(lanes.tokenizer, conversations)
    answers = measure.greedy_answers(lanes, prompts, lane.name)
    logprobs = tuple(
        measure.next_token_logprobs(lanes, prompt, answer, lane.name) if answer else torch.zeros(0, 1)
        for prompt, answer in zip(prompts, answers.tokens, strict=True)
    )
    judged = score_pairs(context, lanes, pairs, lane.name)
    special = measure.special_tokens(lanes)
    return LaneReference(conversations, prompts, special, answers, logprobs, *judged)


def prompt_conversations(lane: Lane) -> tuple[tuple[Message, ...], ...]:
    """The bundled prompts, with the lane's system prompt if it has one."""
    system = (Message("system", lane.system),) if lane.system else ()
    found = load_prompts(Path(), BUNDLED)[:PROMPTS]
    return tuple((*system, *(Message(one.role, one.content) for one in prompt.messages)) for prompt in found)


def score_pairs(
    context: ExportContext, lanes: LaneSet, pairs: Sequence[Pair], name: str
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Every pair's preference under the lane and under the base."""
    if not pairs:
        return (), ()

    def say(at: ScoringProgress) -> None:
        context.report(at.done, at.total)

    progress = ScoringTracker(say, threading.Event())
    try:
        judged = measure.pair_logprobs(lanes, pairs, progress, context.part)
    except ScoringCancelled as error:
        raise ExportStopped from error
    return tuple(measure.preferences(judged[name])), tuple(measure.base_preferences(judged))


def measure_form(
    context: ExportContext, target: str, reference: LaneReference, pairs: Sequence[Pair]
) -> CertificateRow:
    path, kind = context.part_path(target), EXPORT_TARGETS[target]
    size = path.stat().st_size if path.is_file() else sum(one.stat().st_size for one in path.glob("*.safetensors"))
    row = CertificateRow(form=target, bytes=size, bits=kind.bits or 16.0)
    if kind.file_type:
        context.begin(Text("export.trying", form=target))
        row = with_engine(context, row, path, reference)
    context.begin(Text("export.measuring", form=target))
    gc.collect()  # the model before this one
    try:
        return with_weights(context, row, open_form(context, target), reference, pairs)
    except WeightsUnread as error:
        return replace(row, problem=error.text)


def open_form(context: ExportContext, target: str) -> LaneSet:
    """The form's weights as one lane named after it, in plain transformers."""
    path = context.part_path(target)
    if EXPORT_TARGETS[target].file_type:
        tokenizer = measure.load_tokenizer(context.part_path(merged_source(target)))
        return measure.load_gguf(path, tokenizer, target)
    return load_lanes(
        str(path), "fp32" if context.job.precision == "auto" else context.job.precision, [Lane(name=target)]
    )


def with_weights(
    context: ExportContext, row: CertificateRow, lanes: LaneSet, reference: LaneReference, pairs: Sequence[Pair]
) -> CertificateRow:
    """The row with what the form's weights do in transformers."""
    name = row.form
    prompts = measure.render_prompts(lanes.tokenizer, reference.conversations)
    answers = measure.greedy_answers(lanes, reference.prompts, name)
    along = zip(reference.prompts, reference.answers.tokens, strict=True)
    found = [measure.next_token_logprobs(lanes, prompt, answer, name) for prompt, answer in along if answer]
    expected = [likely for likely, answer in zip(reference.logprobs, reference.answers.tokens, strict=True) if answer]
    scored, _ = score_pairs(context, lanes, pairs, name)
    accuracy, kept = margin_kept(reference.lane_preferences, scored, reference.base_preferences)
    row = replace(
        row,
        answers=compare_answers(reference.answers.tokens, answers.tokens, reference.logprobs),
        divergence=mean_divergence(expected, found),
        accuracy=accuracy,
        kept=kept,
    )
    if EXPORT_TARGETS[row.form].file_type:
        return row  # the engine has a template and a tokenizer of its own, in the file
    return with_words(row, prompts, reference.prompts, measure.special_tokens(lanes) == reference.special)


def with_words(
    row: CertificateRow, found: Sequence[RenderedPrompt], expected: Sequence[RenderedPrompt], special_equal: bool
) -> CertificateRow:
    """The row with what the form makes of the prompts.

    Raises:
        ModelError: it reads them differently from training: then nothing is exported.
    """
    row = replace(
        row,
        template_equal=[one.text for one in found] == [one.text for one in expected],
        tokens_equal=[one.tokens for one in found] == [one.tokens for one in expected],
        special_equal=special_equal,
    )
    for code, same in (
        ("export.other_template", row.template_equal),
        ("export.other_tokens", row.tokens_equal),
        ("export.other_special", row.special_equal),
    ):
        if not same:
            raise ModelError(code, form=row.form)
    return row


def with_engine(context: ExportContext, row: CertificateRow, path: Path, reference: LaneReference) -> CertificateRow:
    """The row with what the file does in llama.cpp."""
    if problem := engine_problem():
        return replace(row, problem=problem)
    tokenizer: Any = measure.load_tokenizer(context.part_path(merged_source(row.form)))
    with LlamaEngine(path, context_tokens(reference)) as engine:
        begin = engine.opened.begin
        rendered = [without_begin(engine.render(one), begin) for one in reference.conversations]
        expected = [without_begin(prompt, begin) for prompt in reference.prompts]
        ends = {tokenizer.convert_ids_to_tokens(token) for token in reference.special.ends}
        row = with_words(row, rendered, expected, engine.opened.end in ends)
        answers, far = [], list[float]()
        for number, (prompt, own) in enumerate(zip(reference.prompts, reference.answers.tokens, strict=True)):
            context.report(number, len(reference.prompts))
            answers.append(without_ends(engine.write(prompt.tokens, measure.ANSWER_TOKENS), reference.special.ends))
            if own:
                far += top_divergence(reference.logprobs[number], engine.follow(prompt.tokens, own))
    return replace(
        row,
        engine_answers=compare_answers(reference.answers.tokens, answers, reference.logprobs),
        engine_divergence=sum(far) / len(far) if far else None,
    )


def without_begin(prompt: RenderedPrompt | Rendered, begin: str) -> RenderedPrompt:
    """The prompt with its text after the begin token. llama.cpp leaves that to its tokenizer; the tokens show whether it came."""
    return RenderedPrompt(prompt.text.removeprefix(begin), tuple(prompt.tokens))


def context_tokens(reference: LaneReference) -> int:
    """Room for the longest prompt with its answer."""
    return max(len(prompt.tokens) for prompt in reference.prompts) + measure.ANSWER_TOKENS + 1


def without_ends(tokens: Sequence[int], ends: frozenset[int]) -> tuple[int, ...]:
    end = next((at for at, token in enumerate(tokens) if token in ends), len(tokens))
    return tuple(tokens[:end])
