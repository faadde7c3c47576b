"""The Train tab. All of it is drawn by page.js from the live channel, so it is the same after a reload and in every tab."""

from __future__ import annotations

from ui import cards
from ui.rail import fixed


def build() -> None:
    fixed(cards.train(), elem_id="train")
