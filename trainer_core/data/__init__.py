"""From any data file to rows that can be trained on: read, recognise, check, split."""

from trainer_core.data.convert import Columns
from trainer_core.data.load import Loaded, load
from trainer_core.data.rows import Chat, Message, Pair

__all__ = ["Chat", "Columns", "Loaded", "Message", "Pair", "load"]
