"""Copy on from where the text's end occurred before: in the prompt, earlier turns or the output.

Prompt lookup and CopySpec (2502.08923) look for the last few tokens and copy what followed their
first occurrence. Ours takes the longest match there is and the latest place of it (SAM-Decoding,
2411.10666), offers shorter matches as branches, and does not lose its place when a word is
replaced, left out or added: the pointer into the copied passage goes on behind the change, surest
where a match says the same. What an encoder has read stands before the text.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from edgedec import _tree, draft
from edgedec.contracts import Context, Draft, Host, Needs, Outcome


@dataclass(frozen=True, slots=True)
class PromptLookup:
    """Copies of at most `tokens` tokens, from up to `branches` places that repeat at least the last
    `shortest` tokens."""

    automatic: ClassVar[bool] = True

    tokens: int = 16
    branches: int = 3
    shortest: int = 1

    def __post_init__(self) -> None:
        draft.check_options(self, tokens=(1, 256), branches=(1, 8), shortest=(1, 64))

    @property
    def lossy(self) -> bool:
        """A copy is checked like any other draft."""
        return False

    def needs(self, host: Host) -> Needs:
        """Nothing."""
        return Needs()

    def open(self, host: Host) -> Lookup:
        """Begin with no text."""
        return Lookup(self, frozenset() if host.text is None else host.text.special)


class Lookup:
    """The text so far as an automaton, and the place that was copied from last."""

    def __init__(self, options: PromptLookup, special: Collection[int] = ()) -> None:
        self._options = options
        # A passage ends where a turn does: what steers is not copied.
        self._text = _tree.Suffixes(ends=np.array(sorted(special), np.int32))
        self._before = 0  # tokens of a source, which stands before the text
        self._sheet = draft.Sheet(options.tokens)

    def propose(self, context: Context, budget: int) -> Draft:
        """One chain for each place that may be copied on from."""
        tokens, options = context.tokens, self._options
        if context.source is not None and not len(self._text):
            self._text.extend(list(context.source.tokens), 0)
            self._before = len(context.source.tokens)
        self._text.extend(tokens, len(self._text) - self._before)
        most, branches = min(budget, options.tokens), options.branches
        return self._sheet.draft(
            self._text.copy(most, branches, options.shortest, *self._sheet.arrays)
        )

    def observe(self, outcome: Outcome) -> None:
        """Nothing: the text itself tells."""

    def reset(self) -> None:
        """Forget the text."""
        self._text.reset()
        self._before = 0
