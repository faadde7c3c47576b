"""From any data file to rows that can be trained on: read, recognise, check, mend, split."""

from trainer_core.data.load import count, load
from trainer_core.data.quality.report import Finding, Report
from trainer_core.data.sandbox.client import Reader, check, glance
from trainer_core.data.schema.messages import Chat, Message, Pair
from trainer_core.data.select import Loaded
from trainer_core.data.stream import Checkup, Counts, Glimpse, Progress, Request

__all__ = [
    "Chat", "Checkup", "Counts", "Finding", "Glimpse", "Loaded", "Message", "Pair", "Progress", "Reader",
    "Report", "Request", "check", "count", "glance", "load",
]  # fmt: skip
