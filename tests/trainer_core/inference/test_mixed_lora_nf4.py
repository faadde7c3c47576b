"""Lanes on a base in 4 or 16 bit are what plain PEFT gives with one adapter at a time.

PEFT is given the same rows in the same padding, for kernels round by the shape of a batch: bitsandbytes takes another one for
1 row than for 40, and attention another one with padding than without. Asked alone, a prompt may therefore go another way
where its two likeliest tokens are a rounding apart, in plain PEFT as well. The lanes of one batch are rounded alike.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from bitsandbytes.nn import Linear4bit
from peft import PeftModel
from peft.helpers import rescale_adapter_scale
from peft.utils.integrations import dequantize_module_weight
from transformers import AutoModelForCausalLM

from tests.support import tiny
from trainer_core.config.jobs import Lane
from trainer_core.config.recipe import Precision, Sampling
from trainer_core.data import Message
from trainer_core.data.render import render_chat
from trainer_core.inference.generate import PREFILL_TOKENS, GenerationRow, encode_text, generate_rows, left_pad
from trainer_core.inference.load import (
    LaneSet,
    half_dtype,
    load_lanes,
    verify_adapters,
    weight_options,
    with_adjusted_lane,
)
from trainer_core.inference.mixed_lora import MixedLora
from trainer_core.runs.compare_requests import AdjustLaneRequest

pytestmark = pytest.mark.real

ADAPTERS = ("one", "two", "queries")
PROMPTS = ("dog", "the quick fox", "a short warm answer to a question, please", "the lazy dog jumps " * 33)
NEW = 16
ROUNDED = 0.03
"""As far as equal lanes may be apart: one number of a layer rounded up instead of down makes 0.012 of it."""
IDS = torch.tensor([[5, 9, 40, 77, 3, 21, 200, 13]])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nf4")
    tiny.model(folder / "base")
    tiny.adapter(folder / "one", folder / "base", 1)
    tiny.adapter(folder / "two", folder / "base", 2, rank=6, lora_alpha=10, use_rslora=True)
    tiny.adapter(folder / "queries", folder / "base", 3, scale=2.0, target_modules=["q_proj"])
    tiny.adapter(folder / "dora", folder / "base", 4, use_dora=True)
    sums = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folder / "base"), folder / "one", "one")
    sums.load_adapter(folder / "two", "two")
    sums.add_weighted_adapter(["one", "two"], [0.7, 0.3], "both", combination_type="cat")
    sums.save_pretrained(folder, selected_adapters=["both"])
    return folder


@dataclass
class Pair:
    """The same base twice: with all adapters as lanes, and in plain PEFT, which has one of them on at a time."""

    lanes: LaneSet
    plain: PeftModel

    @contextmanager
    def alone(self, lane: str) -> Iterator[PeftModel]:
        """PEFT's model with this lane's adapter on."""
        with torch.inference_mode(), self.plain.disable_adapter() if lane == "Base" else nullcontext():
            if lane != "Base":
                self.plain.set_adapter(lane)
            yield self.plain

    def peft(self, lane: str) -> torch.Tensor:
        """PEFT's logits under one adapter, for a batch of the same shape as `logits` has."""
        with self.alone(lane) as model:
            return model(input_ids=self.ids).logits

    def logits(self, lanes: LaneSet | None = None) -> torch.Tensor:
        """Lanes × length × vocabulary, all in one batch."""
        lanes = lanes or self.lanes
        return lanes.forward(list(lanes.mixtures.values()), input_ids=self.ids).logits

    @property
    def ids(self) -> torch.Tensor:
        return IDS.expand(len(self.lanes.lanes), -1).to(self.lanes.device)


@pytest.fixture(scope="module", params=["bf16", "nf4"])
def pair(folder: Path, request: pytest.FixtureRequest) -> Pair:
    plain = AutoModelForCausalLM.from_pretrained(folder / "base", **weight_options(request.param))
    plain = PeftModel.from_pretrained(plain, folder / ADAPTERS[0], ADAPTERS[0])
    for name in ADAPTERS[1:]:
        plain.load_adapter(folder / name, name)
    return Pair(loaded(folder, *ADAPTERS, precision=request.param), plain.eval())


def loaded(folder: Path, *names: str, base: str = "base", precision: Precision = "nf4") -> LaneSet:
    adapters = (Lane(name=name, adapter=str(folder / name)) for name in names)
    return load_lanes(str(folder / base), precision, (Lane(name="Base"), *adapters))


def apart(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """The root mean square of the difference, as a part of the logits' own spread."""
    return ((ours.float() - theirs.float()).pow(2).mean().sqrt() / theirs.float().std()).item()


def test_every_lane_of_a_mixed_batch_has_the_logits_of_plain_peft(pair: Pair) -> None:
    ours = pair.logits()
    for row, lane in enumerate(pair.lanes.names):
        assert apart(ours[row], pair.peft(lane)[row]) < ROUNDED, lane
    assert all(apart(ours[row], ours[0]) > 0.5 for row in range(1, len(ours))), "equal lanes prove nothing"


def test_every_layer_rounds_where_peft_rounds(pair: Pair) -> None:
    """Bit for bit, but for sums that another order rounds otherwise. With adapters in 16 bit a quarter is not equal."""
    layers = {path: layer for path, layer in pair.lanes.model.named_modules() if isinstance(layer, MixedLora)}
    pair.lanes.shares.set_rows(torch.tensor(list(pair.lanes.mixtures.values()), device=pair.lanes.device))
    rows, unequal = len(pair.lanes.lanes), []
    for path, layer in layers.items():
        x = torch.randn(rows, 20, layer.down.shape[1], dtype=pair.lanes.model.dtype, device=pair.lanes.device)
        with torch.inference_mode():
            ours = layer(x)
        for row, lane in enumerate(pair.lanes.names):
            with pair.alone(lane) as model:
                unequal.append(ours[row] != model.get_base_model().get_submodule(path)(x)[row])
    assert len(layers) == 14 and torch.cat([one.flatten() for one in unequal]).float().mean() < 0.01


def test_every_lane_says_what_plain_peft_says_token_by_token(pair: Pair) -> None:
    lanes = pair.lanes
    texts = {text: render_chat(lanes.tokenizer, [Message("user", text)], asking=True) for text in PROMPTS}
    rows = [GenerationRow(lane, texts[text], text) for text in PROMPTS for lane in lanes.names]
    generate_rows(lanes, rows, Sampling(temperature=0, max_new_tokens=NEW), lambda: True)
    ids, mask = left_pad([encode_text(lanes, row.prompt) for row in rows], lanes.device)
    assert ids.shape[1] > PREFILL_TOKENS, "a prompt must be read in parts"
    asked = {"input_ids": ids, "attention_mask": mask, "max_new_tokens": NEW, "do_sample": False, "pad_token_id": 0}
    equal = 0
    for lane in lanes.names:
        with pair.alone(lane) as model:
            out = model.generate(**asked, return_dict_in_generate=True, output_logits=True)
        for index, row in enumerate(rows):
            if row.lane == lane:
                said = [*row.tokens, 2][:NEW]
                theirs = out.sequences[index, ids.shape[1] :].tolist()
                step = next((step for step, token in enumerate(said) if token != theirs[step]), None)
                assert step is None or tied(out.logits[step][index], said[step]), (lane, row.seed_key, step)
                equal += step is None
    assert equal > 0.8 * len(rows), "ties are rare"
    assert len({tuple(row.tokens) for row in rows}) == len(rows), "lanes that say the same prove nothing"


def tied(logits: torch.Tensor, token: int) -> bool:
    """Is the token as likely as the likeliest, but for rounding?"""
    return bool(logits.max() - logits[token] < ROUNDED * logits.std())


def test_a_strength_is_pefts_scaled_adapter_and_0_is_the_base_bit_for_bit(pair: Pair) -> None:
    weak = pair.logits(with_adjusted_lane(pair.lanes, AdjustLaneRequest(lane="two", strength=0.3)))
    pair.plain.set_adapter("two")
    with rescale_adapter_scale(pair.plain, 0.3):
        assert apart(weak[2], pair.peft("two")[2]) < ROUNDED
    off = pair.logits(with_adjusted_lane(pair.lanes, AdjustLaneRequest(lane="two", strength=0)))
    assert torch.equal(off[2], off[0]) and torch.equal(off[1], pair.logits()[1])
    assert verify_adapters(pair.lanes)[0].difference == 0


def test_a_blend_is_pefts_sum_of_both(pair: Pair, folder: Path) -> None:
    blend = pair.logits(with_adjusted_lane(pair.lanes, AdjustLaneRequest(lane="one", other="two", share=0.3)))[1]
    pair.plain.load_adapter(folder / "both", "both")
    assert apart(blend, pair.peft("both")[1]) < ROUNDED
    pair.plain.delete_adapter("both")


def test_dora_on_a_4_bit_base_is_dora_on_its_weights_written_out(folder: Path) -> None:
    """Not against PEFT on the 4-bit base: on processors with AVX512-BF16 bitsandbytes packs the weights anew at the first pass,
    and PEFT, which reads them in every pass for the norm, then reads noise. Here the norm is settled before it."""
    lanes = loaded(folder, "dora")
    base = AutoModelForCausalLM.from_pretrained(folder / "base", **weight_options("nf4"))
    plain = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=base.dtype).to(base.device)
    for path, module in base.named_modules():
        if isinstance(module, Linear4bit):
            plain.get_submodule(path).weight.data = dequantize_module_weight(module).to(base.dtype)
    ours = lanes.forward(list(lanes.mixtures.values()), input_ids=IDS.expand(2, -1).to(lanes.device)).logits
    plain = PeftModel.from_pretrained(plain, folder / "dora").eval()
    with torch.inference_mode():
        assert apart(ours[1], plain(input_ids=IDS.to(lanes.device)).logits[0]) < ROUNDED
    assert apart(ours[1], ours[0]) > 0.5


def test_a_base_that_is_stored_in_4_bit_is_the_same_base(folder: Path) -> None:
    quantised = AutoModelForCausalLM.from_pretrained(folder / "base", **weight_options("nf4"))
    quantised.save_pretrained(folder / "stored")
    tiny.tokenizer().save_pretrained(folder / "stored")
    once, stored = loaded(folder, "one"), loaded(folder, "one", base="stored", precision="bf16")
    assert isinstance(stored.model.model.layers[0].mlp.up_proj.base_layer, Linear4bit)
    ids = IDS.expand(2, -1).to(once.device)
    rows = list(once.mixtures.values())
    assert torch.equal(once.forward(rows, input_ids=ids).logits, stored.forward(rows, input_ids=ids).logits)


@pytest.mark.parametrize(
    ("there", "native", "expected"),
    [(False, False, torch.bfloat16), (True, True, torch.bfloat16), (True, False, torch.float16)],
)
def test_a_card_that_only_emulates_bfloat16_computes_in_float16(there, native, expected) -> None:
    """As torch 2.13 answers for a T4: supported, by emulation."""
    card = SimpleNamespace(
        is_available=lambda: there, is_bf16_supported=lambda including_emulation=True: native or including_emulation
    )
    assert half_dtype(card) is expected
