"""The certificate as one HTML file that needs no network."""

from __future__ import annotations

from html import escape

from trainer_core.config.jobs import ExportJob
from trainer_core.evaluation.certificate_chart import CHART_STYLE, render_kept_chart, smallest_form
from trainer_core.evaluation.certificate_text import base_lines
from trainer_core.evaluation.score_table import KEPT_FORMAT, SHARE_FORMAT, format_measure
from trainer_core.runs.export_events import AnswerComparison, CertificateRow, ExportFinished
from trainer_core.system.format import format_file_size
from trainer_core.texts import Text

STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif }
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; width: 100% }
th, td { text-align: left; padding: .4rem .6rem; border-bottom: 1px solid color-mix(in srgb, currentColor 20%, transparent) }
td.same, td.ties { color: light-dark(#136c2e, #7ee2a0) }
td.changed { color: light-dark(#b3261e, #ffb4ab) }
.scroll { overflow-x: auto }
"""
COLUMNS = ("form", "size", "prompts", "answers", "engine", "divergence", "accuracy", "kept", "verdict")


def render_page(job: ExportJob, finished: ExportFinished) -> str:
    rows = finished.forms
    title = str(Text("certificate.title", name=job.name))
    head = "".join(f"<th scope=col>{escape(str(Text(f'certificate_columns.{name}')))}</th>" for name in COLUMNS)
    body = "".join(render_row(row) for row in rows)
    said = [
        *filter(None, [smallest_form(rows)]),
        *base_lines(finished.bases),
        *(f"{row.form}: {row.problem}" for row in rows if row.problem),
    ]
    notes = "".join(f"<p>{escape(str(one))}</p>" for one in said)
    intro = escape(str(Text("certificate.intro", lane=job.lane.name, pairs=finished.pairs)))
    legend = escape(str(Text("certificate.legend")))
    return (
        f'<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content="width=device-width">'
        f"<title>{escape(title)}</title><style>{STYLE}{CHART_STYLE}</style><h1>{escape(title)}</h1><p>{intro}</p>"
        f"<div class=scroll tabindex=0><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
        f"{render_kept_chart(rows)}{notes}<p>{legend}</p></html>\n"
    )


def render_row(row: CertificateRow) -> str:
    cells = (
        format_file_size(row.bytes),
        format_words(row),
        format_answers(row.answers),
        format_answers(row.engine_answers),
        format_number(row.served_divergence),
        format_measure(row.accuracy, SHARE_FORMAT) or "–",
        format_measure(row.kept, KEPT_FORMAT) or "–",
    )
    verdict = escape(str(Text(f"verdicts.{row.verdict}")))
    told = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
    return f"<tr><th scope=row>{escape(row.form)}</th>{told}<td class={row.verdict}>{verdict}</td></tr>"


def format_words(row: CertificateRow) -> str:
    if row.tokens_equal is None:
        return "–"
    return str(Text("certificate.equal" if row.same_words else "certificate.different"))


def format_answers(answers: AnswerComparison | None) -> str:
    return f"{answers.equal} / {answers.count}" if answers else "–"


def format_number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2g}"
