"""Trees from counts of what followed two tokens: the tri-gram drafter of ADED (2407.12021).

The paper takes its counts from a corpus and from the model's own output, and builds a draft by
Monte Carlo tree search. Ours counts prompt and output and takes the likeliest nodes best first,
which is what the search approaches, at no cost. A hot start stands for the corpus: what the model
itself found likely, behind up to four tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from edgedec import _tree, draft, hot_start
from edgedec.contracts import Context, Draft, Host, Needs, Outcome


@dataclass(frozen=True, slots=True)
class Trigram:
    """Trees of at most `nodes` nodes; `hot_start` is a file written by `edgedec warm` (None: the
    bundle's own, if it has one; "": none), `sets` how much is remembered, a power of two (4 pairs
    of tokens each)."""

    automatic: ClassVar[bool] = True
    contexts: ClassVar[range] = range(2, 5)

    nodes: int = 12
    sets: int = 4096
    hot_start: str | None = None

    def __post_init__(self) -> None:
        draft.check_options(self, nodes=(1, _tree.MAX_NODES), sets=(1, 1 << 16))
        draft.check_power(self, "sets")
        draft.check_file(self, "hot_start")

    @property
    def lossy(self) -> bool:
        """Guesses are checked like any other draft."""
        return False

    def needs(self, host: Host) -> Needs:
        """Nothing."""
        return Needs()

    def open(self, host: Host) -> Counts:
        """Begin with what the hot start holds, or with nothing."""
        table = _tree.Successors(2, 2, self.sets)
        hot_start.warm(table, self.hot_start, host, "trigram")
        return Counts(self, table)


class Counts:
    """What followed which two tokens, and how far the text has been counted."""

    def __init__(self, options: Trigram, table: _tree.Successors) -> None:
        self._options, self._table = options, table
        self._counted = 0
        self._sheet = draft.Sheet(options.nodes)

    def propose(self, context: Context, budget: int) -> Draft:
        """The likeliest nodes below the last token."""
        tokens = context.tokens
        self._table.count(tokens, self._counted)
        self._counted = len(tokens)
        return draft.grown(self._table, context, min(budget, self._options.nodes), self._sheet)

    def observe(self, outcome: Outcome) -> None:
        """Nothing: the text itself is counted."""

    def reset(self) -> None:
        """The counts stay; the next text is counted from its beginning."""
        self._counted = 0
