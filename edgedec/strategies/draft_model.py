"""A smaller model guesses: speculative decoding (2211.17192, 2302.01318) with trees.

The draft model grows a tree level by level: the likeliest nodes of a level are run together, and
growth stops where nothing is likely enough. When sampling, its guesses are drawn with the very
noise that the model's own draw will use, so that two models which agree draw the same token. With
`acceptance="recursive"` it draws trees without replacement (2402.14160) that are accepted by
recursive rejection instead, for comparison with the papers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from edgedec import _tree, draft, growth, rejection
from edgedec.accept import Acceptance
from edgedec.contracts import TRUNK, Context, Draft, Host, Needs, Outcome
from edgedec.errors import InputError, UnsupportedError, UsageError
from edgedec.follower import Follower
from edgedec.gumbel import gumbel
from edgedec.pace import WIDEST

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgedec.contracts import Source, StepResult

    Weights = NDArray[np.float64]

_STREAM = 1 << 41
"""Keeps the noise of draws without replacement apart from all other noise."""
_SEEN = 8
"""The likeliest tokens that probabilities are spread over: the rest is hardly worth a guess."""


@dataclass(frozen=True, slots=True)
class DraftModel:
    """`bundle` is the draft model's folder or name. Trees of at most `depth` levels; a level runs
    the `width` likeliest nodes, each with up to `branches` children, whose path is at least
    `confidence` likely. With `acceptance="recursive"` all `branches` ** `depth` paths are drawn and
    checked.
    """

    automatic: ClassVar[bool] = False

    bundle: str
    depth: int = 6
    width: int = 2
    branches: int = 3
    confidence: float = 0.15
    acceptance: Acceptance = "exact"

    def __post_init__(self) -> None:
        draft.check_options(
            self, depth=(1, 32), width=(1, 32), branches=(1, 8), confidence=(0.0, 1.0)
        )
        if not isinstance(self.bundle, str) or not self.bundle:
            raise UsageError(f"bundle is {self.bundle!r}; it must be a bundle's folder or name")
        if self.acceptance not in ("exact", "recursive"):
            raise UsageError(f"acceptance is {self.acceptance!r}; it must be exact or recursive")
        nodes = sum(self.branches**level for level in range(1, self.depth + 1))
        if self.acceptance == "recursive" and nodes >= WIDEST:
            raise UsageError(
                f"{self.branches} branches on each of {self.depth} levels are {nodes} nodes; "
                f"a tree that is checked whole has at most {WIDEST - 1}"
            )

    @property
    def lossy(self) -> bool:
        """Recursive rejection keeps the distribution, not the words of a seed."""
        return self.acceptance == "recursive"

    def needs(self, host: Host) -> Needs:
        """Nothing of the model itself.

        Raises:
            UnsupportedError: the model hears; a draft model is only told what a model reads.
        """
        if host.architecture.frontend is not None:
            raise UnsupportedError(
                "the strategy draft_model cannot draft for a model that hears: use auto"
            )
        return Needs()

    def open(self, host: Host) -> Speculator:
        """Open the draft model.

        Raises:
            UnsupportedError: its tokenizer is another one, or only one of the two has an encoder.
            BundleError: there is no such bundle.
        """
        engine = host.load(self.bundle)
        reads = host.capabilities.encoder
        if engine.capabilities.encoder != reads:
            raise UnsupportedError(
                f"the draft model {self.bundle} has {'no' if reads else 'an'} encoder, the model "
                f"{'has one' if reads else 'has none'}: a draft model must be of the same kind"
            )
        follower = Follower(engine.session(), engine.capabilities)
        if self.acceptance == "recursive" and self.branches ** (self.depth - 1) > follower.most:
            raise UsageError(
                f"the draft model steps at most {follower.most} rows at once, a level of "
                f"{self.branches} branches at depth {self.depth} needs more: take fewer"
            )
        return Speculator(self, follower)


@dataclass(slots=True)
class _Grown(growth.Tree):
    """What is proposed; `handles` are rows of the draft session, `law` the distributions that the
    children of nodes were drawn from."""

    handles: dict[int, int] = field(default_factory=lambda: {TRUNK: TRUNK})
    law: dict[int, Weights] = field(default_factory=dict)

    def draft(self) -> Draft:
        """The tree; a drawn one with the law of every node, which is checked whole."""
        tree = growth.Tree.draft(self)
        if not self.law:
            return tree
        flat = np.full(len(self.law[TRUNK]), 1 / len(self.law[TRUNK]))
        lines = [self.law.get(node, flat) for node in range(TRUNK, len(self.tokens))]
        return replace(tree, whole=True, law=np.array(lines, np.float32))


class Speculator:
    """Grows trees in the draft model's session."""

    def __init__(self, options: DraftModel, follower: Follower) -> None:
        self._options, self._follower = options, follower
        self._heard: Source | None = None

    def observe(self, outcome: Outcome) -> None:
        """Nothing: the text tells what was accepted."""

    def reset(self) -> None:
        """Forget the text."""
        self._follower.reset()

    def propose(self, context: Context, budget: int) -> Draft:
        """The tree that the draft model finds likely; none where its context is full."""
        tree = _Grown()
        whole = self._options.acceptance == "recursive" and context.temperature > 0
        try:
            if context.source is not self._heard and context.source is not None:
                self._follower.hear(context.source)
                self._heard = context.source
            result, row = self._follower.follow(context.tokens)
            if whole:
                self._draw(tree, context, (result, row))
            else:
                self._grow(tree, context, budget, (result, row))
        except InputError:
            return draft.empty() if whole else tree.draft()
        return tree.draft()

    def _grow(
        self, tree: _Grown, context: Context, budget: int, root: tuple[StepResult, int]
    ) -> None:
        options = self._options

        def expand(nodes: list[int], depth: int) -> Iterable[growth.Found]:
            result, first = (self._run(tree, nodes), 0) if depth else root
            return self._children(context, depth, len(nodes), (result, first))

        limits = growth.Limits(options.depth, options.width, options.branches, options.confidence)
        growth.grow(tree, limits, budget, expand, self._follower.most)

    def _run(self, tree: _Grown, nodes: Sequence[int]) -> StepResult:
        parents = [tree.handles[tree.parents[node]] for node in nodes]
        result = self._follower.run([tree.tokens[node] for node in nodes], parents)
        tree.handles.update(zip(nodes, result.handles, strict=False))
        return result

    def _children(
        self, context: Context, depth: int, count: int, run: tuple[StepResult, int]
    ) -> Iterable[growth.Found]:
        """What follows `count` nodes, whose rows in the result begin at a given one."""
        result, first = run
        ids, values = result.topk(min(_SEEN, len(result.logits(first))))
        for line in range(count):
            tokens, scores = ids[line], values[line].astype(np.float64)
            if context.temperature > 0:
                noise = context.seed, context.index + depth
                tokens, scores = _noisy(
                    result.logits(first + line), tokens, context.temperature, noise
                )
            shares = np.exp(scores - scores.max())
            shares /= shares.sum()
            best = np.argsort(-shares, kind="stable")[: self._options.branches]
            yield tokens[best].tolist(), shares[best].tolist()

    def _draw(self, tree: _Grown, context: Context, root: tuple[StepResult, int]) -> None:
        """All paths of constant branching, drawn without replacement by the Gumbel top-k trick."""
        options, (result, first) = self._options, root
        level: list[int] = [TRUNK]
        for depth in range(options.depth):
            below: list[int] = []
            for line, node in enumerate(level):
                law = rejection.softmax(
                    result.logits(first + line) / np.float32(context.temperature)
                )
                tree.law[node] = law
                stream = _STREAM + context.index * 64 + depth
                noise = gumbel(context.seed, stream, np.arange(len(law)) + (node + 1) * len(law))
                keys = np.log(np.maximum(law, 1e-300)) + noise
                for rank, token in enumerate(np.argsort(-keys, kind="stable")[: options.branches]):
                    below.append(tree.add(int(token), node, float(law[token]), rank))
            level = below
            if depth + 1 < options.depth:
                result, first = self._run(tree, level), 0


def _noisy(
    logits: NDArray[np.float32],
    likely: NDArray[np.int32],
    temperature: float,
    noise: tuple[int, int],
) -> tuple[NDArray[np.int32], Weights]:
    """The likely tokens and the one that is drawn, with what the draw compares."""
    drawn = _tree.draw(logits, temperature, *noise)
    tokens = np.unique([*likely.tolist(), *([drawn] if drawn >= 0 else [])]).astype(np.int32)
    scores = logits[tokens].astype(np.float64) / temperature + gumbel(*noise, tokens)
    return tokens, scores
