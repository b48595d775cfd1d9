"""Where the end of a text occurred before: a suffix automaton, grown token by token.

Blumer et al., "The smallest automaton recognizing the subwords of a text" (1985), as SAM-Decoding
(2411.10666) uses it: the longest earlier occurrence of the text's end, kept up at O(1) amortised
cost a token. Ours prefers the latest of several occurrences. The twin of
`csrc/suffixes.c` and `csrc/copies.c`.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]
    Ints = NDArray[np.int32]

GONE_ON, CONFIRMED = ((1, 0.5), (0, 0.25), (2, 0.12)), 0.75
"""After a change: how far behind the last copied token it may go on, and how likely that is; and
where the longest match says the same."""
FIRM, PATIENCE, BEHIND = 3, 4, 4
"""A match of FIRM tokens is a passage being copied; a lost one is given up after PATIENCE. What a
chain behind a change counts as a match of."""
CLIMB = 32
"""How far up the suffix links the latest end is written. Shorter matches are rarely wanted, and a
text of one repeated token would make this quadratic."""
MAX_LIMIT, MAX_PLACES = 1 << 27, 16
"""Tokens of a text; matches that are looked for."""


@dataclass(frozen=True, slots=True)
class _Way:
    """A chain to copy: where from, after how long a match, how sure its first token is."""

    start: int
    match: int
    first: float


class Suffixes:
    """A text of at most `limit` tokens; when it is full, the older half is forgotten.

    No copy goes on to one of the tokens `ends`, which are given rising.
    """

    def __init__(self, limit: int = 1 << 15, ends: Ints | None = None) -> None:
        if limit < 2:
            raise ValueError(f"a text of {limit} tokens repeats nothing")
        if limit > MAX_LIMIT:
            raise ValueError(f"a text of {limit} tokens is too long")
        self._limit = limit
        self._ends = frozenset(() if ends is None else ends.tolist())
        self.reset()

    def reset(self) -> None:
        """Forget the text."""
        self._tokens: list[int] = []
        self._dropped = 0
        self._length, self._link = [0], [-1]
        self._first_end, self._last_end = [-1], [-1]
        self._edges: list[dict[int, int]] = [{}]
        self._last = self._at = self._matched = self._lost = 0
        self._source = self._told = -1

    def __len__(self) -> int:
        """How many tokens were read since the last reset."""
        return self._dropped + len(self._tokens)

    def extend(self, tokens: list[int], start: int) -> None:
        """Read `tokens[start:]`."""
        for token in tokens[start:]:
            self._push(token)

    def matches(self, most: int) -> list[tuple[int, int]]:
        """Up to `most` (length, end): earlier places that the text's last `length` tokens repeat.

        The longest first, and never more than MAX_PLACES. `end` is where the earlier occurrence
        ended, so that token `end` + 1 came next. Each is followed by another token than those
        before it in the list.
        """
        found: list[tuple[int, int]] = []
        follows: set[int] = set()
        at, length, most = self._at, self._matched, min(most, MAX_PLACES)
        for _ in range(CLIMB):
            if at <= 0 or len(found) >= most:
                break
            for end in (self._last_end[at], self._first_end[at]):
                if end + 1 < len(self._tokens) and len(found) < most:
                    if self._tokens[end + 1] in follows:
                        continue
                    follows.add(self._tokens[end + 1])
                    found.append((length, end + self._dropped))
            at = self._link[at]
            length = self._length[at]
        return found

    def copy(  # noqa: PLR0913, PLR0917 - as the C twin
        self,
        most: int,
        branches: int,
        shortest: int,
        tokens: Ints,
        parents: Ints,
        score: Floats,
        rank: Ints,
    ) -> int:
        """Write chains copied on from up to `branches` places; returns the number of nodes.

        Where the text has just left a passage that was being copied, chains go on behind the
        change: the next word may have been replaced, added or left out. At most `most` nodes, the
        first chain the longest.
        """
        most = max(0, min(most, *map(len, (tokens, parents, score, rank))))
        matches = self.matches(branches)
        self._keep_place(matches)
        ways = [
            _Way(end - self._dropped + 1, length, _sure(length, 0))
            for length, end in matches
            if length >= shortest
        ]
        if self._lost:
            ways = self._behind(ways)
        self._told = len(self._tokens)
        count = 0
        # The first chain is the long one; each of the others gets a sixth. Where there are more
        # chains than nodes the last ones get nothing, never the first.
        side = max(1, most // 6)
        room, place = max(side, most - side * (len(ways) - 1)), 0
        for way in ways:
            copied = self._tokens[way.start :][: min(room, most - count)]
            copied = list(takewhile(lambda token: token not in self._ends, copied))
            for depth, token in enumerate(copied):
                tokens[count], rank[count] = token, place
                parents[count] = count - 1 if depth else -1
                score[count] = _sure(way.match, depth) if depth else way.first
                count += 1
            if copied:
                room, place = side, place + 1
        return count

    def _behind(self, matches: list[_Way]) -> list[_Way]:
        """Behind a change, places where the passage may go on, and matches from elsewhere.

        The surest first.
        """
        places = {way.start for way in matches}
        on = [(self._source + step, sure) for step, sure in GONE_ON]
        ways = [_Way(start, BEHIND, CONFIRMED if start in places else sure) for start, sure in on]
        known = {start for start, _ in on}
        ways += [way for way in matches if way.start not in known]
        return sorted(ways, key=lambda way: -np.float32(way.first))

    def _keep_place(self, matches: list[tuple[int, int]]) -> None:
        """Where the passage is that was copied, if it is still known."""
        if matches and matches[0][0] >= FIRM:
            self._source, self._lost = matches[0][1] - self._dropped + 1, 0
        elif self._source >= 0:
            self._advance()

    def _advance(self) -> None:
        """Put the pointer behind what came true of the passage; give it up after a while."""
        if not self._lost:
            for token in self._tokens[self._told :]:
                if self._source >= self._told or token != self._tokens[self._source]:
                    break
                self._source += 1
        self._lost += 1
        if self._lost > PATIENCE:
            self._source, self._lost = -1, 0

    def _push(self, token: int) -> None:
        if len(self._tokens) == self._limit:
            self._forget_half()
        self._note_end()
        end = len(self._tokens)
        self._tokens.append(token)
        self._follow(token)
        self._grow(token, end)
        while self._at and self._length[self._link[self._at]] >= self._matched:
            self._at = self._link[self._at]

    def _forget_half(self) -> None:
        half = self._limit // 2
        dropped, kept = len(self) - half, self._tokens[-half:]
        self.reset()
        self.extend(kept, 0)
        self._dropped = dropped

    def _note_end(self) -> None:
        """The text so far ended here: what repeats it from now on finds this place."""
        at = self._last
        for _ in range(CLIMB):
            if at <= 0:
                break
            self._last_end[at] = len(self._tokens) - 1
            at = self._link[at]

    def _follow(self, token: int) -> None:
        """Lengthen the match by a token, or shorten it until that can be done."""
        while token not in self._edges[self._at] and self._at:
            self._at = self._link[self._at]
            self._matched = self._length[self._at]
        if token in self._edges[self._at]:
            self._at = self._edges[self._at][token]
            self._matched += 1

    def _grow(self, token: int, end: int) -> None:
        fresh = self._state(self._length[self._last] + 1, end)
        at = self._last
        while at >= 0 and token not in self._edges[at]:
            self._edges[at][token] = fresh
            at = self._link[at]
        if at < 0:
            self._link[fresh] = 0
        else:
            whole = self._edges[at][token]
            if self._length[whole] == self._length[at] + 1:
                self._link[fresh] = whole
            else:
                self._link[fresh] = self._split(at, token, whole)
        self._last = fresh

    def _split(self, at: int, token: int, whole: int) -> int:
        copy = self._state(self._length[at] + 1, self._first_end[whole])
        self._last_end[copy] = self._last_end[whole]
        self._link[copy] = self._link[whole]
        self._edges[copy] = dict(self._edges[whole])
        while at >= 0 and self._edges[at].get(token) == whole:
            self._edges[at][token] = copy
            at = self._link[at]
        self._link[whole] = copy
        return copy

    def _state(self, length: int, end: int) -> int:
        for column, value in ((self._length, length), (self._link, -1)):
            column.append(value)
        self._first_end.append(end)
        self._last_end.append(end)
        self._edges.append({})
        return len(self._length) - 1


def _sure(match: int, depth: int) -> float:
    """How sure a copy is so many tokens on: a start, calibrated by the planner."""
    square = (match + depth) ** 2
    return square / (square + 6)
