"""The one acceptance rule: draw at each accepted node, go on while the draw is a child.

The draw at a node depends on nothing but the logits there, the sampler's state along the path and
the output index, all of which plain decoding has as well. So the text is that of plain decoding for
any tree, however it was built, merged or pruned. Knows nothing about drafters and sessions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from edgedec import draft, sampling
from edgedec.contracts import TRUNK, Draft, StepResult
from edgedec.gumbel import gumbel
from edgedec.sampling import Logprobs, Sampler, State

if TYPE_CHECKING:
    from edgedec.contracts import Floats

NEAR = 0.02
"""Two scores closer than this may change places on a runtime that is not bitwise exact."""


@dataclass(frozen=True, slots=True)
class Rule:
    """How tokens are drawn, and where a text ends: before a stop token, or after `limit` tokens.

    `logprobs` (None: off) is how many alternatives to report with each token; `near_ties` whether
    choices by a margin under `NEAR` are counted.
    """

    sampler: Sampler
    stop: frozenset[int]
    limit: int
    logprobs: int | None = None
    near_ties: bool = False


@dataclass(frozen=True, slots=True)
class Emitted:
    """One token of the output."""

    token: int
    logprobs: Logprobs | None = None


@dataclass(frozen=True, slots=True)
class Walk:
    """What a step gave: the accepted nodes, the tokens, and whether the text ends with them."""

    nodes: tuple[int, ...]
    emitted: tuple[Emitted, ...]
    state: State
    finish: Literal["stop", "length"] | None
    near_ties: int


@dataclass(frozen=True, slots=True)
class Checked:
    """A tree with the step that checked it: node i is row `root` + 1 + i of `result`."""

    tree: Draft
    result: StepResult
    root: int


def walk(checked: Checked, rule: Rule, state: State, index: int) -> Walk:
    """Walk down the tree as far as the draws go; `index` counts the tokens emitted before."""
    children = draft.children(checked.tree)
    best = checked.result.argmax() if rule.sampler.plain_greedy else None
    nodes: list[int] = []
    emitted: list[Emitted] = []
    node, ties = TRUNK, 0
    finish: Literal["stop", "length"] | None = None
    while finish is None:
        row = checked.root + 1 + node
        place = index + len(emitted)
        if best is not None:
            token = int(best[row])
        else:
            token = rule.sampler.draw(state, checked.result.logits(row), place)
        if rule.near_ties:
            ties += _is_near_tie(rule.sampler, state, checked.result.logits(row), place)
        if token in rule.stop:
            finish = "stop"
            break
        if best is None:
            state = rule.sampler.advance(state, token, checked.result.logits(row))
        emitted.append(Emitted(token, _logprobs(checked.result, row, token, rule)))
        if place + 1 >= rule.limit:
            finish = "length"
        if (node, token) not in children:
            break
        node = children[node, token]
        nodes.append(node)
    return Walk(tuple(nodes), tuple(emitted), state, finish, ties)


def _logprobs(result: StepResult, row: int, token: int, rule: Rule) -> Logprobs | None:
    if rule.logprobs is None:
        return None
    return sampling.logprobs(result.logits(row), token, rule.logprobs)


def _is_near_tie(sampler: Sampler, state: State, logits: Floats, index: int) -> bool:
    scores = sampler.process(state, logits)
    if not sampler.greedy:
        ids = np.flatnonzero(np.isfinite(scores))
        scores = (scores[ids] + gumbel(sampler.sampling.seed, index, ids)).astype(np.float32)
    return int((scores > scores.max() - NEAR).sum()) > 1
