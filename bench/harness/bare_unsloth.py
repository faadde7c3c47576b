"""The baseline: SFT on the answers in a bare Unsloth script, nothing of ours.

`python -m bench.harness.bare_unsloth MODEL CHATS STEPS BATCH LENGTH`.

Says "step N" on stdout after each optimiser step.
"""

from __future__ import annotations

import sys
import tempfile

from unsloth import FastLanguageModel  # isort: skip  (must be first: it patches the others)

import torch
from datasets import load_dataset
from transformers import TrainerCallback
from trl import SFTConfig, SFTTrainer


class StepPrinter(TrainerCallback):
    def on_step_end(self, args, state, control, **_):  # type: ignore[no-untyped-def]
        sys.stdout.write(f"step {state.global_step}\n")
        sys.stdout.flush()


def main() -> None:
    model_folder, chats, steps, batch, length = sys.argv[1:]
    model, tokenizer = FastLanguageModel.from_pretrained(
        model_folder, max_seq_length=int(length), dtype=torch.float32, load_in_4bit=False
    )
    model = FastLanguageModel.get_peft_model(
        model, r=16, lora_alpha=16, use_gradient_checkpointing=False, random_state=42
    )
    rows = load_dataset("json", data_files=chats, split="train")
    rows = rows.map(
        lambda row: {"prompt": row["messages"][:-1], "completion": row["messages"][-1:]}, remove_columns="messages"
    )
    with tempfile.TemporaryDirectory() as scratch:
        settings = SFTConfig(
            output_dir=scratch,
            per_device_train_batch_size=int(batch),
            gradient_accumulation_steps=1,
            max_steps=int(steps),
            max_length=int(length),
            learning_rate=2e-4,
            optim="adamw_torch",
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            gradient_checkpointing=False,  # TRL's own default is True, which would cost the script a third more
            use_cpu=True,
            bf16=False,
            seed=42,
        )
        trainer = SFTTrainer(model=model, processing_class=tokenizer, train_dataset=rows, args=settings)
        trainer.add_callback(StepPrinter())
        trainer.train()
        model.save_pretrained(f"{scratch}/adapter")


if __name__ == "__main__":
    main()
