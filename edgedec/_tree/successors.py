"""What followed one to four tokens of context, and trees grown from it best first.

One table serves several drafters: Token Recycling (2408.08696) writes the model's own top-k, the
tri-gram drafter (2407.12021) counts what was seen. The twin of `csrc/successors.c`.
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

import numpy as np

from edgedec.gumbel import gumbel

from .keys import SEEN, context_key
from .sizes import MAX_NODES, WIDTH

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]
    Ints = NDArray[np.int32]

WAYS, MAX_ORDER = 4, 4
TRUST = np.array([0.6, 0.8, 0.9, 0.9], np.float32)
"""How far a guess from one, two, ... tokens of context is trusted before it was ever checked."""
SHARPNESS = 0.7
"""Where noise is known, the guess of a rough distribution is made a little less sure of itself."""
HEAVIEST = np.float32(1e30)
"""Heavier than any share or count. What a damaged table may hold besides, sums must stay finite."""


class Successors:
    """Contexts of `first` to `last` tokens in `sets` sets of 4, each with up to 8 successors.

    A full set forgets the context that was written longest ago. `sets` is a power of two. What is
    likely behind longer contexts, which seldom come again, is known only as far as it was loaded.
    """

    def __init__(self, first: int, last: int, sets: int = 4096) -> None:
        power = 1 <= sets <= 1 << 20 and not sets & (sets - 1)
        if not 1 <= first <= last <= MAX_ORDER or not power:
            raise ValueError(
                f"contexts of {first} to {last} tokens in {sets} sets: 1 to {MAX_ORDER} tokens, "
                "and a power of two of sets"
            )
        self._first, self._last, self._sets, self._clock = first, last, sets, 0
        self._longest, self._counted = last, False
        self._keys = np.zeros(sets * WAYS, np.uint64)
        self._stamps = np.zeros(sets * WAYS, np.uint32)
        self._ids = np.zeros((sets * WAYS, WIDTH), np.int32)
        self._weights = np.zeros((sets * WAYS, WIDTH), np.float32)

    def __len__(self) -> int:
        """Contexts in the table."""
        return int(np.count_nonzero(self._keys))

    # --- writing ---------------------------------------------------------------------------------

    def learn(
        self,
        context: list[int],
        tokens: Ints,
        parents: Ints,
        ids: Ints,
        values: Floats,
        rate: float,
    ) -> None:
        """Mix in what the model expects after each row of a checked tree.

        Row 0 follows the `context`, row i + 1 node i (`tokens`, `parents` [n]). `ids` and `values`
        [n + 1, k] are its likeliest tokens and their logits. `rate` is the weight of what is new:
        1 overwrites, as in the paper.

        Raises:
            ValueError: the arrays do not fit together, or the rate is not 0 to 1.
        """
        lines = (len(tokens) + 1, -1)
        ids, values = ids.reshape(lines), values.reshape(lines)
        fits = len(parents) == len(tokens) and ids.shape == values.shape and ids.size > 0
        if not fits or not context or not 0 <= rate <= 1:
            raise ValueError("learn: the arrays do not fit together, or the rate is not 0 to 1")
        paths = [context[-MAX_ORDER:]]
        for token, parent in zip(tokens.tolist(), parents.tolist(), strict=True):
            paths.append([*paths[parent + 1], token][-MAX_ORDER:])
        for path, line, logits in zip(paths, ids, values, strict=True):
            with np.errstate(over="ignore", invalid="ignore"):
                shares = np.exp(logits - logits[0])
                total = shares.sum(dtype=np.float32)
            if not np.isfinite(total):
                continue
            shares /= total
            for order in range(self._first, min(self._last, len(path)) + 1):
                self._mix(context_key(path, order), line[:WIDTH], shares[:WIDTH], rate)

    def count(self, tokens: list[int], start: int) -> None:
        """Count `tokens[start:]` as successors of what stands before each of them."""
        for place in range(max(start, 1), len(tokens)):
            before = tokens[max(0, place - MAX_ORDER) : place]
            for order in range(self._first, min(self._last, len(before)) + 1):
                at = self._entry(context_key(before, order, SEEN))
                self._counted = True
                self._add(at, tokens[place], np.float32(1))

    def _mix(self, key: int, ids: Ints, shares: Floats, rate: float) -> None:
        known = self._find(key) is not None
        at = self._entry(key)
        self._weights[at] *= np.float32(1 - np.float32(rate) if known else 0)
        for token, share in zip(ids.tolist(), shares, strict=True):
            if 0 < share < HEAVIEST:
                self._add(at, token, np.float32(rate if known else 1) * share)

    def _add(self, at: int, token: int, weight: np.float32) -> None:
        """Add to a token's weight; the smallest makes room for a token that is not there."""
        if token < 0:  # -1 means that there is nothing
            return
        ids, weights = self._ids[at], self._weights[at]
        place = next((i for i in range(WIDTH - 1) if ids[i] in (token, -1)), WIDTH - 1)
        if ids[place] != token:
            if ids[place] >= 0 and weights[place] > weight:
                return
            weights[place] = 0
        weight = np.float32(weight + weights[place])
        while place and weights[place - 1] < weight:
            ids[place], weights[place] = ids[place - 1], weights[place - 1]
            place -= 1
        ids[place], weights[place] = token, weight

    def _find(self, key: int) -> int | None:
        first = (key >> 8 & (self._sets - 1)) * WAYS
        return next((i for i in range(first, first + WAYS) if int(self._keys[i]) == key), None)

    def _entry(self, key: int) -> int:
        found = self._find(key)
        self._clock += 1
        if found is None:
            first = (key >> 8 & (self._sets - 1)) * WAYS
            found = first + int(self._stamps[first : first + WAYS].argmin())
            self._keys[found] = key
            self._ids[found], self._weights[found] = -1, 0
        self._stamps[found] = self._clock
        return found

    # --- reading ---------------------------------------------------------------------------------

    def grow(  # noqa: PLR0913, PLR0917 - as the C twin
        self,
        context: list[int],
        nodes: int,
        depth: int,
        temperature: float,
        seed: int,
        index: int,
        tokens: Ints,
        parents: Ints,
        score: Floats,
        rank: Ints,
    ) -> int:
        """Write the likeliest tree of at most `nodes` nodes and `depth` levels; returns its size.

        Above temperature 0 the noise of output `index` and those after it is taken into account.
        The arrays [nodes or more] get token, parent, probability given the parent, and rank.
        """
        nodes = min(nodes, MAX_NODES, *map(len, (tokens, parents, score, rank)))
        heap: list[tuple[float, int, int, int, float, int]] = []
        paths, depths = [context[-MAX_ORDER:]], [0]
        serial = 0

        def expand(place: int, path: float) -> None:
            nonlocal serial
            where = seed, index + depths[place], temperature
            for token, share, order in self._shares(paths[place], where):
                serial += 1
                heapq.heappush(heap, (-path * share, serial, token, place - 1, share, order))

        if not context or depth < 1:
            return 0
        expand(0, 1.0)
        count = 0
        while heap and count < nodes:
            path, _, token, parent, share, place = heapq.heappop(heap)
            tokens[count], parents[count], score[count], rank[count] = token, parent, share, place
            paths.append([*paths[parent + 1], token][-MAX_ORDER:])
            depths.append(depths[parent + 1] + 1)
            count += 1
            if depths[-1] < depth:
                expand(count, -path)
        return count

    def _shares(
        self, path: list[int], where: tuple[int, int, float]
    ) -> list[tuple[int, float, int]]:
        """(token, probability, rank) of each successor: what is likely and what was seen are added
        up, each behind the longest context that is known."""
        found: dict[int, float] = {}
        longest = 1
        for kind, most in ((0, self._longest), (SEEN, self._last if self._counted else 0)):
            for order in range(min(most, len(path)), self._first - 1, -1):
                at = self._find(context_key(path, order, kind))
                if at is None:
                    continue
                longest = max(longest, order)
                used = int(((self._ids[at] >= 0) & (self._weights[at] > 0)).sum())
                ids, said = self._ids[at, :used].tolist(), self._weights[at, :used].tolist()
                for token, weight in zip(ids, said, strict=True):
                    found[token] = found.get(token, 0.0) + weight
                break
        if not found:
            return []
        ids, used = np.array(list(found), np.int32), len(found)
        weights = np.array(list(found.values()))
        seed, index, temperature = where
        total = weights.sum()
        if not temperature > 0:
            # Of counts, whose sum is above 1, some is kept back for what was never seen.
            shares = weights / (total + min(max(total - 1, 0), 0.5))
        else:
            divisor = max(temperature, 1e-30)
            scores = np.log(weights / total) / divisor + gumbel(seed, index, ids)
            shares = np.exp(SHARPNESS * (scores - scores.max()))
            shares /= shares.sum()
        order_of = np.argsort(-shares, kind="stable")
        ranks = np.empty(used, int)
        ranks[order_of] = np.arange(used)
        trusted = shares.astype(np.float32) * TRUST[longest - 1]
        return list(zip(ids.tolist(), trusted.tolist(), ranks.tolist(), strict=True))

    # --- on disk ---------------------------------------------------------------------------------

    def dump(self) -> tuple[bytes, bytes, bytes]:
        """Of all contexts: keys [n] (uint64), ids [n, 8] (int32) and weights [n, 8] (float32)."""
        used = np.flatnonzero(self._keys)
        keys, ids, weights = self._keys[used], self._ids[used], self._weights[used]
        return keys.tobytes(), ids.tobytes(), weights.tobytes()

    def load(self, keys: bytes, ids: bytes, weights: bytes, longest: int = 0) -> None:
        """Take over keys, ids and weights that `dump` gave; known contexts are overwritten.

        Some may be as long as `longest` tokens.
        """
        count, odd = divmod(len(keys), 8)
        if odd or len(ids) != 4 * WIDTH * count or len(weights) != len(ids):
            raise ValueError("load: the arrays do not fit together")
        lines = np.frombuffer(ids, np.int32).reshape(-1, WIDTH)
        shares = np.frombuffer(weights, np.float32).reshape(-1, WIDTH)
        for key, line, share in zip(np.frombuffer(keys, np.uint64), lines, shares, strict=True):
            if int(key) & 1:
                self._mix(int(key), line, share, 1.0)
        self._longest = max(self._longest, min(longest, MAX_ORDER))
