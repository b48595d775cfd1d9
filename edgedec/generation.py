"""What a generation gives back, while it runs and when it is done.

Knows nothing about how the text came about.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

FinishReason = Literal["stop", "length", "cancelled"]
SCHEMA = 1


class Cancel:
    """Stops a generation from anywhere: another thread, a signal handler, a stream callback.

    What was generated until then is returned, with the finish reason `cancelled`.
    """

    def __init__(self) -> None:
        self._event = threading.Event()

    def set(self) -> None:
        """Ask for the end; it comes before the next step of the model."""
        self._event.set()

    @property
    def is_set(self) -> bool:
        """Whether the end was asked for."""
        return self._event.is_set()


@dataclass(frozen=True, slots=True)
class Chunk:
    """Text as soon as it exists: the tokens it took, and how many characters came before it."""

    text: str
    tokens: tuple[int, ...]
    offset: int


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """An emitted token's log probability (nats), and the likeliest tokens there, best first.

    They are the model's own: before temperature, penalties and cuts.
    """

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class Generation:
    """A finished generation; the fields are the keys of the JSON document.

    `tokens` are the emitted ids: a stop token is not among them, those of a stop string are.
    `seconds` leaves out `load_seconds`; `tokens_per_second` counts from the first token on and is
    None for fewer than two. `evaluated` and `accepted` count draft tokens; `near_ties` the choices
    of drafted turns by a margin under 0.1, which were left to a plain step, where the runtime is
    not bitwise exact. `depths[d]` are the turns in which a node d + 1 levels deep could be
    accepted, and those in which one was. `draft_seconds` of the `seconds` went into asking
    drafters, with their own passes, planning, and telling them. `logprobs` is None (and not in the
    document) unless it was asked for, `score` unless beams searched for the text: then it is their
    log probability with the length penalty, and `passes` are steps of all beams together.
    """

    text: str
    tokens: tuple[int, ...]
    prompt_tokens: int
    new_tokens: int
    finish_reason: FinishReason
    seed: int
    model: str
    runtime: str
    device: str
    strategy: str
    strategy_requested: str
    lossy: bool
    seconds: float
    load_seconds: float
    tokens_per_second: float | None
    time_to_first_token_ms: float | None
    passes: int
    tokens_per_pass: float | None
    evaluated: int
    accepted: int
    near_ties: int
    depths: tuple[tuple[int, int], ...]
    peak_rss_mb: float
    draft_seconds: float = 0.0
    logprobs: tuple[TokenLogprobs, ...] | None = None
    score: float | None = None

    def to_json(self) -> dict[str, Any]:
        """The document that `edgedec generate --json` prints."""
        document = {"schema": SCHEMA, **asdict(self)}
        for name in ("logprobs", "score"):
            if document[name] is None:
                del document[name]
        return document


def sequences_to_json(found: Sequence[Generation]) -> dict[str, Any]:
    """The document of several texts for one prompt: `sequences` lists what one would be in."""
    documents = [each.to_json() for each in found]
    for each in documents:
        del each["schema"]
    return {"schema": SCHEMA, "sequences": documents}


@dataclass(frozen=True, slots=True)
class Score:
    """How likely a model finds a text.

    `logprobs` are in nats, one per token, given all tokens before it; the first is None where the
    model has no token that begins a text. `total` is their sum, `bits_per_byte` the bits spent on
    each byte of the UTF-8 text, `perplexity` is per token.
    """

    tokens: tuple[int, ...]
    logprobs: tuple[float | None, ...]
    total: float
    bits_per_byte: float
    perplexity: float

    def to_json(self) -> dict[str, Any]:
        """The document that `edgedec score --json` prints."""
        return {"schema": SCHEMA, **asdict(self)}
