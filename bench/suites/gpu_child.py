"""One measurement on the device, in a process of its own: `python -m bench.suites.gpu_child ORDER.json`.

ours: the worker as the app starts it. bare: a bare Unsloth script. plain: TRL, PEFT and bitsandbytes; unsloth is never imported.
logits: DPO with the full logits of policy and reference in 32 bit, as trainers before TRL 1.13 did it. lanes: `compare_ways.py`.
kernel: a Triton kernel and torch.compile. noise: what Compare draws its random numbers with, on the processor and on the card.
"""

from __future__ import annotations

import inspect
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from bench.harness.child import end_with_parent
from bench.suites.gpu_case import GpuCase, GpuCaseJob, GpuCaseResult, StageMeasurement, Way
from trainer_core.config.recipe import Data, Lora, MemoryOptions, MethodChain, Recipe
from trainer_core.methods.dpo import Dpo as DpoSettings
from trainer_core.methods.sft import Sft
from trainer_core.runs.events import Stage
from trainer_core.runs.run_state import RunState
from trainer_core.system import durable, hardware

GIB = 2**30
SWITCHES: dict[str, dict[str, str]] = {
    "rows": {"UNSLOTH_TORCH_VARLEN": "0"},
    "xformers": {"UNSLOTH_SDPA_PACKED_SEGMENTS": "0"},
    "free": {"UNSLOTH_PADDING_CHOICE": "padding_free"},
    "padded": {"UNSLOTH_DISABLE_AUTO_PADDING_FREE": "1"},
    "eager": {"UNSLOTH_BLOCK_COMPILE": "0"},
}
"""What Unsloth reads from the environment when it is imported. Left alone, it takes torch's own kernel for packed rows; `rows`:
one call of torch's attention for each row of a pack. eager: decoder blocks are not compiled."""
LOSS_WORKSPACE = {"UNSLOTH_LOGPROB_CHUNK_GB": "0.5"}
"""Always set: SFT's and DPO's loss otherwise take up to 2 GB, more the more of the card is free, so that a peak would tell of the
card and not of the need."""
KEPT_LAYERS = re.compile(r'checkpoint_skip_layers = "auto" keeps (\d+) of (\d+)')
PACKAGES = ("triton", "bitsandbytes", "xformers", "unsloth", "trl", "transformers", "peft")
TO_BE_KILLED = "--to-be-killed"


def main() -> None:
    end_with_parent()
    order = GpuCaseJob.model_validate_json(Path(sys.argv[1]).read_bytes())
    case, held_before, compiled = order.case, card_bytes_in_use(), compiled_files()
    os.environ.update(LOSS_WORKSPACE)
    for chosen in (case.attention, case.padding, case.blocks):
        os.environ.update(SWITCHES.get(chosen, {}))
    result = MEASURES[case.way](order)
    kept = KEPT_LAYERS.findall(order.log.read_text(encoding="utf-8", errors="replace")) if order.log.exists() else []
    more = {"context_gib": context_gib(held_before), "kept_layers": tuple(map(int, kept[-1])) if kept else None}
    measured = result.model_copy(update={**more, "compiled": compiled, "where": describe_device()})
    durable.write_atomically(order.result_path, measured.model_dump_json())


# --- where


def describe_device() -> dict[str, str]:
    """The card and the versions that this process runs on."""
    import torch

    card = hardware.detect_machine().best_gpu
    return {
        "card": card.name if card else hardware.cpu_name(),
        "driver": (card.driver if card else None) or "none",
        "python": ".".join(map(str, sys.version_info[:3])),
        "torch": torch.__version__,
        **{name: found for name in PACKAGES if (found := package_version(name))},
        "packed attention": packed_attention(),
    }


def package_version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def packed_attention() -> str:
    """Which kernel Unsloth has for packed rows: torch's takes grouped heads from 2.12 on."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        found = False
    else:
        found = "enable_gqa" in inspect.signature(varlen_attn).parameters
    return "torch" if found else "xformers" if package_version("xformers") else "row by row"


def card_bytes_in_use() -> int:
    """Bytes of the card that are in use, by the driver's count, which asks for no context."""
    card = hardware.detect_machine().best_gpu
    return card.total_bytes - card.free_bytes if card else 0


def context_gib(before: int) -> float:
    """GiB that the card lost to this process beside what torch holds; 0 without a card."""
    import torch

    return (card_bytes_in_use() - before - torch.cuda.memory_reserved()) / GIB if torch.cuda.is_available() else 0.0


def compiled_files() -> int:
    folder = Path(os.environ.get("TORCHINDUCTOR_CACHE_DIR", ""))
    return sum(path.is_file() for path in folder.rglob("*")) if folder.name else 0


# --- training


def train_with_worker(order: GpuCaseJob) -> GpuCaseResult:
    """The real worker on a real run folder, in this process, so that its peak can be read."""
    if order.case.killed and TO_BE_KILLED not in sys.argv:
        first = subprocess.run([sys.executable, "-m", "bench.suites.gpu_child", sys.argv[1], TO_BE_KILLED])
        if first.returncode != -signal.SIGKILL:
            raise RuntimeError(f"the run that was to be killed ended with code {first.returncode}")
    os.environ.update(hardware.worker_environment(hardware.detect_machine().best_gpu))
    from trainer_core.config.jobs import TrainJob
    from trainer_core.runs import run_folder
    from trainer_core.runs.run_state import read_run_state
    from trainer_core.runs.workspace import Workspace
    from trainer_core.worker import runner

    folder = Workspace(order.folder).runs
    earlier = sorted(folder.iterdir()) if folder.exists() else []
    asked = gpu_recipe(order.case, str(order.model), str(order.chats), str(order.pairs))
    run_dir = earlier[0] if earlier else run_folder.create_run(folder, TrainJob(recipe=asked), "bench")
    watching = list[Callable[[], dict[str, StageMeasurement]]]()

    def watched(job: Any) -> Any:
        work = runner.load_entry_point(job)
        from bench.harness.trainer_watch import read_counts, watch_trainers

        stages = watch_trainers(order.case.killed if TO_BE_KILLED in sys.argv else "")
        watching.append(lambda: read_counts(stages))
        return work

    code = runner.main(run_dir, watched)
    view, trained = read_run_state(run_dir), watching[0]() if watching else {}
    proof = view.proof and (view.proof.loss - (view.proof.expected_loss or 0.0), view.proof.margin)
    error = str(view.error) or (f"the worker ended with code {code}" if code else "")
    reached = dict.fromkeys(one.stage for one in view.points)
    stages = {stage: add_event_figures(trained.get(stage, StageMeasurement()), view, stage) for stage in reached}
    return GpuCaseResult(stages=stages, proof=proof or None, error=error)


def add_event_figures(result: StageMeasurement, view: RunState, stage: Stage) -> StageMeasurement:
    """With what the run's own events say; their seconds leave out samples and checks."""
    points = [one for one in view.points if one.stage == stage]
    more = {
        "seconds": [one.seconds for one in points],
        "losses": [one.loss for one in points],
        "margins": [one.metrics["margin"] for one in points if "margin" in one.metrics],
        "samples": [one.seconds for one in view.sampled if one.stage == stage],
        "checks": [one.seconds for one in view.evaluated if one.stage == stage],
        "probe": view.probed[stage].seconds if stage in view.probed else 0.0,
    }
    return result.model_copy(update=more)


def gpu_recipe(case: GpuCase, model: str, chats: str, pairs: str) -> Recipe:
    """The settings of a case, in ours. chats, pairs: files, of which those of its stages are read."""
    common = {"batch_size": case.batch, "accumulation": 1, "max_length": case.length, "max_steps": case.steps}
    return Recipe(
        model=model,
        precision=case.precision,
        method=MethodChain(case.stage),
        data=Data(chat=chats if "sft" in case.stage else None, pairs=pairs if "dpo" in case.stage else None),
        lora=Lora(rank=16, alpha=16),
        sft=Sft(**common, evaluations=case.checks, packing=case.packing),  # type: ignore[arg-type]
        dpo=DpoSettings(**common, evaluations=case.checks),  # type: ignore[arg-type]
        memory=MemoryOptions(probe=case.probe, skip_layers=case.skip_layers),
        sample_tokens=case.samples,
    )


def train_with_script(order: GpuCaseJob) -> GpuCaseResult:
    """The same settings in a script."""
    model, tokenizer = (unsloth_model if order.case.way == "bare" else plain_model)(order)
    from bench.harness.trainer_watch import read_counts, watch_trainers

    stages = watch_trainers()
    build_trainer(order, model, tokenizer).train()
    return GpuCaseResult(stages=read_counts(stages))


def build_trainer(order: GpuCaseJob, model: Any, tokenizer: Any) -> Any:
    import torch
    from datasets import load_dataset
    from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

    case, card = order.case, torch.cuda.is_available()
    settings: dict[str, Any] = {
        "output_dir": str(order.folder / "output"),
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
    file = order.pairs if case.stage == "dpo" else order.chats
    rows: Any = load_dataset("json", data_files=str(file), split="train", cache_dir=str(order.folder / "rows"))
    if case.stage == "dpo":
        return DPOTrainer(model=model, processing_class=tokenizer, train_dataset=rows, args=DPOConfig(**settings))
    rows = rows.map(lambda row: {"text": tokenizer.apply_chat_template(row["messages"], tokenize=False)})
    args = SFTConfig(**settings, dataset_text_field="text", packing=case.packing)
    return SFTTrainer(model=model, processing_class=tokenizer, train_dataset=rows, args=args)


def unsloth_model(order: GpuCaseJob) -> tuple[Any, Any]:
    from unsloth import FastLanguageModel  # isort: skip
    import torch

    case, card = order.case, torch.cuda.is_available()
    model, tokenizer = FastLanguageModel.from_pretrained(
        str(order.model),
        max_seq_length=case.length,
        dtype=torch.bfloat16 if card else torch.float32,
        load_in_4bit=case.precision == "nf4",
        use_exact_model_name=True,
    )
    checkpointing = "unsloth" if card else False
    return FastLanguageModel.get_peft_model(
        model, r=16, lora_alpha=16, use_gradient_checkpointing=checkpointing
    ), tokenizer


def plain_model(order: GpuCaseJob) -> tuple[Any, Any]:
    import torch
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from bench.harness.models import LINEAR
    from trainer_core.inference.load import weight_options  # plain transformers: how a base is held in this precision

    case = order.case
    # Unsloth chooses its own kernel, so flex is only seen here
    kernel = "flex_attention" if case.attention == "flex" else "sdpa"
    model: Any = AutoModelForCausalLM.from_pretrained(
        order.model, attn_implementation=kernel, **weight_options(case.precision)
    )
    if case.precision == "nf4":
        model = prepare_model_for_kbit_training(model)
    if torch.cuda.is_available():
        torch.backends.cuda.enable_cudnn_sdp(False)
        model.gradient_checkpointing_enable()
        model.enable_input_require_grads()
    lora = LoraConfig(r=16, lora_alpha=16, target_modules=LINEAR, task_type="CAUSAL_LM")
    assert "unsloth" not in sys.modules, "a plain baseline must not be patched"
    return get_peft_model(model, lora), AutoTokenizer.from_pretrained(order.model)


def run_full_logits(order: GpuCaseJob) -> GpuCaseResult:
    """A DPO step that builds the logits of both sides whole, in 32 bit, for policy and reference."""
    import json
    from itertools import cycle

    import torch

    from bench.harness.trainer_watch import real_tokens, record_peaks, record_step_peak

    case, (model, tokenizer) = order.case, plain_model(order)
    model.train()  # only then are activations recomputed
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimiser, stage = torch.optim.AdamW(weights, lr=1e-5), StageMeasurement()
    lines = cycle(order.pairs.read_text(encoding="utf-8").splitlines())
    for _ in range(case.steps):
        began = time.monotonic()
        pairs = [json.loads(next(lines)) for _ in range(case.batch)]
        texts = [pair["prompt"] + pair[side] for side in ("chosen", "rejected") for pair in pairs]
        cut = {"padding": True, "truncation": True, "max_length": case.length}
        batch = tokenizer(texts, return_tensors="pt", **cut).to(model.device)
        with torch.no_grad(), model.disable_adapter():
            reference = sum_logprobs(model(**batch).logits.float(), batch)
        policy = sum_logprobs(model(**batch).logits.float(), batch)
        chosen, rejected = (policy - reference).chunk(2)
        loss = -torch.nn.functional.logsigmoid(0.1 * (chosen - rejected)).mean()
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        stage.losses.append(float(loss))  # waits for the card
        stage.tokens.append(int(real_tokens(batch)))
        stage.seconds.append(time.monotonic() - began)
    record_step_peak(stage)
    record_peaks(stage)
    return GpuCaseResult(stages={"dpo": stage})


def sum_logprobs(scores: Any, batch: Any) -> Any:
    """Log-probability of every row."""
    import torch

    chances = torch.log_softmax(scores[:, :-1], -1).gather(-1, batch["input_ids"][:, 1:, None])[..., 0]
    return (chances * batch["attention_mask"][:, 1:]).sum(-1)


# --- beside training


def run_compare_lanes(order: GpuCaseJob) -> GpuCaseResult:
    """Compare: the base and two adapters answer."""
    from bench.suites.compare_ways import answer_by_way
    from trainer_core.evaluation import prompts

    case = order.case
    asked = (prompts.read_bundled_prompts() * 2)[: case.batch]
    return answer_by_way(case.group, str(order.model), list(map(str, order.adapters)), asked, case.length, case.dice)


def time_first_kernel(order: GpuCaseJob) -> GpuCaseResult:
    """Seconds until the first Triton kernel and the first compiled function, forward and backward, have run."""
    import torch

    from bench.suites.gpu_kernel import add

    began, ones = time.monotonic(), torch.ones(4096, device="cuda")
    assert torch.equal(add(ones, ones), ones * 2)
    torch.cuda.synchronize()
    numbers, began = {"triton": time.monotonic() - began}, time.monotonic()
    row = torch.randn(64, 64, device="cuda", requires_grad=True)
    normed = torch.compile(lambda x: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))
    normed(row).sum().backward()
    torch.cuda.synchronize()
    return GpuCaseResult(numbers=numbers | {"compile": time.monotonic() - began})


def time_noise(order: GpuCaseJob) -> GpuCaseResult:
    """Seconds for a token's noise of three lanes, of 151,936 numbers: drawn by the processor and sent, and drawn by the card."""
    import torch

    from trainer_core.inference.coupled_sampling import gumbel_noise

    processor, device = torch.device("cpu"), torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def seconds_each(source: torch.device, tokens: int = 100) -> float:
        """Drawn there, after one to warm up."""
        began = 0.0
        for at in range(tokens + 1):
            torch.stack([gumbel_noise(7, str(lane), at, 151_936, source) for lane in range(3)]).to(device)
            if at in (0, tokens) and device.type == "cuda":
                torch.cuda.synchronize()
            began = began or time.monotonic()
        return (time.monotonic() - began) / tokens

    return GpuCaseResult(numbers={"processor": seconds_each(processor), "card": seconds_each(device)})


MEASURES: dict[Way, Callable[[GpuCaseJob], GpuCaseResult]] = {
    "ours": train_with_worker,
    "bare": train_with_script,
    "plain": train_with_script,
    "logits": run_full_logits,
    "lanes": run_compare_lanes,
    "kernel": time_first_kernel,
    "noise": time_noise,
}

if __name__ == "__main__":
    main()
