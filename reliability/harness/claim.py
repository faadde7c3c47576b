"""What a proof says, and how all of them become RELIABILITY.md, which nobody writes by hand."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from scipy.special import betaincinv

from trainer_core.system.project import PROJECT

RESULTS = PROJECT / "reliability" / "results"
PAGE = PROJECT / "RELIABILITY.md"


@dataclass(frozen=True)
class TrialCount:
    """So many trials, and how many of them failed."""

    n: int
    failures: int
    worst: str = ""
    """The first failure in words, or the largest loss seen."""

    @property
    def upper_bound(self) -> float:
        """The 95 % upper bound of the failure rate (Clopper-Pearson, one-sided); for no failure in n it is about 3 / n."""
        return 1.0 if self.failures == self.n else float(betaincinv(self.failures + 1, self.n - self.failures, 0.95))


@dataclass(frozen=True)
class Proof:
    """A claim, what was counted for it, and the control: the same without what protects, which must fail."""

    claim: str
    ours: TrialCount
    control_name: str
    control: TrialCount
    least_control: float = 0.1
    """Share of the control's trials that must fail, or the proof proves nothing."""

    @property
    def holds(self) -> bool:
        return has_no_failure(self.ours) and self.control.failures > self.least_control * self.control.n


@dataclass(frozen=True)
class Figure:
    """A claim about something measured once, such as memory, for which there is no trial without what protects."""

    claim: str
    ours: TrialCount
    control_name: str = "a figure"
    control: None = None

    @property
    def holds(self) -> bool:
        return has_no_failure(self.ours)


ClaimResult = Proof | Figure
"""What a script counts: what has no control must be called a figure."""


def has_no_failure(count: TrialCount) -> bool:
    """Was anything tried, and did nothing fail?"""
    return count.n > 0 and count.failures == 0


def save_results(name: str, proofs: Sequence[ClaimResult], facts: Mapping[str, Any]) -> None:
    """Keep what was found beside the others."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    rows = [asdict(one) | {"holds": one.holds, "bound": one.ours.upper_bound} for one in proofs]
    text = json.dumps({"name": name, **facts, "proofs": rows}, indent=1)
    (RESULTS / f"{name}.json").write_text(text + "\n", encoding="utf-8")


def render_reliability_page(names: Mapping[str, str]) -> str:
    """All results as Markdown. `names`: proof → what it asks; one without a result is listed as not measured."""
    lines = [
        "# Reliability",
        "",
        "Made by `python -m reliability`; not written by hand. A bound is the 95 % upper limit of the failure rate "
        "(Clopper-Pearson). Each control is the same trial without what protects, and must fail often; a figure has none.",
    ]
    for name, asked in names.items():
        lines += ["", f"## {name}", "", asked, ""]
        path = RESULTS / f"{name}.json"
        lines += results_table(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else ["*not measured*"]
    return "\n".join(lines) + "\n"


def results_table(found: Mapping[str, Any]) -> list[str]:
    head = ["| Claim | Trials | Failures | Bound | Control | Holds |", "|---|---|---|---|---|---|"]
    rows = [
        f"| {one['claim']} | {one['ours']['n']:,} | {one['ours']['failures']} | {one['bound']:.2%} | {describe_control(one)} "
        f"| {'yes' if one['holds'] else '**no**'} {one['ours']['worst']} |"
        for one in found["proofs"]
    ]
    return [*head, *rows, "", f"{found['machine']}, {found['date']}, {found['seconds']:.0f} s, torch {found['torch']}."]


def describe_control(one: Mapping[str, Any]) -> str:
    if not one["control"]:
        return str(one["control_name"])
    return f"{one['control_name']}: {one['control']['failures']:,} of {one['control']['n']:,} fail"


def count_trials(trials: Sequence[str]) -> TrialCount:
    """From the failures in words, an empty text for each trial that went well."""
    failed = [one for one in trials if one]
    return TrialCount(len(trials), len(failed), failed[0] if failed else "")
