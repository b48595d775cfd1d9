"""Drafting by rows that leave the model early: what LayerSkip, Kangaroo and EESD share.

The last token, and level by level the best guesses after it, run through the model's first layers
only, and a `Reader` guesses from where they leave. These rows stay: the step that checks the draft
resumes them there, so that no layer of a row is run twice. It knows no strategy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

import numpy as np

from edgedec import draft, growth, parts
from edgedec.contracts import TRUNK, Began, Context, Draft, Host, Needs, Want
from edgedec.errors import InputError, UnsupportedError
from edgedec.growth import Found, Limits, Tree
from edgedec.heads import likeliest
from edgedec.trail import Trail, rows_of_text

if TYPE_CHECKING:
    from edgedec.contracts import Floats, Ints, Outcome, StepResult
    from edgedec.parts import Part


def needs(host: Host, name: str, layer: int, *, hidden: bool) -> Needs:
    """What drafting from the output of the first `layer` layers needs of the loop.

    Raises:
        UnsupportedError: the runtime cannot cut there, resume, or show hidden states.
    """
    can = host.capabilities
    if layer not in can.cuts:
        there = ", ".join(map(str, can.cuts)) or "none"
        raise UnsupportedError(
            f"the strategy {name} leaves the model after layer {layer}; this runtime can cut it "
            f"at: {there}"
        )
    if not can.resume:
        raise UnsupportedError(
            f"the strategy {name} needs a runtime that resumes rows; this one does not: use native"
        )
    if hidden and layer not in can.hidden_layers:
        raise UnsupportedError(
            f"the strategy {name} reads the hidden states of layer {layer}, which this runtime "
            "does not show: use native"
        )
    return Needs(hidden=(layer,) if hidden else (), cuts=(layer,))


def trained(host: Host, name: str) -> int:
    """The layer behind which the part of a strategy learned to guess.

    Raises:
        UnsupportedError: the bundle has no part for it.
        StateError: the part does not say it, or says none of this model.
    """
    return parts.number(host, name, "exit", 1, host.architecture.layers - 1)


class Reader(Protocol):
    """What guesses the next token from rows that left the model early.

    Both methods give the likeliest tokens and their logits [n, k].
    """

    def want(self, count: int) -> Want:
        """What it asks of the first `count` rows of a step."""

    def begin(self, context: Context, left: StepResult) -> tuple[Ints, Floats]:
        """What follows the text, whose last token's row is the first that has left (n = 1)."""

    def follow(
        self, tree: Tree, nodes: Sequence[int], place: int, left: StepResult
    ) -> tuple[Ints, Floats]:
        """What follows each of some nodes at one place of the text, whose rows have left."""


class SharedHead:
    """The model's own norm and head read the rows (LayerSkip)."""

    def __init__(self, vocab: int) -> None:
        self._vocab, self._most = vocab, 1

    def want(self, count: int) -> Want:
        """Logits."""
        return Want(logits=tuple(range(count)))

    def begin(self, context: Context, left: StepResult) -> tuple[Ints, Floats]:
        """What follows the text."""
        self._most = likeliest(context, self._vocab)
        return left.topk(self._most)

    def follow(
        self, tree: Tree, nodes: Sequence[int], place: int, left: StepResult
    ) -> tuple[Ints, Floats]:
        """What follows guesses."""
        return left.topk(self._most)


class OwnLayers:
    """A part's own layers and head read the rows, having read those of the text before them.

    They are told of the text's rows by `read` and `observe`, as drafters are.
    """

    def __init__(self, part: Part, layer: int) -> None:
        self._layer, self._ids, self._trail = layer, part.ids, Trail(part.session())
        self._most = 1
        self._handles: dict[int, int] = {}

    def want(self, count: int) -> Want:
        """Hidden states."""
        return Want(logits=(), hidden=(self._layer,))

    def begin(self, context: Context, left: StepResult) -> tuple[Ints, Floats]:
        """Run what is new in the text, then its last token."""
        self._most, self._handles = likeliest(context, len(self._ids)), {TRUNK: TRUNK}
        self._trail.follow(context.tokens)
        places, states = self._trail.waiting
        last = np.array([len(context.tokens) - 1], np.int32)
        vectors = np.concatenate([*states, left.hidden(self._layer)[:1]])
        return self._likely(self._trail.extend(np.concatenate([places, last]), vectors))

    def follow(
        self, tree: Tree, nodes: Sequence[int], place: int, left: StepResult
    ) -> tuple[Ints, Floats]:
        """Run guesses below those before them."""
        parents = [self._handles[tree.parents[node]] for node in nodes]
        vectors = left.hidden(self._layer)[: len(nodes)]
        result = self._trail.guess([tree.tokens[node] for node in nodes], parents, place, vectors)
        self._handles.update(zip(nodes, result.handles, strict=True))
        return self._likely(result)

    def _likely(self, result: StepResult) -> tuple[Ints, Floats]:
        ids, values = result.topk(self._most)
        return self._ids[ids], values

    def read(self, start: int, hidden: dict[int, Floats]) -> None:
        """Remember the states of rows that ran before anybody was asked."""
        self._trail.tell(start, hidden[self._layer])

    def observe(self, outcome: Outcome) -> None:
        """Remember the states of what was accepted."""
        start, rows = rows_of_text(outcome)
        self._trail.tell(start, outcome.hidden[self._layer][rows])

    def reset(self) -> None:
        """Forget the text."""
        self._trail.reset()


Further = Callable[[float, int], bool]
"""Whether it pays to guess what follows a guess, given how likely it is after the one before it,
and how many nodes (1 or more) lie between it and the text."""


class Exit:
    """Grows trees of guesses from the output of the model's first `layer` layers."""

    def __init__(self, host: Host, layer: int, reader: Reader) -> None:
        self._host, self._layer, self._reader = host, layer, reader
        self._widths = host.capabilities.row_widths
        self._most = draft.width(host.capabilities, host.capabilities.max_rows)

    def grow(self, context: Context, budget: int, limits: Limits, further: Further) -> Draft:
        """A tree whose rows stay in the session, for verification to resume them.

        Nodes that nothing was guessed from have no row yet. No draft where a prompt is still to be
        run, and a smaller one where the context ends.
        """
        if context.pending != 1 or budget < 1:
            return draft.empty()
        tree, handles = Tree(), {TRUNK: TRUNK}
        last = len(context.tokens) - 1

        def expand(nodes: list[int], depth: int) -> list[Found]:
            if not depth:
                left = self._run([context.tokens[-1]], [TRUNK], nodes, handles)
                return growth.following(self._reader.begin(context, left), context, depth)
            run = [node for node in nodes if further(tree.scores[node], depth)]
            if not run:
                return []
            parents = [handles[tree.parents[node]] for node in run]
            left = self._run([tree.tokens[node] for node in run], parents, run, handles)
            found = self._reader.follow(tree, run, last + depth, left)
            known = dict(zip(run, growth.following(found, context, depth), strict=True))
            return [known.get(node, ((), ())) for node in nodes]

        with suppress(InputError):
            growth.grow(tree, limits, budget, expand, self._most)
        rows = [handles.get(node, TRUNK) for node in range(TRUNK, len(tree.tokens))]
        return replace(tree.draft(), began=Began(self._layer, rows))

    def _run(
        self, tokens: list[int], parents: list[int], nodes: list[int], handles: dict[int, int]
    ) -> StepResult:
        """Rows through the first layers; the result's first are theirs."""
        rows = draft.padded(tokens, parents, self._widths)
        left = self._host.step(rows, (range(self._layer),), self._reader.want(len(tokens)))
        handles.update(zip(nodes, left.handles, strict=False))
        return left


class Leaver:
    """A drafter that guesses with layers of its own, from where rows leave the model."""

    def __init__(self, host: Host, name: str) -> None:
        layer = trained(host, name)
        self._own = OwnLayers(parts.wanted(host, name), layer)
        self._exit = Exit(host, layer, self._own)

    def read(self, start: int, hidden: dict[int, Floats]) -> None:
        """Rows of a prompt ran."""
        self._own.read(start, hidden)

    def observe(self, outcome: Outcome) -> None:
        """Rows were accepted."""
        self._own.observe(outcome)

    def reset(self) -> None:
        """Forget the text."""
        self._own.reset()
