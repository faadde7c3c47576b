"""Measures the trained lane and every exported form on the same prompts and pairs, one model in memory at a time."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from trainer_core.config.export_targets import EXPORT_TARGETS, measured_targets, merged_source
from trainer_core.config.jobs import Lane
from trainer_core.data import Message, Pair
from trainer_core.errors import ModelError
from trainer_core.evaluation.prompts import BUNDLED, load_prompts
from trainer_core.export import measure
from trainer_core.export.certificate import compare_answers, margin_kept, mean_divergence, top_divergence
from trainer_core.export.context import ExportContext
from trainer_core.export.llama_child import RenderedPrompt
from trainer_core.export.llama_engine import LlamaEngine, engine_problem
from trainer_core.export.merge import weight_files
from trainer_core.export.tensor_file import count_weights
from trainer_core.inference.answer_likelihoods import BASE, Question, answer_logprobs
from trainer_core.inference.load import LaneSet, load_lanes
from trainer_core.inference.scoring import read_score_pairs
from trainer_core.runs.compare_events import ScoringProgress
from trainer_core.runs.export_events import CertificateRow
from trainer_core.runs.progress import ProgressTracker
from trainer_core.texts import Text

PROMPTS = 16
MAX_PAIRS = 48
"""Held-out pairs that are measured: the interval of the share kept is a few percent wide, at a minute for a small model."""
MAX_PAIR_LETTERS = 6_000
"""Longer pairs take long on a processor and say no more."""


@dataclass(frozen=True)
class LaneReference:
    """The trained lane: what every form is held against.

    answers: token ids. logprobs: of the next token, along every answer. Preferences: of the held-out pairs.
    """

    conversations: tuple[tuple[Message, ...], ...]
    prompts: tuple[RenderedPrompt, ...]
    special: measure.SpecialTokens
    answers: tuple[tuple[int, ...], ...]
    logprobs: tuple[torch.Tensor, ...]
    lane_preferences: tuple[float, ...]
    base_preferences: tuple[float, ...]


def certify_forms(context: ExportContext, reference: LaneReference, pairs: Sequence[Pair]) -> list[CertificateRow]:
    """A row for every form that the user asked for.

    Raises:
        ModelError: a form reads prompts differently from training.
        Cancelled: the user stopped the export.
    """
    return [measure_form(context, target, reference, pairs) for target in measured_targets(context.job.targets)]


def count_measurements(targets: Sequence[str]) -> int:
    """The lane, each form's weights, and each GGUF file in its engine."""
    forms = measured_targets(targets)
    return bool(forms) + sum(2 if EXPORT_TARGETS[target].is_gguf else 1 for target in forms)


def held_out_pairs(context: ExportContext) -> list[Pair]:
    if not context.job.held_out or not Path(context.job.held_out).is_file():
        return []
    pairs = read_score_pairs(Path(context.job.held_out))
    short = [pair for pair in pairs if pair_letters(pair) <= MAX_PAIR_LETTERS]
    return short[:MAX_PAIRS]


def pair_letters(pair: Pair) -> int:
    return sum(len(message.content) for part in (pair.prompt, pair.chosen, pair.rejected) for message in part)


def measure_lane(context: ExportContext, pairs: Sequence[Pair]) -> LaneReference:
    """The lane as Compare loads it: the base in the run's precision, with its adapters."""
    context.tracker.begin(Text("export.measuring", form=context.job.lane.name))
    lane = context.job.lane.model_copy(update={"system": ""})
    lanes = load_lanes(str(context.base), context.job.precision, [lane])
    conversations = prompt_conversations(context.job.lane)
    prompts = measure.render_prompts(lanes, conversations)
    answers = greedy_answers(context, lanes, prompts, lane.name)
    logprobs = tuple(
        measure.next_token_logprobs(lanes, prompt, answer, lane.name) if answer else torch.zeros(0, 1)
        for prompt, answer in zip(prompts, answers, strict=True)
    )
    judged = score_pairs(context, lanes, pairs, lane.name)
    return LaneReference(conversations, prompts, measure.special_tokens(lanes), answers, logprobs, *judged)


def greedy_answers(
    context: ExportContext, lanes: LaneSet, prompts: Sequence[RenderedPrompt], name: str
) -> tuple[tuple[int, ...], ...]:
    cancelled = context.tracker.cancelled
    found = measure.greedy_answers(lanes, prompts, name, lambda: not cancelled.is_set())
    context.tracker.add(0)  # raises if it was stopped in between
    return found


def prompt_conversations(lane: Lane) -> tuple[tuple[Message, ...], ...]:
    """The bundled prompts, with the lane's system prompt if it has one."""
    system = (Message("system", lane.system),) if lane.system else ()
    found = load_prompts(Path(), BUNDLED)[:PROMPTS]
    return tuple((*system, *(Message(one.role, one.content) for one in prompt.messages)) for prompt in found)


def score_pairs(
    context: ExportContext, lanes: LaneSet, pairs: Sequence[Pair], name: str
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Every pair's preference under the lane and under the base alone."""
    if not pairs:
        return (), ()

    def say(at: ScoringProgress) -> None:
        context.tracker.report(at.done, at.total)

    questions = [Question(pair.prompt, (pair.chosen, pair.rejected)) for pair in pairs]
    scoring = ProgressTracker(ScoringProgress, say, context.tracker.cancelled)
    judged = answer_logprobs(lanes, questions, context.tracker.part, scoring)
    return measure.pair_preferences(judged[name]), measure.pair_preferences(judged[BASE])


def measure_form(
    context: ExportContext, target: str, reference: LaneReference, pairs: Sequence[Pair]
) -> CertificateRow:
    path, kind = context.part_path(target), EXPORT_TARGETS[target]
    size = path.stat().st_size if path.is_file() else sum(one.stat().st_size for one in path.glob("*.safetensors"))
    row = CertificateRow(form=target, bytes=size, bits=kind.bits or 16.0)
    if kind.is_gguf:
        context.tracker.begin(Text("export.trying", form=target))
        row = with_engine(context, row, path, reference)
    context.tracker.begin(Text("export.measuring", form=target))
    gc.collect()  # the model before this one
    try:
        return with_weights(context, row, open_form(context, target), reference, pairs)
    except measure.WeightsUnread as error:
        return replace(row, problem=error.text)


def open_form(context: ExportContext, target: str) -> LaneSet:
    """The form's weights in 32 bits, as one lane named after it, in plain transformers.

    Raises:
        WeightsUnread: they cannot be measured here.
    """
    path = context.part_path(target)
    if EXPORT_TARGETS[target].is_gguf:
        tokenizer = measure.load_tokenizer(context.part_path(merged_source(target)))
        return measure.load_gguf(path, tokenizer, target)
    measure.require_memory(sum(map(count_weights, weight_files(path))))
    return load_lanes(str(path), "fp32", [Lane(name=target)])


def with_weights(
    context: ExportContext, row: CertificateRow, lanes: LaneSet, reference: LaneReference, pairs: Sequence[Pair]
) -> CertificateRow:
    """The row with what the form's weights do in transformers."""
    name, own = row.form, reference.answers
    answers = greedy_answers(context, lanes, reference.prompts, name)
    scored, _ = score_pairs(context, lanes, pairs, name)
    accuracy, kept = margin_kept(reference.lane_preferences, scored, reference.base_preferences)
    row = replace(
        row,
        answers=compare_answers(own, answers, reference.logprobs),
        divergence=mean_lane_divergence(lanes, name, reference),
        accuracy=accuracy,
        kept=kept,
    )
    if EXPORT_TARGETS[row.form].is_gguf:
        return row  # the engine has a template and a tokenizer of its own, in the file
    prompts = measure.render_prompts(lanes, reference.conversations)
    return with_words(row, prompts, reference.prompts, measure.special_tokens(lanes) == reference.special)


def mean_lane_divergence(lanes: LaneSet, name: str, reference: LaneReference) -> float | None:
    """Mean KL(trained lane ‖ this one) per token along the trained lane's answers, in nats."""
    along = zip(reference.prompts, reference.answers, strict=True)
    found = [measure.next_token_logprobs(lanes, prompt, answer, name) for prompt, answer in along if answer]
    expected = [likely for likely, answer in zip(reference.logprobs, reference.answers, strict=True) if answer]
    return mean_divergence(expected, found) if found else None


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
    tokenizer = measure.load_tokenizer(context.part_path(merged_source(row.form)))
    with LlamaEngine(path, context_tokens(reference)) as engine:
        begin = engine.opened.begin
        rendered = [without_begin(engine.render(one), begin) for one in reference.conversations]
        expected = [without_begin(prompt, begin) for prompt in reference.prompts]
        ends = {tokenizer.convert_ids_to_tokens(token) for token in reference.special.ends}
        row = with_words(row, rendered, expected, engine.opened.end in ends)
        answers, far = [], list[float]()
        for number, (prompt, own) in enumerate(zip(reference.prompts, reference.answers, strict=True)):
            context.tracker.report(number, len(reference.prompts))
            answers.append(without_ends(engine.write(prompt.tokens, measure.ANSWER_TOKENS), reference.special.ends))
            if own:
                far += top_divergence(reference.logprobs[number], engine.follow(prompt.tokens, own))
    return replace(
        row,
        engine_answers=compare_answers(reference.answers, answers, reference.logprobs),
        engine_divergence=sum(far) / len(far) if far else None,
    )


def without_begin(prompt: RenderedPrompt, begin: str) -> RenderedPrompt:
    """The prompt with its text after the begin token. llama.cpp leaves that to its tokenizer; the tokens show whether it came."""
    return RenderedPrompt(prompt.text.removeprefix(begin), prompt.tokens)


def context_tokens(reference: LaneReference) -> int:
    """Room for the longest prompt with its answer."""
    return max(len(prompt.tokens) for prompt in reference.prompts) + measure.ANSWER_TOKENS + 1


def without_ends(tokens: Sequence[int], ends: frozenset[int]) -> tuple[int, ...]:
    end = next((at for at, token in enumerate(tokens) if token in ends), len(tokens))
    return tuple(tokens[:end])
