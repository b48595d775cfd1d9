"""Leave the model early and guess with a small adapter: Kangaroo (2404.18911).

The adapter is one attention layer over the exit's hidden states, with keys and values of its own,
and a head. Drafting exits twice early: rows leave the model after a few layers, and guessing ends
where the adapter is not sure. Verification resumes the rows where they left.
"""

from __future__ import annotations

from dataclasses import dataclass

from edgedec import draft, exits
from edgedec.contracts import Context, Draft, Host, Needs
from edgedec.growth import Limits
from edgedec.parts import Trained

NAME = "kangaroo"


@dataclass(frozen=True, slots=True)
class Kangaroo(Trained):
    """Guesses at most `depth` tokens ahead, and no further behind a guess that is less than
    `confidence` likely; beside each guess stand the next likely ones, `branches` in all."""

    depth: int = 6
    branches: int = 2
    confidence: float = 0.6

    def __post_init__(self) -> None:
        draft.check_options(self, depth=(1, 32), branches=(1, 8), confidence=(0.0, 1.0))

    def needs(self, host: Host) -> Needs:
        """The exit's hidden states, and a step that can end and go on there.

        Raises:
            UnsupportedError: the bundle has no part for it, or the runtime lacks one of these.
            StateError: the part names no layer to leave behind.
        """
        return exits.needs(host, NAME, exits.trained(host, NAME), hidden=True)

    def open(self, host: Host) -> Leaping:
        """Begin with no text."""
        return Leaping(self, host)


class Leaping(exits.Leaver):
    """Goes on while the adapter is sure."""

    def __init__(self, options: Kangaroo, host: Host) -> None:
        super().__init__(host, NAME)
        self._options = options

    def propose(self, context: Context, budget: int) -> Draft:
        """What the adapter guesses."""
        options = self._options
        limits = Limits(options.depth, 1, options.branches, 0.0)
        sure = options.confidence
        return self._exit.grow(context, budget, limits, lambda share, depth: share >= sure)
