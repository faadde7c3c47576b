"""The dial, blends, system prompts, the heat map and Cancel: what changes without a reload, exactly."""

from __future__ import annotations

import io
import json
import os
import threading
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from tests.support import tiny
from trainer_core.config.jobs import Lane
from trainer_core.config.recipe import Sampling
from trainer_core.errors import UserError
from trainer_core.inference.load import LaneSet, load_lanes, verify_adapters, with_adjusted_lane
from trainer_core.inference.server import adjust_lane, handle_request
from trainer_core.inference.streaming import stream_answers
from trainer_core.inference.token_heatmap import build_heatmap
from trainer_core.runs import compare_requests
from trainer_core.runs.compare_events import AnswersFinished, LaneAdjusted, RequestFailed, TextChunk
from trainer_core.runs.compare_requests import (
    AdjustLaneRequest,
    CancelRequest,
    ChatMessage,
    GenerateRequest,
    HeatmapRequest,
    RequestQueue,
)

pytestmark = pytest.mark.real

IDS = torch.tensor([[5, 9, 40, 77, 3, 21]])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dial")
    tiny.model(folder / "base")
    tiny.adapter(folder / "sft", folder / "base", 1)
    tiny.adapter(folder / "dpo", folder / "base", 2, rank=6)
    tiny.adapter(folder / "dora", folder / "base", 3, use_dora=True)
    return folder


@pytest.fixture(scope="module", params=["fp32", "bf16"])
def lanes(folder: Path, request) -> LaneSet:
    found = [Lane(name=name.upper(), adapter=str(folder / name)) for name in ("sft", "dpo", "dora")]
    return load_lanes(str(folder / "base"), request.param, (Lane(name="Base"), *found))


def logits(lanes: LaneSet) -> dict[str, torch.Tensor]:
    found = lanes.forward(list(lanes.mixtures.values()), input_ids=IDS.expand(len(lanes.lanes), -1)).logits
    return dict(zip(lanes.names, found, strict=True))


def plain(folder: Path, adapter: str | None = None, dtype=torch.float32) -> torch.Tensor:
    model = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=dtype)
    model = PeftModel.from_pretrained(model, folder / adapter) if adapter else model
    with torch.inference_mode():
        return model.eval()(input_ids=IDS).logits[0]


@pytest.mark.parametrize("lane", ["SFT", "DPO", "DORA"])
def test_0_percent_is_the_base_bit_for_bit(folder: Path, lanes: LaneSet, lane: str) -> None:
    off = with_adjusted_lane(lanes, AdjustLaneRequest(lane=lane, strength=0))
    assert torch.equal(logits(off)[lane], logits(off)["Base"])
    alone = with_adjusted_lane(off.subset([lane]), AdjustLaneRequest(lane=lane, strength=0))
    untouched = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=lanes.model.dtype).eval()
    with torch.inference_mode():
        assert torch.equal(logits(alone)[lane], untouched(input_ids=IDS).logits[0])
    assert not torch.equal(logits(lanes)[lane], logits(lanes)["Base"])


def test_100_percent_is_the_adapter_and_150_goes_beyond(folder: Path, lanes: LaneSet) -> None:
    full = with_adjusted_lane(
        with_adjusted_lane(lanes, AdjustLaneRequest(lane="SFT", strength=0.3)),
        AdjustLaneRequest(lane="SFT", strength=1),
    )
    assert torch.equal(logits(full)["SFT"], logits(lanes)["SFT"])
    if lanes.model.dtype == torch.float32:
        assert torch.allclose(logits(full)["SFT"], plain(folder, "sft"), atol=1e-4)
    far = [
        (
            logits(with_adjusted_lane(lanes, AdjustLaneRequest(lane="SFT", strength=strength)))["SFT"]
            - logits(lanes)["Base"]
        ).norm()
        for strength in (0.25, 1, 1.5)
    ]
    assert far[0] < far[1] < far[2]


@pytest.mark.parametrize("strength", [0.5, 1.5])
def test_a_strength_is_pefts_scaled_adapter(folder: Path, lanes: LaneSet, strength: float) -> None:
    if lanes.model.dtype != torch.float32:
        pytest.skip("PEFT computes adapters in 32 bit")
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folder / "base"), folder / "sft")
    for module in model.modules():
        if hasattr(module, "scale_layer"):
            module.scale_layer(strength)
    with torch.inference_mode():
        theirs = model.eval()(input_ids=IDS).logits[0]
    assert torch.allclose(
        logits(with_adjusted_lane(lanes, AdjustLaneRequest(lane="SFT", strength=strength)))["SFT"], theirs, atol=1e-4
    )


def test_the_ends_of_a_blend_are_its_adapters_and_its_middle_is_pefts(folder: Path, lanes: LaneSet) -> None:
    def blend(share: float) -> torch.Tensor:
        return logits(with_adjusted_lane(lanes, AdjustLaneRequest(lane="SFT", other="DPO", share=share)))["SFT"]

    assert torch.equal(blend(0), logits(lanes)["SFT"]) and torch.equal(blend(1), logits(lanes)["DPO"])
    if lanes.model.dtype == torch.float32:
        model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folder / "base"), folder / "sft", "one")
        model.load_adapter(folder / "dpo", "two")
        model.add_weighted_adapter(["one", "two"], [0.7, 0.3], "both", combination_type="cat")
        model.set_adapter("both")
        with torch.inference_mode():
            assert torch.allclose(blend(0.3), model.eval()(input_ids=IDS).logits[0], atol=1e-4)


def test_one_adapter_at_several_strengths_is_loaded_once(folder: Path) -> None:
    sft, dpo = str(folder / "sft"), str(folder / "dpo")
    given = [
        Lane(name="Base"),
        Lane(name="Half", adapter=sft, strength=0.5),
        Lane(name="Full", adapter=sft),
        Lane(name="Over", adapter=sft, strength=1.5),
        Lane(name="Blend", adapter=sft, other=dpo, share=0.25),
        Lane(name="Prompted", system="Answer like a pirate."),
    ]
    lanes = load_lanes(str(folder / "base"), "fp32", given)
    assert lanes.adapters == (sft, dpo)
    assert lanes.mixtures["Blend"] == (0.75, 0.25) and lanes.mixtures["Over"] == (1.5, 0.0)
    found = {proof.lane: proof for proof in verify_adapters(lanes)}
    assert 0 < found["Half"].difference < found["Full"].difference
    assert found["Half"].strength == 0.5 and found["Blend"].sha256.count("+") == 1 and found["Blend"].share == 0.25
    assert torch.equal(
        logits(with_adjusted_lane(lanes, AdjustLaneRequest(lane="Half", strength=1)))["Half"], logits(lanes)["Full"]
    )


def test_a_turned_dial_is_told_and_a_wrong_one_refused(lanes: LaneSet) -> None:
    said: list = []
    half = adjust_lane(lanes, AdjustLaneRequest(id="d", lane="SFT", strength=0.5), said.append)
    assert isinstance(said[0], LaneAdjusted) and said[0].proof.strength == 0.5 and said[0].proof.difference > 0
    assert half.find_lane("SFT").strength == 0.5 and lanes.find_lane("SFT").strength == 1
    for wrong in (
        AdjustLaneRequest(lane="Base"),
        AdjustLaneRequest(lane="Nobody"),
        AdjustLaneRequest(lane="SFT", other="Base", share=0.5),
    ):
        assert adjust_lane(lanes, wrong, said.append) is lanes and isinstance(said[-1], RequestFailed)


def told(lanes: LaneSet, ask: GenerateRequest) -> dict[str, str]:
    said: list = []
    stream_answers(lanes, ask, said.append, threading.Event())
    texts = [event for event in said if isinstance(event, TextChunk)]
    return {name: "".join(event.more.get(name, "") for event in texts) for name in lanes.names}


def test_a_lane_hears_its_own_system_prompt_and_its_own_earlier_answers(folder: Path) -> None:
    lanes = load_lanes(str(folder / "base"), "fp32", [Lane(name="Base"), Lane(name="Prompted", system="dog fox")])
    sampling = Sampling(temperature=0, max_new_tokens=12)
    user, system = ChatMessage(role="user", content="hi"), ChatMessage(role="system", content="dog fox")
    ours = told(lanes, GenerateRequest(id="a", messages=(user,), sampling=sampling))
    assert ours["Base"] != ours["Prompted"]
    both = told(lanes, GenerateRequest(id="a", messages=(system, user), sampling=sampling))
    assert both["Base"] == both["Prompted"] == ours["Prompted"]
    turns = {name: (user, ChatMessage(role="assistant", content=name * 9), user) for name in ("Base", "Prompted")}
    chat = told(lanes, GenerateRequest(id="a", messages=(user, user), own=turns, sampling=sampling))
    same = told(lanes, GenerateRequest(id="a", messages=turns["Base"], sampling=sampling))
    assert chat["Base"] == same["Base"] and chat["Prompted"] != same["Prompted"]


@pytest.mark.parametrize("ended", [True, False])
def test_the_heat_of_an_answer_is_its_log_probs_piece_by_piece(folder: Path, ended: bool) -> None:
    lanes = load_lanes(str(folder / "base"), "fp32", [Lane(name="Base"), Lane(name="SFT", adapter=str(folder / "sft"))])
    text = "né 🦊 the dog"
    request = HeatmapRequest(
        id="h", messages=(ChatMessage(role="user", content="hi"),), answer=text, ended=ended, lanes=("Base", "SFT")
    )
    found = build_heatmap(lanes, request)
    assert "".join(piece.text for piece in found.pieces) == text + "<|im_end|>" * ended
    asked = lanes.tokenizer.encode("<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n", add_special_tokens=False)
    ids = asked + lanes.tokenizer.encode(text + "<|im_end|>" * ended, add_special_tokens=False)
    for adapter, side in ((None, "first"), ("sft", "second")):
        model = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.float32)
        model = PeftModel.from_pretrained(model, folder / adapter) if adapter else model
        with torch.inference_mode():
            likely = model.eval()(input_ids=torch.tensor([ids])).logits[0, len(asked) - 1 : -1].log_softmax(-1)
        expected = likely.gather(-1, torch.tensor(ids[len(asked) :])[:, None]).sum().item()
        assert sum(getattr(piece, side) for piece in found.pieces) == pytest.approx(expected, abs=1e-3)
    assert any(abs(piece.first - piece.second) > 0.1 for piece in found.pieces)


def test_equal_lanes_have_no_heat_and_wrong_questions_are_refused(folder: Path) -> None:
    lanes = load_lanes(str(folder / "base"), "fp32", [Lane(name="Base")])
    request = HeatmapRequest(
        id="h", messages=(ChatMessage(role="user", content="hi"),), answer="the dog", lanes=("Base", "Base")
    )
    assert all(piece.first == pytest.approx(piece.second, abs=1e-5) for piece in build_heatmap(lanes, request).pieces)
    for code, change in (
        ("loaded_lanes.unknown", {"lanes": ("Base", "None")}),
        ("token_heatmap.too_long", {"answer": "dog " * 600}),
        ("token_heatmap.empty_answer", {"answer": "", "ended": False}),
    ):
        with pytest.raises(UserError) as error:
            build_heatmap(lanes, request.model_copy(update=change))
        assert error.value.text.code == code


def line(request) -> str:
    return request.model_dump_json() + "\n"


def pipe() -> tuple[RequestQueue, io.TextIOBase]:
    reading, writing = os.pipe()
    return RequestQueue(os.fdopen(reading)), os.fdopen(writing, "w")


def test_a_cancel_reaches_what_waits_and_nothing_after_it(folder: Path) -> None:
    lanes = load_lanes(str(folder / "base"), "fp32", [Lane(name="Base")])
    inbox, app = pipe()
    ask = GenerateRequest(
        id="one", messages=(ChatMessage(role="user", content="hi"),), sampling=Sampling(max_new_tokens=3)
    )
    app.write(line(ask) + line(CancelRequest()) + line(ask.model_copy(update={"id": "two"})))
    app.flush()
    said: list = []
    first = inbox.next_request()
    assert inbox.cancelled.wait(5), "a Cancel that came before its Ask began must not be lost"
    handle_request(lanes, first, said.append, inbox)
    handle_request(lanes, inbox.next_request(), said.append, inbox)
    ends = [event for event in said if isinstance(event, AnswersFinished)]
    assert [(end.ask, end.cancelled, end.ends["Base"].tokens > 0) for end in ends] == [
        ("one", True, False), ("two", False, True)
    ]  # fmt: skip
    app.close()
    assert inbox.next_request() is None


def test_a_gone_app_ends_everything(folder: Path) -> None:
    inbox, app = pipe()
    app.write(line(GenerateRequest(id="one", messages=(ChatMessage(role="user", content="hi"),))))
    app.close()
    assert inbox.cancelled.wait(5) or inbox.next_request() is None


def test_requests_survive_the_way_to_the_worker() -> None:
    for request in (
        AdjustLaneRequest(id="d", lane="SFT", strength=1.5, other="DPO", share=0.5),
        HeatmapRequest(id="h", messages=(ChatMessage(role="user", content="hi"),), answer="a", lanes=("A", "B")),
    ):
        assert compare_requests.COMPARE_REQUEST_ADAPTER.validate_json(line(request)) == request
    with pytest.raises(ValueError, match="strength"):
        compare_requests.COMPARE_REQUEST_ADAPTER.validate_json(
            json.dumps({"kind": "dial", "lane": "SFT", "strength": 1.6})
        )
