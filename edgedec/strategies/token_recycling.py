"""Trees from what the model itself found likely before: Token Recycling (2408.08696).

Every row that was checked, accepted or not, leaves its likeliest tokens behind, to be guessed when
the same token stands at the end again. The paper keys them by one token, overwrites, and checks a
fixed tree of 80 nodes. Ours keys them by two tokens and falls back to one, mixes new with old,
grows small trees best first, and, when sampling, ranks by the noise that the draw will use. A hot
start from a file replaces the cold one; a bundle may bring one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from edgedec import _tree, draft, hot_start
from edgedec.contracts import Context, Draft, Host, Needs, Outcome


@dataclass(frozen=True, slots=True)
class TokenRecycling:
    """Trees of at most `nodes` nodes from the `width` likeliest tokens after the last one to
    `order` tokens. `rate` is the weight of what is new (1 overwrites, as the paper does);
    `hot_start` a file written by `edgedec warm` (None: the bundle's own, if it has one; "": none);
    `sets` how much is remembered, a power of two (4 contexts each).
    """

    automatic: ClassVar[bool] = True
    contexts: ClassVar[range] = range(1, 3)

    nodes: int = 24
    width: int = 8
    order: int = 2
    rate: float = 0.5
    sets: int = 4096
    hot_start: str | None = None

    def __post_init__(self) -> None:
        draft.check_options(
            self, nodes=(1, _tree.MAX_NODES), width=(1, 8), order=(1, 4), rate=(0.01, 1.0),
            sets=(1, 1 << 16),
        )  # fmt: skip
        draft.check_power(self, "sets")
        draft.check_file(self, "hot_start")

    @property
    def lossy(self) -> bool:
        """Guesses are checked like any other draft."""
        return False

    def needs(self, host: Host) -> Needs:
        """The likeliest tokens of each row."""
        return Needs(topk=min(self.width, host.architecture.vocab))

    def open(self, host: Host) -> Recycler:
        """Begin with what the hot start holds, or with nothing."""
        table = _tree.Successors(1, self.order, self.sets)
        hot_start.warm(table, self.hot_start, host, "token_recycling")
        return Recycler(self, table)


class Recycler:
    """The table of a model; it outlives a conversation, since it is about the model."""

    def __init__(self, options: TokenRecycling, table: _tree.Successors) -> None:
        self._options, self._table = options, table
        self._sheet = draft.Sheet(options.nodes)

    def propose(self, context: Context, budget: int) -> Draft:
        """The likeliest nodes below the last token."""
        return draft.grown(self._table, context, min(budget, self._options.nodes), self._sheet)

    def observe(self, outcome: Outcome) -> None:
        """Take in what the model found likely at each row."""
        assert outcome.topk is not None
        ids, values = outcome.topk
        rows = len(outcome.tree.tokens) + 1
        self._table.learn(
            outcome.context.tokens,
            outcome.tree.tokens,
            outcome.tree.parents,
            ids[:rows],
            values[:rows],
            self._options.rate,
        )

    def reset(self) -> None:
        """What was learned is about the model, not about the conversation."""
