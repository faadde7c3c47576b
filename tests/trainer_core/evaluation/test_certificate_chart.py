"""The picture of an export's forms, and which of them is the smallest that is good enough."""

from __future__ import annotations

import re
from xml.etree import ElementTree

from trainer_core.evaluation.certificate_chart import LEFT, WIDTH, render_kept_chart, smallest_form
from trainer_core.runs.compare_events import ConfidenceInterval
from trainer_core.runs.export_events import CertificateRow


def row(form: str, size: int, kept: tuple[float, float, float] | None, **changes: float) -> CertificateRow:
    share = ConfidenceInterval(*kept, 48) if kept else None
    return CertificateRow(form, size, 16.0, kept=share, **changes)  # type: ignore[arg-type]


ROWS = (
    row("gguf:q8_0", 145_000_000, (1.0, 0.99, 1.01)),
    row("gguf:q4_k_m", 105_000_000, (0.91, 0.84, 0.97)),
    row("merged", 269_000_000, (0.99, 0.98, 0.995)),
    row("gguf:q5_k_m", 90_000_000, None),
)


def test_the_smallest_stands_first_and_more_kept_lies_further_right() -> None:
    picture = ElementTree.fromstring(render_kept_chart(ROWS))
    (q4, q8, merged) = [(float(dot.attrib["cx"]), float(dot.attrib["cy"])) for dot in picture.iter("circle")]
    assert 0 < q4[1] < q8[1] < merged[1] and LEFT < q4[0] < merged[0] < q8[0] < WIDTH
    assert abs((merged[0] - q4[0]) / (q8[0] - q4[0]) - 0.08 / 0.09) < 0.01
    whisker = next(one.attrib for one in picture.iter("line") if one.attrib.get("class") == "whisker")
    assert LEFT < float(whisker["x1"]) < q4[0] < float(whisker["x2"]) < q8[0]
    spoken = picture.attrib["aria-label"]
    assert re.findall(r"Q4_K_M|Q8_0|merged", spoken) == ["Q4_K_M", "Q8_0", "merged"] and "145.0 MB" in spoken


def test_one_form_is_no_picture() -> None:
    assert render_kept_chart(ROWS[:1]) == "" and render_kept_chart(ROWS[3:]) == ""


def test_the_smallest_that_is_good_enough() -> None:
    best = smallest_form(ROWS)
    assert best and (best.params["form"], best.params["share"]) == ("Q8_0", 0.95)
    assert smallest_form(ROWS[1:2]) is None
    changed = row("gguf:q8_0", 145_000_000, (1.0, 0.99, 1.01), divergence=0.5)
    assert changed.verdict == "changed" and smallest_form([changed]) is None
