"""Pseudo hidden states enter in mid-network and guess ahead: Hidden Transfer (2404.12022).

At layer t a linear map turns the state of the row before the root into states that stand for the
root and the places behind it. They run through the layers from t on, where they see the text and
one another, and the model's own head reads from them what comes next. That is what prompt tokens
(2405.18628) do, without the lower layers and knowing more.

The paper lets pseudo states share the pass that checks, and so they cannot know the token that this
pass will give. Here they have a short pass of their own after it, and their map reads the root's
embedding as well; so the first of them guesses what follows the root, not what is known already.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from edgedec import draft, guess, parts
from edgedec.contracts import Context, Draft, Host, Needs, Want
from edgedec.errors import InputError, StateError, UnsupportedError
from edgedec.heads import Heads, level, likeliest, opened
from edgedec.parts import Trained

if TYPE_CHECKING:
    from edgedec.contracts import Floats
    from edgedec.parts import Part

NAME = "hidden_transfer"
MAP = "transfer"
"""What the part calls its map [k * D, 2 D]: for each of k pseudo states what is added to the state
of the row before the root, from that state and the root's embedding, all at a mean square of one.
"""


@dataclass(frozen=True, slots=True)
class HiddenTransfer(Trained):
    """Guesses trees of at most `nodes` nodes from the first `depth` pseudo states (0: as many as
    were trained)."""

    nodes: int = 12
    depth: int = 0

    def __post_init__(self) -> None:
        draft.check_options(self, nodes=(1, 63), depth=(0, 32))

    def needs(self, host: Host) -> Needs:
        """The states that enter the layer at which pseudo states do, and a cut there.

        Raises:
            UnsupportedError: the bundle has no map, or the runtime cannot begin at its layer or
                does not give the hidden states there.
        """
        layer, capabilities = _layer(parts.wanted(host, NAME), host), host.capabilities
        for offered, what in (
            (capabilities.hidden_layers, "does not give hidden states"),
            (capabilities.cuts, "cannot begin a step"),
        ):
            if layer not in offered:
                raise UnsupportedError(
                    f"the strategy {NAME} enters at layer {layer}; this runtime {what} there: use "
                    "the native runtime"
                )
        return Needs(hidden=(layer,), cuts=(layer,))

    def open(self, host: Host) -> Heads:
        """Begin a conversation.

        Raises:
            StateError: the part is not what this strategy reads.
        """
        return opened(NAME, host, lambda part: Transferrer(host, part, self))


def _layer(part: Part, host: Host) -> int:
    found = part.about.get("layer")
    if type(found) is not int or not 0 < found < host.architecture.layers:
        raise StateError(f"{NAME}: layer {found!r} of {host.architecture.layers}: train it again")
    return found


class Transferrer(Heads):
    """Guesses with one pass through the upper layers."""

    def __init__(self, host: Host, part: Part, options: HiddenTransfer) -> None:
        layer = _layer(part, host)
        super().__init__(part, layer)
        self._host, self._options = host, options
        self._layers = (range(layer, host.architecture.layers),)
        self._context = host.architecture.limits.context
        self._size: Floats = np.zeros((1, 1), np.float32)
        self._sheet = draft.Sheet(options.nodes)

    def rehearse(self, state: Floats) -> None:
        """The map once."""
        if not len(self._pseudo(0, state)):
            raise ValueError(f"{MAP} makes no pseudo states")

    def _keep(self, rows: Floats, row: int, following: int) -> None:
        super()._keep(rows, row, following)
        self._size = np.sqrt(np.mean(np.square(rows[row : row + 1]), axis=1, keepdims=True))

    def _guess(self, context: Context, state: Floats, budget: int) -> Draft:
        # The first pseudo state stands where the root does.
        room = self._context - len(context.tokens) + 1
        entering = self._pseudo(context.tokens[-1], state)[: max(room, 0)]
        count = len(entering)
        if context.pending != 1 or not count:
            return draft.empty()
        rows = draft.scratch([0] * count, self._host)
        filled = np.zeros((len(rows.tokens), state.shape[1]), np.float32)
        filled[:count] = entering
        try:
            result = self._host.step(
                replace(rows, hidden=filled), self._layers, Want(logits=tuple(range(count)))
            )
        except InputError:
            return draft.empty()
        found = result.topk(likeliest(context, self._host.architecture.vocab))
        levels = guess.guesses(*found, context, range(count))
        return guess.product(levels, min(budget, self._options.nodes), self._sheet)

    def _pseudo(self, root: int, state: Floats) -> Floats:
        """The pseudo states [k, D] behind the row whose state, at a mean square of one, is given
        [1, D]."""
        embedded = level(self._part.embed(np.array([root], np.int32)))
        moved = self._part.linear(MAP, np.hstack([state, embedded])).reshape(-1, state.shape[1])
        found: Floats = self._size * (state + moved[: self._options.depth or len(moved)])
        return found
