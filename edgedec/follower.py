"""A draft model's session that follows the text: what it ran for a guess that came true is kept.

It knows sessions and rows, no drafter and no probabilities.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from edgedec import draft
from edgedec.contracts import TRUNK, Capabilities, Session, Source, StepResult, Want

if TYPE_CHECKING:
    from edgedec.contracts import Draft

_NOTHING: Draft = draft.empty()


class Follower:
    """The session of a second model, always a little behind or ahead of the text."""

    def __init__(self, session: Session, capabilities: Capabilities) -> None:
        self._session, self._widths = session, capabilities.row_widths
        self._chunk = draft.width(capabilities, capabilities.prompt_rows)
        self.most = draft.width(capabilities, capabilities.max_rows)
        """Rows that one `run` takes."""
        self._guessed: dict[tuple[int, int], int] = {}

    def hear(self, source: Source) -> None:
        """Let the model read what the text is made from.

        Raises:
            InputError: it does not fit into the model's encoder.
            UsageError: the model has no encoder.
        """
        self._session.encode(np.array(source.tokens, np.int32))
        self._guessed.clear()

    @property
    def held(self) -> int:
        """How many tokens of the text its trunk has."""
        return len(self._session.tokens)

    def reset(self) -> None:
        """Forget the text."""
        self._session.truncate(0)
        self._guessed.clear()

    def follow(self, tokens: list[int]) -> tuple[StepResult, int]:
        """Run what is new in a text that only grew; the result, and its row for the last token.

        Rows that `run` made for tokens that came are kept, all others are dropped.

        Raises:
            InputError: the text does not fit into the model's context. What was held stays.
        """
        at, held = TRUNK, self.held
        while held < len(tokens) - 1 and (at, tokens[held]) in self._guessed:
            at = self._guessed[at, tokens[held]]
            held += 1
        self._guessed.clear()
        self._session.keep([at])
        while len(tokens) - held > self._chunk:
            self._read(tokens[held : held + self._chunk], ())
            held += self._chunk
        last = len(tokens) - held - 1
        return self._read(tokens[held:], (last,)), last

    def _read(self, tokens: list[int], wanted: tuple[int, ...]) -> StepResult:
        rows = draft.rows(tokens, _NOTHING, self._widths)
        result = self._session.step(rows, want=Want(logits=wanted))
        self._session.keep([result.handles[len(tokens) - 1]])
        return result

    def run(self, tokens: Sequence[int], parents: Sequence[int]) -> StepResult:
        """Run guesses below rows that were run before (handles; TRUNK: the text's end).

        At most `most` of them. Row i of the result is that of `tokens[i]`.

        Raises:
            InputError: there is no room in the context.
        """
        rows = draft.padded(tokens, parents, self._widths)
        result = self._session.step(rows, want=Want(logits=tuple(range(len(tokens)))))
        for token, parent, handle in zip(tokens, parents, result.handles, strict=False):
            self._guessed[parent, token] = handle
        return result
