"""Skip the middle layers and look ahead with mask tokens: S3D (2405.20314).

One pass drafts. The last token and `masks` learned mask tokens behind it run through the first and
the last layers only; the row of the last token guesses the next one, each mask one further. The
whole model then checks the guesses, so only the draft is made in a hurry. Nothing is added to the
weights but the embeddings of the masks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgedec import draft, guess, heads, parts
from edgedec.contracts import Context, Draft, Host, Needs, Outcome, Want
from edgedec.errors import InputError, StateError, UnsupportedError, UsageError
from edgedec.parts import Trained

if TYPE_CHECKING:
    from edgedec.contracts import Floats, Layers

NAME = "layer_skip"
VECTORS = "masks"
"""What the part calls the embeddings of its mask tokens [m, D]."""
MOST = 4096
READ = 8
"""More pending tokens than this make the pass dearer than what it guesses is worth."""


@dataclass(frozen=True, slots=True)
class LayerSkip(Trained):
    """Skips the layers from `start` up to but without `end` and looks ahead with `masks` masks;
    what is not given is what the bundle's part was trained for. The tree has up to `nodes` nodes.
    """

    start: int | None = None
    end: int | None = None
    masks: int | None = None
    nodes: int = 12

    def __post_init__(self) -> None:
        bounds = {"start": (1, MOST), "end": (2, MOST), "masks": (0, 16)}
        given = {name: bounds[name] for name in bounds if getattr(self, name) is not None}
        draft.check_options(self, nodes=(1, 63), **given)

    def needs(self, host: Host) -> Needs:
        """A step that skips layers, and learned ids for the masks.

        Raises:
            UnsupportedError: no part was trained for this bundle, or the runtime has no cuts where
                layers would be skipped, or takes no learned ids.
            UsageError: options that name no layers of this model, or more masks than were trained.
            StateError: the part does.
        """
        skip = self._skip(host)
        return Needs(cuts=(skip.start, skip.stop))

    def open(self, host: Host) -> Skipper:
        """Make the masks known to the model."""
        skip, vectors = self._skip(host), self._vectors(host)
        first = host.learn(vectors) if len(vectors) else 0
        masks = range(first, first + len(vectors))
        return Skipper(host, (range(skip.start), range(skip.stop, host.architecture.layers)),
                       masks, self.nodes)  # fmt: skip

    def _skip(self, host: Host) -> range:
        """The layers left out."""
        layers, capabilities = host.architecture.layers, host.capabilities
        start, end = (self._option(host, name) for name in ("start", "end"))
        if not start < end < layers:
            own = self.start is None and self.end is None
            raise (StateError if own else UsageError)(
                f"layer_skip cannot skip the layers {start} to {end} of {layers}: the first and "
                "the last must stay, and one at least must go"
            )
        missing = [cut for cut in (start, end) if cut not in capabilities.cuts]
        if missing:
            raise UnsupportedError(
                f"the strategy layer_skip skips the layers {start} to {end}; this runtime cannot "
                f"begin or end a step at layer {missing[0]}: use the native runtime, or export "
                f"with --cut {missing[0]}"
            )
        if self._option(host, "masks") and not capabilities.learned_ids:
            raise UnsupportedError(
                "the strategy layer_skip needs mask tokens; this runtime takes no learned ids: "
                "use the native runtime, or layer_skip.masks=0"
            )
        return range(start, end)

    def _option(self, host: Host, name: str) -> int:
        """What was asked for, or what the part was trained with."""
        given: int | None = getattr(self, name)
        low = 0 if name == "masks" else 1
        return parts.number(host, NAME, name, low, MOST) if given is None else given

    def _vectors(self, host: Host) -> Floats:
        """The embeddings of the masks [masks, D]."""
        masks, dim = self._option(host, "masks"), host.architecture.embed.dim
        if not masks:
            return np.zeros((0, dim), np.float32)
        vectors = parts.wanted(host, NAME).vectors(VECTORS)
        if vectors.ndim != 2 or vectors.shape[1] != dim:
            raise StateError(
                f"the part of layer_skip has masks {list(vectors.shape)}, not [m, {dim}]: train it "
                "again"
            )
        if masks > len(vectors):
            raise (StateError if self.masks is None else UsageError)(
                f"masks is {masks}; the part of this bundle was trained with {len(vectors)}"
            )
        return vectors[:masks]


class Skipper:
    """Drafts by a pass through some of the layers. It remembers nothing."""

    def __init__(self, host: Host, layers: Layers, masks: Sequence[int], nodes: int) -> None:
        self._host, self._layers, self._masks = host, layers, list(masks)
        self._sheet = draft.Sheet(nodes)
        self._nodes = nodes
        self._most = draft.width(host.capabilities, host.capabilities.max_rows)

    def observe(self, outcome: Outcome) -> None:
        """Nothing: masks and layers are what they are."""

    def reset(self) -> None:
        """Nothing is remembered."""

    def propose(self, context: Context, budget: int) -> Draft:
        """The likeliest tree that the rows of one pass guess; none where there is no room."""
        count = len(context.tokens)
        room = min(self._host.architecture.limits.context - count, self._most - context.pending)
        if context.pending > READ or room < 0:
            return draft.empty()
        pending = context.tokens[count - context.pending :]
        chain = [*pending, *self._masks[:room]]
        guessing = range(len(pending) - 1, len(chain))
        rows = draft.scratch(chain, self._host)
        try:
            result = self._host.step(rows, self._layers, Want(logits=tuple(guessing)))
        except InputError:
            return draft.empty()
        most = heads.likeliest(context, self._host.architecture.vocab)
        levels = guess.guesses(*result.topk(most), context, range(len(guessing)))
        return guess.product(levels, min(budget, self._nodes), self._sheet)
