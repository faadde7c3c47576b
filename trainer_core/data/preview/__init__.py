"""What the model sees of a data set: rows as its tokens, trained or only read, and what the training length cuts.

Served by a process that stays alive for a while (`child`), since a tokenizer takes seconds to load; the app only knows `Lens`.
"""

from trainer_core.data.preview.client import Lens
from trainer_core.data.preview.protocol import Look, Measure

__all__ = ["Lens", "Look", "Measure"]
