"""A drafter's own layers that follow the text: rows of true states stay, guesses come and go.

It knows sessions, places in the text and vectors, no drafter and no probabilities. What is told of
a text may have holes, where nobody was asked: rows are missing there, and all have their places.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from edgedec.contracts import TRUNK, Rows, Want

if TYPE_CHECKING:
    from edgedec.contracts import Floats, Ints, Outcome, Session, StepResult

_CHUNK = 128
"""Rows of a prompt that a step takes."""


class Trail:
    """The session of a part, and the states of the text that it has not run yet.

    With `lasting` guesses it keeps the rows of guesses that came true. Results show the output of
    the `hidden` layers.
    """

    def __init__(
        self, session: Session, *, lasting: bool = True, hidden: tuple[int, ...] = ()
    ) -> None:
        self._session, self._lasting, self._hidden = session, lasting, hidden
        self.reset()

    def reset(self) -> None:
        """Forget the text."""
        self._session.truncate(0)
        self._waiting: list[tuple[int, Floats]] = []
        self._next = self._below = 0
        self._guessed: dict[tuple[int, int], int] = {}

    def tell(self, start: int, states: Floats) -> None:
        """The states [n, K] of the text's rows `start`, `start` + 1, ...; known ones are left out.

        Views are copied; an array of its own is kept, and must not be written any more.
        """
        known = max(0, self._next - start)
        if known < len(states):
            own = states.base is None and not known
            kept = states if own else np.array(states[known:], np.float32)
            self._waiting.append((start + known, kept))
            self._next = start + len(states)

    def follow(self, tokens: Sequence[int]) -> None:
        """Keep the guesses below the last row that came true, and drop the others.

        The row of the last token of the text is not among them: it must be asked again.
        """
        at, place = TRUNK, self._below
        while place < len(tokens) - 1 and (at, tokens[place]) in self._guessed:
            at = self._guessed[at, tokens[place]]
            place += 1
        self._guessed.clear()
        self._session.keep([at])
        self._below, self._next = place, max(place, self._next)
        late = [(start, states, max(0, place - start)) for start, states in self._waiting]
        self._waiting = [(start + n, states[n:]) for start, states, n in late if n < len(states)]

    @property
    def waiting(self) -> tuple[Ints, list[Floats]]:
        """The places of the rows that were told of and not run, rising, and their states."""
        places = [np.arange(at, at + len(states)) for at, states in self._waiting]
        none = np.zeros(0, np.int32)
        return np.concatenate([none, *places]).astype(np.int32), [s for _, s in self._waiting]

    def extend(self, places: Ints, vectors: Floats) -> StepResult:
        """Run rows [n, D] of the text at these places and keep them; the last can be asked.

        The result's only row with logits is the last. Nothing waits any more.

        Raises:
            InputError: they do not fit into the context; what waits goes on waiting.
        """
        for first in range(0, len(places), _CHUNK):
            chunk, rows = places[first : first + _CHUNK], vectors[first : first + _CHUNK]
            parents = np.arange(-1, len(chunk) - 1, dtype=np.int32)
            last = first + len(chunk) == len(places)
            want = Want((len(chunk) - 1,) if last else (), self._hidden)
            result = self._session.step(
                Rows(np.zeros(len(chunk), np.int32), parents, chunk, rows), want=want
            )
            self._session.keep([result.handles[-1]])
            self._below = int(chunk[-1]) + 1
            self._next = max(self._next, self._below)
            self._waiting = [] if last else self._later()
        return result

    def _later(self) -> list[tuple[int, Floats]]:
        """What waits behind the rows that were run."""
        cut = [(start, states, max(0, self._below - start)) for start, states in self._waiting]
        return [(start + n, states[n:]) for start, states, n in cut if n < len(states)]

    def guess(
        self, tokens: Sequence[int], parents: Sequence[int], place: int, vectors: Floats
    ) -> StepResult:
        """Run guesses [n, D], all at one place, below rows that were run (TRUNK: the text's end).

        Raises:
            InputError: there is no room in the context.
        """
        count = len(tokens)
        rows = Rows(
            np.zeros(count, np.int32),
            np.array(parents, np.int32),
            np.full(count, place, np.int32),
            vectors,
        )
        result = self._session.step(rows, want=Want(tuple(range(count)), self._hidden))
        if self._lasting:
            keys = zip(parents, tokens, strict=True)
            self._guessed.update(zip(keys, result.handles, strict=True))
        return result


def rows_of_text(outcome: Outcome) -> tuple[int, list[int]]:
    """The place of a turn's first row in the text, and its rows that belong to the text now."""
    accepted = outcome.accepted[: len(outcome.emitted)]
    return len(outcome.context.tokens) - 1, [0, *(node + 1 for node in accepted)]


def states_of_text(outcome: Outcome) -> tuple[int, dict[int, Floats]]:
    """Where in the text those rows stand, and their hidden states by layer [rows, D]."""
    start, rows = rows_of_text(outcome)
    return start, {layer: states[rows] for layer, states in outcome.hidden.items()}
