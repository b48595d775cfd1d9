"""Learned prompt tokens look ahead while the model checks: PPD (2405.18628).

Prompt tokens hang as riders below the last token and below guesses. The row of the j-th of them
tells what may stand j + 1 places behind the token it hangs below, so the very step that checks this
turn's guesses prepares the next turn's, wherever the text goes on. The paper fixes a tree for each
number of prompt tokens beforehand; here the planner hangs up as many as pay at the moment, by what
each has added of late.

The root always carries prompt tokens, so a turn without candidates is followed by one that has
some (the paper's own estimate counts an idle turn there).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from edgedec import draft, guess, parts
from edgedec.contracts import TRUNK, Context, Draft, Host, Needs, Outcome
from edgedec.errors import StateError, UnsupportedError
from edgedec.pace import Average
from edgedec.parts import Trained

if TYPE_CHECKING:
    from edgedec.contracts import Floats, Ints

NAME = "prompt_decoding"
PROMPTS = "prompts"
"""What the part calls the embeddings of its prompt tokens [k * lanes, D], level by level."""
RIGHT = (0.4, 0.3, 0.25)
"""How often a level is taken to be right, given those before, where the part does not say."""
TRUST, PACE = 8, 0.1
"""As many turns count what was said of a level before it was tried; the weight of a turn later."""
FADE = 1 / 2048
"""The share of what was learned of a level that is forgotten with each token of the text while it
is not tried, so that it is tried again some day."""


@dataclass(frozen=True, slots=True)
class PromptDecoding(Trained):
    """Guesses trees of at most `nodes` nodes, from the `likely` likeliest tokens of each row of the
    first `depth` prompt tokens (0: as many as were trained)."""

    nodes: int = 16
    likely: int = 10
    depth: int = 0

    def __post_init__(self) -> None:
        draft.check_options(self, nodes=(1, 63), likely=(1, 64), depth=(0, 32))

    def needs(self, host: Host) -> Needs:
        """The likeliest tokens of each row, and learned ids.

        Raises:
            UnsupportedError: the bundle has no prompt tokens, or the runtime takes no learned ids.
        """
        parts.wanted(host, NAME)
        if not host.capabilities.learned_ids:
            raise UnsupportedError(
                f"the strategy {NAME} needs prompt tokens; this runtime takes no learned ids: use "
                "the native runtime"
            )
        return Needs(topk=min(self.likely, host.architecture.vocab))

    def open(self, host: Host) -> Prompter:
        """Make the prompt tokens known to the model.

        Raises:
            StateError: the part's lanes do not divide its prompt tokens.
        """
        part = parts.wanted(host, NAME)
        vectors, lanes = part.vectors(PROMPTS), part.about.get("lanes", 1)
        if vectors.ndim != 2 or type(lanes) is not int or lanes < 1 or len(vectors) % lanes:
            raise StateError(
                f"{NAME}: {PROMPTS} of shape {vectors.shape} in {lanes} lanes: train it again"
            )
        trained = len(vectors) // lanes
        levels = min(trained, self.depth or trained)
        first = host.learn(vectors)
        return Prompter(range(first, first + levels * lanes), lanes, _right(host, levels), self)


def _right(host: Host, levels: int) -> list[float]:
    """How often each level is right given those before, as held-out texts showed."""
    known = parts.foreseen(host, NAME)
    known = [*known, *RIGHT[len(known) :]]
    return [*known, *[known[-1]] * levels][:levels]


class Prompter:
    """Reads the rows of prompt tokens, and learns what each level of them adds to a turn."""

    rides = True
    """It has riders for the end of a prompt too long for guesses."""

    def __init__(
        self, prompts: range, lanes: int, right: Sequence[float], options: PromptDecoding
    ) -> None:
        self._prompts, self._lanes, self._options = prompts, lanes, options
        self._said = np.cumprod(right).tolist()
        self._gains = [Average(said, PACE, count=TRUST) for said in self._said]
        self._sheet = draft.Sheet(options.nodes)
        self._ids: Ints = np.zeros((0, 1), np.int32)
        self._logits: Floats = np.zeros((0, 1), np.float32)
        self._from = -1
        self._levels: Sequence[guess.Level] = ()
        self._mine: dict[tuple[int, int], int] = {}
        self._tried, self._length = 0, -1

    @property
    def gains(self) -> list[float]:
        """What each level adds to a turn, in tokens, less what it costs to check its guesses."""
        return [each.value for each in self._gains]

    # --- guessing --------------------------------------------------------------------------------

    def propose(self, context: Context, budget: int) -> Draft:
        """The likeliest tree of what the last riders said, with riders for the next turn."""
        self._forget(len(context.tokens))
        # Tokens may have come since in a turn in which it was not asked: its levels are passed.
        passed = len(context.tokens) - self._from
        self._levels = ()
        if 0 <= passed < len(self._ids):
            known = self._ids[passed:], self._logits[passed:]
            self._levels = guess.guesses(*known, context, range(len(known[0])))
        tree = guess.product(self._levels, min(budget, self._options.nodes), self._sheet)
        self._mine = draft.children(tree)
        gains = [gain / self._lanes for gain in self.gains for _ in range(self._lanes)]
        every = [self._prompts] * (len(tree.tokens) + 1)
        return replace(tree, riders=every, gains=gains, lanes=self._lanes)

    # --- learning --------------------------------------------------------------------------------

    def observe(self, outcome: Outcome) -> None:
        """Take in what the riders of the accepted node say, and what the last ones were worth."""
        self._judge(outcome)
        tree, accepted = outcome.tree, outcome.accepted
        self._from = len(outcome.context.tokens) + len(accepted) + 1
        entry = accepted[-1] + 1 if accepted else 0
        below = tree.riders[entry] if tree.riders else ()
        mine = len(below) if below and below[0] in self._prompts else 0
        assert outcome.topk is not None
        ids, logits = outcome.topk
        start = 1 + len(tree.tokens) + sum(len(each) for each in (tree.riders or ())[:entry])
        rows = slice(start, start + mine)
        self._ids, self._logits = averaged(ids[rows], logits[rows], self._lanes)

    def _judge(self, outcome: Outcome) -> None:
        """What each level of this turn's guesses was worth: what its nodes promised that were
        checked (the planner learns how far to believe them), nothing where none was."""
        worth = [0.0] * len(self._gains)
        tree, places = outcome.tree, {TRUNK: (TRUNK, 0)}
        nodes = zip(tree.parents.tolist(), tree.tokens.tolist(), outcome.worth, strict=False)
        for node, (parent, token, promised) in enumerate(nodes):
            above, depth = places.get(parent, (len(self._mine), 0))
            mine = self._mine.get((above, token))
            if mine is not None:
                places[node] = mine, depth + 1
                worth[depth] += promised
        self._tried = len(self._levels)
        for depth, gain in enumerate(self._gains[: self._tried]):
            gain.add(worth[depth])

    def _forget(self, length: int) -> None:
        """Bit by bit, as the text grows, what was learned of levels that are not tried."""
        more = length - self._length if 0 <= self._length < length else 0
        for said, gain in zip(self._said[self._tried :], self._gains[self._tried :], strict=True):
            gain.value += (1 - (1 - FADE) ** more) * (said - gain.value)
        self._length, self._tried = length, 0

    def reset(self) -> None:
        """Forget the text; what prompt tokens are worth is about the model."""
        self._length = -1
        self._ids, self._levels, self._mine = self._ids[:0], (), {}


def averaged(ids: Ints, logits: Floats, lanes: int) -> tuple[Ints, Floats]:
    """The likeliest tokens [n * lanes, k] of n levels in lanes, as [n, k]: by the mean of a level's
    logits. What is not among the likeliest of a lane counts as its last."""
    if lanes == 1:
        return ids.copy(), logits.copy()
    levels, likely = len(ids) // lanes, ids.shape[1]
    found = np.empty((levels, likely), np.int32), np.empty((levels, likely), np.float32)
    for level in range(levels):
        rows = slice(level * lanes, (level + 1) * lanes)
        tokens, places = np.unique(ids[rows], return_inverse=True)
        values = np.repeat(logits[rows, -1:], len(tokens), axis=1)
        np.put_along_axis(values, places.reshape(lanes, likely), logits[rows], axis=1)
        means = values.mean(axis=0)
        best = np.argsort(-means, kind="stable")[:likely]
        found[0][level], found[1][level] = tokens[best], means[best]
    return found
