"""What merging an adapter into a base takes, tensor by tensor as Tunebench does it, and the whole model at once as PEFT does."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

from bench.harness.measure import measure_in_turns
from bench.harness.result import BenchRow, Device, Target
from trainer_core.system.project import PROJECT

QUESTION = (
    "How much memory and processor time does it take to merge an adapter of rank 16 into a random bfloat16 model in five files, "
    "against PEFT's merge_and_unload with save_pretrained? The kernel counts the memory (ru_maxrss) of a process of its own."
)
DEVICES: tuple[Device, ...] = ("cpu",)
MEMORY = "peak memory of a merge ÷ that of PEFT's merge and save"
BEYOND = "peak memory of a merge beyond the largest file"
SECONDS = "processor seconds of a merge ÷ those of PEFT's merge and save"
OPEN = (
    BenchRow("export", MEMORY, "MB", target=Target("ratio", "≤", 0.5)),
    BenchRow("export", BEYOND, "MB", target=Target("ours", "≤", 1611)),
    BenchRow("export", SECONDS, "s", target=Target("ratio", "≤", 1.0)),
)
FILES, RANK = 5, 16
SHAPE = {"hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 30, "vocab_size": 49152}
TINY = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "vocab_size": 512}
LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
CHILD = """
import json, resource, sys, time
from pathlib import Path
from bench.suites import export_merge
work = getattr(export_merge, sys.argv[1])
work(None, None, None)
began = time.process_time()
work(*map(Path, sys.argv[2:]))
print(json.dumps([time.process_time() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6]))
"""


def run(place: Path, device: Device, tiny: bool) -> list[BenchRow]:
    base, adapter = place / "base", place / "adapter"
    subprocess.run(
        [sys.executable, "-c", MAKE, str(base), str(adapter), json.dumps(TINY if tiny else SHAPE)],
        cwd=PROJECT,
        check=True,
    )
    largest = max(path.stat().st_size for path in base.glob("*.safetensors")) / 1e6
    memory: dict[str, list[float]] = {"ours": [], "peft": []}

    def once(name: str, work: str) -> float:
        command = [sys.executable, "-c", CHILD, work, str(base), str(adapter), str(place / name)]
        done = subprocess.run(command, cwd=PROJECT, check=True, capture_output=True, text=True)
        seconds, peak = json.loads(done.stdout.splitlines()[-1])
        memory[name].append(peak)
        return float(seconds)

    turns = {"ours": lambda: once("ours", "merge_by_tensor"), "peft": lambda: once("peft", "merge_whole")}
    found = measure_in_turns(turns, 1 if tiny else 3, warm_up=0)
    ours, peft = (median(memory[name]) for name in ("ours", "peft"))
    ratio = median(one / other for one, other in zip(found["ours"], found["peft"], strict=True))
    count = len(found["ours"])
    model_gb = sum(path.stat().st_size for path in base.glob("*.safetensors")) / 1e9
    note = f"{model_gb:.1f} GB in {FILES} files, the largest {largest:.0f} MB"
    rows: tuple[dict[str, Any], ...] = (
        {"ours": ours, "peer": peft, "ratio": ours / peft},
        {"ours": ours - largest, "peer": peft - largest},
        {"ours": median(found["ours"]), "peer": median(found["peft"]), "ratio": ratio},
    )
    return [
        BenchRow(row.goal, row.what, row.unit, target=row.target, n=count, note=note, **values)
        for row, values in zip(OPEN, rows, strict=True)
    ]


MAKE = """
import json, sys
from pathlib import Path
from bench.suites.export_merge import write_model
write_model(Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3]))
"""


def write_model(base: Path, adapter: Path, shape: dict[str, Any]) -> None:
    """Random weights, written tensor by tensor; and an adapter on every linear layer."""
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM, LlamaConfig

    from trainer_core.export.merge import write_index
    from trainer_core.export.tensor_file import TensorHeader, write_tensors

    base.mkdir()
    adapter.mkdir()
    config = LlamaConfig(num_attention_heads=16, num_key_value_heads=4, **shape, tie_word_embeddings=False)
    config.save_pretrained(base)
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(config)
    headers = [TensorHeader(name, "BF16", tuple(weight.shape)) for name, weight in model.named_parameters()]
    size, places, total = 0, dict[str, str](), sum(weight.numel() for weight in model.parameters())
    files: dict[str, list[TensorHeader]] = {}
    for header in headers:
        number = min(FILES - 1, size * FILES // total)
        size += torch.Size(header.shape).numel()
        name = f"model-{number + 1:05d}-of-{FILES:05d}.safetensors"
        files.setdefault(name, []).append(header)
        places[header.name] = name
    for name, held in files.items():
        write_tensors(base / name, held, (torch.randn(header.shape) * 0.02 for header in held))
    write_index(base, places)
    tensors = {}
    for header in headers:
        path = header.name.removesuffix(".weight")
        if path.endswith(LINEARS):
            outputs, inputs = header.shape
            tensors[f"base_model.model.{path}.lora_A.weight"] = torch.randn(RANK, inputs) * 0.02
            tensors[f"base_model.model.{path}.lora_B.weight"] = torch.randn(outputs, RANK) * 0.02
    save_file(tensors, adapter / "adapter_model.safetensors")
    told = {"peft_type": "LORA", "r": RANK, "lora_alpha": RANK, "target_modules": LINEARS, "task_type": "CAUSAL_LM"}
    (adapter / "adapter_config.json").write_text(json.dumps(told))


def merge_by_tensor(base: Path | None, adapter: Path | None, target: Path | None) -> None:
    """None: only import what it needs."""
    from trainer_core.export.merge import merge_adapter

    if base and adapter and target:
        target.mkdir(exist_ok=True)
        merge_adapter(base, adapter, target)


def merge_whole(base: Path | None, adapter: Path | None, target: Path | None) -> None:
    """None: only import what it needs."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    if base and adapter and target:
        model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
        PeftModel.from_pretrained(model, str(adapter)).merge_and_unload(safe_merge=True).save_pretrained(
            target, max_shard_size="700MB"
        )
