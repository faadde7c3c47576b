"""One training on the device, in a process of its own: `python -m bench.cuda_child CASE.json` prints its Result last.

ours: the worker as the app starts it. bare: a bare Unsloth script. plain: TRL, PEFT and bitsandbytes; unsloth is never imported.
logits: DPO with the full logits of policy and reference in 32 bit, as trainers before TRL 1.13 did it.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from trainer_core import hardware
from trainer_core.config import Data, Lora, Memory, Method, Precision, Recipe, Sft
from trainer_core.config import Dpo as DpoSettings

STRETCHES = 5
"""The measured steps are cut into so many, each a repetition of its own."""
GIB = 2**30
HELD_BY_OTHERS = list[int]()
"""Bytes of the card that were in use before this process touched it."""
Way = Literal["ours", "bare", "plain", "logits"]
Attention = Literal["auto", "rows", "xformers", "flex"]
Padding = Literal["auto", "free", "padded"]
SWITCHES: dict[str, dict[str, str]] = {
    "rows": {"UNSLOTH_TORCH_VARLEN": "0"},
    "xformers": {"UNSLOTH_SDPA_PACKED_SEGMENTS": "0"},
    "free": {"UNSLOTH_PADDING_CHOICE": "padding_free"},
    "padded": {"UNSLOTH_DISABLE_AUTO_PADDING_FREE": "1"},
    "dpo": {"UNSLOTH_LOGPROB_CHUNK_GB": "0.5"},
}
"""What Unsloth reads from the environment when it is imported. Left alone, it takes torch's own kernel for packed rows; `rows`:
one call of torch's attention for each row of a pack. `dpo`: its head otherwise takes more the more of the card is free, so that
a peak would tell of the card and not of the need."""


class Case(BaseModel):
    """What to train, and how. `batch` rows (DPO: pairs) in memory at once; `pairs` only where SFT comes before DPO; `warm` of the
    steps are not measured; `torch`: the version of another Python, empty for this one."""

    model_config = ConfigDict(frozen=True, protected_namespaces=())
    way: Way
    stage: Literal["sft", "dpo", "sft+dpo"] = "sft"
    model: str
    data: str
    pairs: str | None = None
    precision: Precision = "nf4"
    batch: int = 4
    length: int = 2048
    warm: int = 10
    steps: int = 20
    packing: bool = False
    skip_layers: Literal["auto", "off"] = "off"
    attention: Attention = "auto"
    padding: Padding = "auto"
    torch: str = ""


class Result(BaseModel):
    """Real (non-padding) tokens a second, and rows or pairs a second, of each stretch after the warm-up; the peak that torch
    reserved, and what the card lost beside that: the CUDA context and the libraries' own memory."""

    model_config = ConfigDict(frozen=True)
    tokens_per_second: tuple[float, ...]
    rows_per_second: tuple[float, ...]
    peak_gib: float
    context_gib: float = 0.0


def main() -> None:
    HELD_BY_OTHERS.append(used())
    case = Case.model_validate_json(Path(sys.argv[1]).read_bytes())
    for chosen in (case.attention, case.padding, case.stage):
        os.environ.update(SWITCHES.get(chosen, {}))
    with tempfile.TemporaryDirectory() as scratch:
        way: dict[str, Callable[[Case, Path], Result]] = {"ours": ours, "logits": logits}
        result = way.get(case.way, theirs)(case, Path(scratch))
    print(result.model_dump_json())


def ours(case: Case, scratch: Path) -> Result:
    """The real worker on a real run folder, in this process, so that its peak can be read."""
    from trainer_core import runs, worker
    from trainer_core.config import TrainJob
    from trainer_core.run_view import read_view

    run_dir = runs.create(runs.Workspace(scratch).runs, TrainJob(recipe=recipe(case)), "bench")
    code = worker.main(run_dir)
    view = read_view(run_dir)
    if code:
        raise RuntimeError(view.error or f"the worker ended with code {code}")
    return paced(case, [(point.seconds, point.tokens_per_second * point.seconds) for point in view.points])


def recipe(case: Case) -> Recipe:
    common = {"batch_size": case.batch, "accumulation": 1, "max_length": case.length, "max_steps": case.steps}
    chat, pairs = (None, case.data) if case.stage == "dpo" else (case.data, case.pairs)
    return Recipe(
        model=case.model,
        precision=case.precision,
        method=Method(case.stage),
        data=Data(chat=chat, pairs=pairs),
        lora=Lora(rank=16, alpha=16),
        sft=Sft(**common, evaluations=0, packing=case.packing),  # type: ignore[arg-type]
        dpo=DpoSettings(**common, evaluations=0),  # type: ignore[arg-type]
        memory=Memory(probe="off", skip_layers=case.skip_layers),
        sample_tokens=0,
    )


def theirs(case: Case, scratch: Path) -> Result:
    """The same settings in a script."""
    model, tokenizer = (unsloth_model if case.way == "bare" else plain_model)(case)
    from datasets import load_dataset
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        def __init__(self) -> None:
            self.seen: list[tuple[float, float]] = []

        def on_log(self, args, state, control, logs=None, **_):  # type: ignore[no-untyped-def]
            if logs and "loss" in logs:
                self.seen.append((time.monotonic(), float(logs.get("num_tokens", 0))))

    clock, rows = Clock(), load_dataset("json", data_files=case.data, split="train")
    trainer = built(case, model, tokenizer, rows, scratch)
    trainer.add_callback(clock)
    trainer.train()
    return paced(case, between(clock.seen))


def built(case: Case, model: Any, tokenizer: Any, rows: Any, scratch: Path) -> Any:
    import torch
    from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

    card = torch.cuda.is_available()
    settings: dict[str, Any] = {
        "output_dir": str(scratch),
        "per_device_train_batch_size": case.batch,
        "max_steps": case.steps,
        "max_length": case.length,
        "learning_rate": 1e-5,
        "optim": "adamw_8bit" if card else "adamw_torch",
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": not card,
        "bf16": card,
        "gradient_checkpointing": card,
        "disable_tqdm": True,
    }
    if case.stage == "dpo":
        return DPOTrainer(model=model, processing_class=tokenizer, train_dataset=rows, args=DPOConfig(**settings))
    rows = rows.map(lambda row: {"text": tokenizer.apply_chat_template(row["messages"], tokenize=False)})
    args = SFTConfig(**settings, dataset_text_field="text", packing=case.packing)
    return SFTTrainer(model=model, processing_class=tokenizer, train_dataset=rows, args=args)


def unsloth_model(case: Case) -> tuple[Any, Any]:
    from unsloth import FastLanguageModel  # isort: skip
    import torch

    card = torch.cuda.is_available()
    model, tokenizer = FastLanguageModel.from_pretrained(
        case.model,
        max_seq_length=case.length,
        dtype=torch.bfloat16 if card else torch.float32,
        load_in_4bit=case.precision == "nf4",
        use_exact_model_name=True,
    )
    checkpointing = "unsloth" if card else False
    return FastLanguageModel.get_peft_model(
        model, r=16, lora_alpha=16, use_gradient_checkpointing=checkpointing
    ), tokenizer


def plain_model(case: Case) -> tuple[Any, Any]:
    import torch
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from bench.models import LINEAR
    from trainer_core.lanes.load import number_format  # plain transformers: how a base is held in this precision

    kernel = (
        "flex_attention" if case.attention == "flex" else "sdpa"
    )  # Unsloth chooses its own, so flex is only seen here
    model: Any = AutoModelForCausalLM.from_pretrained(
        case.model, attn_implementation=kernel, **number_format(case.precision)
    )
    if case.precision == "nf4":
        model = prepare_model_for_kbit_training(model)
    if torch.cuda.is_available():
        torch.backends.cuda.enable_cudnn_sdp(False)
        model.gradient_checkpointing_enable()
        model.enable_input_require_grads()
    lora = LoraConfig(r=16, lora_alpha=16, target_modules=LINEAR, task_type="CAUSAL_LM")
    assert "unsloth" not in sys.modules, "a plain baseline must not be patched"
    return get_peft_model(model, lora), AutoTokenizer.from_pretrained(case.model)


def logits(case: Case, scratch: Path) -> Result:
    """A DPO step that builds the logits of both sides whole, in 32 bit, for policy and reference."""
    import json
    from itertools import cycle

    import torch

    model, tokenizer = plain_model(case)
    model.train()  # only then are activations recomputed
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimiser = torch.optim.AdamW(weights, lr=1e-5)
    lines = cycle(Path(case.data).read_text(encoding="utf-8").splitlines())
    seen, told = list[tuple[float, float]](), 0.0
    for _ in range(case.steps):
        pairs = [json.loads(next(lines)) for _ in range(case.batch)]
        texts = [pair["prompt"] + pair[side] for side in ("chosen", "rejected") for pair in pairs]
        cut = {"padding": True, "truncation": True, "max_length": case.length}
        batch = tokenizer(texts, return_tensors="pt", **cut).to(model.device)
        with torch.no_grad(), model.disable_adapter():
            reference = summed(model(**batch).logits.float(), batch)
        policy = summed(model(**batch).logits.float(), batch)
        chosen, rejected = (policy - reference).chunk(2)
        loss = -torch.nn.functional.logsigmoid(0.1 * (chosen - rejected)).mean()
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        told += float(batch["attention_mask"].sum())
        seen.append((time.monotonic(), told))
    return paced(case, between(seen))


def summed(scores: Any, batch: Any) -> Any:
    """Log-probability of every row."""
    import torch

    chances = torch.log_softmax(scores[:, :-1], -1).gather(-1, batch["input_ids"][:, 1:, None])[..., 0]
    return (chances * batch["attention_mask"][:, 1:]).sum(-1)


def between(seen: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Seconds and tokens of each step from the clock and the tokens so far at the end of each; the first step's are left out."""
    return [(ended - began, after - before) for (began, before), (ended, after) in pairwise(seen)]


def paced(case: Case, steps: Sequence[tuple[float, float]]) -> Result:
    """The last steps, those after the warm-up, as stretches of equal numbers of steps."""
    measured = steps[-(case.steps - case.warm) :]
    size = max(1, len(measured) // STRETCHES)
    stretches = [measured[at : at + size] for at in range(0, len(measured) - size + 1, size)]
    spent = [sum(seconds for seconds, _ in one) for one in stretches]
    tokens = [sum(told for _, told in one) for one in stretches]
    return Result(
        tokens_per_second=tuple(told / seconds for told, seconds in zip(tokens, spent, strict=True)),
        rows_per_second=tuple(size * case.batch / seconds for seconds in spent),
        **held(),
    )


def held() -> dict[str, Any]:
    """GiB that torch reserved at most, and that the card lost to this process beside what torch holds; nothing without a card."""
    import torch

    if not torch.cuda.is_available():
        return {"peak_gib": 0.0}
    context = used() - HELD_BY_OTHERS[0] - torch.cuda.memory_reserved()
    return {"peak_gib": torch.cuda.max_memory_reserved() / GIB, "context_gib": context / GIB}


def used() -> int:
    """Bytes of the card that are in use, by the driver's count, which asks for no context."""
    card = hardware.detect().best
    return card.total_bytes - card.free_bytes if card else 0


if __name__ == "__main__":
    main()
