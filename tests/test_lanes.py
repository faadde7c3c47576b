"""Lanes: one mixed batch gives what each adapter gives alone, the dice are shared, and a real worker answers on stdin."""

from __future__ import annotations

import threading
from collections import Counter
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from scipy.stats import chisquare
from transformers import AutoModelForCausalLM

from tests import tiny
from trainer_core import runs, tokens
from trainer_core.config import Lane, Sampling
from trainer_core.data import Message
from trainer_core.errors import ModelError, UserError
from trainer_core.events import Asked, Phase, Text
from trainer_core.lanes.generate import Row, answer, generate
from trainer_core.lanes.load import Lanes, load, proofs
from trainer_core.lanes.sampling import draw, filters, gumbel
from trainer_core.lanes.score import score
from trainer_core.requests import Ask, Score
from trainer_core.supervisor import Supervisor, wait_for

PROMPTS = ["the quick fox", "a short warm answer to a question, please", "dog"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lanes")
    tiny.model(folder / "base")
    for name, seed in (("one", 1), ("two", 2), ("one again", 1)):
        tiny.adapter(folder / name, folder / "base", seed)
    tiny.adapter(folder / "zero", folder / "base", scale=0.0)
    return folder


@pytest.fixture(scope="module")
def lanes(folder: Path) -> Lanes:
    names = ("one", "two", "one again", "zero")
    return load(
        str(folder / "base"), "fp32", (Lane(name="Base"), *(Lane(name=n, adapter=str(folder / n)) for n in names))
    )


def rendered(lanes: Lanes, text: str) -> str:
    return tokens.render(lanes.tokenizer, [Message("user", text)], asking=True)


def grown(lanes: Lanes, sampling: Sampling, prompts=PROMPTS) -> dict[tuple[str, str], list[int]]:
    rows = [Row(name, rendered(lanes, prompt)) for prompt in prompts for name in lanes.names]
    generate(lanes, rows, sampling, lambda: True)
    return {(row.lane, row.prompt): row.tokens for row in rows}


def test_a_mixed_greedy_batch_equals_generate_lane_by_lane(folder: Path, lanes: Lanes) -> None:
    mixed = grown(lanes, Sampling(temperature=0, max_new_tokens=24))
    different = set()
    for lane in lanes.lanes:
        model = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.float32)
        if lane.adapter:
            model = PeftModel.from_pretrained(model, lane.adapter)
        for prompt in PROMPTS:
            text = rendered(lanes, prompt)
            ids = lanes.tokenizer(text, add_special_tokens=False, return_tensors="pt")
            out = model.generate(**ids, max_new_tokens=24, do_sample=False, pad_token_id=0)[
                0, ids["input_ids"].shape[1] :
            ]
            alone = [token for token in out.tolist() if token not in lanes.ends]
            assert mixed[lane.name, text] == alone
            different.add((lane.name, tuple(alone)))
    assert len({answer for _, answer in different}) > len(PROMPTS), (
        "the adapters must matter for this test to mean anything"
    )


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.5])
def test_equal_adapters_say_the_same_at_any_temperature(lanes: Lanes, temperature: float) -> None:
    said = grown(lanes, Sampling(temperature=temperature, max_new_tokens=24, top_p=0.95))
    for prompt in PROMPTS:
        text = rendered(lanes, prompt)
        assert said["one", text] == said["one again", text]
        assert said["Base", text] == said["zero", text]
        assert said["one", text] != said["two", text]


def test_a_lane_draws_the_same_alone_and_in_company(lanes: Lanes) -> None:
    sampling = Sampling(temperature=1.0, max_new_tokens=16)
    together = grown(lanes, sampling)
    rows = [Row("two", rendered(lanes, PROMPTS[1]))]
    generate(lanes, rows, sampling, lambda: True)
    assert rows[0].tokens == together["two", rows[0].prompt]


def test_the_dice_follow_the_distribution() -> None:
    sampling = Sampling(temperature=0.8, top_p=1.0)
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0, 0.5, 1.5]])
    shaped, seen = filters(sampling), torch.zeros((1, 1), dtype=torch.long)
    n = 6000
    drawn = Counter(int(draw(logits, seen, sampling, gumbel(7, "p", step, 6)[None], shaped)) for step in range(n))
    expected = (logits[0].double() / 0.8).softmax(-1) * n
    assert chisquare([drawn[i] for i in range(6)], expected.numpy()).pvalue > 0.001


def test_noise_depends_on_seed_prompt_and_step_alone() -> None:
    same = gumbel(1, "p", 2, 5)
    assert torch.equal(same, gumbel(1, "p", 2, 5))
    for other in (gumbel(2, "p", 2, 5), gumbel(1, "q", 2, 5), gumbel(1, "p", 3, 5)):
        assert not torch.equal(same, other)


def test_proofs_tell_an_adapter_from_none(lanes: Lanes) -> None:
    found = {proof.lane: proof for proof in proofs(lanes)}
    assert found["Base"].difference == 0 and found["zero"].difference == 0 and not found["Base"].sha256
    assert found["one"].difference > 0 and found["one"].sha256 == found["one again"].sha256 != found["two"].sha256


def collect(lanes: Lanes, ask: Ask, cancelled: threading.Event | None = None):
    said: list = []
    ends = answer(lanes, ask, said.append, cancelled or threading.Event())
    return said, ends


def test_lanes_stream_together(lanes: Lanes) -> None:
    ask = Ask(id="a", messages=({"role": "user", "content": "hi"},), sampling=Sampling(max_new_tokens=30))
    said, ends = collect(lanes, ask)
    assert isinstance(said[0], Asked) and said[0].lanes == lanes.names == tuple(ends)
    texts = [event for event in said if isinstance(event, Text)]
    assert texts and set(texts[0].more) == set(lanes.names)
    assert all(end.tokens <= 30 for end in ends.values())


def test_cancel_ends_all_lanes(lanes: Lanes) -> None:
    cancelled = threading.Event()
    cancelled.set()
    ask = Ask(id="a", messages=({"role": "user", "content": "hi"},), sampling=Sampling(max_new_tokens=200))
    _, ends = collect(lanes, ask, cancelled)
    assert all(end.tokens <= 1 for end in ends.values())


def test_a_prompt_that_does_not_fit_is_refused_with_numbers(lanes: Lanes) -> None:
    ask = Ask(id="a", messages=({"role": "user", "content": "word " * 600},))
    with pytest.raises(UserError, match="512"):
        collect(lanes, ask)


def test_an_unknown_lane_is_named(lanes: Lanes) -> None:
    ask = Ask(id="a", messages=({"role": "user", "content": "hi"},), lanes=("three",))
    with pytest.raises(UserError, match="three"):
        collect(lanes, ask)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda folder: (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin"), "Pickled"),
        (lambda folder: (folder / "adapter_config.json").write_text("{"), "adapter_config.json"),
        (lambda folder: (folder / "adapter_model.safetensors").write_bytes(b"x" * 50), "does not fit"),
    ],
)
def test_a_bad_adapter_is_refused(folder: Path, tmp_path: Path, spoil, words: str) -> None:
    tiny.adapter(tmp_path / "bad", folder / "base")
    spoil(tmp_path / "bad")
    with pytest.raises(ModelError, match=words):
        load(str(folder / "base"), "fp32", (Lane(name="Bad", adapter=str(tmp_path / "bad")),))


def write_pairs(path: Path) -> Path:
    from tests.test_engine import write_data
    from trainer_core.config import Data, Method
    from trainer_core.data import load as load_data

    found = load_data(Data(pairs=str(write_data(path))), Method.DPO)
    tokens.write_pairs(path / "held-out.jsonl", found.held_out)
    return path / "held-out.jsonl"


def test_scores_equal_the_log_probs_of_one_row_at_a_time(lanes: Lanes, tmp_path: Path) -> None:
    path = write_pairs(tmp_path)
    scored = score(
        lanes, Score(pairs=str(path), prompts=("hi", "dog"), sampling=Sampling(max_new_tokens=8)), lambda _: None
    )
    by_lane = {one.lane: one for one in scored.scores}
    assert by_lane["Base"].margin == pytest.approx(by_lane["zero"].margin, abs=1e-6)
    assert by_lane["one"].margin != by_lane["two"].margin
    assert by_lane["Base"].margin == pytest.approx(one_by_one(lanes, path), abs=1e-5)
    assert all(0 <= one.accuracy <= 1 and 0 < one.answer_tokens <= 8 and one.pairs > 0 for one in scored.scores)


def one_by_one(lanes: Lanes, path: Path) -> float:
    """The base's mean margin, without batches, padding or PEFT's mixed forward."""
    from trainer_core.lanes.score import pair_texts

    means = []
    for prompt, reply in pair_texts(lanes, path):
        a, b = (lanes.tokenizer(text, add_special_tokens=False)["input_ids"] for text in (prompt, reply))
        ids = torch.tensor([a + b])
        with torch.inference_mode(), lanes.model.disable_adapter():
            likely = lanes.model(input_ids=ids).logits[0].float().log_softmax(-1)
        picked = likely[len(a) - 1 : -1].gather(-1, ids[0, len(a) :, None])
        means.append(picked.mean().item())
    return sum(c - r for c, r in zip(means[::2], means[1::2], strict=True)) / (len(means) // 2)


def test_a_real_compare_worker_answers_and_ends_with_its_app(folder: Path, tmp_path: Path) -> None:
    boss = Supervisor(runs.Workspace(tmp_path), device="cpu")
    comparison = boss.compare(
        str(folder / "base"), "fp32", [Lane(name="Base"), Lane(name="One", adapter=str(folder / "one"))]
    )

    def until(condition) -> bool:
        return wait_for(lambda: boss.look() or condition(comparison.view) or not comparison.view.phase.active, 90)

    assert until(lambda view: view.phase is Phase.READY), comparison.view.error
    assert [proof.difference > 0 for proof in comparison.view.lanes] == [False, True]
    ask = comparison.ask("hi there", Sampling(max_new_tokens=12))
    assert until(lambda view: view.ask == ask and view.ends)
    assert set(comparison.view.answers) == {"Base", "One"} and comparison.view.phase is Phase.READY
    too_long = comparison.ask("word " * 600, Sampling())
    assert until(lambda view: view.ask == too_long and "512" in view.detail)
    again = comparison.ask("hi there", Sampling(max_new_tokens=12))
    assert until(lambda view: view.ask == again and view.ends), "a refused prompt must not end the worker"
    boss.close()
    assert comparison.view.phase is Phase.STOPPED and comparison.watched.process.poll() == 0


def test_a_worker_that_dies_is_explained(tmp_path: Path) -> None:
    boss = Supervisor(runs.Workspace(tmp_path), command=("/bin/sh", "-c", "echo last words; kill -9 $$"), device="cpu")
    comparison = boss.compare("starter", "fp32", [Lane(name="Base")])
    assert wait_for(lambda: boss.look() or comparison.view.phase is Phase.FAILED, 10)
    assert "last words" in comparison.view.error and "SIGKILL" in comparison.view.error
