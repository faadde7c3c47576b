"""From any data file to trainable rows: read, detect the schema, check, repair, split."""

from trainer_core.data.load import count_rows, load_data
from trainer_core.data.quality.report import DataFinding, DataReport
from trainer_core.data.read_events import ReadProgress
from trainer_core.data.sandbox.client import SandboxReader, check_dataset, preview_dataset
from trainer_core.data.schema.messages import Chat, Message, Pair
from trainer_core.data.select import LoadedData
from trainer_core.data.stream import CheckOptions, Preview, ReadRequest, RowCounts

__all__ = [
    "Chat", "CheckOptions", "RowCounts", "DataFinding", "Preview", "LoadedData", "Message", "Pair",
    "ReadProgress", "SandboxReader",
    "DataReport", "ReadRequest", "check_dataset", "count_rows", "preview_dataset", "load_data",
]  # fmt: skip
