"""Logit processors: pure functions from logits to logits, each with a small immutable state.

`apply` never writes its input and `advance` returns a new state, so that every node of a draft
tree can hold a state of its own. Logits are float32 [V]; a masked token has -inf. They know
nothing about models, tokenizers or how a token is drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
_Ids = NDArray[np.int64]
_HEAD = 1024


class Processor(Protocol):
    """One step from the model's logits to those that are drawn from."""

    def start(self, prompt: Sequence[int]) -> Any:
        """The state before the first new token."""
        ...

    def apply(self, state: Any, logits: Floats) -> Floats:
        """The processed logits [V]; may be the input itself where nothing changes."""
        ...

    def advance(self, state: Any, token: int, logits: Floats) -> Any:
        """The state after `token` was drawn; `logits` are those that `apply` was given."""
        ...


class Stateless:
    """The base of processors that look at the logits only."""

    def start(self, prompt: Sequence[int]) -> None:
        """No state."""

    def advance(self, state: None, token: int, logits: Floats) -> None:
        """No state."""


@dataclass(frozen=True, slots=True)
class Repetition:
    """Divides positive and multiplies negative logits of tokens already seen (1909.05858).

    Seen is what is in the prompt or in the output; the state is their ids.
    """

    penalty: float

    def start(self, prompt: Sequence[int]) -> _Ids:
        """The ids in the prompt, each once."""
        return np.unique(np.asarray(prompt, np.int64))

    def apply(self, state: _Ids, logits: Floats) -> Floats:
        """Make what was seen less likely."""
        seen = logits[state]
        return _replaced(
            logits, state, np.where(seen < 0, seen * self.penalty, seen / self.penalty)
        )

    def advance(self, state: _Ids, token: int, logits: Floats) -> _Ids:
        """The state with one more id."""
        return state if (state == token).any() else np.append(state, token)


@dataclass(frozen=True, slots=True)
class Occurrence:
    """OpenAI's penalties: logit - count * frequency - (count > 0) * presence, output only.

    The state is the ids and their counts.
    """

    frequency: float
    presence: float

    def start(self, prompt: Sequence[int]) -> tuple[_Ids, _Ids]:
        """Nothing has come out yet."""
        return np.empty(0, np.int64), np.empty(0, np.int64)

    def apply(self, state: tuple[_Ids, _Ids], logits: Floats) -> Floats:
        """Make what came out less likely."""
        ids, counts = state
        return _replaced(logits, ids, logits[ids] - (counts * self.frequency + self.presence))

    def advance(self, state: tuple[_Ids, _Ids], token: int, logits: Floats) -> tuple[_Ids, _Ids]:
        """The state with one more occurrence."""
        ids, counts = state
        here = ids == token
        if here.any():
            return ids, counts + here
        return np.append(ids, token), np.append(counts, 1)


@dataclass(frozen=True, slots=True)
class Temperature(Stateless):
    """Logits divided by the temperature, after their maximum is taken off."""

    temperature: float

    def apply(self, state: None, logits: Floats) -> Floats:
        """Flatten (above 1) or sharpen (below 1)."""
        peak = logits.max()
        if not np.isfinite(peak):
            return logits
        # The peak is 0 and stays finite however small the temperature; the rest may go to -inf.
        with np.errstate(over="ignore"):
            scaled: Floats = (logits - peak) / np.float32(max(self.temperature, 1e-30))
        return scaled


@dataclass(frozen=True, slots=True)
class TopK(Stateless):
    """Keeps the k largest logits, and those equal to the smallest of them."""

    k: int

    def apply(self, state: None, logits: Floats) -> Floats:
        """Mask what is below the k-th largest."""
        if self.k >= logits.size:
            return logits
        threshold = np.partition(logits, logits.size - self.k)[logits.size - self.k]
        return _masked(logits, logits >= threshold)


@dataclass(frozen=True, slots=True)
class TopP(Stateless):
    """Keeps the fewest most likely tokens whose probabilities sum to p or more (1904.09751).

    Of equal tokens those with lower ids come first.
    """

    p: float

    def apply(self, state: None, logits: Floats) -> Floats:
        """Mask the tail."""
        ids = np.flatnonzero(logits > -np.inf)
        if ids.size < 2:
            return logits
        weights = np.exp((logits[ids] - logits[ids].max()).astype(np.float64))
        order = _descending(weights, self.p * weights.sum())
        kept = np.zeros(logits.size, bool)
        count = int(np.searchsorted(np.cumsum(weights[order]), self.p * weights.sum())) + 1
        kept[ids[order[:count]]] = True
        return _masked(logits, kept)


@dataclass(frozen=True, slots=True)
class MinP(Stateless):
    """Keeps tokens at least `p` times as likely as the most likely one (2407.01082)."""

    p: float

    def apply(self, state: None, logits: Floats) -> Floats:
        """Mask what is too unlikely."""
        return _masked(logits, logits >= logits.max() + np.float32(np.log(self.p)))


@dataclass(frozen=True, slots=True)
class Mirostat:
    """Mirostat v2 (2007.14966): masks tokens whose surprise in bits is over a moving limit.

    The state is that limit, 2 tau at first; each token moves it by eta times how far the token's
    surprise (under the logits before this mask) was from tau. The most likely token always stays.
    """

    tau: float
    eta: float

    def start(self, prompt: Sequence[int]) -> float:
        """The first limit."""
        return 2 * self.tau

    def apply(self, state: float, logits: Floats) -> Floats:
        """Mask what would surprise too much."""
        limit = log_total(logits) - state * np.log(2)
        return _masked(logits, logits >= min(limit, float(logits.max())))

    def advance(self, state: float, token: int, logits: Floats) -> float:
        """The limit after a token."""
        surprise = (log_total(logits) - float(logits[token])) / np.log(2)
        return float(state - self.eta * (surprise - self.tau))


def log_total(logits: Floats) -> float:
    """log sum exp of logits [V], in double precision."""
    peak = float(logits.max())
    if not np.isfinite(peak):
        return peak
    return peak + float(np.log(np.exp((logits - np.float32(peak)).astype(np.float64)).sum()))


def _masked(logits: Floats, kept: NDArray[np.bool_]) -> Floats:
    return np.where(kept, logits, np.float32(-np.inf))


def _replaced(logits: Floats, ids: _Ids, values: NDArray[Any]) -> Floats:
    if not ids.size:
        return logits
    changed = logits.copy()
    changed[ids] = values
    return changed


def _descending(weights: NDArray[np.float64], enough: float) -> NDArray[np.intp]:
    """Indices by falling weight, at least so many that their weights reach `enough`."""
    if weights.size > 4 * _HEAD:
        head = np.argpartition(-weights, _HEAD)[:_HEAD]
        # Ties with the smallest of the head would make its choice arbitrary: leave them out.
        head = np.sort(head[weights[head] > weights[head].min()])
        if weights[head].sum() > enough * (1 + 1e-9):
            return head[np.argsort(-weights[head], kind="stable")]
    return np.argsort(-weights, kind="stable")
