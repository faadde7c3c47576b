"""Every setting, once: type, bounds, default, label and tooltip. Presets, recipes, forms, CLI and run.json use these models.

Sources, marked beside each setting: [LoRA] Hu 2021 · [QLoRA] Dettmers 2023 · [DPO] Rafailov 2023 · [HF] Tunstall 2024,
the preference tuning study · [TM] Thinking Machines 2025, LoRA without regret · [U] Unsloth's hyper-parameter guide 2025 ·
[rs] Kalajdzievski 2023 · [cDPO] Mitchell 2023 · [field] common practice on which several write-ups agree.
"""

from __future__ import annotations

import codecs
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator
from pydantic_core import core_schema

from trainer_core.methods.base import Method, RowKind, Training
from trainer_core.methods.dpo import Dpo
from trainer_core.methods.orpo import Orpo
from trainer_core.methods.sft import Sft
from trainer_core.schema import StrictModel, parse_values, read_toml
from trainer_core.texts import Text

STARTER = "starter"
"""The name of the small embedded model."""

SAMPLE = "sample"
"""The name of the bundled sample data."""


class MethodChain(str):
    """The methods of a run by key, in training order, such as "sft+dpo"; one of METHOD_CHAINS."""

    @property
    def stages(self) -> tuple[str, ...]:
        return tuple(self.split("+"))

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> core_schema.CoreSchema:
        return core_schema.no_info_after_validator_function(check_chain, core_schema.str_schema())


def check_chain(text: str) -> MethodChain:
    if text not in METHOD_CHAINS:
        raise ValueError(Text("recipe.unknown_method", known=", ".join(METHOD_CHAINS), method=text[:80]))
    return MethodChain(text)


def check_encoding(name: str) -> str:
    """Python's name of a text encoding; empty if none is given."""
    try:
        found = codecs.lookup(name) if name else None
        "".encode(found.name if found else "utf-8")  # a codec such as base64 is none for text
    except LookupError as error:
        raise ValueError(Text("recipe.unknown_encoding", encoding=name[:40])) from error
    return found.name if found else ""


EncodingName = Annotated[str, AfterValidator(check_encoding)]
Precision = Literal["auto", "nf4", "bf16", "fp32"]
TargetModules = Literal["all-linear", "attention", "mlp"]
Template = Literal["own", "plain", "alpaca", "chatml"]
RemedyName = Literal[
    "swap", "swap_sides", "strip_markers", "join_turns", "mend_encoding", "mask", "no_system", "reverse", "drop_near_identical",
    "drop_duplicate_row", "drop_duplicate_prompt", "drop_leaked", "drop_swapped", "drop_reversed", "drop_markers",
    "drop_headings", "drop_placeholder", "drop_roles", "drop_unanswered", "drop_encoding", "drop_personal", "skip_damaged",
    "strip_pictures", "learn_all", "learn_reasoning", "no_reasoning", "drop_tools", "drop_pictures", "drop_weight_zero",
    "drop_reasoning", "strip_question", "drop_repeated_question",
]  # fmt: skip
"""Clean-up steps that repair or remove rows, see data/quality/remedies.py."""


class Lora(StrictModel):
    """The small trainable matrices beside the frozen base. SFT and DPO train the same ones, in turn."""

    rank: int = Field(default=16, ge=1, le=512, title="LoRA rank")  # [LoRA, TM]
    """Higher learns more detail and uses more memory. 16 suits up to 1,000 pairs."""
    alpha: int = Field(default=16, ge=1, le=1024, title="LoRA alpha")  # [U]
    """Alpha ÷ rank scales the update. Alpha equal to the rank is neutral; halve it if the run memorises."""
    dropout: float = Field(default=0.0, ge=0, lt=1, title="LoRA dropout")  # [QLoRA]
    """0 keeps Unsloth's fast path; 0.05 to 0.1 helps very small data sets."""
    rslora: bool = Field(default=False, title="rsLoRA")  # [rs]
    """Rank-stabilised scaling: alpha ÷ √rank instead of alpha ÷ rank. Useful above rank 64."""
    dora: bool = Field(default=False, title="DoRA")
    """Learns magnitude and direction separately: slightly better at the same rank, and slower."""
    targets: TargetModules = Field(default="all-linear", title="Target modules")  # [TM]
    """The layers that get an adapter. All linear layers work best; attention alone is clearly worse."""


class Sampling(StrictModel):
    """How answers are sampled. Every lane samples alike, so that only the adapters differ."""

    temperature: float = Field(default=0.7, ge=0, le=5, title="Temperature")
    """0 always takes the most likely token."""
    top_p: float = Field(default=0.9, gt=0, le=1, title="Top-p")
    """Sample from the most likely tokens that together hold this probability."""
    top_k: int = Field(default=0, ge=0, title="Top-k")
    """Sample from this many of the most likely tokens. 0: no limit."""
    min_p: float = Field(default=0.0, ge=0, lt=1, title="Min-p")
    """Drop tokens below this fraction of the top probability."""
    repetition_penalty: float = Field(default=1.0, ge=0.5, le=2, title="Repetition penalty")
    """Above 1 makes tokens that already appeared less likely."""
    max_new_tokens: int = Field(default=256, ge=1, le=32_768, title="Max new tokens")
    """Longer answers are truncated here."""
    seed: int = Field(default=42, ge=0, lt=2**63, title="Seed")
    """The same seed gives the same answers again."""

    @classmethod
    def group_label(cls) -> str:
        return "Sampling"


class Columns(StrictModel):
    """The column of a file for each part; empty: none. Needed only where Tunebench cannot detect it."""

    prompt: str | None = Field(default=None, title="Prompt column")
    """What the user asks."""
    input: str | None = Field(default=None, title="Input column")
    """More of the prompt, as in Alpaca, appended after an empty line."""
    system: str | None = Field(default=None, title="System column")
    """Instructions before the conversation."""
    history: str | None = Field(default=None, title="History column")
    """Earlier turns, each a list of question and answer."""
    answer: str | None = Field(default=None, title="Answer column")
    """What the assistant should say, in data without pairs."""
    chosen: str | None = Field(default=None, title="Chosen column")
    """The better answer."""
    rejected: str | None = Field(default=None, title="Rejected column")
    """The worse answer."""
    messages: str | None = Field(default=None, title="Messages column")
    """Whole conversations as lists of messages."""
    scored: str | None = Field(default=None, title="Scored answers column")
    """Several answers with scores. The best and the worst become a pair."""
    label: str | None = Field(default=None, title="Label column")
    """Marks single answers as good or bad (KTO)."""
    text: str | None = Field(default=None, title="Text column")
    """Plain text, or conversations written as text."""
    reasoning: str | None = Field(default=None, title="Reasoning column")
    """What the assistant thinks before the answer. SFT reads it, and learns it only if a clean-up step says so."""

    @property
    def column_by_part(self) -> dict[str, str]:
        """Part → column, for the parts that have one."""
        return {part: column for part, column in self.model_dump().items() if column is not None}


class Data(StrictModel):
    """Source of the examples: a file, a folder, a data set's Hub ID, or "sample" for the bundled ones."""

    chat: str | None = Field(default=None, title="SFT data")
    """Conversations to imitate. Empty: the chosen answers of the pairs."""
    pairs: str | None = Field(default=SAMPLE, title="Preference pairs")
    """One prompt, chosen and rejected answer per row."""
    chat_rows: int | None = Field(default=None, ge=1, title="Limit SFT rows")
    """Use only the first N rows. Empty: all."""
    pair_rows: int | None = Field(default=None, ge=1, title="Limit pairs")
    """Use only the first N rows. Empty: all."""
    held_out: str | None = Field(default=None, title="Held-out pairs")
    """Pairs for evaluation, never trained on. Empty: 5 % of the pairs are held out, at least 16 if there are enough."""
    steps: tuple[RemedyName, ...] = Field(default=(), title="Clean-up steps")
    """How rows are repaired or removed, as chosen on the Data tab. Your file never changes."""
    template: Template = Field(default="own", title="Chat template")
    """Only for base models without a chat template. All others use their own."""
    encoding: EncodingName = Field(default="", title="Text encoding")
    """Of files that are not UTF-8, such as cp1252 or shift_jis. Empty: detected, or asked for if the bytes do not decide it."""
    columns: Columns = Columns()

    @property
    def columns_file(self) -> str | None:
        """The file that `columns` describes: the pairs, or the chat data if the pairs are bundled or missing."""
        if not self.columns.column_by_part:
            return None
        return next((name for name in (self.pairs, self.chat) if name not in (None, SAMPLE)), None)


class MemoryOptions(StrictModel):
    """Settings for memory, time and measurement. None of them changes what is learned."""

    probe: Literal["auto", "on", "off"] = Field(default="auto", title="Memory check before training")
    """Tries the longest rows before the first step. Auto: always on a GPU; on the processor only if it costs 2 % at most."""
    skip_layers: Literal["auto", "off"] = Field(default="auto", title="Skip gradient checkpointing")
    """Auto: on a GPU, skips recomputation for as many layers as free memory allows after the first step."""
    offload_embedding: Literal["auto", "on", "off"] = Field(default="auto", title="Offload embeddings to CPU")
    """Saves GPU memory, slightly slower. Auto: only if memory is tight."""
    sort_rows: Literal["auto", "off"] = Field(default="auto", title="Sort by length within a step")
    """Auto: rows of similar length share a micro-batch (group by length), so less is padded. Each step keeps the same rows."""
    keep_reference: Literal["auto", "off"] = Field(default="auto", title="Cache reference log-probs")
    """Auto: the DPO reference is computed once per pair and cached for later epochs and later runs from the same start."""


class Recipe(StrictModel):
    """One whole run: model, data, method and every setting. Stored as a recipe TOML and in run.json."""

    name: str = Field(default="", max_length=64, pattern=r"^[\w .+-]*$", title="Name")
    """Shown in lists and used in folder names."""
    model: str = Field(default=STARTER, min_length=1, title="Model")
    """"starter", a folder with a safetensors model, or a Hub ID such as unsloth/Qwen3-8B."""
    precision: Precision = Field(default="auto", title="Base precision")  # [QLoRA]
    """Auto: 4-bit NF4 on CUDA; on the processor 16 bit if it has bfloat16 units, else 32 bit."""
    method: MethodChain = Field(default=MethodChain("sft+dpo"), title="Method")
    """SFT learns the answers, DPO learns the preference. DPO works best after SFT."""
    seed: int = Field(default=42, ge=0, lt=2**32, title="Seed")
    """Sets the initial weights and the order of the rows. On the processor, the same recipe and seed give the same run."""
    data: Data = Data()
    lora: Lora = Lora()
    sft: Sft = Sft()
    dpo: Dpo = Dpo()
    orpo: Orpo = Orpo()
    memory: MemoryOptions = MemoryOptions()
    sampling: Sampling = Sampling()
    samples: tuple[Annotated[str, Field(min_length=1, max_length=2000)], ...] = Field(
        default=(), max_length=5, title="Sample prompts"
    )
    """Up to five prompts, one per line, answered by the base and at checkpoints. Empty: four bundled ones."""
    sample_tokens: int = Field(default=96, ge=0, le=512, title="Sample answer length")
    """Max tokens of a sample answer. Beyond two rounds per stage, sampling takes at most 10 % of its time. 0 turns it off."""

    def stage_settings(self, stage: str) -> Training:
        """The settings of a stage, by its method's key."""
        found: Training = getattr(self, stage)
        return found

    def trains_on(self, rows: RowKind) -> bool:
        """Does a stage of this run read such rows?"""
        return any(METHODS[stage].rows == rows for stage in self.method.stages)

    def trained_part(self) -> Recipe:
        """The recipe with default settings for methods it does not train, to compare it with other recipes."""
        idle = {stage: settings() for stage, settings in STAGE_SETTINGS.items() if stage not in self.method.stages}
        return self.model_copy(update=idle)

    def row_length(self, rows: RowKind) -> int:
        """Tokens at which such rows are truncated; for rows this run does not read, the length of the first method that would."""
        readers = [stage for stage in (*self.method.stages, *METHODS) if METHODS[stage].rows == rows]
        return self.stage_settings(readers[0]).max_length

    @model_validator(mode="after")
    def check_data(self) -> Self:
        if self.trains_on("pairs") and self.data.pairs is None:
            raise ValueError(Text("recipe.no_pairs", method=str(self.method)))
        if self.data.pairs is None and self.data.chat is None:
            raise ValueError(Text("recipe.no_data"))
        return self


STAGE_SETTINGS: Mapping[str, type[Training]] = {
    name: field.annotation
    for name, field in Recipe.model_fields.items()
    if isinstance(field.annotation, type) and issubclass(field.annotation, Training)
}
"""Settings of every method by key. The recipe's sections define the list of methods."""
METHODS: Mapping[str, Method] = {key: settings.method for key, settings in STAGE_SETTINGS.items()}
CHAT_METHODS, PAIR_METHODS = (
    tuple(key for key, method in METHODS.items() if method.rows == rows) for rows in ("chat", "pairs")
)
METHOD_CHAINS: tuple[MethodChain, ...] = tuple(
    map(MethodChain, (*(f"{one}+{other}" for one in CHAT_METHODS for other in PAIR_METHODS), *METHODS))
)
"""Every method alone, and each chat method followed by each pair method."""


def read_recipe(path: Path) -> Recipe:
    """A recipe TOML; relative data and model paths start at the recipe's folder.

    Raises:
        ConfigError: see `read_toml` and `parse_values`.
    """
    recipe = parse_values(Recipe, read_toml(path), path.name)
    return with_absolute_paths(recipe, path.resolve().parent)


def with_absolute_paths(recipe: Recipe, folder: Path) -> Recipe:
    def at(name: str | None) -> str | None:
        return (
            str((folder / name).resolve())
            if name and name not in (SAMPLE, STARTER) and os.path.exists(folder / name)  # False for too long a name
            else name
        )

    files = {key: at(getattr(recipe.data, key)) for key in ("chat", "pairs", "held_out")}
    return recipe.model_copy(update={"model": at(recipe.model), "data": recipe.data.model_copy(update=files)})
