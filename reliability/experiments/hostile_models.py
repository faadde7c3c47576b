"""Models and adapters made to hurt: each leaves a canary file if anything in it runs, and must be refused with its reason."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from bench.harness.measure import processor_seconds
from reliability.harness.claim import Proof, TrialCount, count_trials
from tests.support.model_files import frame_header, pack_safetensors
from trainer_core.data import Message
from trainer_core.data.render import render_chat
from trainer_core.errors import ModelError
from trainer_core.models import resolve, template_sandbox
from trainer_core.runs.workspace import Workspace
from trainer_core.system.project import PROJECT
from trainer_core.texts import verbatim

QUESTION = (
    "Pickles under many names, configurations that ask for code, templates that reach out, never end or fill the memory, "
    "lying weights, links to elsewhere, adapters of another shape: is each refused within 5 processor seconds with a reason "
    "of its own, and does nothing in it run? The control loads those with code the stock way: pickles unrestricted, remote "
    "code, plain Jinja. A door that refuses everything would pass that, so sound ones must be taken."
)
SECONDS = 5.0
"""Processor seconds, those of child processes included: a busy machine takes more time, but not more of these."""
CONFIG = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "vocab_size": 16,
    "tie_word_embeddings": True,
}
LORA = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["q_proj"], "task_type": "CAUSAL_LM"}
LORA |= {"base_model_name_or_path": "somebody/base"}
SIDES = {"lora_A": [2, 8], "lora_B": [8, 2]}
Files = dict[str, bytes]


@dataclass(frozen=True)
class HostileModel:
    """What is changed in a sound folder, and words that must be in the refusal."""

    name: str
    words: str
    make: Callable[[Path, Path], None]
    """Given the folder and the canary."""
    stock: str = ""
    """The stock way to load it, for the control: pickle, code or template; empty: it carries no code."""
    adapter: bool = False


def run(place: Path, quick: bool) -> Iterator[Proof]:
    beasts = [*hostile_models(), *hostile_adapters()]
    good = [acceptance_error(place / f"sound-{adapter}", adapter) for adapter in (False, True)]  # and torch is imported
    shut = count_trials([acceptance_error(place / f"shut-{adapter}", adapter, refuse_all) for adapter in (False, True)])
    ours = [check_refused(beast, place / f"{at}") for at, beast in enumerate(beasts)]
    coded = [beast for beast in beasts if beast.stock]
    fired = [runs_code_in_stock(beast, place / f"stock-{at}") for at, beast in enumerate(coded[:: 4 if quick else 1])]
    control = TrialCount(len(fired), sum(fired))
    yield Proof(
        "Refused in time with its reason, and nothing ran", count_trials(ours), "loaded the stock way", control, 0.9
    )
    yield Proof(
        "A sound model and a sound adapter are taken", count_trials(good), "a door that refuses everything", shut
    )


def check_refused(beast: HostileModel, place: Path) -> str:
    """What went wrong, or nothing."""
    folder, canary = make_sound_folder(place / "model", beast.adapter), place / "canary"
    beast.make(folder, canary)
    began = processor_seconds()
    try:
        load(folder, beast.adapter)
    except ModelError as error:
        seconds = processor_seconds() - began
        if beast.words not in str(error):
            return f"{beast.name}: refused for another reason: {error}"
        if seconds > SECONDS:
            return f"{beast.name}: refused after {seconds:.1f} processor seconds"
    except Exception as error:  # noqa: BLE001  (a traceback instead of a sentence)
        return f"{beast.name}: {type(error).__name__}: {error}"
    else:
        return f"{beast.name}: taken"
    return f"{beast.name}: its code ran" if canary.exists() else ""


def acceptance_error(place: Path, adapter: bool, door: Callable[[Path, bool], None] | None = None) -> str:
    """What a door says to a sound folder; nothing where it takes it."""
    try:
        (door or load)(make_sound_folder(place, adapter), adapter)
    except ModelError as error:
        return str(error)
    return ""


def refuse_all(folder: Path, adapter: bool) -> None:
    """The control of what is taken: it would pass all the rest of this proof."""
    raise ModelError(verbatim(f"{folder.name} is refused, as everything is."))


def load(folder: Path, adapter: bool) -> None:
    """As the product does it, before anything of the folder is in memory."""
    if not adapter:
        resolve.resolve_model(str(folder), Workspace(folder.parent / "workspace"))
        for _, template in template_sandbox.find_templates(folder):  # as training renders its first row
            tokenizer: Any = SimpleNamespace(chat_template=template, special_tokens_map={})
            render_chat(tokenizer, [Message("user", "A row of the data")])
        return
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from trainer_core.inference import adapter_checks

    with torch.device("meta"):
        outline = LlamaForCausalLM(LlamaConfig.from_dict(CONFIG))
    adapter_checks.check_adapter("SFT", folder, outline)


# --- the folders


def make_sound_folder(folder: Path, adapter: bool) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    if adapter:
        write_entry(folder, "adapter_config.json", LORA)
        names = (f"base_model.model.model.layers.0.self_attn.q_proj.{side}.weight" for side in SIDES)
        tensors = dict(zip(names, SIDES.values(), strict=True))
        (folder / "adapter_model.safetensors").write_bytes(pack_safetensors(tensors))
        return folder
    write_entry(folder, "config.json", CONFIG)
    write_entry(folder, "tokenizer.json", {})
    (folder / "model.safetensors").write_bytes(pack_safetensors({"w": [1000]}))
    return folder


def write_entry(folder: Path, name: str, content: Any) -> None:
    (folder / name).write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")


class PickleBomb:
    """Unpickled, it makes the canary."""

    def __init__(self, canary: Path):
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.canary),)


# --- what is wrong with them


def hostile_models() -> Iterator[HostileModel]:
    for name in ("pytorch_model.bin", "model.pt", "model.pth", "weights.ckpt"):
        yield HostileModel(f"pickle {name}", name, pickle_as(name), "pickle")
    yield HostileModel("pickle called safetensors", "cut off", pickle_as("model.safetensors"))
    for name in ("config.json", "tokenizer_config.json", "generation_config.json", "processor_config.json"):
        yield HostileModel(
            f"auto_map in {name}", f"{name} has 'auto_map'", code_as(name), "code" if name == "config.json" else ""
        )
    yield HostileModel("auto_map in a nested config", "has 'auto_map'", nest_pickle)
    for key in ("trust_remote_code", "custom_pipelines", "_attn_implementation_internal"):
        yield HostileModel(key, f"has {key!r}", changed(**{key: "x/y"}))
    own_generate = {"custom_generate": "evil/generate"}
    yield HostileModel(
        "custom_generate in generation_config.json",
        "generation_config.json has 'custom_generate'",
        lambda folder, _: write_entry(folder, "generation_config.json", own_generate),
    )
    yield HostileModel("attention from the hub", "code on the Hub", changed(_attn_implementation="evil/kernel"))
    yield HostileModel(
        "a config nested 100,000 deep",
        "not valid JSON",
        lambda folder, _: write_entry(folder, "config.json", "[" * 100_000),
    )
    yield HostileModel(
        "a config of 5 MB", "bytes; the limit is", lambda f, _: write_entry(f, "config.json", " " * (5 << 20))
    )
    yield HostileModel("a billion layers", "num_hidden_layers", changed(num_hidden_layers=10**9))
    yield HostileModel("weights that are not there", "describes", changed(hidden_size=1 << 16))
    yield HostileModel(
        "base of an adapter's choice",
        "holds an adapter",
        lambda folder, _: write_entry(folder, "adapter_config.json", LORA),
    )
    yield from hostile_templates()
    yield from hostile_weights()
    yield from hostile_places()


def pickle_as(name: str) -> Callable[[Path, Path], None]:
    def make(folder: Path, canary: Path) -> None:
        (folder / "model.safetensors").unlink(missing_ok=True)
        (folder / name).write_bytes(pickle.dumps(PickleBomb(canary)))

    return make


def code_as(name: str) -> Callable[[Path, Path], None]:
    """Code of its own, for whoever follows auto_map."""

    def make(folder: Path, canary: Path) -> None:
        ours = CONFIG | {"model_type": "evil"} if name == "config.json" else {}
        write_entry(folder, name, ours | {"auto_map": {"AutoConfig": "evil.Evil"}})
        text = f"import os\nfrom transformers import LlamaConfig as Evil\nos.makedirs({str(canary)!r}, exist_ok=True)\n"
        write_entry(folder, "evil.py", text)

    return make


def nest_pickle(folder: Path, canary: Path) -> None:
    write_entry(folder, "config.json", CONFIG | {"text_config": {"inner": [{"auto_map": {"AutoModel": "evil.Evil"}}]}})


def changed(**changes: Any) -> Callable[[Path, Path], None]:
    return lambda folder, _: write_entry(folder, "config.json", CONFIG | changes)


def hostile_templates() -> Iterator[HostileModel]:
    """Escapes from the sandbox, and templates that exhaust."""
    shell = "{{ cycler.__init__.__globals__.os.mkdir(CANARY) }}"
    importer = "{{ self.__init__.__globals__.__builtins__.__import__('os').mkdir(CANARY) }}"
    walk = "{% for c in ''.__class__.__mro__[1].__subclasses__() %}{% endfor %}" + shell
    by_filter = "{{ (lipsum | attr('__globals__'))['os'].mkdir(CANARY) }}"
    for at, escape in enumerate((shell, importer, walk, by_filter), 1):
        yield HostileModel(f"template that escapes, way {at}", "Python's internal objects", dressed(escape), "template")
    yield HostileModel(
        "an escape in chat_template.jinja", "chat_template.jinja", dressed(shell, "chat_template.jinja"), "template"
    )
    yield HostileModel("an escape in a further template", "additional_chat_templates/x.jinja", additional)
    loop = "{% for a in range(99999) %}" * 3 + "{% endfor %}" * 3
    yield HostileModel("template that never ends", "does not end", dressed(loop))
    yield HostileModel("template that waits for the data, never to end", "does not end", dressed(waiting(loop)))
    filling = waiting("{{ 'A' * 2000000000 }}")
    yield HostileModel("template that waits for the data, to fill the memory", "too much memory", dressed(filling))
    long = "{% for a in range(99999) %}AAAAAAAAAAAA{% endfor %}"  # little time and memory, 1.2 million letters
    yield HostileModel(
        "template that waits for the data, to answer too much", "too much memory", dressed(waiting(long))
    )
    yield HostileModel(
        "template that waits for the data, to escape", "Python's internal objects", dressed(waiting(shell))
    )
    yield HostileModel("template of 2 GB", "too much memory", dressed("{{ 'A' * 2000000000 }}"))
    yield HostileModel("template that squares", "too much memory", dressed("{{ ('A' * 99999) * 99999 }}"))


def waiting(template: str) -> str:
    """Harmless until it meets what no trial of ours says."""
    return "{% if messages[0].content != 'Be brief.' %}" + template + "{% endif %}"


def dressed(template: str, name: str = "tokenizer_config.json") -> Callable[[Path, Path], None]:
    def make(folder: Path, canary: Path) -> None:
        text = template.replace("CANARY", repr(str(canary)))
        write_entry(folder, name, text if name.endswith(".jinja") else {"chat_template": text})

    return make


def additional(folder: Path, canary: Path) -> None:
    (folder / "additional_chat_templates").mkdir()
    write_entry(folder, "additional_chat_templates/x.jinja", "{{ ''.__class__ }}")


def hostile_weights() -> Iterator[HostileModel]:
    two = {"a": [500], "b": [500]}
    yield weight_model("a header of 2⁶³ bytes", "cut off", struct.pack("<Q", 1 << 63) + b"{}")
    yield weight_model("a header of 64 MB", "has a header of", frame_header(b" " * (64 << 20), 0))
    yield weight_model("a header that is no JSON", "is damaged", frame_header(b"{" * 64, 100))
    yield weight_model("a header nested 100,000 deep", "is damaged", frame_header(b"[" * 100_000, 100))
    yield weight_model(
        "overlapping tensors", "byte 2,000, inside", pack_safetensors(two, data_offsets=[0, 4000], shape=[1000])
    )
    yield weight_model("a gap", "no tensor covers", pack_safetensors(two, data_offsets=[8, 2000], shape=[498]))
    yield weight_model("more shape than bytes", "its shape needs", pack_safetensors(two, shape=[1 << 40]))
    yield weight_model("a negative side", "damaged header", pack_safetensors(two, shape=[-1]))
    yield weight_model("offsets beyond the end", "tensors end at byte", pack_safetensors({"a": [500]})[:-8])
    yield weight_model("an unknown number format", "unknown number format", pack_safetensors(two, dtype="PICKLE"))
    yield weight_model("an empty file", "cut off", b"")
    large = {"weight_map": {"w" * (64 << 20): "model.safetensors"}}
    yield HostileModel("an index of 64 MB", "index.json has 67,", indexed(large))
    outside = {"weight_map": {"w": "../outside.safetensors"}}
    yield HostileModel("an index that escapes", "not in the same folder", indexed(outside))
    yield HostileModel(
        "an index of absolute paths", "not in the same folder", indexed({"weight_map": {"w": "/etc/passwd"}})
    )
    yield HostileModel("an index of pickles", "a pickle", indexed({"weight_map": {"w": "pytorch_model.bin"}}))
    yield HostileModel(
        "an index of what is missing", "has no x.safetensors", indexed({"weight_map": {"w": "x.safetensors"}})
    )
    gguf = struct.pack("<4sIQQ", b"GGUF", 3, 1 << 62, 1 << 62)
    yield HostileModel("GGUF with 2⁶² tensors", "has no .safetensors", lambda f, _: only(f, "model.gguf", gguf))


def weight_model(name: str, words: str, content: bytes) -> HostileModel:
    return HostileModel(name, words, lambda folder, _: put_bytes(folder / "model.safetensors", content))


def put_bytes(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def only(folder: Path, name: str, content: bytes) -> None:
    (folder / "model.safetensors").unlink()
    put_bytes(folder / name, content)


def indexed(index: dict[str, Any]) -> Callable[[Path, Path], None]:
    return lambda folder, _: write_entry(folder, "model.safetensors.index.json", index)


def hostile_places() -> Iterator[HostileModel]:
    def linked(name: str, target: str) -> Callable[[Path, Path], None]:
        def make(folder: Path, canary: Path) -> None:
            (folder / name).unlink(missing_ok=True)
            (folder / name).symlink_to(target)

        return make

    def pipe(folder: Path, canary: Path) -> None:
        (folder / "tokenizer.json").unlink()
        os.mkfifo(folder / "tokenizer.json")

    yield HostileModel("weights linked to elsewhere", "outside the folder", linked("model.safetensors", "/etc/passwd"))
    yield HostileModel("a config linked to elsewhere", "outside the folder", linked("config.json", "/etc/hostname"))
    yield HostileModel("a link to a device", "outside the folder", linked("tokenizer.json", "/dev/zero"))
    yield HostileModel("a link to itself", "a broken link", linked("tokenizer.json", "tokenizer.json"))
    yield HostileModel("a pipe that nobody writes", "a pipe", pipe)


def hostile_adapters() -> Iterator[HostileModel]:
    def pickled_adapter(folder: Path, canary: Path) -> None:
        (folder / "adapter_model.safetensors").unlink()
        (folder / "adapter_model.bin").write_bytes(pickle.dumps(PickleBomb(canary)))

    def described(**changes: Any) -> Callable[[Path, Path], None]:
        return lambda folder, _: write_entry(folder, "adapter_config.json", LORA | changes)

    def shaped(path: str, side: list[int]) -> Callable[[Path, Path], None]:
        name = f"base_model.model.{path}.lora_A.weight"
        return lambda folder, _: put_bytes(folder / "adapter_model.safetensors", pack_safetensors({name: side}))

    layer = "model.layers.0.self_attn.q_proj"
    slow = "(a+)+$"
    for name, words, make, way in (
        ("a pickled adapter", "Pickled adapters are refused", pickled_adapter, "pickle"),
        ("auto_map in an adapter", "has 'auto_map'", described(auto_map={"A": "evil.Evil"}), ""),
        ("a module to import", "has 'auto_mapping'", described(auto_mapping={"parent_library": "evil"}), ""),
        (
            "a megatron to import",
            "has 'megatron_config'",
            described(megatron_config={"x": 1}, megatron_core="evil"),
            "",
        ),
        ("layers without end", "layer_replication", described(layer_replication=[[0, 1]] * 1000), ""),
        ("an endless search", "may search forever", described(target_modules=slow), ""),
        ("an endless search for ranks", "may search forever", described(rank_pattern={slow: 4}), ""),
        (
            "a template that never ends",
            "does not end",
            dressed("{% for a in range(99999) %}" * 3 + "{% endfor %}" * 3),
            "",
        ),
        ("an adapter of wrong shape", "needs 2 × 8", shaped(layer, [2, 800]), ""),
        ("an adapter of another base", "does not have", shaped("transformer.h.0.attn", [2, 8]), ""),
        ("another kind of adapter", "adapter_config.json cannot be read", described(peft_type="EVIL"), ""),
    ):
        yield HostileModel(name, words, make, way, adapter=True)


# --- the control

STOCK = {
    "pickle": "import sys, torch, pathlib\nfor one in sorted(pathlib.Path(sys.argv[1]).iterdir()):\n"
    "    try: torch.load(one, weights_only=False)\n    except Exception: pass",
    "code": "import sys\nfrom transformers import AutoConfig\nAutoConfig.from_pretrained(sys.argv[1], trust_remote_code=True)",
    "template": "import sys, json, pathlib, jinja2\nfolder = pathlib.Path(sys.argv[1])\nfile = folder / 'chat_template.jinja'\n"
    "text = file.read_text() if file.exists() else json.loads((folder / 'tokenizer_config.json').read_text())['chat_template']\n"
    "jinja2.Environment().from_string(text).render(messages=[])",
}


def runs_code_in_stock(beast: HostileModel, place: Path) -> bool:
    """Did its code run, loaded the stock way in a process of its own?"""
    folder, canary = make_sound_folder(place / "model", beast.adapter), place / "canary"
    beast.make(folder, canary)
    environment = {**os.environ, "HF_HOME": str(place / "hub"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", STOCK[beast.stock], str(folder)]
    subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, timeout=120, check=False)
    fired = canary.exists()
    shutil.rmtree(place)
    return fired
