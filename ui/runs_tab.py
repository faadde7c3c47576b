"""The Runs tab: every run of the workspace as a table, drawn by page.js; a row opens in Train or in Compare."""

from __future__ import annotations

from ui import cards
from ui.rail import fixed


def build() -> None:
    fixed(cards.RUNS, elem_id="runs-view")
