"""A place in a text that is copied, kept through changes: what drafters that follow a source share.

Behind a change it offers the places at which the text may go on (a word was replaced, left out or
added) as branches of one tree. Knows drafts and passages, no strategy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgedec import draft
from edgedec.contracts import TRUNK, Context, Draft, Outcome, Source
from edgedec.passage import Passage, Words

WITHIN, NEXT = 0.97, (0.95, 0.9, 0.75)
"""How likely a word goes on as in the source, and that a word of 1, 2 or more tokens comes next:
a word that takes many tokens is often a misspelt one."""
AFTER_CHANGE = (0.6, 0.25, 0.15, 0.1)
"""How likely each of the places is at which the source may go on behind a change."""
PATIENCE = 16
"""After so many tokens that stand nowhere near, only some that stand together lead back."""
NEAR, SURE, MOST = 12, 4, 7
"""Two tokens lead back to a place within NEAR tokens, SURE of them to any: a phrase comes twice.
MOST of those before the last one are looked at."""


@dataclass(frozen=True, slots=True)
class Copying:
    """The options of those who copy: at most `tokens` tokens; behind a change, from up to
    `branches` places within `reach` words."""

    tokens: int = 32
    branches: int = 2
    reach: int = 6

    def __post_init__(self) -> None:
        draft.check_options(self, tokens=(1, 256), branches=(1, len(AFTER_CHANGE)), reach=(1, 64))


class Copyist:
    """A place in the source, or the places where it may be."""

    def __init__(self, options: Copying, words: Words | None) -> None:
        self._options, self._words = options, words
        self._sheet = draft.Sheet(options.tokens)
        self._above = np.arange(-1, options.tokens - 1, dtype=np.int32)
        self.reset()

    def reset(self) -> None:
        """Forget the source."""
        self._take(Passage((), (), ()), ())
        self._known: object = None
        self._read = self._at = 0
        self._places: list[int] = []
        self._written: list[int] = []

    def propose(self, context: Context, budget: int) -> Draft:
        """The source from here on; behind a change, from each place where it may go on."""
        if context.source is not self._known:
            self._open(context)
        self._follow_all(context.tokens[self._read :])
        self._read = len(context.tokens)
        most = min(budget, self._options.tokens)
        if not self._written:
            return self._sheet.draft(self._copy(self._at, 0, most, 0))
        self._places = self._resumptions() if len(self._written) <= PATIENCE else []
        return self._branches(most)

    def observe(self, outcome: Outcome) -> None:
        """Nothing: the text itself tells."""

    def copied(self, source: Source, words: Words) -> tuple[Passage, Sequence[float]]:
        """What is copied of a source, and how likely each token follows the one before."""
        passage = words.passage(source)
        sizes = [min(size, len(NEXT)) for size in passage.sizes]
        return passage, [NEXT[size - 1] if size else WITHIN for size in sizes]

    def _open(self, context: Context) -> None:
        self.reset()
        self._known, self._read = context.source, context.prompt_length
        if context.source is not None and self._words is not None:
            self._take(*self.copied(context.source, self._words))

    def _take(self, passage: Passage, scores: Sequence[float]) -> None:
        self._passage = passage
        # What chains of its tokens are made of, as they go into the tree.
        self._ids, self._scores = np.array(passage.tokens, np.int32), np.array(scores, np.float32)

    # --- where we are ----------------------------------------------------------------------------

    def _follow_all(self, tokens: list[int]) -> None:
        ahead = self._passage.tokens[self._at : self._at + len(tokens)]
        if not self._written and ahead == tuple(tokens):
            self._at += len(tokens)
            return
        for token in tokens:
            self._follow(token)

    def _follow(self, token: int) -> None:
        """Take in one token of the output; behind a change, see whether it leads back."""
        tokens = self._passage.tokens
        if not self._written:
            if self._at < len(tokens) and tokens[self._at] == token:
                self._at += 1
                return
        else:
            for place in self._places:
                if tokens[place] == token:
                    self._at, self._written, self._places = place + 1, [], []
                    return
            place, same = self._passage.behind([*self._written[-MOST:], token], self._expected)
            if same and (same >= SURE or abs(place - self._expected) <= NEAR):
                self._at, self._written, self._places = place, [], []
                return
        self._written.append(token)

    @property
    def _expected(self) -> int:
        """Where the text would be by now if all that was changed was replaced."""
        return self._at + len(self._written) + 1

    def _resumptions(self) -> list[int]:
        """The tokens of the source at which it may go on, the likeliest first, none twice."""
        passage = self._passage
        if self._words is None or not passage.tokens:
            return []
        here = passage.word_of(self._at)
        written = self._words.plain(self._written)
        last = written[-1] if written else ""
        found: list[int] = []
        # What was written last stands a little further on: a word was left out, or several changed.
        ahead = range(here, min(here + self._options.reach, passage.count))
        found += [word + 1 for word in ahead if last and passage.word(word) == last]
        replaced, added = here + max(1, len(written)), here
        # A mark alone was rather put in than put in a word's place.
        found += [added, replaced] if not last else [replaced, added]
        # One word became two, or two became one.
        found += [replaced - 1, replaced + 1]
        starts = [passage.start(word) for word in found if 0 <= word < passage.count]
        return list(dict.fromkeys(starts))[: self._options.branches]

    # --- the tree --------------------------------------------------------------------------------

    def _branches(self, most: int) -> Draft:
        """A chain from each place; the first gets what the others leave."""
        side = max(1, most // 6)
        count = 0
        for rank, place in enumerate(self._places):
            room = most - side * (len(self._places) - 1) if rank == 0 else side
            count = self._copy(place, count, min(most, count + max(side, room)), rank)
        return self._sheet.draft(count)

    def _copy(self, place: int, first: int, end: int, rank: int) -> int:
        """Write the source's tokens from `place` on as the nodes [first, end); where they end."""
        tokens = self._ids[place : place + max(0, end - first)]
        end, sheet = first + len(tokens), self._sheet
        if first == end:
            return end
        sheet.tokens[first:end] = tokens
        sheet.parents[first:end] = self._above[first:end]
        sheet.parents[first] = TRUNK
        sheet.score[first:end] = self._scores[place : place + len(tokens)]
        if self._written:
            sheet.score[first] = AFTER_CHANGE[rank]
        sheet.rank[first:end] = rank
        return end
