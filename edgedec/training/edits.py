"""What a model did to its source, as an edit of every token: what `edit_tags` learns to foresee.

Each token of the source is kept, dropped or replaced by another one, and up to so many tokens are
put in behind it. Knows token ids only, and no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import TYPE_CHECKING

import numpy as np

from edgedec.tagging import DROP, KEEP, REPLACE

if TYPE_CHECKING:
    from edgedec.contracts import Ints

NONE = -1
"""No token."""


@dataclass(frozen=True)
class Edits:
    """Of s tokens of a source: `kinds` [s] are KEEP, DROP or REPLACE, `replaced` [s] the tokens put
    in their place, `inserted` [s, most] those put in behind them; NONE where there is none. Of
    those behind the first `known` nothing can be said: the text did not get so far."""

    kinds: Ints
    replaced: Ints
    inserted: Ints
    known: int

    @property
    def counts(self) -> Ints:
        """How many tokens were put in behind each [s]."""
        found: Ints = (self.inserted != NONE).sum(1).astype(np.int32)
        return found


def edits(source: Sequence[int], written: Sequence[int], most: int, ended: bool = True) -> Edits:
    """The edits that make of a source what was written, as far as they can. Where the text has not
    `ended`, nothing is known of what stands behind the last token that both have.

    What came before the first token, or more than `most` tokens in one place, cannot be said.
    Where one of two like tokens went or came, it is the first: what is learned must be the same
    everywhere.
    """
    count = len(source)
    steps = SequenceMatcher(None, source, written, autojunk=False).get_opcodes()
    if not ended and steps and steps[-1][0] != "equal":
        steps.pop()
    found = Edits(
        np.full(count, KEEP, np.int32),
        np.full(count, NONE, np.int32),
        np.full((count, most), NONE, np.int32),
        count if ended else max([step[2] for step in steps], default=0),
    )
    free = 0  # tokens of the source from here on have no edit yet
    for what, a, b, c, d in steps:
        if what == "equal":
            continue
        back = 0
        if what == "delete":
            back = min(_back(source, a, b), a - free)
        elif what == "insert" and a > free:
            back = min(_back(written, c, d), a - free - 1)
        first, end, begin, stop = a - back, b - back, c - back, d - back
        free = end
        same = min(end - first, stop - begin)
        found.kinds[first : first + same] = REPLACE
        found.replaced[first : first + same] = written[begin : begin + same]
        found.kinds[first + same : end] = DROP
        more = list(written[begin + same : stop])[:most]
        behind = first + same - 1
        if more and behind >= 0:
            found.inserted[behind, : len(more)] = more
    return found


def _back(tokens: Sequence[int], first: int, end: int) -> int:
    """How far a run can move to the left and leave the text as it is."""
    moved = 0
    while first > moved and tokens[first - moved - 1] == tokens[end - moved - 1]:
        moved += 1
    return moved


def agreeing(guess: Sequence[int], written: Sequence[int], depth: int) -> list[list[bool]]:
    """Chains of guesses that begin behind a token on which both agree.

    One list for each such token of what was written: whether each of the `depth` next tokens is
    right. A chain that one of the two ends before is left out.
    """
    chains = []
    blocks = SequenceMatcher(None, guess, written, autojunk=False).get_matching_blocks()
    for at, place, size in blocks:
        for behind in range(1, size + 1):
            ahead = range(behind, behind + depth)
            if at + ahead.stop > len(guess) or place + ahead.stop > len(written):
                break
            chains.append([guess[at + i] == written[place + i] for i in ahead])
    return chains
