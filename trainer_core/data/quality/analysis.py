"""From rows to a report: reads every row once, in bounded memory, and counts each finding, with examples."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from trainer_core.data import split
from trainer_core.data.files.raw_rows import UnreadableRow
from trainer_core.data.quality import remedies, text_patterns
from trainer_core.data.quality.checks import QUALITY_CHECKS, QualityCheck, all_messages, row_text
from trainer_core.data.quality.lengths import CharacterStats
from trainer_core.data.quality.report import (
    IGNORED_CONTENT,
    MAX_EXAMPLES,
    DataFinding,
    DataReport,
    FileReport,
    FindingExample,
    Level,
    Remedy,
    format_counts,
    ignored_meaning,
)
from trainer_core.data.read_events import (
    FileNote,
    IgnoredContent,
    ReadEvent,
    ReadProgress,
    SchemaDetected,
    UnusableRow,
    UsableRow,
)
from trainer_core.data.schema.messages import Chat, Item, Pair, opening_messages, prompt_key, prompts_of
from trainer_core.data.select import SAMPLE_DATA
from trainer_core.data.stream import CheckOptions, ReadRequest, stream_rows
from trainer_core.texts import Text

if TYPE_CHECKING:
    pass

MIN_TRIAL_ROWS, MIN_STEADY_ROWS = 30, 200
"""Fewer rows than the first only allow a trial; from the second on, training is steadier [field]."""
MIN_SWAPPED_SHARE = 0.1
"""A few answers that are questions mean nothing; from this share on, the columns are probably swapped."""
MAX_LENGTH_RATIO = 1.25
"""Median length of chosen ÷ rejected from which DPO probably learns length instead of quality [field]."""


def analyse_data(request: ReadRequest) -> Iterator[ReadProgress | DataReport]:
    """Yields progress from time to time, and the report at the end.

    Raises:
        DataError: see `data/stream.py`; also for an unknown step.
    """
    checkup = request.checkup or CheckOptions()
    examiner = DataAnalysis(checkup, held_out_prompts(checkup, request))
    for news in stream_rows(request):
        if isinstance(news, ReadProgress):
            yield news
        examiner.add_event(news)
    yield examiner.build_report(str(request.path))


def held_out_prompts(checkup: CheckOptions, request: ReadRequest) -> frozenset[int]:
    """The prompts of the held-out file. It has the same columns as the rows, unless it is the bundled one."""
    if checkup.held_out is None:
        return frozenset()
    columns = None if checkup.held_out.parent == SAMPLE_DATA else request.columns
    asked = ReadRequest(checkup.held_out, columns, encoding=request.encoding)
    rows = (news.item for news in stream_rows(asked) if isinstance(news, UsableRow))
    return frozenset(prompt_key(prompt) for row in rows for prompt in prompts_of(row))


class DataAnalysis:
    """Everything seen of a data set so far."""

    def __init__(self, checkup: CheckOptions, held_out: frozenset[int]) -> None:
        self.treatment = remedies.RemedyPipeline(checkup.steps, held_out)
        self.book = CharacterStats()
        self.found: list[SchemaDetected] = []
        self.rows: Counter[str] = Counter()
        self.counts: Counter[str] = Counter()
        self.examples: dict[str, list[FindingExample]] = {}
        self.reasons: dict[str, Text] = {}
        self.openings: dict[int, int] = defaultdict(int)
        self.preview: list[Item] = []
        self.aside: dict[str, list[IgnoredContent]] = defaultdict(list)
        self.notes: list[str] = []
        self.usable = self.with_system = 0

    def add_event(self, news: ReadEvent) -> None:
        match news:
            case UsableRow():
                self.rows[news.file] += 1
                self.add_row(news)
            case FileNote(text):
                self.notes.append(str(text))
            case SchemaDetected():
                self.found.append(news)
            case IgnoredContent():
                self.aside[news.code].append(news)
            case UnreadableRow():
                self.rows[news.file] += 1
                self.add_example("damaged", FindingExample(news.file, news.row, news.line, str(news)))
            case UnusableRow():
                self.rows[news.file] += 1
                self.reasons.setdefault(news.code, news.reason)
                self.add_example(
                    f"misfit: {news.code}", FindingExample(news.file, news.row, news.line, str(news.reason))
                )

    def add_row(self, example: UsableRow) -> None:
        """Record one row: its faults and, if it is usable, its lengths and its prompt."""
        item, left_out, faults = self.treatment.apply(example, look=True)
        if left_out in self.treatment.drops:
            self.counts[f"left out: {left_out}"] += 1
            return
        if left_out is None:
            self.usable += 1
            self.with_system += first_role(item) == "system"
            self.openings[prompt_key(opening_messages(item))] += 1
            self.book.add(item)
            if len(self.preview) < MAX_EXAMPLES:
                self.preview.append(item)
        for code in (left_out, *faults) if left_out else faults:
            self.counts[code] += 1
            if len(self.examples.setdefault(code, [])) < MAX_EXAMPLES:
                snippet = (
                    text_patterns.match_snippet(row_text(item), code)
                    or snippet_outside_loss(item, code)
                    or item_snippet(item)
                )
                self.examples[code].append(FindingExample(example.file, example.row, example.line, snippet))

    def add_example(self, code: str, where: FindingExample) -> None:
        self.counts[code] += 1
        if len(self.examples.setdefault(code, [])) < MAX_EXAMPLES:
            self.examples[code].append(where)

    def build_report(self, path: str) -> DataReport:
        held_out = sum(self.openings[key] for key in split.held_out_keys(self.openings))
        return DataReport(
            path=path,
            kind=self.found[0].shape.kind if self.found else None,
            files=tuple(self.file_report(found) for found in self.found),
            rows=self.rows.total(),
            usable=self.usable,
            train=self.usable - held_out,
            held_out=held_out,
            findings=tuple(sorted(self.all_findings(), key=lambda finding: LEVELS.index(finding.level))),
            lengths=self.book.summarise_all(),
            preview=tuple(self.preview),
            notes=(*self.notes, *self.step_notes()),
            blocked=tuple(self.blocking_reasons(Path(path).name)),
        )

    def blocking_reasons(self, name: str) -> Iterator[str]:
        """Why a run would refuse the rows as they are."""
        count = self.counts["damaged"]
        if count and not self.treatment.skip_damaged:
            yield str(Text("blocked.damaged", lines=count, file=name))
        if why := remedies.marker_problem(self.counts["markers"], self.usable, name):
            yield str(why)
        if not self.usable:
            yield str(Text("blocked.no_rows", file=name))

    def file_report(self, found: SchemaDetected) -> FileReport:
        shape = found.shape
        return FileReport(found.file, found.format, shape.name, shape.columns, shape.unused, self.rows[found.file])

    def step_notes(self) -> Iterator[str]:
        if (count := self.counts["damaged"]) and self.treatment.skip_damaged:
            yield str(Text("left_out.damaged", lines=count))
        for code, count in self.counts.items():
            if code.startswith("left out: "):
                fault = QUALITY_CHECKS[code.removeprefix("left out: ")]
                yield str(Text("left_out.fault", rows=count, step=f"drop_{fault.code}", meaning=fault.meaning))

    # --- findings -----------------------------------------------------------------------------------------------------

    def all_findings(self) -> Iterator[DataFinding]:
        total = self.rows.total()
        for code, count in self.counts.items():
            if code in QUALITY_CHECKS:
                fault = QUALITY_CHECKS[code]
                text = self.describe_rows(code, fault.meaning)
                yield self.build_finding(code, finding_level(fault, count, self.usable), fault.title, text)
            elif code == "damaged" and not self.treatment.skip_damaged:
                text = Text("finding.damaged", rows=count, total=total)
                yield self.build_finding(code, "error", Text("finding_titles.damaged"), text)
            elif code.startswith("misfit: "):
                text = self.describe_rows(code, self.reasons[code.removeprefix("misfit: ")])
                calls = code == "misfit: tool calls"
                title = Text("finding_titles.tool_calls") if calls else Text("finding_titles.misfit")
                yield self.build_finding(code, "error", title, text)
        yield from self.findings_on_ignored_content()
        yield from self.dataset_findings()

    def findings_on_ignored_content(self) -> Iterator[DataFinding]:
        """Unused content by kind, each column or field with its row count and first row."""
        total = self.rows.total()
        for code, several in self.aside.items():
            if code in IGNORED_CONTENT:
                counts = rows_by_name(several)
                count, meaning = max(counts.values()), ignored_meaning(code, counts)
                where = tuple(
                    FindingExample(one.file, one.row, one.line, f"{one.name}: {one.snippet}")
                    for one in several[:MAX_EXAMPLES]
                )
                title, sentence = str(Text(f"ignored_titles.{code}")), str(finding_text(count, total, meaning))
                yield DataFinding(f"aside: {code}", IGNORED_CONTENT[code], title, count, total, sentence, where)

    def describe_rows(self, code: str, meaning: Text) -> Text:
        """How many rows have a fault, and in which columns and fields, if the fault's text omits them."""
        rows, total = self.counts[code], self.rows.total()
        if code in self.aside:
            names = format_counts(rows_by_name(self.aside[code]))
            return Text("finding.columns", rows=rows, total=total, meaning=meaning, names=names)
        return finding_text(rows, total, meaning)

    def build_finding(self, code: str, level: Level, title: Text, sentence: Text) -> DataFinding:
        count = self.counts[code]
        steps = remedies.remedy_labels(code, count)
        mends = tuple(Remedy(step, label) for step, label in steps)
        rows, examples = self.rows.total(), tuple(self.examples[code])
        return DataFinding(code, level, str(title), count, rows, str(sentence), examples, mends)

    def dataset_findings(self) -> Iterator[DataFinding]:
        """Findings about the data set as a whole."""
        total = self.usable
        if 0 < self.with_system < total:
            count = min(self.with_system, total - self.with_system)
            title, text = Text("finding_titles.system"), Text("finding.system", rows=self.with_system, total=total)
            remedy = (Remedy("no_system", remedies.REMEDY_LABELS["no_system"]),)
            yield DataFinding("system", "notice", str(title), count, total, str(text), (), remedy)
        ratio = self.book.chosen_over_rejected()
        if ratio and ratio[0] > MAX_LENGTH_RATIO:
            title, text = (
                Text("finding_titles.long_chosen"),
                Text("finding.long_chosen", ratio=ratio[0], share=ratio[1]),
            )
            yield DataFinding("long_chosen", "warning", str(title), round(ratio[1] * total), total, str(text))
        if total < MIN_STEADY_ROWS:
            title, text = Text("finding_titles.few"), Text("finding.few", rows=total, steady=MIN_STEADY_ROWS)
            if total < MIN_TRIAL_ROWS:
                text = Text("finding.very_few", rows=total, trial=MIN_TRIAL_ROWS)
            yield DataFinding("few", "notice", str(title), total, total, str(text))


def rows_by_name(several: list[IgnoredContent]) -> Counter[str]:
    """Column or field → rows, over all files."""
    counts = Counter[str]()
    for one in several:
        counts[one.name] += one.count
    return counts


LEVELS: tuple[Level, ...] = ("error", "warning", "notice")


def finding_text(rows: int, total: int, meaning: Text) -> Text:
    return Text("finding.rows", rows=rows, total=total, meaning=meaning)


def finding_level(fault: QualityCheck, count: int, usable: int) -> Level:
    """A fault's level; for some faults it depends on the share of rows."""
    if fault.code == "markers" and remedies.marker_problem(count, usable, ""):
        return "error"
    if fault.code == "swapped" and count < MIN_SWAPPED_SHARE * usable:
        return "notice"
    return fault.level


def first_role(item: Item) -> str:
    messages = item.prompt if isinstance(item, Pair) else item.messages
    return messages[0].role


def snippet_outside_loss(item: Item, code: str) -> str | None:
    """The start of the text outside the loss, for findings about it."""
    found = {
        "reasoning": (one.reasoning for one in all_messages(item) if one.reasoning),
        "weight_zero": (one.content for one in all_messages(item) if one.role == "assistant" and not one.learned),
    }
    return next((" ".join(text[:200].split())[:80] for text in found.get(code, ())), None)


def item_snippet(item: Item) -> str:
    """The start of a row's last message, on one line."""
    said = item.messages[-1:] if isinstance(item, Chat) else item.prompt[-1:] + item.chosen[:1]
    return " → ".join(" ".join(message.content[:200].split())[:80] for message in said)
