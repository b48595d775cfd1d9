"""A smaller model guesses: speculative decoding (2211.17192, 2302.01318) with trees.

The draft model grows a tree level by level, as EAGLE-2 (2406.16858) does: the likeliest nodes of a
level are run together, and growth stops where nothing is likely enough. When sampling, its guesses
are drawn with the very noise that the model's own draw will use, so that two models which agree
draw the same token. With `acceptance="recursive"` it draws trees without replacement (2402.14160)
that are accepted by recursive rejection instead, for comparison with the papers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from edgedec import _tree, draft, rejection
from edgedec.accept import Acceptance
from edgedec.architecture import Architecture
from edgedec.contracts import (
    TRUNK,
    Capabilities,
    Context,
    Draft,
    Host,
    Needs,
    Outcome,
    Rows,
    Session,
    StepResult,
    Want,
)
from edgedec.errors import InputError, UnsupportedError, UsageError
from edgedec.gumbel import gumbel

_STREAM = 1 << 41
"""Keeps the noise of draws without replacement apart from all other noise."""


@dataclass(frozen=True, slots=True)
class DraftModel:
    """`bundle` is the draft model's folder or name. Trees of at most `depth` levels; a level runs
    the `width` likeliest nodes, each with up to `branches` children, whose path is at least
    `confidence` likely. With `acceptance="recursive"` all `branches` ** `depth` paths are drawn.
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
        if self.acceptance not in ("exact", "recursive"):
            raise UsageError(f"acceptance is {self.acceptance!r}; it must be exact or recursive")
        if self.acceptance == "recursive" and self.branches**self.depth > _tree.MAX_NODES:
            raise UsageError(
                f"{self.branches} branches on each of {self.depth} levels are "
                f"{self.branches**self.depth} paths; at most {_tree.MAX_NODES} can be drawn"
            )

    @property
    def lossy(self) -> bool:
        """Recursive rejection keeps the distribution, not the words of a seed."""
        return self.acceptance == "recursive"

    def needs(self, architecture: Architecture, capabilities: Capabilities) -> Needs:
        """Nothing of the model itself."""
        return Needs()

    def open(self, host: Host) -> Speculator:
        """Open the draft model.

        Raises:
            UnsupportedError: its tokenizer or vocabulary is another one.
            BundleError: there is no such bundle.
        """
        engine = host.load(self.bundle)
        session = engine.session()
        probe = session.step(Rows(np.zeros(1, np.int32), np.full(1, TRUNK, np.int32)))
        vocab = len(probe.logits(0))
        session.keep([TRUNK])
        if vocab != host.architecture.vocab:
            raise UnsupportedError(
                f"the draft model has a vocabulary of {vocab}, the model "
                f"{host.architecture.vocab}: they must share a tokenizer"
            )
        return Speculator(self, session, engine.capabilities)


@dataclass(slots=True)
class _Tree:
    """What is proposed, in the order in which it grew; `handles` are rows of the draft session,
    -1 for a node that was not run."""

    tokens: list[int]
    parents: list[int]
    scores: list[float]
    ranks: list[int]
    paths: list[float]
    handles: list[int]
    law: list[np.ndarray]

    def add(self, token: int, parent: int, score: float, rank: int) -> int:
        self.tokens.append(token)
        self.parents.append(parent)
        self.scores.append(score)
        self.ranks.append(rank)
        self.paths.append(score * (self.paths[parent] if parent != TRUNK else 1.0))
        self.handles.append(-1)
        return len(self.tokens) - 1


class Speculator:
    """The draft model's session, which follows the text that was accepted."""

    def __init__(self, options: DraftModel, session: Session, capabilities: Capabilities) -> None:
        self._options, self._session, self._capabilities = options, session, capabilities
        self._tree = _Tree([], [], [], [], [], [], [])
        self._read = 0

    def expected_cost(self, budget: int) -> float:
        """Unknown: it is measured."""
        return 0.0

    def observe(self, outcome: Outcome) -> None:
        """Nothing: the text tells what was accepted."""

    def reset(self) -> None:
        """Forget the text."""
        self._session.truncate(0)
        self._tree = _Tree([], [], [], [], [], [], [])
        self._read = 0

    def propose(self, context: Context, budget: int) -> Draft:
        """The tree that the draft model finds likely."""
        tree = self._tree = _Tree([], [], [], [], [], [], [])
        try:
            result = self._catch_up(context.tokens)
            if self._options.acceptance == "recursive" and context.temperature > 0:
                self._draw(context, result)
            else:
                self._grow(context, result, budget)
        except InputError:
            # The draft model's context is full: the model goes on without it.
            self.reset()
            tree = self._tree
        return self._drafted(tree)

    def _catch_up(self, tokens: list[int]) -> StepResult:
        """Run what was accepted since; the last row's logits begin the tree."""
        session = self._session
        held = len(session.tokens)
        if held >= len(tokens) or list(session.tokens) != tokens[:held]:
            session.truncate(0)
            held = 0
        step = draft.width(self._capabilities, self._capabilities.prompt_rows)
        while len(tokens) - held > step:
            rows = draft.rows(tokens[held : held + step], draft.empty(), self._widths)
            session.keep([session.step(rows, want=Want(logits=())).handles[step - 1]])
            held += step
        pending = tokens[held:]
        rows = draft.rows(pending, draft.empty(), self._widths)
        result = session.step(rows, want=Want(logits=(len(pending) - 1,)))
        # The logits are read before the next step; keeping leaves them as they are.
        self._line = result.logits(len(pending) - 1).copy()
        session.keep([result.handles[len(pending) - 1]])
        self._rows = 0
        return result

    @property
    def _widths(self) -> tuple[int, ...] | None:
        return self._capabilities.row_widths

    def _grow(self, context: Context, result: StepResult, budget: int) -> None:
        """Level by level, the likeliest nodes first, until nothing is likely enough."""
        tree, options = self._tree, self._options
        level = self._children(context, TRUNK, 0, self._line)
        for depth in range(1, options.depth):
            run = sorted(level, key=lambda node: -tree.paths[node])[: options.width]
            run = [node for node in run if tree.paths[node] >= options.confidence]
            if not run or len(tree.tokens) >= budget:
                break
            lines = self._run(run)
            level = []
            for node, line in zip(run, lines, strict=True):
                level += self._children(context, node, depth, line)

    def _children(self, context: Context, parent: int, depth: int, line: np.ndarray) -> list[int]:
        count = self._options.branches
        scores = line.astype(np.float64)
        if context.temperature > 0:
            scores = (scores - scores.max()) / context.temperature
            scores += gumbel(context.seed, context.index + depth, np.arange(len(line)))
        best = np.argpartition(-scores, min(count, len(scores) - 1))[:count]
        best = best[np.argsort(-scores[best], kind="stable")]
        weights = np.exp(scores - scores[best[0]])
        shares = weights[best] / weights.sum()
        return [
            self._tree.add(int(token), parent, float(share), rank)
            for rank, (token, share) in enumerate(zip(best, shares, strict=True))
        ]

    def _run(self, nodes: list[int]) -> list[np.ndarray]:
        """The logits after each of these nodes, whose ancestors were run before."""
        tree = self._tree
        above = [tree.parents[node] for node in nodes]
        parents = [TRUNK if node == TRUNK else tree.handles[node] for node in above]
        tokens = [tree.tokens[n] for n in nodes]
        if self._widths:
            padding = min(w for w in self._widths if w >= len(nodes)) - len(nodes)
            tokens += [0] * padding
            parents += [TRUNK] * padding
        rows = Rows(np.array(tokens, np.int32), np.array(parents, np.int32))
        result = self._session.step(rows, want=Want(logits=tuple(range(len(nodes)))))
        for index, node in enumerate(nodes):
            tree.handles[node] = result.handles[index]
        return [result.logits(index).copy() for index in range(len(nodes))]

    def _draw(self, context: Context, result: StepResult) -> None:
        """All paths of constant branching, drawn without replacement by the Gumbel top-k trick."""
        tree, options = self._tree, self._options
        laws: dict[int, np.ndarray] = {}
        level, lines = [TRUNK], [self._line]
        for depth in range(options.depth):
            below: list[int] = []
            for node, line in zip(level, lines, strict=True):
                law = rejection.softmax(line / np.float32(context.temperature))
                laws[node] = law
                noise = gumbel(
                    context.seed, _STREAM + context.index * 64 + depth,
                    np.arange(len(law)) + (node + 1) * len(law),
                )  # fmt: skip
                keys = np.log(np.maximum(law, 1e-300)) + noise
                for rank, token in enumerate(np.argsort(-keys, kind="stable")[: options.branches]):
                    below.append(tree.add(int(token), node, float(law[token]), rank))
            level = below
            if depth + 1 < options.depth:
                lines = self._run(level)
        flat = np.full(len(self._line), 1 / len(self._line))
        tree.law = [laws.get(node, flat) for node in range(TRUNK, len(tree.tokens))]

    def _drafted(self, tree: _Tree) -> Draft:
        return Draft(
            np.array(tree.tokens, np.int32),
            np.array(tree.parents, np.int32),
            np.array(tree.scores, np.float32),
            np.array(tree.ranks, np.int32),
            whole=bool(tree.law),
            law=np.array(tree.law, np.float32) if tree.law else None,
        )
