"""From rows to a report: every row is looked at once, in bounded memory, and each finding is counted and shown."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

from trainer_core.data import split
from trainer_core.data.files.raw_rows import Flaw
from trainer_core.data.quality import remedies, text_patterns
from trainer_core.data.quality.checks import FAULTS, Fault, text_of, turns
from trainer_core.data.quality.lengths import Book, Tokens
from trainer_core.data.quality.report import ASIDE, FileReport, Finding, Level, Remedy, Report, Where, named
from trainer_core.data.schema.messages import Chat, Item, Pair, opening, prompt_key, prompts_of
from trainer_core.data.stream import Checkup, Example, Found, LeftAside, Misfit, News, Note, Progress, Request, examples

SHOWN = 5
"""Rows shown as examples of one finding, and rows in the preview."""
TASTE, STEADY = 30, 200
"""Rows below which a run is only a taste, and from which it is a steadier change [field]."""
MANY = 0.1
"""A few answers that are questions are nothing; from this share on the columns are probably swapped."""
LONGER = 1.25
"""Median length of chosen over rejected from which DPO is likely to learn length instead of quality [field]."""
BY_LENGTH: dict[str, tuple[Level, str, str]] = {
    "cut": ("notice", "Rows cut", "the row is longer than {length:,} tokens, and its end is cut off"),
    "cut_equal": ("warning", "Sides equal after the cut", "cut at {length:,} tokens, both sides are the same"),
    "prompt_too_long": ("warning", "Prompts too long", "the prompt alone fills the {length:,} tokens"),
    "masked": ("warning", "Nothing to learn", "the first answer begins beyond the {length:,} tokens"),
}


def examined(request: Request) -> Iterator[Progress | Report]:
    """Progress now and then, and the report at the end.

    Raises:
        DataError: see `source.examples`; also an unknown step or an unreadable tokenizer.
    """
    checkup = request.checkup or Checkup()
    examiner = Examiner(checkup)
    for news in examples(request):
        if isinstance(news, Progress):
            yield news
        examiner.look(news)
    yield examiner.report(str(request.path))


def held_out_prompts(checkup: Checkup) -> frozenset[int]:
    """The prompts of the held-out file."""
    if checkup.held_out is None:
        return frozenset()
    rows = (news.item for news in examples(Request(checkup.held_out)) if isinstance(news, Example))
    return frozenset(prompt_key(prompt) for row in rows for prompt in prompts_of(row))


class Examiner:
    """What has been seen of a data set so far."""

    def __init__(self, checkup: Checkup) -> None:
        self.checkup = checkup
        self.treatment = remedies.Treatment(checkup.steps, held_out_prompts(checkup))
        self.book = Book(Tokens(checkup.tokenizer) if checkup.tokenizer else None, checkup.length)
        self.found: list[Found] = []
        self.rows: Counter[str] = Counter()
        self.counts: Counter[str] = Counter()
        self.examples: dict[str, list[Where]] = {}
        self.reasons: dict[str, str] = {}
        self.openings: dict[int, int] = defaultdict(int)
        self.preview: list[Item] = []
        self.aside: dict[str, list[LeftAside]] = defaultdict(list)
        self.notes: list[str] = []
        self.usable = self.with_system = 0

    def look(self, news: News) -> None:
        match news:
            case Example():
                self.rows[news.file] += 1
                self.look_at(news)
            case Note(text):
                self.notes.append(text)
            case Found():
                self.found.append(news)
            case LeftAside():
                self.aside[news.code].append(news)
            case Flaw():
                self.rows[news.file] += 1
                self.count("damaged", Where(news.file, news.row, news.line, str(news)))
            case Misfit():
                self.rows[news.file] += 1
                self.reasons.setdefault(news.code, news.reason)
                self.count(f"misfit: {news.code}", Where(news.file, news.row, news.line, news.reason))

    def look_at(self, example: Example) -> None:
        """One row: its faults, and where it is usable its lengths and its prompt."""
        item, left_out, faults = self.treatment.apply(example, look=True)
        if left_out in self.treatment.drops:
            self.counts[f"left out: {left_out}"] += 1
            return
        if left_out is None:
            self.usable += 1
            self.with_system += first_role(item) == "system"
            self.openings[prompt_key(opening(item))] += 1
            faults += self.book.add(item)
            if len(self.preview) < SHOWN:
                self.preview.append(item)
        for code in (left_out, *faults) if left_out else faults:
            self.counts[code] += 1
            if len(self.examples.setdefault(code, [])) < SHOWN:
                snippet = text_patterns.around(text_of(item), code) or unlearned(item, code) or glimpse(item)
                self.examples[code].append(Where(example.file, example.row, example.line, snippet))

    def count(self, code: str, where: Where) -> None:
        self.counts[code] += 1
        if len(self.examples.setdefault(code, [])) < SHOWN:
            self.examples[code].append(where)

    def report(self, path: str) -> Report:
        held_out = sum(self.openings[key] for key in split.held_out_keys(self.openings))
        return Report(
            path=path,
            kind=self.found[0].shape.kind if self.found else None,
            files=tuple(self.file_report(found) for found in self.found),
            rows=self.rows.total(),
            usable=self.usable,
            train=self.usable - held_out,
            held_out=held_out,
            findings=tuple(sorted(self.findings(), key=lambda finding: LEVELS.index(finding.level))),
            lengths=self.book.lengths(),
            preview=tuple(self.preview),
            notes=(*self.notes, *self.step_notes()),
            blocked=tuple(self.blocked(Path(path).name)),
        )

    def blocked(self, name: str) -> Iterator[str]:
        """Why a run would refuse the rows as they are."""
        count = self.counts["damaged"]
        if count and not self.treatment.skip_damaged:
            lines, them = ("line", "it") if count == 1 else ("lines", "them")
            yield f"{count:,} {lines} in {name} cannot be read. Mend {them}, or skip {them} (step skip_damaged)."
        if why := remedies.too_marked(self.counts["markers"], self.usable, name):
            yield why
        if not self.usable:
            yield f"No row in {name} can be trained on."

    def file_report(self, found: Found) -> FileReport:
        shape = found.shape
        return FileReport(found.file, found.format, shape.name, shape.columns, shape.unused, self.rows[found.file])

    def step_notes(self) -> Iterator[str]:
        if (count := self.counts["damaged"]) and self.treatment.skip_damaged:
            yield f"{count:,} {'line' if count == 1 else 'lines'} that cannot be read left out by the step skip_damaged."
        for code, count in self.counts.items():
            if code.startswith("left out: "):
                fault = FAULTS[code.removeprefix("left out: ")]
                yield f"{count:,} {'row' if count == 1 else 'rows'} left out by the step drop_{fault.code}: {fault.meaning}."

    # --- findings -----------------------------------------------------------------------------------------------------

    def findings(self) -> Iterator[Finding]:
        total = self.rows.total()
        for code, count in self.counts.items():
            if code in FAULTS:
                fault = FAULTS[code]
                text = f"{share(count, total)}: {fault.meaning}.{self.where(code)}"
                yield self.finding(code, level_of(fault, count, self.usable), fault.title, text)
            elif code in BY_LENGTH:
                level, title, meaning = BY_LENGTH[code]
                measured = len(next(iter(self.book.parts.values())))
                text = f"{share(count, measured)}: {meaning.format(length=self.book.length)}."
                yield self.finding(code, level, title, text)
            elif code == "damaged" and not self.treatment.skip_damaged:
                yield self.finding(code, "error", "Damaged lines", f"{share(count, total)} cannot be read.")
            elif code.startswith("misfit: "):
                reason = self.reasons[code.removeprefix("misfit: ")]
                title = "Tool calls" if code == "misfit: tool calls" else "Rows that do not fit"
                yield self.finding(code, "error", title, f"{share(count, total)}: {reason}.")
        yield from self.left_aside()
        yield from self.over_all()

    def left_aside(self) -> Iterator[Finding]:
        """What is not used of the rows, kind by kind, each column or field with its count and its first row."""
        total = self.rows.total()
        for code, several in self.aside.items():
            if code in ASIDE:
                level, title, meaning = ASIDE[code]
                counts = by_name(several)
                where = tuple(
                    Where(one.file, one.row, one.line, f"{one.name}: {one.snippet}") for one in several[:SHOWN]
                )
                sentence = f"{share(max(counts.values()), total)}: {meaning.format(names=named(counts))}."
                yield Finding(f"aside: {code}", level, title, max(counts.values()), total, sentence, where)

    def where(self, code: str) -> str:
        """The columns and fields in which a fault stands, where it does not stand in the words."""
        return f" It stands in {named(by_name(self.aside[code]))}." if code in self.aside else ""

    def finding(self, code: str, level: Level, title: str, sentence: str) -> Finding:
        count = self.counts[code]
        steps = remedies.labels(code, count)
        mends = tuple(Remedy(step, label) for step, label in steps)
        return Finding(code, level, title, count, self.rows.total(), sentence, tuple(self.examples[code]), mends)

    def over_all(self) -> Iterator[Finding]:
        """What only all rows together show."""
        total = self.usable
        if 0 < self.with_system < total:
            count = min(self.with_system, total - self.with_system)
            text = f"{share(self.with_system, total)} have a system prompt, the others have none."
            remedy = (Remedy("no_system", remedies.WORDS["no_system"]),)
            yield Finding("system", "notice", "System prompts in some rows", count, total, text, (), remedy)
        ratio = self.book.chosen_over_rejected()
        if ratio and ratio[0] > LONGER:
            text = (
                f"At the median chosen is {ratio[0]:.1f} times as long as rejected, and it is longer in {ratio[1]:.0%} "
            )
            text += "of the pairs. DPO may learn to write more instead of better."
            yield Finding("long_chosen", "warning", "Chosen is longer", round(ratio[1] * total), total, text)
        if total < STEADY:
            text = f"{total} usable rows. " + (
                "Below 30 a run is a taste." if total < TASTE else "From 200 on the change is steadier."
            )
            yield Finding("few", "notice", "Few rows", total, total, text)


def by_name(several: list[LeftAside]) -> Counter[str]:
    """Column or field -> rows, over all files."""
    counts = Counter[str]()
    for one in several:
        counts[one.name] += one.count
    return counts


LEVELS: tuple[Level, ...] = ("error", "warning", "notice")


def share(count: int, total: int) -> str:
    return f"{count:,} of {total:,} rows"


def level_of(fault: Fault, count: int, usable: int) -> Level:
    """A fault's level, by its share where that changes what it means."""
    if fault.code == "markers" and remedies.too_marked(count, usable, ""):
        return "error"
    if fault.code == "swapped" and count < MANY * usable:
        return "notice"
    return fault.level


def first_role(item: Item) -> str:
    messages = item.prompt if isinstance(item, Pair) else item.messages
    return messages[0].role


def unlearned(item: Item, code: str) -> str | None:
    """The beginning of what is not learned of a row, where a finding speaks of that."""
    found = {
        "reasoning": (one.reasoning for one in turns(item) if one.reasoning),
        "weight_zero": (one.content for one in turns(item) if one.role == "assistant" and not one.learned),
    }
    return next((" ".join(text[:200].split())[:80] for text in found.get(code, ())), None)


def glimpse(item: Item) -> str:
    """The beginning of a row's last words, on one line."""
    said = item.messages[-1:] if isinstance(item, Chat) else item.prompt[-1:] + item.chosen[:1]
    return " → ".join(" ".join(message.content[:200].split())[:80] for message in said)
