"""Is it faster to compare lanes in one batch on one base than to load and ask one after the other?"""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bench import parts
from bench.result import Device, Row, Sample, figure
from trainer_core import models
from trainer_core.config import Lane, Sampling
from trainer_core.demo import prompts

QUESTION = (
    "Three lanes × eight prompts on the starter model, greedy: tokens per second in one batch of all lanes, against loading "
    "base and adapter and asking one lane after another, prompt by prompt, as two-pane tools do (transformers and PEFT)."
)
DEVICES = ("cpu", "cuda")
FASTER = 3.5
FIRST_SECONDS = 1.0


def run(device: Device, tiny: bool) -> Iterator[Row]:
    import torch
    from transformers import AutoModelForCausalLM

    asked, tokens = prompts()[: 2 if tiny else 8], 8 if tiny else 48
    with parts.workspace() as workspace:
        base = models.resolve("starter", workspace)
        plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        folders = parts.adapters(plain, workspace.root, 2)
        del plain
        gc.collect()
        lanes = [Lane(name="Base"), *(Lane(name=f"L{n}", adapter=str(one)) for n, one in enumerate(folders))]
        mine: dict[str, list[float]] = {"loaded": [], "batch": [], "by prompt": [], "first": []}
        others: list[float] = []
        for _ in range(1 if tiny else 3):
            others.append(one_after_another(base, [None, *folders], asked, tokens))
            for name, value in together(base, lanes, asked, tokens).items():
                mine[name].append(value)
    for name, what in {
        "loaded": "loading once, all prompts in one batch",
        "batch": "lanes resident, all prompts in one batch",
        "by prompt": "lanes resident, prompt by prompt",
    }.items():
        yield compared(what, mine[name], others)
    yield figure("First token, lanes resident", "≤ 1 s", "s", mine["first"], lambda value: value <= FIRST_SECONDS)


def compared(what: str, mine: Sequence[float], others: Sequence[float]) -> Row:
    ours, peer = Sample.of(mine), Sample.of(others)
    value = ours.median / peer.median
    return Row(what, f"≥ {FASTER} ×", "tokens/s", ours, peer, "one lane after another", value, value >= FASTER)


def one_after_another(base: str, adapters: Sequence[Path | None], asked: Sequence[str], tokens: int) -> float:
    """Tokens per second, loading included."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    began, said = time.perf_counter(), 0
    for adapter in adapters:
        tokenizer = AutoTokenizer.from_pretrained(base)
        model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        model = PeftModel.from_pretrained(model, str(adapter)) if adapter else model
        for prompt in asked:
            text = tokenizer.apply_chat_template(
                [{"role": "user", "content": prompt}], add_generation_prompt=True, tokenize=False
            )
            given = tokenizer(text, return_tensors="pt", add_special_tokens=False)
            out = model.generate(**given, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False)
            said += out.shape[1] - given["input_ids"].shape[1]
        del model
        gc.collect()
    return said / (time.perf_counter() - began)


def together(base: str, lanes: Sequence[Lane], asked: Sequence[str], tokens: int) -> dict[str, float]:
    """Tokens per second of ours in three ways, and seconds to the first token. No row ends before its time."""
    from trainer_core.lanes.load import load

    began = time.perf_counter()
    loaded = load(base, "fp32", tuple(lanes))
    loaded.__dict__["ends"] = frozenset()  # where its cached value lies
    first = grown(loaded, asked, tokens)
    with_loading = first / (time.perf_counter() - began)
    began = time.perf_counter()
    batch = grown(loaded, asked, tokens) / (time.perf_counter() - began)
    began, said = time.perf_counter(), 0
    for prompt in asked:
        said += grown(loaded, [prompt], tokens)
    by_prompt = said / (time.perf_counter() - began)
    began = time.perf_counter()
    grown(loaded, asked[:1], 1)
    return {"loaded": with_loading, "batch": batch, "by prompt": by_prompt, "first": time.perf_counter() - began}


def grown(loaded: Any, asked: Sequence[str], tokens: int) -> int:
    """Answer in all lanes; the number of tokens said."""
    from trainer_core import tokens as texts
    from trainer_core.data import Message
    from trainer_core.lanes.batch import Row as Answer
    from trainer_core.lanes.batch import generate

    rows = [
        Answer(lane, texts.render(loaded.tokenizer, [Message("user", prompt)], asking=True), prompt)
        for prompt in asked
        for lane in loaded.names
    ]
    generate(loaded, rows, Sampling(temperature=0.0, max_new_tokens=tokens), lambda: True)
    return sum(len(row.tokens) for row in rows)
