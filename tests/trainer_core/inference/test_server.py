"""Lanes: one mixed batch gives what each adapter gives alone, the random numbers are shared, and the text comes whole."""

from __future__ import annotations

import json
import shutil
import sys
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from scipy.stats import chisquare
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, GenerationConfig

from tests.support import tiny
from trainer_core.config.jobs import Lane
from trainer_core.config.recipe import Sampling
from trainer_core.data import Message
from trainer_core.data.render import render_chat
from trainer_core.errors import ConfigError, ModelError, UserError
from trainer_core.inference.coupled_sampling import CoupledSampler, build_filters, gumbel_noise
from trainer_core.inference.generate import PREFILL_TOKENS, GenerationRow, generate_rows, left_pad
from trainer_core.inference.load import LaneSet, load_lanes, verify_adapters, with_adapter_template
from trainer_core.inference.mixed_lora import MixedLora
from trainer_core.inference.server import adapter_summary
from trainer_core.inference.streaming import DecodedRow, stream_answers
from trainer_core.runs import checkpoints
from trainer_core.runs.compare_events import PromptStarted, TextChunk
from trainer_core.runs.compare_requests import GenerateRequest
from trainer_core.texts import Text

pytestmark = pytest.mark.real

PROMPTS = ["the quick fox", "a short warm answer to a question, please", "dog", "the lazy dog jumps " * 33]
ENDS = [2, *range(20, 280, 20)]
"""Several end tokens, so that some answers of the random model end early and some do not."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lanes")
    tiny.model(folder / "base")
    GenerationConfig(eos_token_id=ENDS, pad_token_id=0).save_pretrained(folder / "base")
    for name, seed in (("one", 1), ("two", 2), ("one again", 1)):
        tiny.adapter(folder / name, folder / "base", seed)
    tiny.adapter(folder / "zero", folder / "base", scale=0.0)
    return folder


def loaded(folder: Path, *names: str, precision="fp32") -> LaneSet:
    adapters = (Lane(name=name, adapter=str(folder / name)) for name in names)
    return load_lanes(str(folder / "base"), precision, (Lane(name="Base"), *adapters))


@pytest.fixture(scope="module")
def lanes(folder: Path) -> LaneSet:
    return loaded(folder, "one", "two", "one again", "zero")


def rendered(lanes: LaneSet, text: str) -> str:
    return render_chat(lanes.tokenizer, [Message("user", text)], asking=True)


def grown(lanes: LaneSet, sampling: Sampling, prompts=PROMPTS, names=()) -> dict[tuple[str, str], list[int]]:
    rows = [GenerationRow(name, rendered(lanes, text), text) for text in prompts for name in names or lanes.names]
    generate_rows(lanes, rows, sampling, lambda: True)
    return {(row.lane, row.seed_key): row.tokens for row in rows}


def alone(folder: Path, adapter: str | None, **format) -> torch.nn.Module:
    """One adapter on its own base, by transformers and PEFT and nothing of ours."""
    model = AutoModelForCausalLM.from_pretrained(folder / "base", **format)
    return (PeftModel.from_pretrained(model, adapter) if adapter else model).eval()


def test_nothing_here_has_loaded_unsloth() -> None:
    """Its kernels use one adapter for a whole batch. All of `inference` is imported by now, and no test imports Unsloth here."""
    assert "trainer_core.inference.server" in sys.modules and not {"unsloth", "unsloth_zoo"} & {*sys.modules}


def test_a_mixed_greedy_batch_equals_generate_lane_by_lane(folder: Path, lanes: LaneSet) -> None:
    mixed = grown(lanes, Sampling(temperature=0, max_new_tokens=24))
    lengths = set()
    for lane in lanes.lanes:
        model = alone(folder, lane.adapter, dtype=torch.float32)
        for text in PROMPTS:
            ids = lanes.tokenizer(rendered(lanes, text), add_special_tokens=False, return_tensors="pt")
            out = model.generate(**ids, max_new_tokens=24, do_sample=False)[0, ids["input_ids"].shape[1] :].tolist()
            assert mixed[lane.name, text] == [token for token in out if token not in ENDS], (lane.name, text)
            lengths.add(len(mixed[lane.name, text]))
    assert len({tuple(ids) for ids in mixed.values()}) > len(PROMPTS), "adapters that change nothing prove nothing"
    assert 24 in lengths and len(lengths) > 2, "rows must leave the batch at different times"
    assert ids["input_ids"].shape[1] > PREFILL_TOKENS, "a prompt must be read in parts"


@pytest.mark.parametrize("config", [{"use_dora": True}, {"use_rslora": True}, {"target_modules": ["q_proj"], "r": 3}])
def test_every_kind_of_adapter_gives_in_a_mixed_batch_what_it_gives_alone(folder, tmp_path, config) -> None:
    tiny.adapter(tmp_path / "kind", folder / "base", seed=3, **config)
    lane = Lane(name="Kind", adapter=str(tmp_path / "kind"))
    mixed = load_lanes(str(folder / "base"), "fp32", (Lane(name="One", adapter=str(folder / "one")), lane))
    ids = torch.tensor([[5, 9, 40, 77]])
    ours = mixed.forward([mixed.mixtures[name] for name in ("Kind", "One", "Kind")], input_ids=ids.expand(3, -1)).logits
    for row, adapter in ((0, lane.adapter), (1, str(folder / "one")), (2, lane.adapter)):
        with torch.inference_mode():
            assert torch.allclose(ours[row], alone(folder, adapter)(input_ids=ids).logits[0], atol=1e-4)
    assert not torch.allclose(ours[0], ours[1], atol=1e-2)


def test_a_layer_that_does_not_see_whole_rows_is_refused(folder: Path) -> None:
    """The experts of a mixture get tokens without their rows; shares would go to the wrong ones."""
    lanes = loaded(folder, "one")
    layer = next(module for module in lanes.model.modules() if isinstance(module, MixedLora))
    lanes.shares.set_rows(torch.ones(2, 1))
    with pytest.raises(ModelError) as error:
        layer(torch.zeros(7, layer.down.shape[1]))
    assert error.value.text.code == "mixed_lora.expert_layer"


def test_lanes_share_a_4_bit_base(folder: Path) -> None:
    lanes = loaded(folder, "one", "two", precision="nf4")
    four_bit = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    ids = torch.tensor([[5, 9, 40, 77]], device=lanes.device)
    ours = lanes.forward(list(lanes.mixtures.values()), input_ids=ids.expand(3, -1)).logits
    for row, lane in enumerate(lanes.lanes):
        with torch.inference_mode():
            model = alone(folder, lane.adapter, quantization_config=four_bit, dtype=torch.bfloat16)
            assert torch.allclose(ours[row], model(input_ids=ids).logits[0], atol=0.1)
    assert (ours[1] - ours[2]).abs().max() > 1
    assert verify_adapters(lanes)[0].difference == 0


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.5])
def test_equal_adapters_say_the_same_at_any_temperature(lanes: LaneSet, temperature: float) -> None:
    said = grown(lanes, Sampling(temperature=temperature, max_new_tokens=24, top_p=0.95))
    for text in PROMPTS:
        assert said["one", text] == said["one again", text]
        assert said["Base", text] == said["zero", text]
    assert any(said["one", text] != said["two", text] for text in PROMPTS)


def test_two_equal_adapters_agree_on_200_prompts(lanes: LaneSet) -> None:
    prompts = [f"question {number}" for number in range(200)]
    said = grown(lanes, Sampling(temperature=1.0, top_p=1.0, max_new_tokens=12), prompts, ("one", "one again"))
    assert all(said["one", text] == said["one again", text] for text in prompts)
    assert len({tuple(said["one", text]) for text in prompts}) > 150


@pytest.mark.parametrize("settings", [{"temperature": 1.0}, {"temperature": 0.0, "repetition_penalty": 1.8}])
def test_a_lane_says_the_same_alone_and_in_company(lanes: LaneSet, settings: dict) -> None:
    sampling = Sampling(max_new_tokens=16, **settings)
    together = grown(lanes, sampling)
    for text in PROMPTS:
        assert grown(lanes, sampling, [text], ["two"])["two", text] == together["two", text]


def test_padding_adds_no_token_that_a_row_has_not() -> None:
    ids, mask = left_pad([[7, 8, 9], [5]], torch.device("cpu"))
    assert ids.tolist() == [[7, 8, 9], [5, 5, 5]] and mask.tolist() == [[1, 1, 1], [0, 0, 1]]


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 0.8, "top_p": 1.0},
        {"temperature": 1.0, "top_p": 0.7},
        {"temperature": 1.3, "top_p": 1.0, "top_k": 3},
        {"temperature": 1.0, "top_p": 1.0, "min_p": 0.2},
        {"temperature": 0.9, "top_p": 0.95, "repetition_penalty": 1.5},
    ],
)
def test_the_dice_follow_the_distribution(settings: dict) -> None:
    sampling = Sampling(**settings)
    logits, seen, draws = torch.tensor([[2.0, 1.0, 0.0, -1.0, 0.5, 1.5]]), torch.tensor([[0, 3]]), 6000
    sampler = CoupledSampler(sampling)
    drawn = Counter(int(sampler.draw(logits, seen, ["p"], step)) for step in range(draws))
    expected = build_filters(sampling)(seen, logits)[0].double().softmax(-1) * draws
    possible = [token for token in range(6) if expected[token] > 0]
    assert set(drawn) <= set(possible)
    assert chisquare([drawn[token] for token in possible], expected[possible].numpy()).pvalue > 0.001


def test_filters_are_those_of_generate_in_its_order(folder: Path) -> None:
    settings = {"repetition_penalty": 1.2, "temperature": 0.7, "top_k": 5, "top_p": 0.9, "min_p": 0.1}
    model = AutoModelForCausalLM.from_pretrained(folder / "base")
    theirs = model._get_logits_processor(GenerationConfig(do_sample=True, **settings), input_ids_seq_length=3)
    assert [type(one) for one in build_filters(Sampling(**settings))] == [type(one) for one in theirs]


CPU = torch.device("cpu")


def test_noise_depends_on_seed_prompt_and_step_alone() -> None:
    same = gumbel_noise(1, "p", 2, 5, CPU)
    assert torch.equal(same, gumbel_noise(1, "p", 2, 5, CPU))
    for other in (gumbel_noise(2, "p", 2, 5, CPU), gumbel_noise(1, "q", 2, 5, CPU), gumbel_noise(1, "p", 3, 5, CPU)):
        assert not torch.equal(same, other)


def test_a_seed_keeps_its_meaning_on_the_processor() -> None:
    """These are the values of the first version: an answer of then is the answer of now."""
    assert gumbel_noise(1, "p", 2, 3, CPU).tolist() == pytest.approx([0.97756928, -0.18043074, 0.90073586], abs=1e-7)


def test_the_noise_is_made_where_the_logits_are() -> None:
    """A device without a generator refuses to make one; it would take noise that the processor made."""
    logits, seen = torch.zeros(2, 7, device="meta"), torch.zeros(2, 1, device="meta")
    with pytest.raises(RuntimeError, match="META"):
        CoupledSampler(Sampling(temperature=1, top_p=1)).draw(logits, seen, ["p", "p"], 0)


@pytest.mark.gpu
def test_rows_with_the_same_dice_share_their_luck_on_a_card() -> None:
    pytest.skip("no CUDA device") if not torch.cuda.is_available() else None
    card, sampler = torch.device("cuda", 0), CoupledSampler(Sampling(temperature=1, top_p=1))
    logits, seen = torch.zeros(3, 150_000, device=card), torch.zeros(3, 1, dtype=torch.long, device=card)
    drawn = [sampler.draw(logits, seen, ["p", "q", "p"], step).tolist() for step in range(20)]
    assert all(first == third for first, _, third in drawn) and any(first != second for first, second, _ in drawn)
    assert sampler.draw(logits[:1], seen[:1], ["p"], 7).item() == drawn[7][0], "alone as in company"
    values = torch.cat([gumbel_noise(1, "p", step, 150_000, card) for step in range(20)])
    assert values.device.type == "cuda" and values.isfinite().all()
    assert values.mean().item() == pytest.approx(0.5772, abs=0.01)
    assert values.std().item() == pytest.approx(1.2825, abs=0.01)


def test_proofs_tell_an_adapter_from_none(lanes: LaneSet) -> None:
    found = {proof.lane: proof for proof in verify_adapters(lanes)}
    assert found["Base"].difference == 0 and found["zero"].difference == 0 and not found["Base"].sha256
    assert found["one"].difference > 0 and found["one"].sha256 == found["one again"].sha256 != found["two"].sha256
    assert adapter_summary(tuple(found.values())) == Text("compare.idle_adapters", lanes=5, idle="zero")


def collect(lanes: LaneSet, ask: GenerateRequest, emit=lambda _: None, cancelled: threading.Event | None = None):
    said: list = []
    ends = stream_answers(lanes, ask, lambda event: said.append(event) or emit(event), cancelled or threading.Event())
    return said, ends


def asking(text: str, **sampling) -> GenerateRequest:
    return GenerateRequest(id="a", messages=({"role": "user", "content": text},), sampling=Sampling(**sampling))


def test_lanes_stream_together_and_tell_all_they_said(lanes: LaneSet) -> None:
    said, ends = collect(lanes, asking("hi", max_new_tokens=60, temperature=1.5, top_p=1))
    assert isinstance(said[0], PromptStarted) and said[0].lanes == lanes.names == tuple(ends)
    texts = [event for event in said if isinstance(event, TextChunk)]
    assert len(texts) > 1 and all(tuple(event.more) == lanes.names for event in texts)
    whole = grown(lanes, Sampling(max_new_tokens=60, temperature=1.5, top_p=1), ["hi"])
    for name in lanes.names:
        told = "".join(event.more[name] for event in texts)
        assert told == lanes.tokenizer.decode(whole[name, "hi"], skip_special_tokens=True)
        assert ends[name].tokens == len(whole[name, "hi"])


def test_characters_are_told_when_their_bytes_are_complete(lanes: LaneSet) -> None:
    text = "né 🦊\u200d🔥 नमस्ते <b>"
    growing, pieces = DecodedRow(GenerationRow("Base", "", "")), []
    for token in lanes.tokenizer(text, add_special_tokens=False)["input_ids"]:
        growing.row.tokens.append(token)
        pieces.append(growing.new_text(lanes, whole=False))
    assert "".join(pieces) == text and "" in pieces
    growing.row.tokens += lanes.tokenizer("🦊", add_special_tokens=False)["input_ids"][:2]
    assert growing.new_text(lanes, whole=False) == "" and "\ufffd" in growing.new_text(lanes, whole=True)


def test_a_model_without_a_padding_token_answers(lanes: LaneSet) -> None:
    bare = tiny.tokenizer()
    bare.pad_token = None
    assert collect(replace(lanes, tokenizer=bare), asking("hi", max_new_tokens=3))[1]


def test_cancel_ends_all_lanes_at_the_next_token(lanes: LaneSet) -> None:
    cancelled = threading.Event()
    _, ends = collect(lanes, asking("hi", max_new_tokens=400), lambda event: cancelled.set(), cancelled)
    assert all(end.tokens <= 1 for end in ends.values())
    _, ends = collect(lanes, asking(PROMPTS[-1], max_new_tokens=400), lambda event: cancelled.set(), cancelled)
    assert all(end.tokens == 0 for end in ends.values()), "a long prompt is not read to its end"


def test_a_prompt_that_does_not_fit_is_refused_with_numbers(lanes: LaneSet) -> None:
    with pytest.raises(UserError) as error:
        collect(lanes, asking("word " * 600))
    facts = error.value.text.params
    assert error.value.text.code == "lane_answers.long_prompt" and facts["tokens"] > facts["most"] == 512


def test_an_answer_stops_where_the_context_is_full(lanes: LaneSet) -> None:
    prompt = "dog " * 125
    room = 512 - len(lanes.tokenizer(rendered(lanes, prompt), add_special_tokens=False)["input_ids"])
    said = grown(lanes, Sampling(temperature=0, max_new_tokens=400), [prompt])
    assert 0 < max(len(ids) for ids in said.values()) <= room < 400


def test_an_unknown_lane_is_named(lanes: LaneSet) -> None:
    with pytest.raises(UserError) as error:
        collect(lanes, asking("hi").model_copy(update={"lanes": ("three",)}))
    assert error.value.text == Text("loaded_lanes.unknown", name="three", loaded=", ".join(lanes.names))


def test_two_lanes_of_one_name_are_refused(folder: Path) -> None:
    with pytest.raises(ConfigError) as error:
        load_lanes(str(folder / "base"), "fp32", (Lane(name="Base"), Lane(name="Base")))
    assert error.value.text == Text("loaded_lanes.same_name", count=2, name="Base")


def change_config(folder: Path, **values) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def change_weights(folder: Path, change) -> None:
    weights = load_file(folder / "adapter_model.safetensors")
    change(weights)
    save_file(weights, folder / "adapter_model.safetensors")


Q = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
LAYER = "model.layers.0.self_attn.q_proj"
SPOILT: dict[str, tuple[Callable[[Path], object], dict[str, object]]] = {
    "no_safetensors": (
        lambda bad: (bad / "adapter_model.safetensors").rename(bad / "adapter_model.bin"),
        {"folder": "bad"},
    ),
    "no_folder": (shutil.rmtree, {}),
    "bad_config": (lambda bad: (bad / "adapter_config.json").write_text('{"peft_type": "IA4"}'), {"folder": "bad"}),
    "other_kind": (
        lambda bad: (bad / "adapter_config.json").write_text('{"peft_type": "IA3"}'),
        {"folder": "bad", "kind": "IA3"},
    ),
    "other_shape": (
        lambda bad: change_config(bad, r=8),
        {"rank": 8, "part": "lora_A", "shape": "4 × 128", "needed": "8 × 128"},
    ),
    "missing_tensor": (
        lambda bad: change_weights(bad, lambda weights: weights.pop(Q)),
        {"layer": LAYER, "part": "lora_A"},
    ),
    "no_weights": (lambda bad: save_file({}, bad / "adapter_model.safetensors"), {"folder": "bad"}),
    "whole_layer": (
        lambda bad: change_weights(
            bad, lambda weights: weights.update({"base_model.model.lm_head.weight": torch.zeros(2)})
        ),
        {"folder": "bad", "layer": "lm_head.weight"},
    ),
    "unknown_layer": (
        lambda bad: change_weights(
            bad, lambda weights: weights.update({Q.replace("layers.0", "layers.7"): weights.pop(Q)})
        ),
        {"folder": "bad", "layer": LAYER.replace("layers.0", "layers.7")},
    ),
}


def load_refusal(folder: Path, bad: Path) -> Text:
    """Why the adapter is not opened."""
    with pytest.raises(ModelError) as error:
        load_lanes(str(folder / "base"), "fp32", (Lane(name="My lane", adapter=str(bad)),))
    assert error.value.text.code == "adapter_checks.in_lane" and error.value.text.params["lane"] == "My lane"
    return error.value.text.params["problem"]


@pytest.mark.parametrize("code", SPOILT)
def test_a_bad_adapter_is_refused(folder: Path, tmp_path: Path, code: str) -> None:
    spoil, facts = SPOILT[code]
    shutil.copytree(folder / "one", tmp_path / "bad")
    spoil(tmp_path / "bad")
    found = load_refusal(folder, tmp_path / "bad")
    assert found.code == f"adapter_checks.{code}" and found.params.items() >= facts.items()


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("adapter_config.json", b"{", "adapter_config.json cannot be read"),
        ("adapter_model.safetensors", b"x" * 50, "is cut off, or it is not a safetensors file"),
    ],
)
def test_a_damaged_file_is_refused(folder: Path, tmp_path: Path, file: str, content: bytes, words: str) -> None:
    shutil.copytree(folder / "one", tmp_path / "bad")
    (tmp_path / "bad" / file).write_bytes(content)
    assert words in str(load_refusal(folder, tmp_path / "bad"))


def test_an_adapter_that_has_changed_since_its_run_is_refused(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "one", tmp_path / "adapter-sft")
    checkpoints.write_manifest(tmp_path / "adapter-sft", checkpoints.CheckpointSource("sft", 20, "data"), 20)
    assert load_lanes(str(folder / "base"), "fp32", (Lane(name="SFT", adapter=str(tmp_path / "adapter-sft")),))
    weights = tmp_path / "adapter-sft" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    found = load_refusal(folder, tmp_path / "adapter-sft")
    assert found.code == "adapter_checks.changed_file"
    assert "adapter-sft/adapter_model.safetensors has changed since it was written" in str(found)


def test_an_adapter_of_another_base_is_refused_with_both_sizes(folder: Path, tmp_path: Path) -> None:
    tiny.model(tmp_path / "wide", hidden_size=96)
    with pytest.raises(ModelError) as error:
        load_lanes(str(tmp_path / "wide"), "fp32", (Lane(name="One", adapter=str(folder / "one")),))
    facts = error.value.text.params["problem"].params
    assert (facts["part"], facts["shape"], facts["needed"]) == ("lora_B", "64 × 4", "96 × 4")


def test_a_template_that_the_base_lacks_comes_with_the_adapter(tmp_path: Path) -> None:
    bare, own = tiny.tokenizer(), tiny.tokenizer()
    bare.chat_template = None
    (tmp_path / "chat_template.jinja").write_text("{{ messages[0].content }}", encoding="utf-8")
    assert with_adapter_template(bare, [str(tmp_path)]).chat_template == "{{ messages[0].content }}"
    assert with_adapter_template(own, [str(tmp_path)]).chat_template == tiny.TEMPLATE, (
        "a model's own template is never replaced"
    )
