"""What a form of a model does: prompts as tokens, greedy answers, next-token probabilities, preferences on held-out pairs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from gguf import GGUFReader
from transformers import AutoModelForCausalLM, AutoTokenizer

from trainer_core.config.jobs import Lane
from trainer_core.config.recipe import Sampling
from trainer_core.data import Message
from trainer_core.data.render import render_chat
from trainer_core.errors import ModelError
from trainer_core.export.llama_child import RenderedPrompt
from trainer_core.inference.answer_likelihoods import QuestionLogprobs
from trainer_core.inference.generate import GenerationRow, encode_text, generate_rows
from trainer_core.inference.load import LaneSet
from trainer_core.inference.mixed_lora import AdapterWeights
from trainer_core.models.gguf_llama import read_llama
from trainer_core.system.format import format_gb

ANSWER_TOKENS = 32
"""Greedy tokens of each answer: enough to differ, few enough for a processor."""
FLOAT_BYTES, MEMORY_FACTOR = 4, 1.2
"""Bytes of a weight as it is measured, and what activations and caches take beside all of them."""


@dataclass(frozen=True)
class SpecialTokens:
    """The ids that begin and end texts; None: there is none."""

    begin: int | None
    ends: frozenset[int]


def render_prompts(lanes: LaneSet, prompts: Sequence[Sequence[Message]]) -> tuple[RenderedPrompt, ...]:
    texts = [render_chat(lanes.tokenizer, prompt, asking=True) for prompt in prompts]
    return tuple(RenderedPrompt(text, tuple(encode_text(lanes, text))) for text in texts)


def greedy_answers(
    lanes: LaneSet, prompts: Sequence[RenderedPrompt], name: str, after_pass: Callable[[], bool]
) -> tuple[tuple[int, ...], ...]:
    """Token ids of the lane's greedy answers, without the end token. after_pass: returns False to stop."""
    rows = [GenerationRow(name, prompt.text, "") for prompt in prompts]
    generate_rows(lanes, rows, Sampling(temperature=0, max_new_tokens=ANSWER_TOKENS), after_pass)
    return tuple(tuple(row.tokens) for row in rows)


def next_token_logprobs(lanes: LaneSet, prompt: RenderedPrompt, answer: Sequence[int], name: str) -> torch.Tensor:
    """Log-probabilities of what follows the prompt and every token of the answer but the last: answer × vocabulary, 32 bits."""
    ids = torch.tensor([[*prompt.tokens, *answer[:-1]]], device=lanes.device)
    logits = lanes.forward([lanes.mixtures[name]], input_ids=ids, logits_to_keep=len(answer)).logits[0]
    return logits.float().log_softmax(-1).cpu()


def pair_preferences(judged: QuestionLogprobs) -> tuple[float, ...]:
    """log π(chosen) − log π(rejected) of each pair, summed over the tokens, in nats."""
    return tuple(chosen.total - rejected.total for chosen, rejected in judged)


class WeightsUnread(ModelError):
    """The weights of a form cannot be measured here: transformers cannot read this kind of GGUF, or memory is short."""


def require_memory(weights: int) -> None:
    """Weights are measured in 32 bits, so that 16-bit formats can be told apart.

    Raises:
        WeightsUnread: with the memory needed and available.
    """
    needed, free = weights * FLOAT_BYTES * MEMORY_FACTOR, psutil.virtual_memory().available
    if needed > free:
        raise WeightsUnread("export.no_memory", needed=format_gb(needed), free=format_gb(free))


def load_gguf(file: Path, tokenizer: Any, name: str) -> LaneSet:
    """The model of a GGUF file with its weights dequantised to 32 bits, as one lane.

    Raises:
        WeightsUnread: transformers cannot read this kind of GGUF, or memory is short.
    """
    reader = GGUFReader(file)
    require_memory(sum(int(tensor.n_elements) for tensor in reader.tensors))
    try:
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
