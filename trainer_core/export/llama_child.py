"""llama.cpp with one GGUF file, in a process of its own: what it makes of texts and token ids.

`python -m trainer_core.export.llama_child` answers requests from stdin. Needs the optional package xllamacpp.
"""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trainer_core.errors import ModelError
from trainer_core.system.child_process import serve_requests

ANSWER_SECONDS = 300
TOP_TOKENS = 200


@dataclass(frozen=True)
class Opened:
    """The texts of a file's begin and end tokens."""

    begin: str
    end: str


@dataclass(frozen=True)
class RenderedPrompt:
    """A conversation in the chat template, and its tokens."""

    text: str
    tokens: tuple[int, ...]


@dataclass(frozen=True)
class Written:
    """A greedy answer."""

    tokens: tuple[int, ...]


@dataclass(frozen=True)
class NextTokens:
    """The most likely next tokens: id → log-probability in nats."""

    logprobs: dict[str, float]


class Engine:
    """The server of one file; the newest `open` counts."""

    def __init__(self) -> None:
        self.server: Any = None

    def open(self, path: str, context: int, threads: int) -> Iterator[Opened]:
        import xllamacpp

        given = xllamacpp.CommonParams()
        given.model.path = path
        given.n_ctx, given.n_parallel, given.cpuparams.n_threads = context, 1, threads
        given.cpuparams_batch.n_threads = threads
        given.warmup = given.fit_params = False
        given.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        try:
            self.server = xllamacpp.Server(given)
        except RuntimeError as error:
            raise ModelError("export.engine_refused", reason=str(error)[:300]) from error
        told = self.get("/props")
        yield Opened(told["bos_token"], told["eos_token"])

    def render(self, messages: Sequence[Mapping[str, str]]) -> Iterator[RenderedPrompt]:
        text = self.post("/apply-template", {"messages": messages})["prompt"]
        yield RenderedPrompt(text, self.tokenize(text))

    def tokenize(self, text: str) -> tuple[int, ...]:
        asked = {"content": text, "add_special": True, "parse_special": True}
        return tuple(self.post("/tokenize", asked)["tokens"])

    def write(self, ids: Sequence[int], most: int) -> Iterator[Written]:
        """The end token, where there is one, is not part of the answer."""
        asked = {"prompt": ids, "n_predict": most, "temperature": 0, "return_tokens": True, "cache_prompt": True}
        yield Written(tuple(self.post("/completion", asked)["tokens"]))

    def follow(self, ids: Sequence[int], answer: Sequence[int]) -> Iterator[NextTokens]:
        """What could follow the prompt and every token of the answer but the last."""
        # The server tells nothing of a token that is half a letter, so a plain one is forced. What it tells is as without.
        plain = [[self.tokenize("a")[-1], 1e6]]
        for length in range(len(answer)):
            asked = {"prompt": [*ids, *answer[:length]], "n_predict": 1, "temperature": 0, "cache_prompt": True}
            told = self.post("/completion", asked | {"n_probs": TOP_TOKENS, "logit_bias": plain})
            yield NextTokens(
                {str(one["id"]): one["logprob"] for one in told["completion_probabilities"][0]["top_logprobs"]}
            )

    def post(self, path: str, asked: Mapping[str, Any]) -> Any:
        return self.get(path, json.dumps(asked).encode())

    def get(self, path: str, content: bytes | None = None) -> Any:
        address = f"{self.server.listening_address}{path}"
        request = urllib.request.Request(address, content, {"Content-Type": "application/json"})
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=ANSWER_SECONDS) as answer:
            return json.load(answer)


def main() -> None:
    engine = Engine()
    serve_requests({name: getattr(engine, name) for name in ("open", "render", "write", "follow")})


if __name__ == "__main__":
    main()
