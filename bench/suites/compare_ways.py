"""Three lanes by one way of answering; `gpu_child.py` runs it in a process of its own.

ours: all lanes loaded once, all rows in one batch. reload: each lane loaded anew, one prompt after another, as in a
notebook. batched: each lane loaded anew, its prompts in one batch. resident: all adapters loaded once, one switched on at a time,
its prompts in one batch. Told are CPU-seconds of loading and of answering, seconds on the clock (ours: without loading), and each
lane's token ids, prompt by prompt.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from bench.harness.measure import processor_seconds
from bench.suites.gpu_case import GpuCaseResult
from trainer_core.config.jobs import Lane
from trainer_core.config.recipe import Precision, Sampling
from trainer_core.data import Message
from trainer_core.data.render import render_chat
from trainer_core.inference.generate import GenerationRow, generate_rows
from trainer_core.inference.load import load_lanes, weight_options

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
PRECISION: Precision = "nf4" if torch.cuda.is_available() else "fp32"


def answer_by_way(
    who: str, base: str, adapters: list[str], asked: list[str], new: int, dice: bool = False
) -> GpuCaseResult:
    """By the way of that name. dice: drawn with noise (ours only), else the likeliest token."""
    if who == "ours":
        return answer_with_lane_set(base, adapters, asked, new, 0.8 if dice else 0)
    if who == "resident":
        return answer_with_adapters(base, adapters, asked, new)
    return answer_reloading(who, base, adapters, asked, new)


def answer_with_lane_set(
    base: str, adapters: list[str], asked: list[str], new: int, temperature: float
) -> GpuCaseResult:
    began = processor_seconds()
    lanes = load_lanes(
        base, PRECISION, [Lane(name=str(n), adapter=one or None) for n, one in enumerate(["", *adapters])]
    )
    loaded, clock = processor_seconds(), time.monotonic()
    rows = [
        GenerationRow(lane, render_prompt(lanes.tokenizer, prompt), prompt) for lane in lanes.names for prompt in asked
    ]
    generate_rows(lanes, rows, Sampling(temperature=temperature, max_new_tokens=new), lambda: True)
    said = {name: [row.tokens for row in rows if row.lane == name] for name in lanes.names}
    return report_answers(loaded - began, processor_seconds() - loaded, clock, said)


def render_prompt(tokenizer: Any, prompt: str) -> str:
    return render_chat(tokenizer, [Message("user", prompt)], asking=True)


def answer_with_adapters(base: str, adapters: list[str], asked: list[str], new: int) -> GpuCaseResult:
    """Plain transformers and PEFT, with one base and both adapters in memory."""
    began = processor_seconds()
    tokenizer: Any = AutoTokenizer.from_pretrained(base, padding_side="left")
    model: Any = AutoModelForCausalLM.from_pretrained(base, **weight_options(PRECISION))
    model = PeftModel.from_pretrained(model, adapters[0], adapter_name="1").eval()
    for number, adapter in enumerate(adapters[1:], 2):
        model.load_adapter(adapter, adapter_name=str(number))
    loaded, clock = processor_seconds(), time.monotonic()
    with model.disable_adapter():
        said = {"0": list(generate_token_ids(model, tokenizer, asked, new))}
    for number in range(1, 1 + len(adapters)):
        model.set_adapter(str(number))
        said[str(number)] = list(generate_token_ids(model, tokenizer, asked, new))
    return report_answers(loaded - began, processor_seconds() - loaded, clock, said)


def answer_reloading(who: str, base: str, adapters: list[str], asked: list[str], new: int) -> GpuCaseResult:
    """Plain transformers and PEFT, lane by lane."""
    said, loading, answering, clock = dict[str, list[list[int]]](), 0.0, 0.0, time.monotonic()
    for lane, adapter in enumerate(["", *adapters]):
        began = processor_seconds()
        tokenizer: Any = AutoTokenizer.from_pretrained(base, padding_side="left")
        model: Any = AutoModelForCausalLM.from_pretrained(base, **weight_options(PRECISION))
        model = PeftModel.from_pretrained(model, adapter).eval() if adapter else model.eval()
        loaded = processor_seconds()
        groups = [asked] if who == "batched" else [[prompt] for prompt in asked]
        said[str(lane)] = [ids for group in groups for ids in generate_token_ids(model, tokenizer, group, new)]
        loading, answering = loading + loaded - began, answering + processor_seconds() - loaded
    return report_answers(loading, answering, clock, said)


def report_answers(load: float, answer: float, began: float, said: dict[str, list[list[int]]]) -> GpuCaseResult:
    numbers = {"load": load, "answer": answer, "seconds": time.monotonic() - began}
    return GpuCaseResult(numbers=numbers, said=said)


def generate_token_ids(model: Any, tokenizer: Any, group: list[str], new: int) -> Iterator[list[int]]:
    """The new token ids of each prompt of a batch, without the end token and what follows it."""
    texts = [render_prompt(tokenizer, prompt) for prompt in group]
    batch = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False).to(DEVICE)
    with torch.no_grad():
        out = model.generate(**batch, max_new_tokens=new, do_sample=False)
    for row in out[:, batch["input_ids"].shape[1] :].tolist():
        yield row[: row.index(tokenizer.eos_token_id)] if tokenizer.eos_token_id in row else row
