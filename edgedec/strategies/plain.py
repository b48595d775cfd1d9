"""No drafting: one step, one token. The baseline of every comparison.

Knows nothing about the model, and asks nothing of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from edgedec import draft
from edgedec.contracts import Context, Draft, Host, Needs, Outcome


@dataclass(frozen=True, slots=True)
class Plain:
    """Every token is computed by a step of its own."""

    automatic: ClassVar[bool] = False

    @property
    def lossy(self) -> bool:
        """It is what the others are compared with."""
        return False

    def needs(self, host: Host) -> Needs:
        """Nothing."""
        return Needs()

    def open(self, host: Host) -> Silent:
        """A drafter that never proposes."""
        return Silent()


class Silent:
    """The drafter of `Plain`: it has nothing to say and nothing to learn."""

    def propose(self, context: Context, budget: int) -> Draft:
        """The empty draft."""
        return draft.empty()

    def observe(self, outcome: Outcome) -> None:
        """Nothing is learned."""

    def reset(self) -> None:
        """Nothing is remembered."""
