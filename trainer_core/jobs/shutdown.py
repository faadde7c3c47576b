"""Ends a run that does not answer."""

from __future__ import annotations

ASLEEP_SECONDS = 30.0
"""A round that comes so late: the computer slept, or its clock was set. Nobody could answer in that time."""
