"""What a form of a model does: prompts as tokens, greedy answers, next-token probabilities, preferences on held-out pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from gguf import GGUFReader
from transformers import AutoModelForCausalLM, AutoTokenizer

from trainer_core.config.jobs import Lane
from trainer_core.config.recipe import Sampling
from trainer_core.data import Message, Pair
from trainer_core.data.render import render_chat
from trainer_core.errors import ModelError
from trainer_core.inference.answer_likelihoods import BASE, Question, QuestionLogprobs, answer_logprobs
from trainer_core.inference.generate import GenerationRow, encode_text, generate_rows
from trainer_core.inference.load import LaneSet
from trainer_core.inference.mixed_lora import AdapterWeights
from trainer_core.inference.progress import ScoringTracker
from trainer_core.models.gguf_llama import read_llama
from trainer_core.texts import Text

ANSWER_TOKENS = 32
"""Greedy tokens of each answer: enough to differ, few enough for a processor."""


@dataclass(frozen=True)
class RenderedPrompt:
    """A prompt in the chat template, and its tokens."""

    text: str
    tokens: tuple[int, ...]


@dataclass(frozen=True)
class SpecialTokens:
    """The ids that begin and end texts; None: there is none."""

    begin: int | None
    ends: frozenset[int]


@dataclass(frozen=True)
class ModelAnswers:
    """What a form of the model answers greedily: token ids, without the end token. ended: with one."""

    tokens: tuple[tuple[int, ...], ...]
    ended: tuple[bool, ...]


def render_prompts(tokenizer: Any, prompts: Sequence[Sequence[Message]]) -> tuple[RenderedPrompt, ...]:
    texts = [render_chat(tokenizer, prompt, asking=True) for prompt in prompts]
    return tuple(RenderedPrompt(text, tuple(tokenizer(text, add_special_tokens=False)["input_ids"])) for text in texts)


def greedy_answers(lanes: LaneSet, prompts: Sequence[RenderedPrompt], name: str) -> ModelAnswers:
    rows = [GenerationRow(name, prompt.text, "") for prompt in prompts]
    assert all(
        tuple(encode_text(lanes, row.prompt)) == prompt.tokens for row, prompt in zip(rows, prompts, strict=True)
    )
    generate_rows(lanes, rows, Sampling(temperature=0, max_new_tokens=ANSWER_TOKENS), lambda: True)
    return ModelAnswers(tuple(tuple(row.tokens) for row in rows), tuple(row.ended for row in rows))


def next_token_logprobs(lanes: LaneSet, prompt: RenderedPrompt, answer: Sequence[int], name: str) -> torch.Tensor:
    """Log-probabilities of what follows the prompt and every token of the answer but the last: answer × vocabulary, 32 bits."""
    ids = torch.tensor([[*prompt.tokens, *answer[:-1]]], device=lanes.device)
    logits = lanes.forward([lanes.mixtures[name]], input_ids=ids, logits_to_keep=len(answer)).logits[0]
    return logits.float().log_softmax(-1).cpu()


def pair_logprobs(
    lanes: LaneSet, pairs: Sequence[Pair], progress: ScoringTracker, part: Text
) -> dict[str, QuestionLogprobs]:
    """Every pair's chosen and rejected answer under every lane; under BASE those of the base alone."""
    questions = [Question(pair.prompt, (pair.chosen, pair.rejected)) for pair in pairs]
    return answer_logprobs(lanes, questions, part, progress)


def preferences(judged: QuestionLogprobs) -> list[float]:
    """log π(chosen) − log π(rejected) of each pair, summed over the tokens, in nats."""
    return [chosen.total - rejected.total for chosen, rejected in judged]


def base_preferences(judged: dict[str, QuestionLogprobs]) -> list[float]:
    return preferences(judged[BASE])


class WeightsUnread(ModelError):
    """transformers cannot read this kind of GGUF."""


def load_gguf(file: Path, tokenizer: Any, name: str) -> LaneSet:
    """The model of a GGUF file with its weights dequantised to 32 bits, as one lane.

    Raises:
        WeightsUnread: transformers cannot read this kind of GGUF.
    """
    try:
        reader = GGUFReader(file)
        if reader.fields["general.architecture"].contents() == "llama":
            model: Any = read_llama(reader, torch.float32)
        else:
            model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    except (ValueError, NotImplementedError, KeyError, ImportError) as error:
        raise WeightsUnread("export.gguf_unread", reason=str(error)[:300]) from error
    return LaneSet(model.eval(), tokenizer, (Lane(name=name),), (), frozenset(), AdapterWeights())


def load_tokenizer(folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)


def special_tokens(lanes: LaneSet) -> SpecialTokens:
    return SpecialTokens(lanes.tokenizer.bos_token_id, lanes.end_token_ids)


def as_lane(lanes: LaneSet, name: str) -> LaneSet:
    """The same model, its base alone under this name."""
    return replace(lanes, lanes=(Lane(name=name),))
