"""What the model sees of a data set: rows as its tokens, trained or only read, and what the training length cuts.

Served by a process that stays alive for a while (`child`), since a tokenizer takes seconds to load; the app only knows
`client.py`.
"""

from trainer_core.data.preview.client import TokenPreview
from trainer_core.data.preview.protocol import MeasureRequest, TokenRowRequest

__all__ = ["TokenPreview", "TokenRowRequest", "MeasureRequest"]
