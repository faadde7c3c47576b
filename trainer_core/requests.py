"""What the app may ask of a compare worker, one JSON line each on its stdin. End of file means: end."""

from __future__ import annotations

import queue
import threading
from typing import Annotated, Literal, TextIO

from pydantic import Field, TypeAdapter

from trainer_core.config import Sampling, Strict


class Ask(Strict):
    """Answer this conversation in these lanes (all of them if empty)."""

    kind: Literal["ask"] = "ask"
    id: str
    messages: tuple[dict[str, str], ...]
    lanes: tuple[str, ...] = ()
    sampling: Sampling = Sampling()


class Cancel(Strict):
    """Stop the answer in progress; the model stays loaded."""

    kind: Literal["cancel"] = "cancel"


class Score(Strict):
    """Score all lanes on the pairs of a JSON-lines file."""

    kind: Literal["score"] = "score"
    pairs: str
    prompts: tuple[str, ...] = ()
    sampling: Sampling = Sampling()


Request = Annotated[Ask | Cancel | Score, Field(discriminator="kind")]
REQUEST: TypeAdapter[Ask | Cancel | Score] = TypeAdapter(Request)


class Inbox:
    """Reads requests from a stream in a thread, so that a Cancel is seen while an answer is being made."""

    def __init__(self, stream: TextIO):
        self._waiting: queue.Queue[Ask | Score | None] = queue.Queue()
        self.cancelled = threading.Event()
        threading.Thread(target=self._read, args=(stream,), name="requests", daemon=True).start()

    def _read(self, stream: TextIO) -> None:
        for line in stream:
            request = REQUEST.validate_json(line)
            if isinstance(request, Cancel):
                self.cancelled.set()
            else:
                self._waiting.put(request)
        self.cancelled.set()
        self._waiting.put(None)

    def next(self) -> Ask | Score | None:
        """Wait for the next request; None once the app is gone."""
        request = self._waiting.get()
        if request is not None:
            self.cancelled.clear()
        return request
