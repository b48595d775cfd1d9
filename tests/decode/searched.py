"""Beam search as the tests know it: plain lists, every text computed from its beginning.

Written from the papers and from what transformers' documentation promises; it shares no code with
`edgedec.beams`. Scores are float64, so it tells what the float32 search must find but for ties.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgedec.contracts import TRUNK, Engine, Rows, Session

Next = Callable[[tuple[int, ...]], NDArray[np.float64]]
"""From the tokens written so far to the log probabilities of the next [V]."""


@dataclass(frozen=True)
class Found:
    tokens: tuple[int, ...]
    score: float
    stopped: bool


@dataclass(frozen=True)
class Wish:
    stop: frozenset[int]
    limit: int
    size: int = 1
    groups: int = 1
    penalty: float = 1.0
    early: bool | str = False
    patience: float = 1.0
    diversity: float = 0.0


def model(engine: Engine, prompt: Sequence[int], source: object = None) -> Next:
    """Log probabilities, each text stepped from its beginning in one go."""
    known: dict[tuple[int, ...], NDArray[np.float64]] = {}
    session: Session = engine.session()
    if source is not None:
        session.encode(source)

    def after(tokens: tuple[int, ...]) -> NDArray[np.float64]:
        if tokens not in known:
            session.truncate(0)
            text = np.array([*prompt, *tokens], np.int32)
            parents = np.arange(TRUNK, len(text) - 1, dtype=np.int32)
            logits = session.step(Rows(text, parents)).logits(len(text) - 1).astype(np.float64)
            known[tokens] = logits - logits.max()
            known[tokens] -= math.log(np.exp(known[tokens]).sum())
        return known[tokens]

    return after


def exhaustive(after: Next, vocab: int, wish: Wish) -> list[Found]:
    """Every text that ends with a stop token or at the limit, best first."""
    found = []
    for length in range(1, wish.limit + 1):
        for tokens in itertools.product(range(vocab), repeat=length):
            inner = any(token in wish.stop for token in tokens[:-1])
            ended = tokens[-1] in wish.stop or length == wish.limit
            if inner or not ended:
                continue
            total = sum(float(after(tokens[:i])[tokens[i]]) for i in range(length))
            if total > -math.inf:
                found.append(_found(tokens, total, wish))
    return sorted(found, key=lambda each: -each.score)


def search(after: Next, wish: Wish) -> list[Found]:
    """Groups of beams, one token at a time; all that is finished, best first."""
    alive: list[list[tuple[tuple[int, ...], float]]] = [[((), 0.0)] for _ in range(wish.groups)]
    finished: list[list[Found]] = [[] for _ in range(wish.groups)]
    room = max(1, round(wish.patience * wish.size))
    while any(alive):
        chosen: list[int] = []
        for group, done in zip(range(wish.groups), finished, strict=True):
            candidates = []
            for tokens, total in alive[group]:
                values = after(tokens)
                for token, value in enumerate(values.tolist()):
                    lowered = value - wish.diversity * chosen.count(token)
                    if lowered > -math.inf:
                        candidates.append(((*tokens, token), total + lowered))
            candidates.sort(key=lambda each: -each[1])
            going = []
            for rank, (tokens, total) in enumerate(candidates):
                if tokens[-1] in wish.stop or len(tokens) == wish.limit:
                    if rank < wish.size:
                        done.append(_found(tokens, total, wish))
                elif len(going) < wish.size:
                    going.append((tokens, total))
            done.sort(key=lambda each: -each.score)
            del done[room:]
            alive[group] = [] if _is_over(going, done, room, wish) else going
            chosen += [tokens[-1] for tokens, _ in alive[group]]
    return sorted(itertools.chain(*finished), key=lambda each: -each.score)


def _is_over(
    going: list[tuple[tuple[int, ...], float]], done: list[Found], room: int, wish: Wish
) -> bool:
    if not going or len(done) < room:
        return not going
    tokens, total = going[0]
    longest = wish.early == "never" and wish.penalty > 0
    hoped = total / (wish.limit if longest else len(tokens)) ** wish.penalty
    return wish.early is True or hoped <= done[-1].score


def _found(tokens: tuple[int, ...], total: float, wish: Wish) -> Found:
    stopped = tokens[-1] in wish.stop
    score = total / len(tokens) ** wish.penalty
    return Found(tokens[:-1] if stopped else tokens, score, stopped)
