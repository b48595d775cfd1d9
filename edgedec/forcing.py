"""Processors that say what a text must and must not hold, whatever the model finds likely.

Pure as those of `processors`: every node of a draft tree, and every beam, has a state of its own.
They know nothing about models and tokenizers; a masked token has -inf, a forced one 0 and all
others -inf.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

Floats = NDArray[np.float32]
_Ids = NDArray[np.int64]


class Counting:
    """The base of processors that look at nothing but how many tokens have come out."""

    def start(self, prompt: Sequence[int]) -> int:
        """None so far."""
        return 0

    def advance(self, state: int, token: int, logits: Floats) -> int:
        """One more."""
        return state + 1


@dataclass(frozen=True, slots=True)
class NoRepeatNgrams:
    """Masks every token that would make a sequence of `n` ids occur again.

    Ids before the output count too; the state is all ids so far [t].
    """

    n: int

    def start(self, prompt: Sequence[int]) -> _Ids:
        """The ids before the output."""
        return np.array(prompt, np.int64)

    def apply(self, state: _Ids, logits: Floats) -> Floats:
        """Mask what followed the last n - 1 ids before."""
        if state.size < self.n:
            return logits
        windows = sliding_window_view(state, self.n)
        same = (windows[:, :-1] == state[state.size - self.n + 1 :]).all(axis=1)
        return _without(logits, windows[same, -1])

    def advance(self, state: _Ids, token: int, logits: Floats) -> _Ids:
        """The state with one more id."""
        return np.append(state, token)


@dataclass(frozen=True, slots=True)
class MinLength(Counting):
    """Masks the ids that `stop` a text until `least` tokens have come out."""

    least: int
    stop: tuple[int, ...]

    def apply(self, state: int, logits: Floats) -> Floats:
        """Mask the end while the text is short."""
        return logits if state >= self.least else _without(logits, list(self.stop))


@dataclass(frozen=True, slots=True)
class Forced(Counting):
    """Leaves one id at each of some positions of the output, which count from 0."""

    positions: Mapping[int, int]

    def apply(self, state: int, logits: Floats) -> Floats:
        """Mask all but the id of this position."""
        token = self.positions.get(state)
        return logits if token is None else _only(logits, token)


@dataclass(frozen=True, slots=True)
class ForcedLast(Counting):
    """Leaves one id at the last position that a text of `limit` tokens has."""

    token: int
    limit: int

    def apply(self, state: int, logits: Floats) -> Floats:
        """Mask all but the id that ends the text."""
        return _only(logits, self.token) if state == self.limit - 1 else logits


@dataclass(frozen=True, slots=True)
class Suppressed(Counting):
    """Masks `ids` everywhere, and `first_ids` at the position `first` of the output."""

    ids: tuple[int, ...]
    first_ids: tuple[int, ...] = ()
    first: int = 0

    def apply(self, state: int, logits: Floats) -> Floats:
        """Mask what must not come."""
        masked = (*self.ids, *self.first_ids) if state == self.first else self.ids
        return _without(logits, list(masked))


def _without(logits: Floats, ids: Sequence[int] | _Ids) -> Floats:
    if not len(ids):
        return logits
    changed = logits.copy()
    changed[ids] = -np.inf
    return changed


def _only(logits: Floats, token: int) -> Floats:
    changed = np.full_like(logits, -np.inf)
    changed[token] = 0
    return changed
