"""Scores of lanes equal what one row at a time gives, and a real compare worker lives through everything it is asked."""

from __future__ import annotations

import json
import math
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.support import tiny
from trainer_core.config.jobs import Lane
from trainer_core.config.recipe import Sampling
from trainer_core.data import Message
from trainer_core.data.render import render_chat
from trainer_core.errors import DataError, UserError
from trainer_core.evaluation import score_table
from trainer_core.evaluation.statistics import repetition_share
from trainer_core.inference.answer_likelihoods import Question
from trainer_core.inference.answer_likelihoods import build_prompt_answer as reading_of
from trainer_core.inference.general_questions import load_questions
from trainer_core.inference.likelihoods import (
    MAX_CACHED_TOKENS,
    MAX_LOGITS,
    MAX_PASS_TOKENS,
    AnswerSuffix,
    PromptAnswer,
    answer_suffixes,
    group_by_prompt,
    length_batches,
)
from trainer_core.inference.load import LaneSet, load_lanes
from trainer_core.inference.scoring import compute_scores, read_score_pairs
from trainer_core.jobs.supervisor import Supervisor, wait_for
from trainer_core.runs.compare_events import ConfidenceInterval, ScoringProgress
from trainer_core.runs.compare_requests import CancelRequest, ScoreRequest
from trainer_core.runs.events import Phase
from trainer_core.runs.progress import Cancelled, ProgressTracker
from trainer_core.runs.workspace import Workspace
from trainer_core.texts import Text

pytestmark = pytest.mark.real

WORDS = ["a short warm answer", "the lazy dog", "a question " * 9, "fox", "over the lazy dog jumps the quick brown fox"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scores")
    tiny.model(folder / "base")
    tiny.adapter(folder / "one", folder / "base")
    rows = [
        {"prompt": said("user", prompt), "chosen": said("assistant", chosen), "rejected": said("assistant", rejected)}
        for prompt in WORDS
        for chosen, rejected in zip(WORDS, WORDS[1:], strict=False)
    ]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def said(role: str, content: str) -> list[dict[str, str]]:
    return [{"role": role, "content": content}]


@pytest.fixture(scope="module")
def lanes(folder: Path) -> LaneSet:
    return load_lanes(str(folder / "base"), "fp32", (Lane(name="Base"), Lane(name="One", adapter=str(folder / "one"))))


def progress(cancelled: bool = False) -> ProgressTracker[ScoringProgress]:
    event = threading.Event()
    if cancelled:
        event.set()
    return ProgressTracker(ScoringProgress, lambda _: None, event)


def test_scores_equal_the_log_probs_of_one_row_at_a_time(folder: Path, lanes: LaneSet) -> None:
    request = ScoreRequest(
        pairs=str(folder / "pairs.jsonl"), prompts=("hi", "dog"), sampling=Sampling(max_new_tokens=8)
    )
    base, one = compute_scores(lanes, request, progress()).scores
    for found, adapter in ((base, None), (one, folder / "one")):
        expected = one_by_one(folder, adapter)
        margins = [means[0] - means[1] for means, _, _ in expected]
        assert found.margin.count == found.accuracy.count == len(margins) == 20
        assert found.margin.value == pytest.approx(sum(margins) / 20, abs=1e-5)
        assert found.accuracy.value == sum(margin > 0 for margin in margins) / 20
        assert 0 < found.own.tokens.value <= 8
        assert 0 <= found.own.ended.value <= 1 and 0 <= found.own.repetition.value <= 1
    assert base.margin != one.margin


def test_rewards_perplexity_and_divergence_equal_their_formulas(folder: Path, lanes: LaneSet) -> None:
    base, one = compute_scores(lanes, ScoreRequest(pairs=str(folder / "pairs.jsonl")), progress()).scores
    plain, tuned = one_by_one(folder, None), one_by_one(folder, folder / "one")
    rewards = [
        (new[0] * lengths[0] - old[0] * lengths[0]) - (new[1] * lengths[1] - old[1] * lengths[1])
        for (new, lengths, _), (old, _, _) in zip(tuned, plain, strict=True)
    ]
    assert one.reward_margin.value == pytest.approx(sum(rewards) / 20, abs=1e-3)
    assert one.reward_accuracy.value == sum(reward > 0 for reward in rewards) / 20
    assert base.reward_margin is None, "the reference has no reward against itself"
    nats = sum(means[0] * lengths[0] for means, lengths, _ in tuned) / sum(lengths[0] for _, lengths, _ in tuned)
    assert one.perplexity.value == pytest.approx(math.exp(-nats), rel=1e-4)
    far = [
        (new.exp() * (new - old)).sum(-1).mean().item() for (_, _, new), (_, _, old) in zip(tuned, plain, strict=True)
    ]
    assert one.divergence.value == pytest.approx(sum(far) / 20, abs=1e-4) and one.divergence.value > 0.1
    assert base.divergence.value == base.divergence.high == 0


def one_by_one(folder: Path, adapter: Path | None) -> list[tuple[list[float], list[int], torch.Tensor]]:
    """Both answers' mean log-probs and lengths, and all log-probs along the chosen one, without batches, padding, a mixed
    forward or anything else of ours."""
    model = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.float32)
    model = PeftModel.from_pretrained(model, adapter) if adapter else model
    tokenizer = tiny.tokenizer()

    def along(prompt: str, reply: str) -> tuple[float, int, torch.Tensor]:
        asked = tokenizer.encode(
            f"<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n", add_special_tokens=False
        )
        ids = asked + tokenizer.encode(f"{reply}<|im_end|>", add_special_tokens=False)
        with torch.inference_mode():
            likely = model(input_ids=torch.tensor([ids])).logits[0, :-1].log_softmax(-1)
        targets = torch.tensor(ids[1:])
        answer = likely[len(asked) - 1 :]
        return answer.gather(-1, targets[len(asked) - 1 :, None]).mean().item(), len(answer), answer

    rows = [json.loads(line) for line in (folder / "pairs.jsonl").read_text().splitlines()]
    texts = [[row[key][0]["content"] for key in ("prompt", "chosen", "rejected")] for row in rows]
    found = [(along(prompt, chosen), along(prompt, rejected)) for prompt, chosen, rejected in texts]
    return [([one[0], two[0]], [one[1], two[1]], one[2]) for one, two in found]


def test_without_prompts_there_are_no_answers_but_scores(folder: Path, lanes: LaneSet) -> None:
    base, _ = compute_scores(lanes, ScoreRequest(pairs=str(folder / "pairs.jsonl")), progress()).scores
    assert base.own is None and base.margin.count == 20


def test_what_the_context_cannot_hold_is_cut(lanes: LaneSet) -> None:
    def reading(prompt: str, answer: str) -> PromptAnswer:
        return reading_of(lanes, [Message("user", prompt)], [Message("assistant", answer)])

    assert reading("hi", "fox " * 300).answer_tokens == 256
    long = reading("fox " * 300, "the dog")
    assert len(long.ids) == 512 and lanes.tokenizer.decode(long.ids).endswith("assistant\nthe dog<|im_end|>")
    assert long.answer_tokens == reading("hi", "the dog").answer_tokens


def test_the_answer_begins_where_it_parts_from_the_question(lanes: LaneSet) -> None:
    """A template that makes the model think first asks with words that a finished answer does not have."""
    thinking = tiny.tokenizer()
    thinking.chat_template = tiny.TEMPLATE.replace("assistant\n{% endif", "assistant\n<think>\n{% endif")
    lanes = replace(lanes, tokenizer=thinking)
    prompt, answer = [Message("user", "hi")], [Message("assistant", "the dog")]
    assert render_chat(thinking, prompt, asking=True).endswith("<think>\n")
    reading = reading_of(lanes, prompt, answer)
    assert thinking.decode(reading.ids[-reading.answer_tokens :]) == "the dog<|im_end|>"


def test_batches_hold_every_lane_and_reading_once_within_bounds(lanes: LaneSet) -> None:
    tails = [
        AnswerSuffix(index, 0, (1, 2), (5,) * (length + 1), length)
        for index, length in enumerate((5, 300, 2, 40, 9) * 20)
    ]
    found = list(length_batches(tails, len(lanes.names), lanes.vocabulary_size))
    assert sorted(tail.question for batch in found for tail in batch) == list(range(100))
    assert all(len(batch) * 2 * len(batch[0].ids) <= MAX_PASS_TOKENS for batch in found) and len(found) < 12
    huge = [AnswerSuffix(0, 0, (1, 2), (5,) * (MAX_LOGITS // lanes.vocabulary_size), 9)] * 3
    assert [len(batch) for batch in length_batches(huge, 2, lanes.vocabulary_size)] == [1] * 3


def test_answers_share_the_prompt_they_have_in_common() -> None:
    same = [PromptAnswer((1, 2, 3, 4, 5), 2), PromptAnswer((1, 2, 3, 4, 6, 7), 3), PromptAnswer((1, 2, 3, 9), 1)]
    assert [(tail.prompt, tail.ids, tail.answer_tokens) for tail in answer_suffixes(0, same)] == [
        ((1, 2), (3, 4, 5), 2), ((1, 2), (3, 4, 6, 7), 3), ((1, 2), (3, 9), 1)
    ]  # fmt: skip
    apart = [PromptAnswer((1, 2, 3), 1), PromptAnswer((4, 5, 6), 1)]
    assert [(tail.prompt, tail.ids) for tail in answer_suffixes(0, apart)] == [((1,), (2, 3)), ((4,), (5, 6))]


def test_held_prompts_stay_within_bounds_and_questions_whole() -> None:
    tails = [AnswerSuffix(index, side, (index,) * 900, (5,) * (9 + index), 8) for index in range(20) for side in (0, 1)]
    found = list(group_by_prompt(tails, 3))
    assert sorted((tail.question, tail.answer) for some in found for tail in some) == [
        (i, s) for i in range(20) for s in (0, 1)
    ]
    assert all(len({tail.question for tail in some}) * 900 * 3 <= MAX_CACHED_TOKENS for some in found)
    assert all(len(some) % 2 == 0 for some in found) and len(found) == 7


def test_repetition_counts_phrases_written_before() -> None:
    assert repetition_share([1, 2, 3]) == repetition_share([]) == repetition_share(range(50)) == 0
    assert repetition_share([7] * 13) == pytest.approx(0.9)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("\n", Text("score_pairs.empty", file="pairs.jsonl")),
        ('{"prompt": []}', Text("score_pairs.bad_line", file="pairs.jsonl", line=1)),
        (
            '{"prompt": [], "chosen": [], "rejected": []}\n[',
            Text("score_pairs.bad_line", file="pairs.jsonl", line=2),
        ),
    ],
)
def test_bad_pairs_are_refused_with_their_line(tmp_path: Path, text: str, reason: Text) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text(text)
    with pytest.raises(DataError) as error:
        read_score_pairs(path)
    assert error.value.text == reason


def test_missing_pairs_are_refused_with_their_path(tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        read_score_pairs(tmp_path / "pairs.jsonl")
    assert error.value.text.code == "score_pairs.unreadable"
    assert error.value.text.params["path"] == str(tmp_path / "pairs.jsonl")


def test_scoring_stops_when_asked(folder: Path, lanes: LaneSet) -> None:
    with pytest.raises(Cancelled):
        compute_scores(lanes, ScoreRequest(pairs=str(folder / "pairs.jsonl")), progress(cancelled=True))


def test_a_real_compare_worker_answers_scores_and_ends_with_its_app(folder: Path, tmp_path: Path) -> None:
    boss = Supervisor(Workspace(tmp_path), device="cpu")
    comparison = boss.compare.open_comparison(
        str(folder / "base"), "fp32", [Lane(name="Base"), Lane(name="One", adapter=str(folder / "one"))]
    )

    def until(condition) -> bool:
        return wait_for(
            lambda: boss.registry.refresh() or condition(comparison.state) or not comparison.state.phase.is_active, 90
        )

    assert until(lambda view: view.phase is Phase.READY), comparison.state.error
    assert [proof.difference > 0 for proof in comparison.state.lanes] == [False, True]
    ask = comparison.ask("hi there", Sampling(max_new_tokens=12))
    assert until(lambda view: view.ask == ask and view.ends)
    assert set(comparison.state.answers) == {"Base", "One"} and comparison.state.phase is Phase.READY
    too_long = comparison.ask("word " * 600, Sampling())
    assert until(lambda view: view.ask == too_long and "512" in str(view.detail))
    comparison.send(ScoreRequest(pairs=str(tmp_path / "none.jsonl")))
    assert until(lambda view: "none.jsonl cannot be read" in str(view.detail)), (
        "a refused request must not end the worker"
    )
    comparison.send(
        ScoreRequest(pairs=str(folder / "pairs.jsonl"), prompts=("hi",), sampling=Sampling(max_new_tokens=4))
    )
    assert until(lambda view: view.scored) and len(comparison.state.scored.scores) == 2
    endless = comparison.ask("hi", Sampling(max_new_tokens=480, temperature=5, top_p=1))
    assert until(lambda view: view.ask == endless and any(view.answers.values()))
    comparison.send(CancelRequest())
    assert until(lambda view: view.ask == endless and view.ends)
    assert all(end.tokens < 480 for end in comparison.state.ends.values())
    boss.close()
    assert comparison.state.phase is Phase.STOPPED and comparison.watcher.process.poll() == 0


def test_a_worker_that_dies_is_explained(tmp_path: Path) -> None:
    boss = Supervisor(Workspace(tmp_path), command=("/bin/sh", "-c", "echo last words; kill -9 $$"), device="cpu")
    comparison = boss.compare.open_comparison("starter", "fp32", [Lane(name="Base")])
    assert wait_for(lambda: boss.registry.refresh() or comparison.state.phase is Phase.FAILED, 10)
    assert "last words" in str(comparison.state.error) and "SIGKILL" in str(comparison.state.error)


@pytest.fixture(scope="module")
def four(folder: Path) -> LaneSet:
    tiny.adapter(folder / "zero", folder / "base", scale=0.0)
    given = [Lane(name="Base"), Lane(name="Zero", adapter=str(folder / "zero"))]
    given += [Lane(name="One", adapter=str(folder / "one")), Lane(name="Prompted", system="dog")]
    return load_lanes(str(folder / "base"), "bf16", given)


def test_a_zero_adapter_equals_the_base_in_every_column(folder: Path, four: LaneSet) -> None:
    request = ScoreRequest(
        pairs=str(folder / "pairs.jsonl"), prompts=("hi", "dog"), sampling=Sampling(max_new_tokens=8)
    )
    found = compute_scores(four, request, progress())
    base, zero, one, prompted = found.scores
    assert replace(zero, lane="Base") == base and found.reference == "Base"
    assert zero.divergence.value == 0 and zero.reward_margin is None and zero.own.ratio.value == 1
    assert (
        zero.forgetting.change == ConfidenceInterval(0.0, 0.0, 0.0, len(load_questions()))
        and not zero.forgetting.is_significant
    )
    assert one.divergence.value > 0 and one.forgetting.lost + one.forgetting.gained > 0
    assert prompted.margin != base.margin and prompted.reward_margin is not None
    assert [one.prompt for one in found.written] == ["hi", "dog"] and set(found.written[0].answers) == set(four.names)
    assert found.written[0].answers["Zero"] == found.written[0].answers["Base"]


def test_chosen_lanes_and_a_reference_of_ones_own(folder: Path, four: LaneSet) -> None:
    request = ScoreRequest(pairs=str(folder / "pairs.jsonl"), general=False, lanes=("Base",), reference="One")
    found = compute_scores(four, request, progress())
    base, one = found.scores
    assert (base.lane, one.lane, found.reference) == ("Base", "One", "One")
    assert one.reward_margin is None and base.general is None
    usual = compute_scores(four, request.model_copy(update={"lanes": ("One",), "reference": ""}), progress()).scores[0]
    assert base.reward_margin.value == pytest.approx(-usual.reward_margin.value, abs=0.05)
    for wrong in ({"reference": "Nobody"}, {"lanes": ("Nobody",)}):
        with pytest.raises(UserError) as error:
            compute_scores(four, request.model_copy(update=wrong), progress())
        assert error.value.text.code == "loaded_lanes.unknown" and error.value.text.params["name"] == "Nobody"


def test_general_questions_are_enough_and_checkable() -> None:
    questions = load_questions()
    assert len(questions) >= 40 and len({one.prompt for one in questions}) == len(questions)
    assert all(one.right not in one.wrong and len(set(one.wrong)) == len(one.wrong) for one in questions)
    assert len({one.kind for one in questions}) >= 5


def test_only_what_answers_do_not_share_is_judged(lanes: LaneSet) -> None:
    answers = [[Message("assistant", f"the dog is {end}.")] for end in ("quick", "brown")]
    found = Question([Message("user", "hi")], answers, endings_only=True).prompt_answers(lanes, "")
    ends = [lanes.tokenizer.decode(one.ids[-one.answer_tokens :]) for one in found]
    assert ends == [" quick.<|im_end|>", " brown.<|im_end|>"] or ends == ["quick.<|im_end|>", "brown.<|im_end|>"]


def test_progress_counts_every_part_to_its_end(folder: Path, lanes: LaneSet) -> None:
    said: list[ScoringProgress] = []
    steady = ProgressTracker(ScoringProgress, said.append, threading.Event(), seconds=0.0)
    request = ScoreRequest(pairs=str(folder / "pairs.jsonl"), prompts=("hi",), sampling=Sampling(max_new_tokens=8))
    compute_scores(lanes, request, steady)
    for number, part in enumerate(("held_out", "general", "own_answers"), 1):
        those = [one for one in said if one.part == Text(f"scoring.{part}")]
        assert those[0].seconds_left is None and those[-1].done == those[-1].total and those[-1].seconds_left == 0
        assert {(one.number, one.parts) for one in those} == {(number, 3)}
        assert [one.done for one in those] == sorted(one.done for one in those)


def test_a_random_adapter_is_flagged_red_and_one_that_changes_nothing_is_not(folder: Path, tmp_path: Path) -> None:
    """On a base that was taught the general questions, for chance alone cannot be lost."""
    taught(tiny.model(tmp_path / "base"))
    tiny.adapter(tmp_path / "noise", tmp_path / "base", scale=1.0)
    tiny.adapter(tmp_path / "zero", tmp_path / "base", scale=0.0)
    given = [Lane(name="Base"), *(Lane(name=name, adapter=str(tmp_path / name)) for name in ("noise", "zero"))]
    found = compute_scores(
        load_lanes(str(tmp_path / "base"), "fp32", given), ScoreRequest(pairs=str(folder / "pairs.jsonl")), progress()
    )
    base, noise, zero = found.scores
    assert base.general and base.general.value > 0.8, base.general
    assert noise.forgetting and noise.forgetting.is_significant and noise.forgetting.lost > 20, noise.forgetting
    assert zero.forgetting and not zero.forgetting.is_significant
    (warning,) = score_table.forgetting_warnings(found.scores)
    assert warning.startswith(f"noise gets {noise.forgetting.lost} general questions wrong")


def taught(base: Path, steps: int = 60) -> None:
    """Train the model at this place on the right answers until it knows them."""
    torch.manual_seed(0)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(base), AutoTokenizer.from_pretrained(base)
    lines = [
        (Message("user", one.prompt), Message("assistant", f"{one.stem} {one.right}.")) for one in load_questions()
    ]
    texts = [render_chat(tokenizer, line) for line in lines]
    batch = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    optimiser = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(steps):
        optimiser.zero_grad()
        model(**batch, labels=labels).loss.backward()
        optimiser.step()
    model.save_pretrained(base)
