"""The riders that a step takes along: whose they are, and what the guesses they led to are worth.

It knows the planner's choice and the proposals it was made from, no drafter and no device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from edgedec.contracts import TRUNK, Draft

if TYPE_CHECKING:
    from edgedec import _tree


@dataclass(frozen=True, slots=True)
class Riders:
    """`below` names those of the root and of each node (None: nobody offers any), `shares` how many
    are each drafter's, `claims` what those who offer them said for each node, of all that was said.
    """

    below: tuple[tuple[int, ...], ...] | None = None
    lanes: int = 1
    shares: tuple[int, ...] = ()
    claims: tuple[float, ...] = ()

    @property
    def count(self) -> int:
        """How many rows they take."""
        return sum(self.shares)


def chosen(
    core: _tree.Planner, kept: int, drafts: Sequence[Draft | None], room: int | None = None
) -> Riders:
    """The riders that the latest plan found to pay, with `kept` nodes; or all that there is `room`
    for.

    Only whole levels are of use: as many riders as there are lanes. Where drafters differ in lanes,
    those of the first one are taken.
    """
    riding = [each for each in drafts if each is not None and each.riders]
    if not riding:
        return _nobodys(len(drafts))
    lanes = riding[0].lanes
    shares = [0] * len(drafts)
    below: list[tuple[int, ...]] = []
    found = core.riders(kept)
    for source, entry, paying, _ in found:
        given = drafts[source] if source >= 0 else None
        if given is None or given.riders is None or given.lanes != lanes:
            below.append(())
            continue
        count = paying if room is None else min(len(given.riders[entry]), room)
        below.append(tuple(given.riders[entry][: count - count % lanes]))
        room = room if room is None else room - len(below[-1])
        shares[source] += len(below[-1])
    return Riders(tuple(below), lanes, tuple(shares), tuple(line[-1] for line in found[1:]))


@cache
def _nobodys(sources: int) -> Riders:
    return Riders(shares=(0,) * sources)


def paths(tree: Draft) -> list[float]:
    """The probability of each node's path."""
    found: list[float] = []
    for parent, score in zip(tree.parents.tolist(), tree.score.tolist(), strict=True):
        found.append(score if parent == TRUNK else score * found[parent])
    return found


def worth(tree: Draft, claims: Sequence[float], price: float) -> list[float]:
    """See `edgedec.contracts.Outcome`."""
    return [
        (path - price) * claim for path, claim in zip(paths(tree), claims, strict=True)
    ]  # fmt: skip


def alone(draft: Draft, room: int, depth: int) -> Draft:
    """A draft's riders of the last token that promise anything, without its nodes: at most `room`,
    on `depth` levels."""
    starts = range(0, len(draft.gains), draft.lanes)
    levels = [sum(draft.gains[: start + draft.lanes], 0.0) for start in starts]
    best = int(np.argmax([0.0, *levels]))
    count = min(best, depth, room // draft.lanes) * draft.lanes
    below = [tuple(draft.riders[0][:count])] if draft.riders and count > 0 else None
    none = np.zeros(0, np.int32)
    return Draft(none, none, np.zeros(0, np.float32), none, below, lanes=draft.lanes)
