"""What may be asked of a compare worker, one JSON line each on its stdin. End of file means: end.

Requests are answered one after another; a Cancel overtakes them and ends everything that was asked before it. What they
are answered with: Ask → Asked, Text …, Answered or AskFailed; Dial → Dialed or AskFailed; Heat → Heated or AskFailed;
Score → Scoring …, Scored or ScoreFailed.
"""

from __future__ import annotations

import queue
import threading
from typing import Annotated, Literal, TextIO

from pydantic import Field, TypeAdapter, ValidationError

from trainer_core.config.recipe import Sampling
from trainer_core.schema import StrictModel


class ChatMessage(StrictModel):
    """One message of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


class GenerateRequest(StrictModel):
    """Answer this conversation, which ends with the user, in these lanes (all of them if empty)."""

    kind: Literal["ask"] = "ask"
    id: str
    messages: tuple[ChatMessage, ...] = Field(min_length=1)
    own: dict[str, tuple[ChatMessage, ...]] = {}
    """Lane → its own conversation instead, where its earlier answers differ. The user's words must be the same in all
    lanes, because the random numbers depend on them."""
    lanes: tuple[str, ...] = ()
    sampling: Sampling = Sampling()


class CancelRequest(StrictModel):
    """Stop the answer or the scoring in progress, and what waits behind it; the model stays loaded."""

    kind: Literal["cancel"] = "cancel"


class AdjustLaneRequest(StrictModel):
    """Set how much of its adapter a lane uses, and how much of another lane's adapter it blends in. Nothing is loaded."""

    kind: Literal["dial"] = "dial"
    id: str = ""
    lane: str
    strength: float = Field(default=1.0, ge=0, le=1.5)
    other: str = ""
    """The lane whose adapter is blended in; empty: none."""
    share: float = Field(default=0.0, ge=0, le=1)
    """That adapter's share: the lane becomes strength × ((1 − share) × its own + share × the other)."""


class HeatmapRequest(StrictModel):
    """How likely each token of an answer is under two lanes; it need not be an answer of theirs."""

    kind: Literal["heat"] = "heat"
    id: str
    messages: tuple[ChatMessage, ...] = Field(min_length=1)
    """The conversation before the answer."""
    answer: str
    ended: bool = True
    """Did it end by itself? Then its end token is judged too."""
    lanes: tuple[str, str]


class ScoreRequest(StrictModel):
    """Score lanes (all of them if empty) on the pairs of a JSON-lines file, on their own answers to the prompts, and on
    the bundled general questions."""

    kind: Literal["score"] = "score"
    pairs: str
    prompts: tuple[str, ...] = ()
    sampling: Sampling = Sampling()
    general: bool = True
    lanes: tuple[str, ...] = ()
    reference: str = ""
    """The lane that implicit rewards are measured against; empty: the base."""
    into: str = ""
    """A JSON file that the result is also written to, such as scores.json of the run."""


WorkRequest = GenerateRequest | AdjustLaneRequest | HeatmapRequest | ScoreRequest
"""What is answered in its turn."""
CompareRequest = Annotated[WorkRequest | CancelRequest, Field(discriminator="kind")]
COMPARE_REQUEST_ADAPTER: TypeAdapter[WorkRequest | CancelRequest] = TypeAdapter(CompareRequest)


class RequestQueue:
    """Reads requests from a stream in a thread, so that a Cancel is seen while an answer is being made.

    All requests between two Cancels share one `cancelled`, so that a Cancel reaches those that still wait, too.
    """

    def __init__(self, stream: TextIO):
        self._waiting: queue.Queue[tuple[WorkRequest | Exception | None, threading.Event]] = queue.Queue()
        self._app_is_gone = False
        self.cancelled = threading.Event()
        """Set when the request that `next` gave last is no longer wanted."""
        threading.Thread(target=self._read, args=(stream,), name="requests", daemon=True).start()

    def _read(self, stream: TextIO) -> None:
        cancelled = self.cancelled
        try:
            for line in stream:
                request = COMPARE_REQUEST_ADAPTER.validate_json(line)
                if isinstance(request, CancelRequest):
                    cancelled.set()
                    cancelled = threading.Event()
                else:
                    self._waiting.put((request, cancelled))
        except ValidationError as error:
            self._waiting.put((error, cancelled))
        self._app_is_gone = True
        cancelled.set()
        self._waiting.put((None, cancelled))

    def next_request(self) -> WorkRequest | None:
        """Wait for the next request; None once the app is gone, whatever it still wanted.

        Raises:
            ValidationError: the app sent a line that is no request, which is a bug.
        """
        request, self.cancelled = self._waiting.get()
        if isinstance(request, Exception):
            raise request
        return None if self._app_is_gone else request
