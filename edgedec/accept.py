"""The one acceptance rule: draw at each accepted node, go on while the draw is a child.

The draw at a node depends on nothing but the logits there, the sampler's state along the path and
the output index, all of which plain decoding has as well. So the text is that of plain decoding for
any tree, however it was built, merged or pruned. Knows nothing about drafters and sessions.

Two other rules stand beside it, for comparison. `typical` takes a child that is likely enough: the
text may differ. `recursive` gives each text with the model's probability, but not the very text
that plain decoding has with the same seed. Greedy decoding is exact under all three.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING, Literal, final

import numpy as np

from edgedec import _tree, draft, rejection, sampling
from edgedec.contracts import TRUNK, Draft, StepResult
from edgedec.errors import InputError
from edgedec.gumbel import gumbel
from edgedec.sampling import Logprobs, Sampler, State

if TYPE_CHECKING:
    from edgedec.contracts import Floats

Finish = Literal["stop", "length"]
Acceptance = Literal["exact", "typical", "recursive"]
ACCEPTANCES: tuple[Acceptance, ...] = ("exact", "typical", "recursive")

NEAR = 0.1
"""Two scores closer than this may change places on a runtime that is not bitwise exact, where a row
among others differs a little from the same row alone."""


@dataclass(frozen=True, slots=True)
class Rule:
    """How tokens are drawn, and where a text ends: before a stop token, or after `limit` tokens.

    `logprobs` (None: off) is how many alternatives to report with each token. With `near_ties` a
    choice by a margin under `NEAR` is not made in a drafted step, but left to a plain one.
    `recursive` needs drafts with their `law`.
    """

    sampler: Sampler
    stop: frozenset[int]
    limit: int
    logprobs: int | None = None
    near_ties: bool = False
    acceptance: Acceptance = "exact"


@final
class Emitted:
    """One token of the output."""

    def __init__(self, token: int, logprobs: Logprobs | None = None) -> None:
        self.token, self.logprobs = token, logprobs


# Made in every turn: as dataclasses or tuples they would take several times as long.
@final
class Walk:
    """What a step gave: the accepted nodes, the tokens, and whether the text ends with them.

    If `again`, the last row on the path (that of the last node, or the root's) is to be stepped
    again, alone: after a `near_tie` the choice there is plain decoding's; an error there is raised
    when what came before was handed out.
    """

    def __init__(
        self,
        nodes: tuple[int, ...],
        emitted: tuple[Emitted, ...],
        state: State,
        finish: Finish | None,
        near_tie: bool = False,
        again: bool = False,
    ) -> None:
        self.nodes, self.emitted, self.state, self.finish = nodes, emitted, state, finish
        self.near_tie, self.again = near_tie, again


@final
class Checked:
    """A tree with the step that checked it: node i is row `root` + 1 + i of `result`."""

    def __init__(self, tree: Draft, result: StepResult, root: int) -> None:
        self.tree, self.result, self.root = tree, result, root


def walk(checked: Checked, rule: Rule, state: State, index: int) -> Walk:
    """Walk down the tree as far as the draws go; `index` counts the tokens emitted before."""
    sampler = rule.sampler
    if rule.logprobs is None and not rule.near_ties:
        if sampler.plain_greedy:
            return _greedy(checked, rule, state, index)
        if sampler.plain_draw and rule.acceptance == "exact":
            found = _drawn(checked, rule, state, index)
            if found is not None:
                return found
    return _stepwise(checked, rule, state, index)


def _stepwise(checked: Checked, rule: Rule, state: State, index: int) -> Walk:
    """The walk as such: any rule, any processors, whatever is to be reported."""
    children = draft.children(checked.tree)
    nodes: list[int] = []
    emitted: list[Emitted] = []
    node, tie, again = TRUNK, False, False
    finish: Finish | None = None
    while finish is None:
        row = checked.root + 1 + node
        place = index + len(emitted)
        logits = checked.result.logits(row)
        if rule.near_ties and _is_near_tie(rule.sampler, state, logits, place):
            tie = again = True
            break
        try:
            token = _choose(checked, rule, state, (node, place), logits)
        except InputError:
            # Nothing is left to choose from: the next turn says so, after what came before.
            if not emitted:
                raise
            again = True
            break
        if token in rule.stop:
            finish = "stop"
            break
        state = rule.sampler.advance(state, token, logits)
        emitted.append(Emitted(token, _logprobs(logits, token, rule)))
        if place + 1 >= rule.limit:
            finish = "length"
        if (node, token) not in children:
            break
        node = children[node, token]
        if checked.root + 1 + node in checked.result.astray:
            # The token is right, but what follows it was not computed as in plain decoding.
            break
        nodes.append(node)
    return Walk(tuple(nodes), tuple(emitted), state, finish, tie, again)


def _greedy(checked: Checked, rule: Rule, state: State, index: int) -> Walk:
    """The same walk where each draw is the model's own first choice, which is known already."""
    tree, result, root = checked.tree, checked.result, checked.root
    nodes, tokens = _tree.follow(tree.tokens, tree.parents, result.argmax(), root)
    astray = result.astray
    if astray:
        nodes = tuple(takewhile(lambda node: root + 1 + node not in astray, nodes))
        tokens = tokens[: len(nodes) + 1]
    return _ended(nodes, tokens, rule, state, index)


def _drawn(checked: Checked, rule: Rule, state: State, index: int) -> Walk | None:
    """The same walk where noise is added to nothing but logits over a temperature.

    None where a row's logits hold no number to choose by.
    """
    result, row = checked.result, checked.root + 1
    guesses, parents = checked.tree.tokens.tolist(), checked.tree.parents.tolist()
    sampling = rule.sampler.sampling
    temperature, seed = sampling.temperature, sampling.seed
    nodes: list[int] = []
    tokens: list[int] = []
    node = TRUNK
    while len(tokens) < rule.limit - index:
        token = _tree.draw(result.logits(row + node), temperature, seed, index + len(tokens))
        if token < 0:
            return None
        tokens.append(token)
        if token in rule.stop:
            break
        child = _child(guesses, parents, node, token)
        if child is None or row + child in result.astray:
            break
        node = child
        nodes.append(node)
    return _ended(tuple(nodes), tuple(tokens), rule, state, index)


def _child(tokens: Sequence[int], parents: Sequence[int], node: int, token: int) -> int | None:
    """The first node of that token below a node."""
    at = node
    try:
        while parents[at := tokens.index(token, at + 1)] != node:
            pass
    except ValueError:
        return None
    return at


def _ended(
    nodes: tuple[int, ...], tokens: tuple[int, ...], rule: Rule, state: State, index: int
) -> Walk:
    """A walk whose state never changes: cut where the text ends."""
    finish: Finish | None = None
    if len(tokens) >= rule.limit - index:
        tokens, finish = tokens[: rule.limit - index], "length"
    if not rule.stop.isdisjoint(tokens):
        end = next(count for count, token in enumerate(tokens) if token in rule.stop)
        tokens, finish = tokens[:end], "stop"
    emitted = tuple([Emitted(token) for token in tokens])
    return Walk(nodes[: len(tokens)], emitted, state, finish)


def _choose(checked: Checked, rule: Rule, state: State, at: tuple[int, int], logits: Floats) -> int:
    """The token after a node (and output index): drawn, or a child that another rule takes."""
    node, place = at
    sampler = rule.sampler
    if rule.acceptance == "exact" or sampler.greedy:
        return sampler.draw(state, logits, place)
    below = np.flatnonzero(checked.tree.parents == node)
    guesses = checked.tree.tokens[below]
    processed = sampler.process(state, logits)
    if rule.acceptance == "typical":
        found = rejection.typical(processed, guesses)
        return sampler.draw(state, logits, place) if found is None else found
    law = checked.tree.law
    if law is None:
        return sampler.draw(state, logits, place)
    return rejection.recursive(processed, law[node + 1], guesses, (sampler.sampling.seed, place))


def _logprobs(logits: Floats, token: int, rule: Rule) -> Logprobs | None:
    return None if rule.logprobs is None else sampling.logprobs(logits, token, rule.logprobs)


def _is_near_tie(sampler: Sampler, state: State, logits: Floats, index: int) -> bool:
    scores = sampler.process(state, logits)
    if not sampler.greedy:
        ids = np.flatnonzero(np.isfinite(scores))
        scores = (scores[ids] + gumbel(sampler.sampling.seed, index, ids)).astype(np.float32)
    return int((scores > scores.max() - NEAR).sum()) > 1
