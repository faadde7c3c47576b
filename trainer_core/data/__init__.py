"""From any data file to rows that can be trained on: read, recognise, check, mend, split."""

from trainer_core.data.load import Loaded, count, load
from trainer_core.data.reader import Reader, check, glance
from trainer_core.data.report import Finding, Report
from trainer_core.data.rows import Chat, Message, Pair
from trainer_core.data.source import Checkup, Counts, Glimpse, Progress, Request

__all__ = [
    "Chat", "Checkup", "Counts", "Finding", "Glimpse", "Loaded", "Message", "Pair", "Progress", "Reader",
    "Report", "Request", "check", "count", "glance", "load",
]  # fmt: skip
