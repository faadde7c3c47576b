"""Every setting, once: its type, bounds, default, label and tooltip. Presets, recipes, forms, CLI and run.json are these models.

Sources, named beside what they speak for: [LoRA] Hu 2021 · [QLoRA] Dettmers 2023 · [DPO] Rafailov 2023 · [HF] Tunstall 2024,
the preference tuning study · [TM] Thinking Machines 2025, LoRA without regret · [U] Unsloth's hyper-parameter guide 2025 ·
[rs] Kalajdzievski 2023 · [cDPO] Mitchell 2023 · [field] common practice on which several write-ups agree.
"""

from __future__ import annotations

import os
import re
import tomllib
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from pydantic.fields import FieldInfo

from trainer_core.errors import ConfigError

STARTER = "starter"
"""The model name that stands for the small embedded model."""

SAMPLE = "sample"
"""The data name that stands for the bundled sample data."""


class Strict(BaseModel):
    """Unknown keys are refused, so that a typo never trains with a default in silence."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, protected_namespaces=())


class Method(StrEnum):
    SFT = "sft"
    DPO = "dpo"
    SFT_DPO = "sft+dpo"

    @property
    def stages(self) -> tuple[Literal["sft", "dpo"], ...]:
        return {Method.SFT: ("sft",), Method.DPO: ("dpo",), Method.SFT_DPO: ("sft", "dpo")}[self]  # type: ignore[return-value]


Precision = Literal["auto", "nf4", "bf16", "fp32"]
Targets = Literal["all-linear", "attention", "mlp"]
Scheduler = Literal["cosine", "linear", "constant", "constant_with_warmup"]
Optimiser = Literal["auto", "adamw_8bit", "paged_adamw_8bit", "adamw_torch"]
LossType = Literal[
    "sigmoid", "sigmoid_norm", "hinge", "ipo", "robust", "exo_pair", "nca_pair", "bco_pair", "sppo_hard", "aot", "aot_unpaired",
    "apo_zero", "apo_down", "discopop", "sft",
]  # fmt: skip
Template = Literal["own", "plain", "alpaca", "chatml"]
Step = Literal[
    "swap", "swap_sides", "strip_markers", "join_turns", "mend_encoding", "mask", "no_system", "reverse", "drop_near_identical",
    "drop_duplicate_row", "drop_duplicate_prompt", "drop_leaked", "drop_swapped", "drop_reversed", "drop_markers",
    "drop_headings", "drop_placeholder", "drop_roles", "drop_unanswered", "drop_encoding", "drop_personal", "skip_damaged",
    "strip_pictures", "learn_all", "learn_reasoning", "no_reasoning", "drop_tools", "drop_pictures", "drop_weight_zero",
    "drop_reasoning",
]  # fmt: skip
"""How rows are mended or left out, see data/remedies.py."""
REFERENCE_FREE = {"simpo", "orpo", "cpo"}
SMOOTHED = {"robust", "exo_pair", "aot", "aot_unpaired"}
"""The losses that read `label_smoothing`; TRL's other formulas have no place for it."""


class Lora(Strict):
    """The small trainable matrices beside the frozen base. SFT and DPO train the same ones, one after the other."""

    rank: int = Field(default=16, ge=1, le=512, title="LoRA rank")  # [LoRA, TM]
    """Higher learns more detail and takes more memory. 16 suits up to a thousand pairs."""
    alpha: int = Field(default=16, ge=1, le=1024, title="LoRA alpha")  # [U]
    """Alpha ÷ rank scales the update. Equal to the rank is neutral; halve it when the run memorises."""
    dropout: float = Field(default=0.0, ge=0, lt=1, title="LoRA dropout")  # [QLoRA]
    """0 keeps Unsloth's fast path; 0.05 to 0.1 helps very small data sets."""
    rslora: bool = Field(default=False, title="Rank-stabilised scaling")  # [rs]
    """Scale by alpha ÷ √rank instead of alpha ÷ rank. Worth it above rank 64."""
    dora: bool = Field(default=False, title="DoRA")
    """Learns size and direction apart: a little better at the same rank, and slower."""
    targets: Targets = Field(default="all-linear", title="Adapted layers")  # [TM]
    """All linear layers; attention alone is clearly worse."""


class Training(Strict):
    """What SFT and DPO have in common. The effective batch is batch size × accumulation."""

    learning_rate: float = Field(default=2e-4, gt=0, le=1, title="Learning rate")
    """How far each step moves."""
    scheduler: Scheduler = Field(default="cosine", title="Schedule")  # [field]
    """How the learning rate falls; cosine is the common choice for both methods."""
    warmup: float = Field(default=0.1, ge=0, le=0.5, title="Warm-up share")  # [field]
    """Share of the steps in which the learning rate rises from 0. DPO without it diverges early."""
    epochs: float = Field(default=1.0, gt=0, le=100, title="Epochs")  # [HF]
    """How often each row is seen. One is enough for most sets; more memorises."""
    max_steps: int | None = Field(default=None, ge=1, title="Steps at most")
    """Stop after this many steps, even within an epoch. Empty: as many as the epochs take."""
    batch_size: int = Field(default=4, ge=1, le=512, title="Batch size")
    """Rows (or pairs) in memory at once. It moves memory and speed, not the result, while accumulation makes up for it."""
    accumulation: int = Field(default=4, ge=1, le=1024, title="Accumulation")  # [TM]
    """Batches added up before each step. Batch × accumulation is usually 16: LoRA suffers above 32."""
    max_length: int = Field(default=1024, ge=32, le=1_048_576, title="Length in tokens")
    """Longer rows are cut at this length; the number of cut rows is shown before the run."""
    weight_decay: float = Field(default=0.01, ge=0, le=1, title="Weight decay")  # [U]
    """Pulls the adapter gently back towards zero."""
    max_grad_norm: float = Field(default=1.0, gt=0, le=100, title="Gradient clip")  # [QLoRA]
    """Longer gradients are shortened to this norm."""
    optimiser: Optimiser = Field(default="auto", title="Optimiser")  # [QLoRA]
    """Auto: 8-bit AdamW on CUDA, plain AdamW on the processor."""
    evaluations: int = Field(default=10, ge=0, le=100, title="Held-out checks")
    """How often the loss on held-out rows is measured; they get 5 % of the time at most. 0: never."""
    patience: int | None = Field(default=None, ge=1, le=100, title="Stop early")  # [HF]
    """Stop after this many held-out checks without a new best (3 is usual) and keep the best. Empty: go to the end."""

    @property
    def effective_batch(self) -> int:
        """Rows (or pairs) behind one optimiser step."""
        return self.batch_size * self.accumulation


class Sft(Training):  # [U, field]
    """Supervised fine-tuning: learn to write the good answers. Rate 2e-4."""

    packing: bool = Field(default=False, title="Pack short rows")
    """Put several short rows into one sequence. Faster on CUDA for short data; changes the number of steps."""


class Dpo(Training):  # [DPO]
    """Direct preference optimisation: prefer the chosen answer over the rejected one."""

    learning_rate: float = Field(default=5e-6, gt=0, le=1, title="Learning rate")  # [HF, TM]
    """Usual is 5e-6, ten times the rate of full tuning, as LoRA wants. A base under 1B for a few dozen steps needs more."""
    batch_size: int = Field(default=2, ge=1, le=512, title="Batch size")
    """Pairs in memory at once. Each pair is two rows, so half of the SFT batch costs the same memory."""
    accumulation: int = Field(default=8, ge=1, le=1024, title="Accumulation")  # [HF: 8 to 16 and more]
    """Batches added up before each step. Batch × accumulation is usually 16 pairs."""
    beta: float = Field(default=0.1, gt=0, le=10, title="Beta")  # [DPO, HF]
    """How closely the policy is tied to its reference. 0.1 is the usual start; 0.01 to 0.5 is the range to try."""
    losses: tuple[LossType, ...] = Field(default=("sigmoid",), min_length=1, title="Loss")
    """Sigmoid is DPO as published. Sigmoid + sft steadies format and fluency."""
    loss_weights: tuple[float, ...] | None = Field(default=None, title="Loss weights")
    """One weight per loss; empty: 1 each."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5, title="Label smoothing")  # [cDPO]
    """The share of pairs you believe to be labelled the wrong way round. For robust, exo_pair, aot and aot_unpaired."""

    @model_validator(mode="before")
    @classmethod
    def refuse_reference_free(cls, values: Any) -> Any:
        asked = values.get("losses") if isinstance(values, dict) else None
        for name in asked if isinstance(asked, list | tuple) else (asked,):
            if str(name).lower() in REFERENCE_FREE:
                raise ValueError(
                    f"{name} works without a reference, and Tunebench measures every run against its reference "
                    "(the step-0 proof). Use sigmoid, ipo or apo_zero"
                )
        return values

    @model_validator(mode="after")
    def check_losses(self) -> Self:
        if self.loss_weights is not None and len(self.loss_weights) != len(self.losses):
            raise ValueError(
                f"{len(self.loss_weights)} loss weights for {len(self.losses)} losses; give one weight per loss"
            )
        if "exo_pair" in self.losses and self.label_smoothing == 0:
            raise ValueError("exo_pair needs a label smoothing above 0, for example 0.001")
        if self.label_smoothing and not SMOOTHED & set(self.losses):
            raise ValueError(
                f"Label smoothing {self.label_smoothing:g} would change nothing: it is not read by {' or '.join(self.losses)}. "
                "Take the loss robust, or set label smoothing to 0"
            )
        return self


class Sampling(Strict):
    """How answers are drawn. The same in every lane, so that the adapters make the difference."""

    temperature: float = Field(default=0.7, ge=0, le=5, title="Temperature")
    """0 always takes the likeliest token."""
    top_p: float = Field(default=0.9, gt=0, le=1, title="Top-p")
    """Draw from the likeliest tokens that hold this share of the probability."""
    top_k: int = Field(default=0, ge=0, title="Top-k")
    """Draw from this many of the likeliest tokens; 0: no limit."""
    min_p: float = Field(default=0.0, ge=0, lt=1, title="Min-p")
    """Leave out tokens less likely than this share of the likeliest one."""
    repetition_penalty: float = Field(default=1.0, ge=0.5, le=2, title="Repetition penalty")
    """Above 1 makes tokens that were used already less likely."""
    max_new_tokens: int = Field(default=256, ge=1, le=32_768, title="Tokens at most")
    """An answer that has not ended by itself is cut here."""
    seed: int = Field(default=42, ge=0, lt=2**63, title="Seed")
    """The same seed gives the same answers again."""


class Columns(Strict):
    """Which column of a file plays which part; empty where none does. Only needed where Tunebench does not find out itself."""

    prompt: str | None = Field(default=None, title="Prompt column")
    """What the user asks."""
    input: str | None = Field(default=None, title="Input column")
    """More of the prompt, as in Alpaca; it follows after an empty line."""
    system: str | None = Field(default=None, title="System column")
    """Instructions that stand before the conversation."""
    history: str | None = Field(default=None, title="History column")
    """Earlier rounds, each a list of question and answer."""
    answer: str | None = Field(default=None, title="Answer column")
    """What the assistant should say, in data without pairs."""
    chosen: str | None = Field(default=None, title="Chosen column")
    """The better answer."""
    rejected: str | None = Field(default=None, title="Rejected column")
    """The worse answer."""
    messages: str | None = Field(default=None, title="Messages column")
    """Whole conversations as lists of messages."""
    scored: str | None = Field(default=None, title="Scored answers column")
    """Several answers with scores, of which the best and the worst make a pair."""
    label: str | None = Field(default=None, title="Label column")
    """Good or bad, for single answers (KTO)."""
    text: str | None = Field(default=None, title="Text column")
    """Plain text, or conversations written out as text."""
    reasoning: str | None = Field(default=None, title="Reasoning column")
    """What the assistant thinks before the answer. SFT reads it and does not learn it, unless a step says so."""

    @property
    def used(self) -> dict[str, str]:
        """Part -> column, without the parts nobody plays."""
        return {part: column for part, column in self.model_dump().items() if column is not None}


class Data(Strict):
    """Where the examples come from: a file, a folder, a data set's hub id, or "sample" for the bundled ones."""

    chat: str | None = Field(default=None, title="Examples for SFT")
    """Conversations to imitate. Empty: the chosen answers of the pairs."""
    pairs: str | None = Field(default=SAMPLE, title="Preference pairs for DPO")
    """A prompt, a better answer and a worse answer per row."""
    chat_rows: int | None = Field(default=None, ge=1, title="First rows of the examples")
    """Use only this many rows from the top. Empty: all."""
    pair_rows: int | None = Field(default=None, ge=1, title="First rows of the pairs")
    """Use only this many rows from the top. Empty: all."""
    held_out: str | None = Field(default=None, title="Held-out pairs")
    """Pairs that are never trained on. Empty: 5 % of the pairs are set aside, at least 16 where there are enough."""
    steps: tuple[Step, ...] = Field(default=(), title="Steps")
    """How rows are mended or left out, as the Data tab records them. The file itself is never changed."""
    template: Template = Field(default="own", title="Chat template")
    """How a conversation is written for a base model that has no template of its own; all others use their own."""
    columns: Columns = Columns()

    @property
    def mapped(self) -> str | None:
        """The file that `columns` speaks of: the pairs, or the examples where the pairs are bundled or none."""
        if not self.columns.used:
            return None
        return next((name for name in (self.pairs, self.chat) if name not in (None, SAMPLE)), None)


class Memory(Strict):
    """How memory and time are used and measured. None of it changes what is learned."""

    probe: Literal["auto", "on", "off"] = Field(default="auto", title="Measure memory first")
    """Tries the longest rows before the first step. Auto: always on a GPU; on the processor where that costs 2 % at most."""
    skip_layers: Literal["auto", "off"] = Field(default="auto", title="Keep layers")
    """Auto: on a GPU, layers are kept instead of computed twice as far as memory is left after the first step."""
    offload_embedding: Literal["auto", "on", "off"] = Field(default="auto", title="Embedding in main memory")
    """Frees the token table's memory on the card for a little time in each step. Auto: only where memory is tight."""
    sort_rows: Literal["auto", "off"] = Field(default="auto", title="Sort rows within a step")
    """Auto: the rows of a step share micro-batches by length, so that less is padded. Each step has the same rows either way."""
    keep_reference: Literal["auto", "off"] = Field(default="auto", title="Keep the reference's numbers")
    """Auto: the DPO reference is asked once for each pair; later epochs and later runs from the same start take what it said."""


class Recipe(Strict):
    """One run, whole: model, data, method and every setting. What a recipe TOML holds and what run.json repeats."""

    name: str = Field(default="", max_length=64, pattern=r"^[\w .+-]*$", title="Name")
    """Shown in lists and used in folder names."""
    model: str = Field(default=STARTER, min_length=1, title="Model")
    """"starter", a folder with a safetensors model, or a hub id such as unsloth/Qwen3-8B."""
    precision: Precision = Field(default="auto", title="Precision of the base")  # [QLoRA]
    """Auto: 4-bit NF4 on CUDA; on the processor 16 bit where it has bfloat16 units, else 32 bit."""
    method: Method = Field(default=Method.SFT_DPO, title="Method")
    """SFT learns the answers, DPO the preference; DPO works best on top of SFT."""
    seed: int = Field(default=42, ge=0, lt=2**32, title="Seed")
    """Decides the adapter's start and the order of the rows. The same recipe and seed give the same run on the processor."""
    data: Data = Data()
    lora: Lora = Lora()
    sft: Sft = Sft()
    dpo: Dpo = Dpo()
    memory: Memory = Memory()
    sampling: Sampling = Sampling()
    samples: tuple[Annotated[str, Field(min_length=1, max_length=2000)], ...] = Field(
        default=(), max_length=5, title="Sample prompts"
    )
    """Up to five prompts, one a line, answered by the base and at checkpoints. Empty: four bundled ones."""
    sample_tokens: int = Field(default=96, ge=0, le=512, title="Tokens of a sample answer")
    """Sample answers are cut here; fewer hide whether they end. Beside two rounds a stage they get 10 % of its time. 0: none."""

    @model_validator(mode="after")
    def check_data(self) -> Self:
        if "dpo" in self.method.stages and self.data.pairs is None:
            raise ValueError(f'method "{self.method}" needs data.pairs: a file with prompt, chosen and rejected')
        if self.data.pairs is None and self.data.chat is None:
            raise ValueError("neither data.chat nor data.pairs is set, so there is nothing to learn from")
        return self


class TrainJob(Strict):
    kind: Literal["train"] = "train"
    recipe: Recipe


class Lane(Strict):
    """One column of a comparison: the base alone or with an adapter, a blend of two, or with a system prompt.

    With `other` the lane's change to the base is strength × ((1 − share) × its adapter + share × the other one).
    """

    name: str = Field(min_length=1, max_length=64)
    adapter: str | None = None
    """The adapter's folder; None: the base alone. Several lanes may name one folder; it is loaded once."""
    strength: float = Field(default=1.0, ge=0, le=1.5)
    """How much of the adapter: 0 is the base, 1 the adapter as trained."""
    other: str | None = None
    """The folder of a second adapter, blended in."""
    share: float = Field(default=0.0, ge=0, le=1)
    """The second adapter's share of the blend."""
    system: str = Field(default="", max_length=20_000)
    """A system prompt for this lane alone; it takes the place of the conversation's own."""

    @model_validator(mode="after")
    def _a_blend_has_two(self) -> Lane:
        if self.other and not self.adapter:
            raise ValueError(f"{self.name} blends in {self.other} but has no adapter of its own. Name that one too.")
        return self

    @property
    def folders(self) -> tuple[str, ...]:
        """Its adapters' folders."""
        return tuple(folder for folder in (self.adapter, self.other) if folder)

    @property
    def shares(self) -> dict[str, float]:
        """Adapter folder → how much of it."""
        found = dict.fromkeys(self.folders, 0.0)
        if self.adapter:
            found[self.adapter] += self.strength * (1 - self.share if self.other else 1)
        if self.other:
            found[self.other] += self.strength * self.share
        return found


class CompareJob(Strict):
    kind: Literal["compare"] = "compare"
    model: str
    precision: Precision = "auto"
    lanes: tuple[Lane, ...] = Field(min_length=1, max_length=6)


Job = Annotated[TrainJob | CompareJob, Field(discriminator="kind")]

M = TypeVar("M", bound=BaseModel)


GROUPS = {"sft": "SFT", "dpo": "DPO", "data": "Data", "sampling": "Sampling"}
"""The parts of a recipe whose settings have the same labels in more than one of them."""


def parse(model: type[M], values: Any, where: str) -> M:
    """Values from outside become one validated object.

    Raises:
        ConfigError: every wrong key with its value, each on a line that begins with `where`.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        wrong = error.errors()
        lines = "\n".join(complaint(model, where, one) for one in wrong)
        raise ConfigError(lines, tuple(".".join(map(str, one["loc"])) for one in wrong)) from error


def complaint(model: type[BaseModel], where: str, error: Any) -> str:
    """One pydantic error in words: `SFT learning rate: "banana" is not a number.` Of a file, which `where` names, with the key:
    `recipe.toml: sft.learning_rate (SFT learning rate): …`."""
    path = [str(part) for part in error["loc"]]
    key, label = ".".join(path), label_of(model, path)
    named = f"{key} ({label})" if label and where else label or key
    return ": ".join(part for part in (where, named, wrong_with(error, field_of(model, path))) if part)


def wrong_with(error: Any, field: FieldInfo | None) -> str:
    """What is wrong with one value."""
    value, kind = error["input"], error["type"]
    if kind.startswith(("int_", "float_")):
        number = "whole number" if kind.startswith("int_") else "number"
        return f'"{value!s:.80}" is not a {number}.' if value not in ("", None) else f"is empty; it must be a {number}."
    if kind in BOUNDS and field:
        return f"must be {bounds(field)}, you gave {value!s:.80}."
    got = "" if kind in ("missing", "value_error") else f" (got {value!r:.80})"
    return f"{error['msg'].removeprefix('Value error, ')}{got}"


BOUNDS = {"greater_than": "gt", "greater_than_equal": "ge", "less_than": "lt", "less_than_equal": "le"}


def bounds(field: FieldInfo) -> str:
    """`between 1 and 512`, `above 0 and at most 1`, `at least 1`."""
    found = {
        name: one
        for part in field.metadata
        for name in BOUNDS.values()
        if (one := getattr(part, name, None)) is not None
    }
    if {"ge", "le"} <= set(found):
        return f"between {found['ge']:,} and {found['le']:,}"
    words = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
    return " and ".join(f"{word} {found[name]:,}" for name, word in words.items() if name in found)


def field_of(model: type[BaseModel], path: list[str]) -> FieldInfo | None:
    """The field at `path`; None where it leads to none."""
    field = model.model_fields.get(path[0]) if path else None
    inner = field.annotation if field else None
    if len(path) > 1 and isinstance(inner, type) and issubclass(inner, BaseModel):
        return field_of(inner, path[1:])
    return field


def label_of(model: type[BaseModel], path: list[str]) -> str:
    """The label of the field at `path`, with the part it belongs to: SFT learning rate; nothing where there is no field."""
    field = field_of(model, path)
    title = (field.title if field else None) or ""
    return within(GROUPS.get(path[0], "") if len(path) > 1 else "", title)


def within(group: str, label: str) -> str:
    return f"{group} {label[0].lower()}{label[1:]}" if group and label else label


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file as plain values.

    Raises:
        ConfigError: the file is missing, unreadable or not TOML, with the line the parser names.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")  # Windows editors put a mark in front
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}. Check the path.") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path.name}: not valid TOML: not UTF-8 text, {error.reason}. Save it as UTF-8.") from error
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"{path.name}: not valid TOML: {error}{cure(text, error)}") from error


def cure(text: str, error: Exception) -> str:
    """What to do where the parser stumbled over the path of a file on Windows; nothing elsewhere."""
    found = re.search(r"at line (\d+)", str(error))
    line = "\n".join(text.splitlines()[: int(found[1])][-1:]) if found else ""
    if not re.search(r'"[^"]*\\', line):
        return ""
    return ". In double quotes a backslash begins a sign: write the path in single quotes, or each backslash twice"


def read_recipe(path: Path) -> Recipe:
    """A recipe TOML, with relative data and model paths taken from the recipe's own folder.

    Raises:
        ConfigError: see `read_toml` and `parse`.
    """
    recipe = parse(Recipe, read_toml(path), path.name)
    return anchored(recipe, path.resolve().parent)


def anchored(recipe: Recipe, folder: Path) -> Recipe:
    """The recipe with every relative path that exists under `folder` made absolute."""

    def at(name: str | None) -> str | None:
        return (
            str((folder / name).resolve())
            if name and name not in (SAMPLE, STARTER) and os.path.exists(folder / name)  # False for too long a name
            else name
        )

    files = {key: at(getattr(recipe.data, key)) for key in ("chat", "pairs", "held_out")}
    return recipe.model_copy(update={"model": at(recipe.model), "data": recipe.data.model_copy(update=files)})


JOB: TypeAdapter[TrainJob | CompareJob] = TypeAdapter(Job)
