"""What can be measured without a human: which of two answers a lane finds likelier, and what its own answers are like."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from os.path import commonprefix
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from trainer_core import tokens
from trainer_core.data import Message, Pair
from trainer_core.errors import DataError
from trainer_core.events import LaneScore, Scored
from trainer_core.lanes.batch import Row, generate, padded, places
from trainer_core.lanes.load import Lanes
from trainer_core.requests import Score

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LOGITS = 2**26
"""Numbers in the logits of one scoring pass: a quarter of a gigabyte in 32 bit, twice that at the peak."""
ROWS = 48
"""Rows in one pass at most, over all lanes together: more brings no speed on a processor, and costs memory."""
NGRAM = 4
"""Tokens that count as a repeated phrase (rep-4 of Welleck 2020)."""
SAY_SECONDS = 1.0
PAIR = TypeAdapter(Pair)


class Stopped(Exception):
    """The user wants no score any more."""


class Progress:
    """Tells how far the scoring is, at most once a second, and ends it when asked to.

    Raises:
        Stopped: from every call, once it is cancelled.
    """

    def __init__(self, say: Callable[[str], None], cancelled: threading.Event):
        self.say, self.cancelled = say, cancelled
        self.last = 0.0

    def __call__(self, text: str) -> None:
        if self.cancelled.is_set():
            raise Stopped
        if time.monotonic() - self.last >= SAY_SECONDS:
            self.last = time.monotonic()
            self.say(text)


def score(lanes: Lanes, request: Score, progress: Progress) -> Scored:
    """Score every lane on the pairs of a file and on its own answers to the prompts.

    The preference is judged by the mean log-probability per token, because the sum would prefer whatever is shorter
    (length normalisation as in SimPO, Meng 2024).

    Raises:
        DataError: the file cannot be read, or holds no pairs.
        Stopped: cancelled.
    """
    pairs = read_pairs(Path(request.pairs))
    sides = [(pair.prompt, answer) for pair in pairs for answer in (pair.chosen, pair.rejected)]
    likely = log_probs(lanes, [Reading.of(lanes, prompt, answer) for prompt, answer in sides], progress)
    answers = own_answers(lanes, request, progress)
    return Scored(tuple(lane_score(name, likely[name], answers[name]) for name in lanes.names))


def read_pairs(path: Path) -> list[Pair]:
    """The pairs of a JSON-lines file, as `tokens.write_pairs` writes them.

    Raises:
        DataError: naming the file and the line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}. Check the path.") from error
    pairs = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                pairs.append(PAIR.validate_python(json.loads(line)))
            except (json.JSONDecodeError, ValidationError) as error:
                raise DataError(f"{path.name}, line {number}: no prompt, chosen and rejected messages.") from error
    if not pairs:
        raise DataError(f"{path.name} holds no pairs, so there is nothing to score on.")
    return pairs


@dataclass(frozen=True)
class Reading:
    """Tokens of a prompt with one answer to it. `answer` counts the tokens at the end that are the answer's."""

    ids: tuple[int, ...]
    answer: int

    @staticmethod
    def of(lanes: Lanes, prompt: Sequence[Message], answer: Sequence[Message]) -> Reading:
        """Both through the model's template, as in training. The answer begins where asking for one and giving it part.

        Its end token counts; the line break that some templates put behind it does not, as no model writes it. An answer
        is read up to half of the context, and a prompt that leaves no room for it loses its beginning.
        """
        asked = tokens.render(lanes.tokenizer, prompt, asking=True)
        whole = tokens.render(lanes.tokenizer, (*prompt, *answer)).rstrip("\n")
        ids, begins = tokens_from(lanes.tokenizer, whole, len(commonprefix([asked, whole])))
        length = min(len(ids) - begins, lanes.context // 2)
        if length < 1 or begins < 1:
            raise DataError(f"An answer to {prompt[-1].content[:60]!r} is empty. Remove that pair.")
        return Reading(tuple(ids[: begins + length][-lanes.context :]), length)


def tokens_from(tokenizer: PreTrainedTokenizerBase, text: str, at: int) -> tuple[list[int], int]:
    """The text's tokens, and the index of the first that begins at or after the character `at`."""
    encoding: Any = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    begins = next((index for index, (left, _) in enumerate(encoding["offset_mapping"]) if left >= at), None)
    ids = list(encoding["input_ids"])
    return ids, len(ids) if begins is None else begins


def log_probs(lanes: Lanes, readings: Sequence[Reading], progress: Progress) -> dict[str, list[float]]:
    """For every lane and reading the answer's mean log-probability per token given its prompt, in nats."""
    means: dict[str, list[float]] = {name: [0.0] * len(readings) for name in lanes.names}
    done, began, total = 0, time.monotonic(), len(readings) * len(lanes.names)
    for batch in batches(lanes, readings):
        left = f", about {(time.monotonic() - began) / done * (total - done):.0f} s left" if done else ""
        progress(f"Scoring: {done} of {total} answers read{left}")
        for (name, index), mean in zip(batch, read(lanes, [(n, readings[i]) for n, i in batch]), strict=True):
            means[name][index] = mean
        done += len(batch)
    return means


def batches(lanes: Lanes, readings: Sequence[Reading]) -> Iterator[list[tuple[str, int]]]:
    """Lanes × readings (by index) in batches of like length; the longest come first, so that memory fails early or never."""
    order = sorted(range(len(readings)), key=lambda index: len(readings[index].ids), reverse=True)
    batch: list[tuple[str, int]] = []
    longest = 0
    for name, index in ((name, index) for index in order for name in lanes.names):
        longest = max(longest, readings[index].answer + 1)
        if batch and (len(batch) == ROWS or (len(batch) + 1) * longest * lanes.vocabulary > LOGITS):
            yield batch
            batch, longest = [], readings[index].answer + 1
        batch.append((name, index))
    yield batch


def read(lanes: Lanes, rows: Sequence[tuple[str, Reading]]) -> list[float]:
    """One pass: the mean log-probability of each row's answer. Logits are only made where answers are."""
    ids, mask = padded([reading.ids for _, reading in rows], lanes.device)
    keep = max(reading.answer for _, reading in rows)
    out = lanes.forward(
        [name for name, _ in rows],
        input_ids=ids,
        attention_mask=mask,
        position_ids=places(mask),
        use_cache=False,
        logits_to_keep=keep + 1,
    )
    logits = out.logits[:, :-1].float()
    targets = ids[:, ids.shape[1] - keep :, None]
    likely = logits.gather(-1, targets)[..., 0] - logits.logsumexp(-1)
    return [row[keep - reading.answer :].mean().item() for row, (_, reading) in zip(likely, rows, strict=True)]


def own_answers(lanes: Lanes, request: Score, progress: Progress) -> dict[str, list[Row]]:
    """Every lane's answers to the prompts, prompts × lanes in one batch."""
    asked = {text: tokens.render(lanes.tokenizer, [Message("user", text)], asking=True) for text in request.prompts}
    rows = [Row(name, prompt, text) for text, prompt in asked.items() for name in lanes.names]
    for start in range(0, len(rows), ROWS):
        some = rows[start : start + ROWS]

        def grew(some: Sequence[Row] = some) -> bool:
            ended = sum(row.ended for row in rows)
            longest = max(len(row.tokens) for row in some)
            progress(f"Scoring: {ended} of {len(rows)} answers written, the longest has {longest} tokens")
            return True

        generate(lanes, some, request.sampling, grew)
    return {name: [row for row in rows if row.lane == name] for name in lanes.names}


def lane_score(name: str, likely: Sequence[float], answers: Sequence[Row]) -> LaneScore:
    """The numbers of one lane from its log-probabilities (chosen and rejected in turn) and its answers."""
    differences = [chosen - rejected for chosen, rejected in zip(likely[::2], likely[1::2], strict=True)]
    return LaneScore(
        lane=name,
        pairs=len(differences),
        accuracy=fmean(difference > 0 for difference in differences),
        margin=fmean(differences),
        answer_tokens=fmean(len(row.tokens) for row in answers) if answers else 0.0,
        ended=fmean(row.ended for row in answers) if answers else 0.0,
        repetition=fmean(repetition(row.tokens) for row in answers) if answers else 0.0,
    )


def repetition(ids: Sequence[int]) -> float:
    """Share of an answer's phrases of NGRAM tokens that it had written before; 0 for an answer too short to have one."""
    phrases = [tuple(ids[start : start + NGRAM]) for start in range(len(ids) - NGRAM + 1)]
    return 1 - len(set(phrases)) / len(phrases) if phrases else 0.0
