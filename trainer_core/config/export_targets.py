"""What a lane can be exported as. A target is a function of `trainer_core/export/` and a row here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from trainer_core.texts import NO_TEXT, Text


@dataclass(frozen=True)
class ExportTarget:
    """One form of a trained lane.

    Attributes:
        label: its name on the page.
        write: "module:function". The worker imports it and calls it with the export's context and the path to write. Empty: it
            has no part of its own.
        source: the target that it is made from; it is made first, and removed again if nobody asked for it.
        bits: per weight, for the size and the verdict; 0: the base's own.
        suffix: of the file's name; empty: a folder.
        file_type: llama.cpp's name of the number format, for a GGUF file or one that the program makes of it.
        register: "module:function", for a form that a program on this computer is given. Called once the export is complete.
        is_model: it answers by itself, so it can be measured.
        check: "module:function". Called before any work; raises for a model that cannot take this form.
    """

    label: Text
    write: str
    source: str = ""
    bits: float = 0.0
    suffix: str = ""
    file_type: str = ""
    register: str = ""
    check: str = ""
    is_model: bool = True

    @property
    def is_gguf(self) -> bool:
        return bool(self.suffix)


GGUF = "trainer_core.export.gguf:write_gguf"
QUANTISED = "trainer_core.export.quantise:write_quantised"
"""Needs llama.cpp's quantiser. Bits per weight: llama.cpp's own figures for Llama 3.1 8B (tools/quantize/README.md)."""
FOLDERS = "trainer_core.export.folders"
OLLAMA = "trainer_core.export.ollama"
EXPORT_TARGETS: Mapping[str, ExportTarget] = {
    "adapter": ExportTarget(Text("page.export_forms.adapter"), f"{FOLDERS}:write_adapter", is_model=False),
    "merged": ExportTarget(Text("page.export_forms.merged"), f"{FOLDERS}:write_merged", "adapter"),
    "merged-f16": ExportTarget(NO_TEXT, f"{FOLDERS}:write_merged_f16", "adapter", 16),
    "gguf:bf16": ExportTarget(Text("page.export_forms.bf16"), GGUF, "merged", 16, "-BF16.gguf", "MOSTLY_BF16"),
    "gguf:f16": ExportTarget(Text("page.export_forms.f16"), GGUF, "merged-f16", 16, "-F16.gguf", "MOSTLY_F16"),
    "gguf:q8_0": ExportTarget(Text("page.export_forms.q8_0"), GGUF, "merged-f16", 8.5, "-Q8_0.gguf", "MOSTLY_Q8_0"),
    "gguf:q6_k": ExportTarget(Text("page.export_forms.q6_k"), QUANTISED, "gguf:f16", 6.56, "-Q6_K.gguf", "Q6_K"),
    "gguf:q5_k_m": ExportTarget(Text("page.export_forms.q5_k_m"), QUANTISED, "gguf:f16", 5.7, "-Q5_K_M.gguf", "Q5_K_M"),
    "gguf:q4_k_m": ExportTarget(
        Text("page.export_forms.q4_k_m"), QUANTISED, "gguf:f16", 4.89, "-Q4_K_M.gguf", "Q4_K_M"
    ),
    "gguf:lora": ExportTarget(
        Text("page.export_forms.lora"),
        "trainer_core.export.gguf:write_lora_gguf",
        "adapter",
        32,
        "-LoRA.gguf",
        "F32",
        is_model=False,
    ),
    "ollama": ExportTarget(
        Text("page.export_forms.ollama"),
        f"{OLLAMA}:write_ollama",
        "gguf:q8_0",
        8.5,
        register=f"{OLLAMA}:register_ollama",
        check=f"{OLLAMA}:check_ollama",
    ),
    "ollama:q4_k_m": ExportTarget(
        Text("page.export_forms.ollama_q4_k_m"),
        f"{OLLAMA}:write_ollama",
        "gguf:f16",
        16,
        file_type="q4_K_M",
        register=f"{OLLAMA}:register_ollama",
        check=f"{OLLAMA}:check_ollama",
    ),
    "hub": ExportTarget(
        Text("page.export_forms.hub"),
        "",
        is_model=False,
        register="trainer_core.export.hub_upload:register_hub",
        check="trainer_core.export.hub_upload:check_hub",
    ),
    "lmstudio": ExportTarget(
        Text("page.export_forms.lmstudio"),
        "trainer_core.export.lm_studio:write_lm_studio",
        "gguf:q8_0",
        8.5,
        register="trainer_core.export.lm_studio:register_lm_studio",
    ),
}
OFFERED_TARGETS = tuple(key for key, target in EXPORT_TARGETS.items() if target.label)
"""Those that a user is asked about; others are only there to be made from."""


def needs_quantiser(target: str) -> bool:
    return EXPORT_TARGETS[target].write == QUANTISED


def merged_source(target: str) -> str:
    """The merged folder that a GGUF file is made from."""
    while EXPORT_TARGETS[target].is_gguf:
        target = EXPORT_TARGETS[target].source
    return target


def measured_targets(targets: Iterable[str]) -> tuple[str, ...]:
    """The forms of the certificate: what a program is given is the file that it is made from."""
    kinds = [(one, EXPORT_TARGETS[one]) for one in targets]
    forms = (kind.source if kind.register else one for one, kind in kinds if kind.is_model)
    return tuple(dict.fromkeys(forms))


def with_sources(targets: Iterable[str]) -> tuple[str, ...]:
    """The targets with a part and what they are made from, each after its source."""
    needed = set[str]()
    for target in targets:
        while target:
            needed.add(target)
            target = EXPORT_TARGETS[target].source
    return tuple(one for one, kind in EXPORT_TARGETS.items() if one in needed and kind.write)
