"""Requests to a compare worker: one JSON line each on its stdin. End of file ends the worker.

Requests are answered in order; a cancel overtakes them and drops all earlier ones. Events that answer a request:
ask → PromptStarted, TextChunk …, AnswersFinished or RequestFailed; dial → LaneAdjusted or RequestFailed;
heat → TokenHeatmap or RequestFailed; score → ScoringProgress …, ScoresReady or ScoringFailed.
"""

from __future__ import annotations

import queue
import threading
from typing import Annotated, Literal, TextIO

from pydantic import Field, TypeAdapter, ValidationError

from trainer_core.config.recipe import Sampling
from trainer_core.schema import StrictModel


class ChatMessage(StrictModel):
    role: Literal["system", "user", "assistant"]
    content: str


class GenerateRequest(StrictModel):
    """Answer this conversation, whose last message is the user's, in these lanes (empty: all)."""

    kind: Literal["ask"] = "ask"
    id: str
    messages: tuple[ChatMessage, ...] = Field(min_length=1)
    own: dict[str, tuple[ChatMessage, ...]] = {}
    """Lane → its own conversation, if its earlier answers differ. The user's messages must be the same in all lanes, because
    they seed the random numbers."""
    lanes: tuple[str, ...] = ()
    sampling: Sampling = Sampling()


class CancelRequest(StrictModel):
    """Stop the current answer or scoring and drop the waiting requests; the model stays loaded."""

    kind: Literal["cancel"] = "cancel"


class AdjustLaneRequest(StrictModel):
    """Set the strength of a lane's adapter and the share of another lane's adapter. Loads nothing."""

    kind: Literal["dial"] = "dial"
    id: str = ""
    lane: str
    strength: float = Field(default=1.0, ge=0, le=1.5)
    other: str = ""
    """The lane whose adapter is blended in; empty: none."""
    share: float = Field(default=0.0, ge=0, le=1)
    """That adapter's share: the lane becomes strength × ((1 − share) × its own + share × the other)."""


class HeatmapRequest(StrictModel):
    """Score each token of an answer under two lanes; the answer may come from elsewhere."""

    kind: Literal["heat"] = "heat"
    id: str
    messages: tuple[ChatMessage, ...] = Field(min_length=1)
    """The conversation before the answer."""
    answer: str
    ended: bool = True
    """Did it end with the end token? Then that token is scored too."""
    lanes: tuple[str, str]


class ScoreRequest(StrictModel):
    """Score lanes (empty: all) on the pairs of a JSON-lines file, their own answers to the prompts, and the bundled general
    questions."""

    kind: Literal["score"] = "score"
    pairs: str
    prompts: tuple[str, ...] = ()
    sampling: Sampling = Sampling()
    general: bool = True
    lanes: tuple[str, ...] = ()
    reference: str = ""
    """The lane that implicit rewards are measured against; empty: the base."""
    into: str = ""
    """A JSON file that also receives the result, such as the run's scores.json."""


WorkRequest = GenerateRequest | AdjustLaneRequest | HeatmapRequest | ScoreRequest
"""Requests that wait in the queue."""
CompareRequest = Annotated[WorkRequest | CancelRequest, Field(discriminator="kind")]
COMPARE_REQUEST_ADAPTER: TypeAdapter[WorkRequest | CancelRequest] = TypeAdapter(CompareRequest)


class RequestQueue:
    """Reads requests in a thread, so that a cancel takes effect during an answer.

    Requests between two cancels share one `cancelled` event, so that a cancel also reaches those that wait.
    """

    def __init__(self, stream: TextIO):
        self._waiting: queue.Queue[tuple[WorkRequest | Exception | None, threading.Event]] = queue.Queue()
        self._app_is_gone = False
        self.cancelled = threading.Event()
        """Set when the request that `next_request` last returned is cancelled."""
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
        """Wait for the next request; None once stdin is closed, even if requests are waiting.

        Raises:
            ValidationError: an invalid line, which is a bug in the app.
        """
        request, self.cancelled = self._waiting.get()
        if isinstance(request, Exception):
            raise request
        return None if self._app_is_gone else request
