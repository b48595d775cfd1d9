"""Leave the model after its first layers and ask its own head: LayerSkip (2404.16710).

Each guess costs a pass through the layers below the exit. The step that checks the guesses resumes
their rows there, so nothing is run twice, and nothing is added to the weights: what is best for a
model, its exit and how far it should look ahead, is all that its part holds.
"""

from __future__ import annotations

from dataclasses import dataclass

from edgedec import draft, exits, growth, parts
from edgedec.contracts import Context, Draft, Host, Needs, Outcome
from edgedec.errors import UsageError
from edgedec.parts import Trained

NAME = "early_exit"
DEPTH = 4
"""How far it looks ahead where only the exit was given."""


@dataclass(frozen=True, slots=True)
class EarlyExit(Trained):
    """Leaves after the first `exit` layers, up to `depth` times in a turn: with the `width`
    likeliest guesses of a level, while all up to them are at least `confidence` likely. Each row
    has up to `branches` guesses. `exit` and `depth` are what the bundle's part says, unless given.
    """

    exit: int | None = None
    depth: int | None = None
    width: int = 1
    branches: int = 3
    confidence: float = 0.25

    def __post_init__(self) -> None:
        bounds = {"exit": (1, 4096), "depth": (1, 32)}
        given = {name: bounds[name] for name in bounds if getattr(self, name) is not None}
        draft.check_options(self, width=(1, 8), branches=(1, 8), confidence=(0.0, 1.0), **given)

    def needs(self, host: Host) -> Needs:
        """A cut at the exit, and rows that can go on from there.

        Raises:
            UnsupportedError: no exit was given and none was found for this bundle, or the runtime
                cannot leave there and resume.
            UsageError: the model has not so many layers.
        """
        return exits.needs(host, NAME, self._exit(host), hidden=False)

    def open(self, host: Host) -> Shortcut:
        """Nothing to prepare."""
        depth = self.depth or DEPTH
        if self.depth is None and self.exit is None:
            depth = parts.number(host, NAME, "depth", 1, 32)
        limits = growth.Limits(depth, self.width, self.branches, self.confidence)
        reader = exits.SharedHead(host.architecture.vocab)
        return Shortcut(exits.Exit(host, self._exit(host), reader), limits)

    def _exit(self, host: Host) -> int:
        last = host.architecture.layers - 1
        if self.exit is None:
            return parts.number(host, NAME, "exit", 1, last)
        if self.exit > last:
            raise UsageError(
                f"early_exit cannot leave after layer {self.exit}: this model has {last + 1}, and "
                "one at least must be left"
            )
        return self.exit


class Shortcut:
    """Drafts through an exit. It remembers nothing: its rows are the session's."""

    def __init__(self, way: exits.Exit, limits: growth.Limits) -> None:
        self._way, self._limits = way, limits

    def observe(self, outcome: Outcome) -> None:
        """Nothing: the exit is where it is."""

    def reset(self) -> None:
        """Nothing is remembered."""

    def propose(self, context: Context, budget: int) -> Draft:
        """What the first layers guess, as far as that is likely."""
        return self._way.grow(context, budget, self._limits, lambda share, depth: True)
