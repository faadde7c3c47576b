"""Rehearses CUDA without a card: Unsloth's real CUDA code trains a tiny model on the processor, driven by our own worker.

`import unsloth` without a card takes another backend, so no other test sees the trainers, patches and kernels of a user with one.
Here torch says that there is a card, and Triton's kernels run in Triton's interpreter; everything else is the real thing. What is
found wrong here is wrong on a card too. Not seen here: memory, speed, `torch.compile`, rounding that differs between graphs.

    python -m tests.support.rehearsal FOLDER [--precision fp16] [--family qwen3] [--kill sft.1] ...

needs Triton in .venv/rehearsal, where `python launch.py test` puts it. The same command resumes a run that was killed there.
One line for each thing that must hold, `ok` or `WRONG`; the number of wrong ones is the exit code.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from launcher.paths import REHEARSAL
from tests.support import pretend_card, triton_interpreter

FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"sliding_window": None},
    "qwen2": {},
    "qwen3": {"head_dim": 16},
    "gemma2": {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 64},
    "gemma3_text": {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 64},
}
"""What a family's config needs beside the sizes."""
SFT_LENGTH, DPO_LENGTH = 1024, 2048
"""TRL's default, which Unsloth takes for "not given", and a longer one that must not take its place."""
FLAGS = ("gradient_checkpointing", "_flag_for_generation", "training")


def main() -> int:
    asked = arguments()
    asked.folder.mkdir(parents=True, exist_ok=True)
    os.environ |= pretend_card.ENVIRONMENT | {
        "HOME": str(asked.folder),  # the user's own card and its lock have nothing to do with this one
        "HF_HUB_OFFLINE": "1",
        "UNSLOTH_DISABLE_STATISTICS": "1",
        "UNSLOTH_SKIP_TORCHVISION_CHECK": "1",
        "UNSLOTH_ENABLE_FLEX_ATTENTION": "0",  # has no way back on the processor
        "UNSLOTH_COMPILE_LOCATION": str(asked.folder / "compiled"),
    }
    os.environ.pop("UNSLOTH_FORCE_CPU", None)
    sys.path.insert(0, str(REHEARSAL))
    pretend_card.install_card(pretend_card.TESLA_T4 if asked.precision == "fp16" else pretend_card.RTX_4090)
    triton_interpreter.add_bfloat16()
    triton_interpreter.speed_up()
    wrong = 0
    for what, (holds, words) in rehearse(asked).items():
        wrong += not holds
        print("ok   " if holds else "WRONG", f"{what}: {words}", flush=True)
    return wrong


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="where model, data and run lie")
    parser.add_argument("--precision", choices=("bf16", "fp16", "nf4"), default="bf16", help="fp16: on a T4")
    parser.add_argument("--family", choices=tuple(FAMILIES), default="llama")
    parser.add_argument("--method", choices=("sft", "dpo", "sft+dpo", "orpo", "sft+orpo"), default="sft+dpo")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--packing", action="store_true")
    parser.add_argument("--no-samples", action="store_true")
    parser.add_argument("--no-probe", action="store_true")
    parser.add_argument("--kill", default="", metavar="STAGE.STEP", help="end this process after that step, once")
    return parser.parse_args()


@dataclass
class Seen:
    """What a rehearsal saw of its training."""

    passes: list[Pass] = field(default_factory=list)
    planner: list[str] = field(default_factory=list)
    """In the order in which they came: "planner" where the kept layers are planned for, "probe" where memory was measured."""
    probed_before: set[str] = field(default_factory=set)
    """Stages whose memory the process before this one measured, which a resumed run relies on."""
    forks: int = 0


@dataclass(frozen=True)
class Pass:
    """One call of `training_step`, before it ran.

    recomputed: for each layer, are its activations computed again? inference: is a module or a cache set for generating?
    mode: flags of all modules, caches and padding. tokens: of the batch. length: the trainer's limit.
    """

    stage: str
    step: int
    recomputed: tuple[bool, ...]
    inference: bool
    mode: tuple[Any, ...]
    tokens: int
    length: int
    formats: dict[str, tuple[str, bool]]


Checks = dict[str, tuple[bool, object]]


def rehearse(asked: argparse.Namespace) -> Checks:
    """Train, and say what held."""
    from trainer_core import training
    from trainer_core.config.jobs import TrainJob
    from trainer_core.runs import run_folder
    from trainer_core.runs.run_state import read_run_state
    from trainer_core.runs.workspace import Workspace
    from trainer_core.worker import runner  # unsloth comes first

    triton_interpreter.replace_early_functions()
    folder = Workspace(asked.folder / "workspace").runs
    earlier = [path for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
    run_dir = earlier[0] if earlier else run_folder.create_run(folder, TrainJob(recipe=recipe(asked)), "rehearsal")
    seen = Seen(probed_before=set(read_run_state(run_dir).probed))
    watch_training(seen)

    def train(job: Any, place: Path, emit: Any, wants: Any) -> Any:
        def say(event: Any) -> None:
            emit(event)
            print(str(event)[:300], flush=True)
            name = type(event).__name__
            seen.planner += ["probe"] if name == "MemoryProbed" else []
            if name == "TrainStep" and asked.kill == f"{event.stage}.{event.step}" and not earlier:
                os.kill(os.getpid(), signal.SIGKILL)

        return training.train(job, place, say, wants)

    code = runner.run_job(run_dir, lambda job: train)
    view = read_run_state(run_dir)
    return {"the worker ends well": (code == 0, str(view.error)), **dict(held(asked, view, seen))}


def held(asked: argparse.Namespace, view: Any, seen: Seen) -> Iterator[tuple[str, tuple[bool, object]]]:
    """Everything that must hold of a finished run."""
    for stage in asked.method.split("+"):
        points = [point for point in view.points if point.stage == stage]
        passes = [one for one in seen.passes if one.stage == stage]
        yield f"{stage}: all steps", ([point.step for point in points] == list(range(1, asked.steps + 1)), len(points))
        if not passes:
            continue  # a resumed rehearsal does not make a finished stage again
        flags = [one.recomputed for one in passes]
        yield f"{stage}: every layer is recomputed in every pass", (all(map(all, flags)) and all(flags), flags)
        modes = {one.mode for one in passes}
        clean = len(modes) == 1 and not any(one.inference for one in passes)
        yield f"{stage}: nothing that interrupts training leaves a trace in the model", (clean, len(modes))
        yield f"{stage}: tokens are counted", tokens_counted(points, passes)
        lengths = {one.length for one in passes}
        yield f"{stage}: the length is the stage's own", (lengths == {length_of(stage)}, lengths)
        formats = {"default": ("torch.float32", True), "ref": ("torch.float32", False)}
        right = all(one.formats[name] == formats[name] for one in passes for name in one.formats)
        yield f"{stage}: the adapter is trained in 32 bit, its reference is not trained", (right, passes[0].formats)
        answered = [one for one in view.sampled if one.stage == stage]
        yield f"{stage}: sample answers", (bool(answered) is not asked.no_samples, len(answered))
        yield f"{stage}: held-out evaluation", (any(one.stage == stage for one in view.evaluated), "")
    stages = dict.fromkeys(one.stage for one in seen.passes)
    unprobed = set(stages) if asked.no_probe else seen.probed_before
    order = [what for stage in stages for what in (["planner"] if stage in unprobed else ["probe", "planner"])]
    yield "kept layers are planned after the memory probe", (seen.planner == order, seen.planner)
    yield "no process is forked beside the card", (seen.forks == 0, seen.forks)
    if "orpo" in asked.method:
        held_first = view.proof is not None and view.proof.holds and view.proof.stage == "orpo"
        yield "the first loss is the one that was predicted", (held_first, view.proof)
    elif "dpo" in asked.method:
        proof = view.proof
        exact = proof is not None and proof.margin == 0.0 and abs(proof.loss - math.log(2)) < 1e-6 and proof.holds
        yield "policy and reference are equal before the first step", (exact, proof)


def tokens_counted(points: list[Any], passes: list[Pass]) -> tuple[bool, object]:
    """Are the tokens that the events tell those of the batches? Each step is one pass here; the probe's passes come before it."""
    counts = [round(point.tokens_per_second * point.seconds) for point in points]
    last = {one.step: one.tokens for one in passes}
    fresh = [(count, last[point.step]) for count, point in zip(counts, points, strict=True) if point.step in last]
    return all(count == tokens > 0 for count, tokens in fresh) and bool(fresh), fresh


def length_of(stage: str) -> int:
    return SFT_LENGTH if stage == "sft" else DPO_LENGTH


def recipe(asked: argparse.Namespace) -> Any:
    """Two steps of two short rows: the interpreter takes a tenth of a second for a token of one kernel."""
    from trainer_core.config.recipe import Data, Lora, MemoryOptions, MethodChain, Recipe
    from trainer_core.methods.dpo import Dpo
    from trainer_core.methods.orpo import Orpo
    from trainer_core.methods.sft import Sft

    lines = [{"prompt": f"{at}", "chosen": "a" + " a" * (at % 3), "rejected": "b" + " b" * (at % 4)} for at in range(9)]
    for name, rows in (("pairs", lines[:8]), ("held-out", lines[8:])):
        (asked.folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    common = {"accumulation": 1, "max_steps": asked.steps, "evaluations": 1}
    return Recipe(
        model=str(tiny_model(asked.folder / "model", asked.family)),
        precision="bf16" if asked.precision == "fp16" else asked.precision,
        method=MethodChain(asked.method),
        data=Data(pairs=str(asked.folder / "pairs.jsonl"), held_out=str(asked.folder / "held-out.jsonl"), chat=None),
        lora=Lora(rank=4, alpha=4),
        sft=Sft(**common, batch_size=2, max_length=SFT_LENGTH, packing=asked.packing),
        dpo=Dpo(**common, batch_size=1, max_length=DPO_LENGTH),
        orpo=Orpo(**common, batch_size=1, max_length=DPO_LENGTH),
        memory=MemoryOptions(probe="off" if asked.no_probe else "on"),
        sample_tokens=0 if asked.no_samples else 3,
        samples=("1",),
    )


def tiny_model(folder: Path, family: str) -> Path:
    """The tests' tokenizer, with roles of one letter, on two layers of the family."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from tests.support import tiny

    tokens = tiny.tokenizer()
    tokens.chat_template = tiny.TEMPLATE.replace("message['role']", "message['role'][0]").replace("assistant", "a")
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        family, vocab_size=len(tokens), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=4096, bos_token_id=1, eos_token_id=2, pad_token_id=0,
        tie_word_embeddings=True, initializer_range=0.1, **FAMILIES[family],
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokens.save_pretrained(folder)
    return folder


def watch_training(seen: Seen) -> None:
    """Note each training pass before it runs, when the kept layers are planned for, and each fork of this process."""
    from transformers import Trainer
    from unsloth.models import _utils as unsloth_utils

    usual_step, usual_plan = Trainer.training_step, unsloth_utils.skip_checkpointing

    def training_step(self: Any, model: Any, inputs: Any, *more: Any) -> Any:
        seen.passes.append(read_pass(self, model, inputs))
        return usual_step(self, model, inputs, *more)

    def skip_checkpointing(model: Any, layers: Any = 0) -> Any:
        seen.planner += ["planner"] if layers == "auto" else []
        return usual_plan(model, layers)

    def count_fork() -> None:
        seen.forks += 1

    Trainer.training_step = training_step  # type: ignore[method-assign]
    for name, module in list(sys.modules.items()):
        if name.startswith("unsloth.") and getattr(module, "skip_checkpointing", None) is usual_plan:
            module.skip_checkpointing = skip_checkpointing  # type: ignore[attr-defined]
    os.register_at_fork(before=count_fork)


def read_pass(trainer: Any, model: Any, inputs: Any) -> Pass:
    layers = [module for module in model.modules() if type(module).__name__.endswith("DecoderLayer")]
    from trainer_core.training.token_count import count_batch_tokens

    sides = (trainer.processing_class.padding_side, model.config.use_cache)
    return Pass(
        stage=trainer.settings.method.key,
        step=trainer.state.global_step + 1,
        recomputed=tuple(bool(getattr(layer, "gradient_checkpointing", False)) for layer in layers),
        inference=bool(model.config.use_cache) or any(vars(one).get("_flag_for_generation") for one in model.modules()),
        mode=(*sides, *(getattr(module, name, None) for module in model.modules() for name in FLAGS)),
        tokens=int(count_batch_tokens(inputs)),
        length=trainer.args.max_length or trainer.args.max_seq_length,
        formats={
            name.split(".lora_A.")[1].split(".")[0]: (str(weight.dtype), weight.requires_grad)
            for name, weight in model.named_parameters()
            if ".lora_A." in name
        },
    )


if __name__ == "__main__":
    sys.exit(main())
