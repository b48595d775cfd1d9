"""A text as tokens that fall into words, so that a reader can find its place in it again.

Knows texts and ids; no drafts and no models.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgedec.contracts import Source
    from edgedec.text import Text

_CHUNK = re.compile(r"\s*\S+")
_WORD = re.compile(r"\w+(?:'\w+)*|[^\w\s]")
_KNOWN = 1 << 14
"""Words whose tokens are remembered."""


@dataclass(frozen=True, slots=True)
class Passage:
    """The tokens of a text; `sizes[i]` is how many make the word that begins at token i, 0 inside
    of one; `words` are the words' texts in lower case without spaces, marks as words of their own.
    """

    tokens: tuple[int, ...]
    sizes: tuple[int, ...]
    words: tuple[str, ...]
    _starts: list[int] = field(init=False, repr=False)
    _pairs: dict[tuple[int, int], list[int]] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        starts = [index for index, size in enumerate(self.sizes) if size]
        object.__setattr__(self, "_starts", starts)

    @property
    def count(self) -> int:
        """How many words there are."""
        return len(self._starts)

    def word_of(self, token: int) -> int:
        """The word that a token is part of; for a token behind the end, the number of words."""
        return self.count if token >= len(self.tokens) else bisect_right(self._starts, token) - 1

    def word(self, index: int) -> str:
        """The text of a word."""
        return self.words[index]

    def start(self, index: int) -> int:
        """The token at which a word begins."""
        return self._starts[index]

    def behind(self, written: Sequence[int], near: int) -> tuple[int, int]:
        """The place behind what was written, where its last tokens stand here too, and how many do.

        Of several places the one with the most such tokens, then the nearest to `near`; (-1, 0)
        where not even two stand anywhere.
        """
        if not self._pairs:
            for index, pair in enumerate(pairwise(self.tokens)):
                self._pairs.setdefault(pair, []).append(index + 2)
        found, best = (-1, 0), (0, 0)
        for place in self._pairs.get((written[-2], written[-1]), ()):
            same = 2
            while same < min(place, len(written)) and (
                self.tokens[place - same - 1] == written[-same - 1]
            ):
                same += 1
            rank = same, -abs(place - near)
            if rank > best:
                found, best = (place, same), rank
        return found


class Words:
    """Texts as passages, with the tokens that the decoder writes."""

    def __init__(self, text: Text) -> None:
        self._text = text
        self._tokens: dict[str, tuple[int, ...]] = {}

    def passage(self, source: Source) -> Passage:
        """The source in the decoder's tokens: as it was read, where the encoder has the same."""
        pieces = self._pieces(source.tokens)
        shown = [(t, piece) for t, piece in zip(source.tokens, pieces, strict=True) if piece]
        if "".join(piece for _, piece in shown) == source.text:
            tokens = tuple(token for token, _ in shown)
        else:
            tokens = tuple(
                token for part in _CHUNK.findall(source.text) for token in self._of(part)
            )
            shown = list(zip(tokens, self._pieces(tokens), strict=True))
        return _passage(tokens, [piece for _, piece in shown])

    def written(self, tokens: Sequence[int]) -> tuple[Passage, list[bool]]:
        """Tokens of the decoder as a passage, and which of them are part of its text."""
        pieces = self._pieces(tokens)
        shown = [bool(piece) for piece in pieces]
        kept = [token for token, is_text in zip(tokens, shown, strict=True) if is_text]
        return _passage(kept, [piece for piece in pieces if piece]), shown

    def plain(self, tokens: Sequence[int]) -> list[str]:
        """The words that tokens of the output make, in lower case; a mark is an empty one."""
        text = self._text.decode(tokens, after=tokens[:1]).lower()
        return [word if word[0].isalnum() else "" for word in _WORD.findall(text)]

    def _pieces(self, tokens: Sequence[int]) -> list[str]:
        stream = self._text.stream()
        return [stream.push(token) for token in tokens]

    def _of(self, part: str) -> tuple[int, ...]:
        """The tokens of a word with the space before it, as they stand within a text."""
        known = self._tokens.get(part)
        if known is None:
            if len(self._tokens) >= _KNOWN:
                self._tokens.clear()
            known = self._tokens[part] = self._encoded(part)
        return known

    def _encoded(self, part: str) -> tuple[int, ...]:
        # Some tokenizers put a space before a text by themselves, some do not.
        for written in (part, part.strip()):
            tokens = tuple(self._text.encode(written, special=False))
            if tokens and self._text.decode(tokens, after=tokens[-1:]) == part:
                return tokens
        return tokens


def _passage(tokens: Sequence[int], pieces: Sequence[str]) -> Passage:
    """Words begin at spaces, and where letters meet marks."""
    begins = [index for index in range(len(pieces)) if _begins(pieces, index)]
    sizes = [0] * len(pieces)
    words = []
    for first, end in pairwise([*begins, len(pieces)]):
        sizes[first] = end - first
        words.append("".join(pieces[first:end]).strip().lower())
    return Passage(tuple(tokens), tuple(sizes), tuple(words))


def _begins(pieces: Sequence[str], index: int) -> bool:
    if index == 0 or not pieces[index] or pieces[index][0].isspace():
        return index == 0 or bool(pieces[index])
    before = pieces[index - 1][-1:]
    return not before or before.isspace() or not (before.isalnum() and pieces[index][0].isalnum())
