"""From any data file to rows that can be trained on: read, recognise, check, mend, split."""

from trainer_core.data.convert import Columns
from trainer_core.data.load import Loaded, load
from trainer_core.data.reader import Reader, check
from trainer_core.data.report import Finding, Report
from trainer_core.data.rows import Chat, Message, Pair
from trainer_core.data.source import Checkup, Progress, Request

__all__ = [
    "Chat", "Checkup", "Columns", "Finding", "Loaded", "Message", "Pair", "Progress", "Reader", "Report", "Request",
    "check", "load",
]  # fmt: skip
