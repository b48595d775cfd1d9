"""A smaller model guesses: speculative decoding (2211.17192, 2302.01318) with trees.

The draft model grows a tree level by level, as EAGLE-2 (2406.16858) does: the likeliest nodes of a
level are run together, and growth stops where nothing is likely enough. When sampling, its guesses
are drawn with the very noise that the model's own draw will use, so that two models which agree
draw the same token. With `acceptance="recursive"` it draws trees without replacement (2402.14160)
that are accepted by recursive rejection instead, for comparison with the papers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from edgedec import _tree, draft, rejection
from edgedec.accept import Acceptance
from edgedec.architecture import Architecture
from edgedec.contracts import TRUNK, Capabilities, Context, Draft, Host, Needs, Outcome
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

    def needs(self, architecture: Architecture, capabilities: Capabilities) -> Needs:
        """Nothing of the model itself.

        Raises:
            UnsupportedError: the model hears; a draft model is only told what a model reads.
        """
        if architecture.frontend is not None:
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
class _Grown:
    """What is proposed, in the order in which it grew; `handles` are rows of the draft session,
    `law` the distributions that the children of nodes were drawn from."""

    tokens: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    ranks: list[int] = field(default_factory=list)
    paths: list[float] = field(default_factory=list)
    handles: dict[int, int] = field(default_factory=lambda: {TRUNK: TRUNK})
    law: dict[int, Weights] = field(default_factory=dict)

    def add(self, token: int, parent: int, score: float, rank: int) -> int:
        self.tokens.append(token)
        self.parents.append(parent)
        self.scores.append(score)
        self.ranks.append(rank)
        self.paths.append(score * (self.paths[parent] if parent != TRUNK else 1.0))
        return len(self.tokens) - 1

    def draft(self) -> Draft:
        law = None
        if self.law:
            flat = np.full(len(self.law[TRUNK]), 1 / len(self.law[TRUNK]))
            lines = [self.law.get(node, flat) for node in range(TRUNK, len(self.tokens))]
            law = np.array(lines, np.float32)
        return Draft(
            np.array(self.tokens, np.int32),
            np.array(self.parents, np.int32),
            np.array(self.scores, np.float32),
            np.array(self.ranks, np.int32),
            whole=law is not None,
            law=law,
        )


class Speculator:
    """Grows trees in the draft model's session."""

    def __init__(self, options: DraftModel, follower: Follower) -> None:
        self._options, self._follower = options, follower
        self._heard: Source | None = None

    def expected_cost(self, budget: int) -> float:
        """Unknown: it is measured."""
        return 0.0

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
        """Level by level, the likeliest nodes first, until nothing is likely enough."""
        options = self._options
        level = self._children(tree, context, [TRUNK], root)
        for _ in range(1, options.depth):
            best = sorted(level, key=lambda node: -tree.paths[node])[: options.width]
            run = [node for node in best if tree.paths[node] >= options.confidence]
            room = budget - len(tree.tokens)
            if not run or room < options.branches:
                break
            run = run[: min(self._follower.most, room // options.branches)]
            level = self._children(tree, context, run, (self._run(tree, run), 0))

    def _run(self, tree: _Grown, nodes: Sequence[int]) -> StepResult:
        parents = [tree.handles[tree.parents[node]] for node in nodes]
        result = self._follower.run([tree.tokens[node] for node in nodes], parents)
        tree.handles.update(zip(nodes, result.handles, strict=False))
        return result

    def _children(
        self, tree: _Grown, context: Context, nodes: Sequence[int], run: tuple[StepResult, int]
    ) -> list[int]:
        """The likeliest children of nodes, whose rows in the result begin at a given one."""
        result, first = run
        ids, values = result.topk(min(_SEEN, len(result.logits(first))))
        found: list[int] = []
        for line, node in enumerate(nodes):
            tokens, scores = ids[line], values[line].astype(np.float64)
            if context.temperature > 0:
                depth = _depth(tree, node)
                noise = context.seed, context.index + depth
                tokens, scores = _noisy(
                    result.logits(first + line), tokens, context.temperature, noise
                )
            shares = np.exp(scores - scores.max())
            shares /= shares.sum()
            best = np.argsort(-shares, kind="stable")[: self._options.branches]
            found += [
                tree.add(int(tokens[i]), node, float(shares[i]), rank)
                for rank, i in enumerate(best)
            ]
        return found

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


def _depth(tree: _Grown, node: int) -> int:
    depth = 0
    while node != TRUNK:
        node, depth = tree.parents[node], depth + 1
    return depth


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
