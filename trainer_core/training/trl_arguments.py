"""Our settings as TRL's arguments."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from trainer_core.methods.base import Training

os.environ["UNSLOTH_DATASET_NUM_PROC"] = "0"
"""Tokenise in this process: on CUDA, Unsloth would fork it with the card and the template renderer open."""


def common_arguments(settings: Training, seed: int, scratch: Path) -> dict[str, Any]:
    """Arguments that SFTConfig and DPOConfig share. `scratch`: a folder the trainer may write to."""
    on_gpu = torch.cuda.is_available()
    half = on_gpu and torch.cuda.is_bf16_supported()
    return {
        "output_dir": str(scratch),
        "per_device_train_batch_size": settings.batch_size,
        "gradient_accumulation_steps": settings.accumulation,
        "learning_rate": settings.learning_rate,
        "num_train_epochs": settings.epochs,
        "max_steps": settings.max_steps or -1,
        "weight_decay": settings.weight_decay,
        "max_grad_norm": settings.max_grad_norm,
        "optim": optimiser_name(settings, on_gpu),
        "max_length": settings.max_length,
        "seed": seed,
        "data_seed": seed,
        "bf16": half,
        "fp16": on_gpu and not half,
        "use_cpu": not on_gpu,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,  # the default hides NaN from the log
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_num_workers": 0,  # the row order depends on the seed alone
        "gradient_checkpointing": on_gpu,
    }


def optimiser_name(settings: Training, on_gpu: bool) -> str:
    """AdamW with 8-bit states on a GPU (Dettmers 2021), plain on the processor, where memory is no limit."""
    if settings.optimiser != "auto":
        return settings.optimiser
    return "adamw_8bit" if on_gpu else "adamw_torch"
