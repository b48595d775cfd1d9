"""Other answers to "how much of the tree is checked?", to compare the planner's own with.

Each reads the merged tree in order of path probability and names the nodes to check, parents
included. `best` is the planner's objective and needs none of them.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edgedec.contracts import TRUNK, Draft
from edgedec.errors import UnsupportedError

BEST = "best"
ASKS, MOST = 16, 63
"""Nodes that a drafter is asked for, where a policy does not say, and the most it may say."""


class Policy(Protocol):
    """How much to check, with the state of one conversation; `asks` nodes are asked for."""

    asks: int

    def choose(self, tree: Draft, times: NDArray[np.float64]) -> Sequence[int]:
        """The nodes to check, rising; `tree.score` is calibrated, `times[k]` is T with k nodes."""
        ...

    def learn(self, checked: int, accepted: int) -> None:
        """How many nodes were checked and how many of them were accepted."""
        ...


class Fixed:
    """Always the likeliest `nodes` nodes, whatever they cost (EAGLE-2, 2406.16858)."""

    def __init__(self, nodes: int = 8) -> None:
        self._nodes = nodes
        self.asks = max(ASKS, nodes)

    def choose(self, tree: Draft, times: NDArray[np.float64]) -> Sequence[int]:
        """The first ones."""
        return range(min(self._nodes, len(tree.tokens), len(times) - 1))

    def learn(self, checked: int, accepted: int) -> None:
        """Nothing."""


class Entropy:
    """SVIP (2411.18462): go on below a node while sqrt(entropy) of its guesses is small.

    The entropy (nats) is that of the children's probabilities, the rest of the mass being one
    more outcome.
    """

    asks = ASKS

    def __init__(self, limit: float = 0.8) -> None:
        self._limit = limit

    def choose(self, tree: Draft, times: NDArray[np.float64]) -> Sequence[int]:
        """The children of nodes that are sure enough."""
        parents, scores = tree.parents.tolist(), tree.score.tolist()
        left: dict[int, float] = {}
        entropy: dict[int, float] = {}
        for parent, score in zip(parents, scores, strict=True):
            left[parent] = left.get(parent, 1.0) - score
            entropy[parent] = entropy.get(parent, 0.0) - score * float(np.log(max(score, 1e-9)))
        for parent, rest in left.items():
            entropy[parent] -= rest * float(np.log(rest)) if rest > 1e-9 else 0.0
        return _where(parents, [entropy[p] ** 0.5 <= self._limit for p in parents], times)

    def learn(self, checked: int, accepted: int) -> None:
        """Nothing."""


class Confidence:
    """Kangaroo (2404.18911): nodes whose own probability is at least `least`."""

    asks = ASKS

    def __init__(self, least: float = 0.4) -> None:
        self._least = least

    def choose(self, tree: Draft, times: NDArray[np.float64]) -> Sequence[int]:
        """Those, as far as their parents are chosen."""
        sure = (tree.score >= self._least).tolist()
        return _where(tree.parents.tolist(), sure, times)

    def learn(self, checked: int, accepted: int) -> None:
        """Nothing."""


class Thompson:
    """EESD (2406.03853): a chain as long as draws from the posterior of acceptance go on.

    The draws are seeded, so that a run can be repeated.
    """

    asks = ASKS

    def __init__(self) -> None:
        self._right, self._wrong = 1.0, 1.0
        self._random = random.Random(0)

    def choose(self, tree: Draft, times: NDArray[np.float64]) -> Sequence[int]:
        """The first nodes of the likeliest path."""
        chain = _chain(tree.parents.tolist())[: len(times) - 1]
        for length in range(len(chain)):
            theta = self._random.betavariate(self._right, self._wrong)
            if self._random.random() >= theta:
                return chain[:length]
        return chain

    def learn(self, checked: int, accepted: int) -> None:
        """Count what was accepted, and the one node that ended it."""
        self._right += accepted
        self._wrong += accepted < checked
        if self._right + self._wrong > 200:
            self._right, self._wrong = self._right / 2, self._wrong / 2


class Goodput:
    """SmartSpec (2406.14066): the chain length with the most expected tokens per second, from one
    moving average of acceptance."""

    asks = ASKS

    def __init__(self) -> None:
        self._accepts = 0.5

    def choose(self, tree: Draft, times: NDArray[np.float64]) -> Sequence[int]:
        """The first nodes of the likeliest path."""
        chain = _chain(tree.parents.tolist())[: len(times) - 1]
        tokens = np.cumsum(self._accepts ** np.arange(len(chain) + 1))
        return chain[: int((tokens / times[: len(chain) + 1]).argmax())]

    def learn(self, checked: int, accepted: int) -> None:
        """Move the average towards the share that was right, up to the first mistake."""
        seen = min(accepted + 1, checked)
        self._accepts += 0.1 * (accepted / seen - self._accepts)


_POLICIES: dict[str, Callable[[], Policy]] = {
    "fixed": Fixed,
    "entropy": Entropy,
    "confidence": Confidence,
    "thompson": Thompson,
    "goodput": Goodput,
}
NAMES = (BEST, *_POLICIES)


def policy_named(name: str) -> Policy | None:
    """A policy in its first state; None is the planner's own objective.

    `fixed:N` checks N nodes.

    Raises:
        UnsupportedError: there is none of that name.
    """
    if name == BEST:
        return None
    kind, _, count = name.partition(":")
    if kind == "fixed" and count.isascii() and count.isdigit() and 1 <= int(count) <= MOST:
        return Fixed(int(count))
    if name not in _POLICIES:
        raise UnsupportedError(
            f"no policy {name!r}; there is: {', '.join(NAMES)}, fixed:N (1 to {MOST})"
        )
    return _POLICIES[name]()


def _where(parents: Sequence[int], wanted: Sequence[bool], times: NDArray[np.float64]) -> list[int]:
    """The nodes that are wanted and whose ancestors are, as many as there are times for."""
    chosen: set[int] = {TRUNK}
    found: list[int] = []
    for node, (parent, want) in enumerate(zip(parents, wanted, strict=True)):
        if want and parent in chosen and len(found) < len(times) - 1:
            chosen.add(node)
            found.append(node)
    return found


def _chain(parents: Sequence[int]) -> list[int]:
    """The path of first children: the likeliest, since nodes are ordered by probability."""
    found: list[int] = []
    at = TRUNK
    for node, parent in enumerate(parents):
        if parent == at:
            found.append(node)
            at = node
    return found
