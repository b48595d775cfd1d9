"""Phrases that fell off when drafts were rejected: Ouroboros (2402.13720), TR-Jacobi.

When a draft is wrong, the model has all the same said what it would write after each of its
tokens. The runs of these answers are phrases the model is likely to write soon. The paper gathers
them from chains of a draft model; ours from every rejected branch of the tree, whoever drew it.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import ClassVar

from edgedec import draft
from edgedec.contracts import TRUNK, Context, Draft, Host, Needs, Outcome

_MOST_KEYS = 4096
_LIKELY, _GUESS = 0.4, 0.03
"""How likely the first token of a phrase is, and that of a guess, before anything was checked."""


@dataclass(frozen=True, slots=True)
class PhrasePool:
    """Keeps the latest `phrases` phrases of at most `length` tokens for each first token."""

    automatic: ClassVar[bool] = True

    phrases: int = 3
    length: int = 6

    def __post_init__(self) -> None:
        draft.check_options(self, phrases=(1, 32), length=(2, 64))

    @property
    def lossy(self) -> bool:
        """Phrases are checked like any other draft."""
        return False

    def needs(self, host: Host) -> Needs:
        """The likeliest token of each row."""
        return Needs(topk=1)

    def open(self, host: Host) -> Pool:
        """Begin with no phrases."""
        return Pool(self)


class Pool:
    """Phrases by their first token, the oldest keys forgotten first."""

    def __init__(self, options: PhrasePool) -> None:
        self._options, self._sheet = options, draft.Sheet(options.phrases * options.length)
        self._phrases: dict[int, deque[tuple[int, ...]]] = {}
        self._latest: tuple[int, ...] = ()

    def propose(self, context: Context, budget: int) -> Draft:
        """What the phrases that begin with the last token go on with, the newest first.

        Where there is none, the latest answers are guessed again (a Jacobi iteration): hardly ever
        worth checking, but if it is checked, new phrases come of it.
        """
        known = self._phrases.get(context.tokens[-1])
        first = _LIKELY if known else _GUESS
        guess = self._latest or tuple(context.tokens[-3:])
        tokens: list[int] = []
        parents: list[int] = []
        scores: list[float] = []
        ranks: list[int] = []
        for rank, phrase in enumerate(reversed(known or (guess,))):
            room, at = phrase[: budget - len(tokens)], len(tokens)
            if not room:
                break
            tokens += room
            parents += [TRUNK, *range(at, at + len(room) - 1)]
            scores += [first / (1 + rank), *[0.5] * (len(room) - 1)]
            ranks += [rank] * len(room)
        return self._sheet.written(tokens, parents, scores, ranks)

    def observe(self, outcome: Outcome) -> None:
        """Gather the model's answers along the branches that were rejected."""
        parents = outcome.tree.parents.tolist()
        accepted = set(outcome.accepted)
        if outcome.topk is None or len(parents) < len(accepted) + 2:
            return
        best = outcome.topk[0][:, 0].tolist()
        inner = set(parents)
        answers: dict[int, tuple[int, ...]] = {}
        for node, parent in enumerate(parents):
            if node not in accepted:
                answers[node] = (*answers.get(parent, ()), best[node + 1])
        for leaf, found in answers.items():
            if len(found) > 1 and leaf not in inner:
                self._add(found[: self._options.length])

    def _add(self, phrase: tuple[int, ...]) -> None:
        first, rest = phrase[0], phrase[1:]
        self._latest = phrase
        kept = self._phrases.pop(first, None)
        if kept is None:
            kept = deque(maxlen=self._options.phrases)
            if len(self._phrases) >= _MOST_KEYS:
                del self._phrases[next(iter(self._phrases))]
        if rest in kept:
            kept.remove(rest)
        kept.append(rest)
        self._phrases[first] = kept

    def reset(self) -> None:
        """Phrases stay warm across conversations, as in the paper."""
