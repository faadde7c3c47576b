"""A data set as the model sees it: rows as tokens, trained or masked, and what the training length truncates.

Served by a process that stays alive for a while (`child`), since a tokenizer takes seconds to load; the app uses only
`client.py`.
"""

from trainer_core.data.preview.client import TokenPreview
from trainer_core.data.preview.protocol import MeasureRequest, TokenRowRequest

__all__ = ["TokenPreview", "TokenRowRequest", "MeasureRequest"]
