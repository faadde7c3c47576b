"""Rows with points as one SVG: size against cost, both axes by powers of ten, so that a straight line's slope is the exponent."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from html import escape

from bench.harness.result import BenchRow

WIDTH, HEIGHT, LEFT, TOP, LEGEND = 560, 360, 60, 20, 300
COLOURS = ("#0b6e4f", "#b5179e", "#1d4ed8", "#c2410c", "#6b7280", "#0f766e")


def render_plot(rows: Sequence[BenchRow]) -> str:
    """The plot of every row that has points."""
    drawn = [row for row in rows if row.points]
    sizes = [size for row in drawn for size, _ in row.points]
    costs = [cost for row in drawn for _, cost in row.points]
    across, up = decades(sizes), decades(costs)

    def at(size: float, cost: float) -> tuple[float, float]:
        return (
            LEFT + WIDTH * (math.log10(size) - across[0]) / (across[-1] - across[0]),
            TOP + HEIGHT * (1 - (math.log10(cost) - up[0]) / (up[-1] - up[0])),
        )

    size = f"0 0 {LEFT + WIDTH + LEGEND} {TOP + HEIGHT + 50}"
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{size}" font-family="sans-serif" font-size="12">'
    lines = [plot_line(row, index, [at(*point) for point in row.points]) for index, row in enumerate(drawn)]
    return "\n".join(
        [head, '<rect width="100%" height="100%" fill="#fff"/>', *plot_grid(across, up, at), *lines, "</svg>\n"]
    )


def decades(values: Sequence[float]) -> range:
    """The powers of ten around the values."""
    return range(math.floor(math.log10(min(values))), math.ceil(math.log10(max(values))) + 1)


def plot_grid(across: range, up: range, at) -> Iterator[str]:  # type: ignore[no-untyped-def]
    for power in across:
        x, y = at(10.0**power, 10.0 ** up[0])
        yield f'<path d="M{x:.1f} {y:.1f}V{TOP}" stroke="#ddd"/><text x="{x:.1f}" y="{y + 18:.1f}">{10**power:,}</text>'
    for power in up:
        x, y = at(10.0 ** across[0], 10.0**power)
        yield f'<path d="M{x:.1f} {y:.1f}H{LEFT + WIDTH}" stroke="#ddd"/><text x="4" y="{y + 4:.1f}">{10.0**power:g}</text>'
    yield f'<text x="{LEFT}" y="{TOP + HEIGHT + 40}">rows, points or runs (across); seconds of processor time (up)</text>'


def plot_line(row: BenchRow, index: int, places: Sequence[tuple[float, float]]) -> str:
    colour, way = COLOURS[index % len(COLOURS)], " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in places)
    label = f"{escape(row.what)}: n^{row.ours:.2f}" if row.ours is not None else escape(row.what)
    text = f'<text x="{LEFT + WIDTH + 12}" y="{TOP + 16 + 20 * index}" fill="{colour}">{label}</text>'
    return f'<polyline points="{way}" fill="none" stroke="{colour}" stroke-width="2"/>{dots}{text}'
