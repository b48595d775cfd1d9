"""A head with an attention layer on fused hidden states, EAGLE-3 style (2503.01840).

Row p of its layer holds what the model made of row p of the text, states of three of its layers
fused to one, and the token after it. The row before the last token guesses what follows that; each
further row takes the layer's own output for what the model has not made yet. Its trees grow as
EAGLE-2's (2406.16858), by how likely paths are, but narrow ones: on a CPU every level costs.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgedec import draft, growth, parts
from edgedec.contracts import TRUNK, Context, Draft, Host, Needs, Outcome
from edgedec.errors import InputError, StateError, UnsupportedError, UsageError
from edgedec.growth import Found, Limits, Tree
from edgedec.heads import level, likeliest
from edgedec.parts import Trained
from edgedec.trail import Trail, rows_of_text

if TYPE_CHECKING:
    from edgedec.contracts import Floats
    from edgedec.parts import Part

NAME = "attention_head"


@dataclass(frozen=True, slots=True)
class AttentionHead(Trained):
    """Trees of at most `depth` levels; behind the `width` likeliest nodes of a level, whose path is
    at least `confidence` likely, up to `branches` tokens each are guessed."""

    depth: int = 5
    width: int = 1
    branches: int = 3
    confidence: float = 0.2

    def __post_init__(self) -> None:
        draft.check_options(
            self, depth=(1, 32), width=(1, 32), branches=(1, 8), confidence=(0.0, 1.0)
        )

    def needs(self, host: Host) -> Needs:
        """The hidden states that it was trained on.

        Raises:
            UnsupportedError: the bundle has no part for it, or the runtime does not show them.
            StateError: the part names no layers.
        """
        layers = _layers(parts.wanted(host, NAME))
        missing = [each for each in layers if each not in host.capabilities.hidden_layers]
        if missing:
            raise UnsupportedError(
                f"the strategy {NAME} reads the hidden states of layer {missing[0]}, which this "
                "runtime does not show: use native"
            )
        return Needs(hidden=layers)

    def open(self, host: Host) -> Attending:
        """Begin with no text.

        Raises:
            UnsupportedError: the bundle has no part for it.
            StateError: the part is not what it reads.
        """
        part, dim = parts.wanted(host, NAME), host.architecture.embed.dim
        for name, times in (("fuse", len(_layers(part))), ("enter", 2)):
            try:
                found = part.linear(name, np.zeros((1, times * dim), np.float32)).shape[1]
            except UsageError as error:
                raise StateError(f"the matrix {name} of the part of {NAME}: {error}") from None
            if found != dim:
                raise StateError(
                    f"the matrix {name} of the part of {NAME} gives rows of {found}, not of {dim}: "
                    "train it again"
                )
        return Attending(self, part)


def _layers(part: Part) -> tuple[int, ...]:
    found = part.about.get("layers")
    if not isinstance(found, list) or not found or any(type(each) is not int for each in found):
        raise StateError(
            f"the part of {NAME} says that it reads the layers {found!r}; it must be some numbers: "
            "train it again"
        )
    return tuple(found)


class Attending:
    """Follows the hidden states of a text, and grows trees behind it."""

    def __init__(self, options: AttentionHead, part: Part) -> None:
        self._part, self._layers = part, _layers(part)
        self._limits = Limits(options.depth, options.width, options.branches, options.confidence)
        self._trail = Trail(part.session(), lasting=False, hidden=(1,))

    def read(self, start: int, hidden: dict[int, Floats]) -> None:
        """Rows of a prompt ran."""
        self._trail.tell(start, self._states(hidden))

    def observe(self, outcome: Outcome) -> None:
        """Rows were accepted."""
        start, rows = rows_of_text(outcome)
        self._trail.tell(start, self._states(outcome.hidden)[rows])

    def _states(self, hidden: dict[int, Floats]) -> Floats:
        rows, dim = hidden[self._layers[0]].shape
        found = np.empty((rows, len(self._layers) * dim), np.float32)
        for place, layer in enumerate(self._layers):
            found[:, place * dim : (place + 1) * dim] = level(hidden[layer])
        return found

    def reset(self) -> None:
        """Forget the text."""
        self._trail.reset()

    def propose(self, context: Context, budget: int) -> Draft:
        """A tree behind the last token; none where the row before it is not known."""
        tokens, tree = context.tokens, Tree()
        self._trail.follow(tokens)
        places, states = self._trail.waiting
        root = len(tokens) - 2
        if budget < 1 or not len(places) or places[-1] != root:
            return draft.empty()
        most = likeliest(context, len(self._part.ids))
        # Of each node that was run: its row in the session, and what the layer gave [1, D].
        handles: dict[int, int] = {TRUNK: TRUNK}
        given: dict[int, Floats] = {}

        def expand(nodes: list[int], depth: int) -> list[Found]:
            if not depth:
                following = np.array([tokens[place + 1] for place in places], np.int32)
                fused = self._part.linear("fuse", _joined(states))
                left = self._trail.extend(places, self._rows(following, fused))
                given[TRUNK] = left.hidden(1)[-1:].copy()
            else:
                following = np.array([tree.tokens[node] for node in nodes], np.int32)
                above = np.concatenate([given[tree.parents[node]] for node in nodes])
                parents = [handles[tree.parents[node]] for node in nodes]
                rows = self._rows(following, above)
                left = self._trail.guess(following.tolist(), parents, root + depth, rows)
                handles.update(zip(nodes, left.handles, strict=True))
                given.update(zip(nodes, np.split(left.hidden(1).copy(), len(nodes)), strict=True))
            ids, values = left.topk(most)
            return growth.following((self._part.ids[ids], values), context, depth)

        with suppress(InputError):
            growth.grow(tree, self._limits, budget, expand)
        return tree.draft()

    def _rows(self, tokens: np.ndarray, states: Floats) -> Floats:
        """What enters the layer: tokens, and what was made of the rows before them."""
        near = self._part.embed(tokens)
        return self._part.linear("enter", np.concatenate([near, level(states)], axis=1))


def _joined(states: list[Floats]) -> Floats:
    """Below each other; those of a prompt are large, and alone."""
    return np.concatenate(states) if len(states) > 1 else states[0]
