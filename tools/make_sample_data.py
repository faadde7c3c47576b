"""How the bundled sample data is made from the texts in `content/`: the same bytes on every machine and every run.

    python tools/make_sample_data.py            write sample_chat, sample_pairs, sample_heldout and prompts (.jsonl)
    python tools/make_sample_data.py --stats    only print counts and lengths

Every prompt and every good answer is written by hand. Most rejected answers are rambles put together from
`content/rambles.toml` and the topic's own words, since a small untuned model rambles in just such stock phrases.

A content file is a list of topics, line by line:

    # topic               questions about it      (#letter: messages to people, #piece: other small texts)
    : a; b; c; d          things that might matter, for the rambles
    ~ A sentence.         true, and of no use to anyone
    c prompt | answer     a chat example; further "| prompt | answer" make more turns
    p prompt | answer | about      a pair; the rejected answer rambles about `about`, two to four times as long
    p prompt | answer | =about     the same, about as long as the good answer, so that length alone decides nothing
    p prompt | answer | !text      the rejected answer itself: short, and cold or evasive
    h ...                          like p, but held out: never trained on
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import statistics
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

ASSETS = Path(__file__).resolve().parents[1] / "assets"
CONTENT = ASSETS / "sample_data" / "content"
Turn = dict[str, str]
LONGEST_RAMBLE_WORDS = 88
SHORTEST_RAMBLE_WORDS = 48


@dataclass(frozen=True)
class Topic:
    name: str
    kind: str
    matters: tuple[str, ...] = ()
    vague: tuple[str, ...] = ()


@dataclass(frozen=True)
class ContentEntry:
    """One content line: `use` is c, p or h, and the fields are what stood between the bars."""

    topic: Topic
    use: str
    fields: tuple[str, ...]

    @property
    def prompt(self) -> str:
        return self.fields[0]


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the bundled sample data from assets/sample_data/content.")
    parser.add_argument("--stats", action="store_true", help="only print counts and lengths")
    files = build_files()
    if parser.parse_args().stats:
        print("\n".join(describe_files(files)))
        return
    for name, text in files.items():
        (ASSETS / name).write_bytes(text.encode("utf-8"))
        print(f"{name}: {text.count(chr(10))} rows")


def build_files() -> dict[str, str]:
    """Every sample file by name, as JSON lines."""
    # Topics are mixed, so that the first rows of a file are a fair sample of it.
    entries = sorted(read_entries(), key=lambda entry: stable_number(entry.prompt))
    rambles = tomllib.loads((CONTENT / "rambles.toml").read_text(encoding="utf-8"))
    return {
        "sample_data/sample_chat.jsonl": to_jsonl(chat_row(entry) for entry in entries if entry.use == "c"),
        "sample_data/sample_pairs.jsonl": to_jsonl(pair_row(entry, rambles) for entry in entries if entry.use == "p"),
        "sample_data/sample_heldout.jsonl": to_jsonl(pair_row(entry, rambles) for entry in entries if entry.use == "h"),
        "prompts/compare_prompts.jsonl": to_jsonl(read_prompts()),
    }


def read_prompts() -> Iterator[dict[str, str]]:
    for line in (CONTENT / "prompts.txt").read_text(encoding="utf-8").splitlines():
        tag, prompt = line.split(" | ")
        yield {"prompt": prompt, "tag": tag}


def read_entries() -> Iterator[ContentEntry]:
    for path in sorted(CONTENT.glob("*.txt")):
        if path.name != "prompts.txt":
            yield from read_topics(path)


def read_topics(path: Path) -> Iterator[ContentEntry]:
    """The entries of one content file.

    Raises:
        ValueError: a line that is none of the kinds above, by file and line number.
    """
    topic = Topic("", "")
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        mark, _, rest = line.partition(" ")
        fields = tuple(part.strip() for part in rest.split(" | "))
        match mark:
            case "#" | "#letter" | "#piece":
                topic = Topic(rest, mark[1:] or "ask")
            case ":":
                topic = replace(topic, matters=tuple(part.strip() for part in rest.split(";")))
            case "~":
                topic = replace(topic, vague=(*topic.vague, rest))
            case "c" if len(fields) % 2 == 0:
                yield ContentEntry(topic, mark, fields)
            case "p" | "h" if len(fields) == 3:
                yield ContentEntry(topic, mark, fields)
            case _ if line:
                raise ValueError(f"{path.name}, line {number}: cannot be read: {line[:60]!r}")


def chat_row(entry: ContentEntry) -> dict[str, list[Turn]]:
    roles = ("user", "assistant") * (len(entry.fields) // 2)
    return {"messages": [{"role": role, "content": text} for role, text in zip(roles, entry.fields, strict=True)]}


def pair_row(entry: ContentEntry, rambles: dict[str, dict]) -> dict[str, list[Turn]]:
    prompt, good, _ = entry.fields
    return {
        "prompt": [{"role": "user", "content": prompt}],
        "chosen": [{"role": "assistant", "content": good}],
        "rejected": [{"role": "assistant", "content": rejected_answer(entry, rambles)}],
    }


def rejected_answer(entry: ContentEntry, rambles: dict[str, dict]) -> str:
    """The hand-written cold answer, or a ramble as long as the mark in the third field asks."""
    _, good, worse = entry.fields
    if worse.startswith("!"):
        return worse[1:]
    ramble = Ramble.for_entry(worse.removeprefix("="), entry, rambles)
    if worse.startswith("="):
        return ramble.compose(count_words(good) - 4)  # the last sentence runs over by some four words in the mean
    wanted = count_words(good) * (23 + stable_number(entry.prompt, "length") % 10) // 10
    return ramble.compose(min(max(wanted, SHORTEST_RAMBLE_WORDS), LONGEST_RAMBLE_WORDS), ends=True)


@dataclass(frozen=True)
class Ramble:
    """One skeleton and the filled sentences it may still use, by pool."""

    prompt: str
    opening: str
    middle: tuple[str, ...]
    closing: str
    left: dict[str, list[str]]

    @classmethod
    def for_entry(cls, about: str, entry: ContentEntry, rambles: dict[str, dict]) -> Ramble:
        skeletons = list(rambles["skeletons"][entry.topic.kind].values())
        opening, *middle, closing = skeletons[stable_number(entry.prompt, "skeleton") % len(skeletons)].split()
        names, pools = slot_values(entry, about), rambles["pools"] | {"vague": entry.topic.vague}
        left = {pool: [fill_slots(sentence, names) for sentence in pools[pool]] for pool in (opening, *middle, closing)}
        return cls(entry.prompt, opening, tuple(middle), closing, left)

    def compose(self, wanted_words: int, *, ends: bool = False) -> str:
        """Sentence after sentence up to about `wanted_words`, no sentence twice."""
        text = [self.take_sentence(self.opening)]
        end = [self.take_sentence(self.closing)] if ends else []
        for pool in self.middle * 3:
            if count_words(*text, *end) >= wanted_words:
                break
            if self.left[pool]:
                text.append(self.take_sentence(pool))
        return "".join(part + ("\n" if "\n" in part else " ") for part in [*text, *end]).rstrip()

    def take_sentence(self, pool: str) -> str:
        left = self.left[pool]
        return left.pop(stable_number(self.prompt, f"{pool} {len(left)}") % len(left))


def slot_values(entry: ContentEntry, about: str) -> dict[str, str]:
    """What stands in for {about}, {topic} and {a} to {d}; the prompt decides which thing is {a}."""
    matters, start = entry.topic.matters, stable_number(entry.prompt, "matters")
    names = {"about": about, "topic": entry.topic.name}
    names |= {slot: matters[(start + place) % len(matters)] for place, slot in enumerate("abcd")}
    return names | {slot.capitalize(): text[:1].upper() + text[1:] for slot, text in names.items()}


def fill_slots(sentence: str, names: dict[str, str]) -> str:
    return re.sub(r"\{(\w+)\}", lambda slot: names[slot[1]], sentence)


def stable_number(prompt: str, purpose: str = "") -> int:
    """A fixed large number for this prompt and purpose: `random` may change between Python versions, SHA-256 not."""
    return int.from_bytes(hashlib.sha256(f"{prompt}\n{purpose}".encode()).digest()[:8], "big")


def count_words(*texts: str) -> int:
    return sum(len(text.split()) for text in texts)


def to_jsonl(rows: Iterator[dict]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def describe_files(files: dict[str, str]) -> Iterator[str]:
    """Rows, and lengths in rough tokens: words and punctuation marks, counted one by one."""
    rows = {name: [json.loads(line) for line in text.splitlines()] for name, text in files.items()}
    for name, found in rows.items():
        yield f"{name}: {len(found)} rows"
    answers = [count_rough_tokens(row["messages"][1]["content"]) for row in rows["sample_data/sample_chat.jsonl"]]
    yield f"chat answers, tokens: {format_quantiles(answers)}"
    for name in ("sample_data/sample_pairs.jsonl", "sample_data/sample_heldout.jsonl"):
        chosen = [count_rough_tokens(row["chosen"][0]["content"]) for row in rows[name]]
        worse = [count_rough_tokens(row["rejected"][0]["content"]) for row in rows[name]]
        ratios = [bad / good for good, bad in zip(chosen, worse, strict=True)]
        yield f"{name} chosen, tokens: {format_quantiles(chosen)}"
        yield f"{name} rejected, tokens: {format_quantiles(worse)}"
        yield f"{name} rejected ÷ chosen: {format_quantiles(ratios)}; chosen longer in {mean_share(r < 1 for r in ratios):.0%}"
        yield f"{name} within a quarter of the same length: {mean_share(0.8 <= r <= 1.25 for r in ratios):.0%}"


def count_rough_tokens(text: str) -> int:
    return len(re.findall(r"\w+|[^\w\s]", text))


def format_quantiles(numbers: Sequence[float]) -> str:
    tenths = statistics.quantiles(numbers, n=10)
    figures = (min(numbers), tenths[0], statistics.median(numbers), tenths[8], max(numbers))
    return "min {:.3g}, 10 % {:.3g}, median {:.3g}, 90 % {:.3g}, max {:.3g}".format(*figures)


def mean_share(flags: Iterator[bool]) -> float:
    return statistics.fmean(flags)


if __name__ == "__main__":
    main()
