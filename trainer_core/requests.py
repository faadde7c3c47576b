"""What the app may ask of a compare worker, one JSON line each on its stdin. End of file means: end."""

from __future__ import annotations

import queue
import threading
from typing import Annotated, Literal, TextIO

from pydantic import Field, TypeAdapter, ValidationError

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
    """Score all lanes on the pairs of a JSON-lines file, and on their own answers to the prompts.

    Answered by Scoring events and, at the end, Scored or ScoreFailed.
    """

    kind: Literal["score"] = "score"
    pairs: str
    prompts: tuple[str, ...] = ()
    sampling: Sampling = Sampling()
    reference: str = ""
    """The lane that implicit rewards are measured against; empty: the base."""
    into: str = ""
    """A JSON file that the result is also written to, such as scores.json of the run."""


Request = Annotated[Ask | Cancel | Score, Field(discriminator="kind")]
REQUEST: TypeAdapter[Ask | Cancel | Score] = TypeAdapter(Request)


class Inbox:
    """Reads requests from a stream in a thread, so that a Cancel is seen while an answer is being made."""

    def __init__(self, stream: TextIO):
        self._waiting: queue.Queue[Ask | Score | Exception | None] = queue.Queue()
        self._app_is_gone = False
        self.cancelled = threading.Event()
        threading.Thread(target=self._read, args=(stream,), name="requests", daemon=True).start()

    def _read(self, stream: TextIO) -> None:
        try:
            for line in stream:
                request = REQUEST.validate_json(line)
                if isinstance(request, Cancel):
                    self.cancelled.set()
                else:
                    self._waiting.put(request)
        except ValidationError as error:
            self._waiting.put(error)
        self._app_is_gone = True
        self.cancelled.set()
        self._waiting.put(None)

    def next(self) -> Ask | Score | None:
        """Wait for the next request; None once the app is gone, whatever it still wanted.

        Raises:
            ValidationError: the app sent a line that is no request, which is a bug.
        """
        request = self._waiting.get()
        if isinstance(request, Exception):
            raise request
        if self._app_is_gone:
            return None
        self.cancelled.clear()
        return request
