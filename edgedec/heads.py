"""What drafters have in common that guess from the model's last hidden state: trained heads.

It knows what such a head is told in a turn and what it may be asked, not how it guesses.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from edgedec import draft, growth, parts
from edgedec.contracts import TRUNK, Context, Draft, Host, Needs, Outcome
from edgedec.errors import StateError, UnsupportedError, UsageError
from edgedec.parts import Trained

if TYPE_CHECKING:
    from edgedec.contracts import Floats, Ints
    from edgedec.parts import Part

LIKELY = 8
"""The likeliest tokens that a guess is spread over: the rest is hardly worth one."""
DRAWN = 16
"""As many when the text is drawn, where noise brings forward what is less likely."""
DEEPEST = 32
"""More guesses behind one another than anybody trains."""


def needs(name: str, host: Host) -> Needs:
    """The output of the last layer, before the final norm.

    Raises:
        UnsupportedError: the bundle has no part for the strategy, or the runtime does not give
            hidden states.
    """
    parts.wanted(host, name)
    last = host.architecture.layers
    if last not in host.capabilities.hidden_layers:
        raise UnsupportedError(
            f"the strategy {name} reads the output of layer {last}; this runtime does not give it: "
            "use the native runtime"
        )
    return Needs(hidden=(last,))


def likeliest(context: Context, vocab: int) -> int:
    """How many tokens a guess is spread over."""
    return min(vocab, DRAWN if context.temperature > 0 else LIKELY)


def level(x: Floats) -> Floats:
    """Rows [n, D] scaled to a mean square of one, so that every model's states are of one size."""
    power = np.einsum("nd,nd->n", x, x)[:, None] / np.float32(x.shape[1])
    scaled: Floats = np.divide(x, np.sqrt(power + np.float32(1e-12)), dtype=np.float32)
    return scaled


def silu(x: Floats) -> Floats:
    """x / (1 + e^-x), the heads' activation, as y + y tanh y of the half."""
    half: Floats = x * np.float32(0.5)
    found: Floats = np.tanh(half)
    found += 1
    found *= half
    return found


class Heads(ABC):
    """A drafter that knows the hidden state of the row before the root, if it was told.

    It is told after a prompt and in turns in which it was asked. Where it was not, it guesses
    nothing, and knows more in the next turn.
    """

    def __init__(self, part: Part, layer: int) -> None:
        self._part, self._layer = part, layer
        self._state: Floats | None = None
        self._next = -1

    def propose(self, context: Context, budget: int) -> Draft:
        """What the head guesses; none where the row before the root is not known."""
        if self._state is None or self._next != len(context.tokens) - 1 or budget < 1:
            return draft.empty()
        return self._guess(context, self._state, budget)

    @abstractmethod
    def _guess(self, context: Context, state: Floats, budget: int) -> Draft:
        """A tree below the root; `state` [1, D] is that of the row before it, a mean square of
        one."""

    @abstractmethod
    def rehearse(self, state: Floats) -> None:
        """Use all that the part must have once; `state` [1, D] is any."""

    def read(self, start: int, hidden: dict[int, Floats]) -> None:
        """Rows of a prompt, from `start` on, ran."""
        rows = hidden[self._layer]
        if len(rows):
            self._keep(rows, len(rows) - 1, start + len(rows))

    def observe(self, outcome: Outcome) -> None:
        """The row that was accepted last stands before the next root."""
        accepted = outcome.accepted
        row = accepted[-1] + 1 if accepted else 0
        root = len(outcome.context.tokens) - 1
        self._keep(outcome.hidden[self._layer], row, root + len(accepted) + 1)

    def _keep(self, rows: Floats, row: int, following: int) -> None:
        self._state, self._next = level(rows[row : row + 1]), following

    def reset(self) -> None:
        """Forget the conversation."""
        self._state = None

    def _likely(self, x: Floats, context: Context) -> tuple[Ints, Floats]:
        """The likeliest tokens after rows [n, D] and their logits [n, k]."""
        return self._part.likely(x, likeliest(context, len(self._part.ids)))


def opened(name: str, host: Host, make: Callable[[Part], Heads]) -> Heads:
    """A drafter on the part of a strategy.

    Raises:
        UnsupportedError: the bundle has no part for the strategy.
        StateError: the part is not what the strategy reads.
    """
    part, model = parts.wanted(host, name), host.architecture
    try:
        drafter = make(part)
        drafter.rehearse(np.zeros((1, model.embed.dim), np.float32))
    except (KeyError, TypeError, ValueError, UsageError) as error:
        raise StateError(
            f"the part for {name} in this bundle is not what the strategy reads ({error}): make it "
            f"again with `edgedec train {name} -m BUNDLE --data FILES`"
        ) from None
    return drafter


class HeadStrategy(Trained):
    """A strategy whose heads read the output of the last layer; `depth` is how many guesses stand
    behind one another at most, 0: as many as were trained."""

    __slots__ = ()

    name: ClassVar[str]
    depth: int

    def needs(self, host: Host) -> Needs:
        """The last hidden state.

        Raises:
            UnsupportedError: the bundle has no heads, or the runtime gives no hidden states.
        """
        return needs(self.name, host)

    def open(self, host: Host) -> Heads:
        """Begin a conversation.

        Raises:
            StateError: the part is not what this strategy reads.
        """
        return opened(self.name, host, lambda part: self.drafter(host, part))

    def drafter(self, host: Host, part: Part) -> Heads:
        """Its heads, at work on a text."""
        raise NotImplementedError

    def levels(self, host: Host) -> int:
        """How many guesses stand behind one another at most."""
        trained = parts.number(host, self.name, "depth", 1, DEEPEST)
        return min(trained, self.depth or trained)


@dataclass(frozen=True, slots=True)
class Growing(HeadStrategy):
    """Options of heads whose trees grow: at most `depth` levels (0: as many as were trained); on a
    level the `width` likeliest nodes go on, each with up to `branches` children, if their path is
    at least `confidence` likely."""

    depth: int = 0
    width: int = 3
    branches: int = 3
    confidence: float = 0.1

    def __post_init__(self) -> None:
        draft.check_options(
            self, depth=(0, DEEPEST), width=(1, 32), branches=(1, 8), confidence=(0.0, 1.0)
        )

    def limits(self, host: Host) -> growth.Limits:
        """How far trees grow with heads that were trained so far."""
        return growth.Limits(self.levels(host), self.width, self.branches, self.confidence)


class GrowingHeads(Heads):
    """Heads that read the guesses before: a tree grows level by level, each level in one go."""

    def __init__(self, part: Part, layer: int, limits: growth.Limits) -> None:
        super().__init__(part, layer)
        self._limits = limits

    @abstractmethod
    def _follow(self, above: Floats, tokens: Floats, depth: int) -> tuple[Floats, Floats]:
        """What goes into the shared head after tokens [n, D], and what is handed down from them.

        `above` [n, ...] is what was handed down to each; at depth 0 the state of the row before
        the root [1, D].
        """

    def rehearse(self, state: Floats) -> None:
        """One path through all levels."""
        handed = state
        for depth in range(self._limits.depth):
            x, handed = self._follow(handed, state, depth)
            self._part.likely(x, 1)

    def _guess(self, context: Context, state: Floats, budget: int) -> Draft:
        tree = growth.Tree()
        handed, lines = state, {TRUNK: 0}

        def expand(nodes: list[int], depth: int) -> list[growth.Found]:
            nonlocal handed, lines
            tokens = [tree.tokens[node] if depth else context.tokens[-1] for node in nodes]
            above = [lines[tree.parents[node]] if depth else 0 for node in nodes]
            entering = self._part.embed(np.array(tokens, np.int32))
            x, handed = self._follow(handed[above], entering, depth)
            lines = {node: line for line, node in enumerate(nodes)}
            return growth.following(self._likely(x, context), context, depth)

        growth.grow(tree, self._limits, budget, expand)
        return tree.draft()
