"""How much of the damage is undone: words aligned with the clean text. Knows no model.

A word is what stands between white space, marks and case included.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from edgedec.models.reference.fix.damage import Damaged, is_name, words_of

_MARKS = ".,;:!?\"'()-"


@dataclass(frozen=True)
class Alignment:
    """Word errors of a text, and where each word of the clean one stands in it (None: nowhere)."""

    errors: int
    places: tuple[int | None, ...]

    def intact(self, index: int) -> bool:
        """Whether a word came out right and nothing was put in beside it."""
        around = self.places[max(0, index - 1) : index + 2]
        here = self.places[index]
        if here is None or any(place is None for place in around):
            return False
        # `around` holds no None here
        return all(abs((place or 0) - here) <= 1 for place in around)


def align(clean: Sequence[str], found: Sequence[str]) -> Alignment:
    """The least insertions, deletions and substitutions; only equal words have a place."""
    head = 0
    while head < min(len(clean), len(found)) and clean[head] == found[head]:
        head += 1
    tail = 0
    while tail < min(len(clean), len(found)) - head and clean[-1 - tail] == found[-1 - tail]:
        tail += 1
    errors, middle = _align(clean[head : len(clean) - tail], found[head : len(found) - tail])
    places: list[int | None] = list(range(head))
    places += [None if place is None else place + head for place in middle]
    places += range(len(found) - tail, len(found))
    return Alignment(errors, tuple(places))


def _align(clean: Sequence[str], found: Sequence[str]) -> tuple[int, list[int | None]]:
    rows = [list(range(len(found) + 1))]
    for i, word in enumerate(clean):
        above, row = rows[-1], [i + 1]
        for j, other in enumerate(found):
            row.append(min(above[j] + (word != other), above[j + 1] + 1, row[j] + 1))
        rows.append(row)
    places: list[int | None] = [None] * len(clean)
    i, j = len(clean), len(found)
    while i and j:
        same = clean[i - 1] == found[j - 1]
        if rows[i][j] == rows[i - 1][j - 1] + (not same):
            i, j = i - 1, j - 1
            places[i] = j if same else None
        elif rows[i][j] == rows[i - 1][j] + 1:
            i -= 1
        else:
            j -= 1
    return rows[-1][-1], places


@dataclass
class Score:
    """Counts over many texts."""

    words: int = 0
    errors_before: int = 0
    errors_after: int = 0
    texts: int = 0
    exact: int = 0
    names: int = 0
    names_kept: int = 0
    edits: Counter[str] = field(default_factory=Counter)
    repaired: Counter[str] = field(default_factory=Counter)

    def add(self, clean: str, damaged: Damaged, restored: str) -> None:
        """Count one text. A name counts as kept where its letters came out, whatever its marks."""
        words = words_of(clean)
        after = align(words, words_of(restored))
        self.texts += 1
        self.exact += restored == clean
        self.words += len(words)
        self.errors_before += align(words, words_of(damaged.text)).errors
        self.errors_after += after.errors
        for edit in damaged.edits:
            self.edits[edit.name] += 1
            self.repaired[edit.name] += after.intact(edit.index)
        bare = align(
            [w.strip(_MARKS) for w in words], [w.strip(_MARKS) for w in words_of(restored)]
        )
        hit = {edit.index for edit in damaged.edits}
        for index in range(len(words)):
            if is_name(words, index) and index not in hit:
                self.names += 1
                self.names_kept += bare.places[index] is not None

    def report(self) -> dict[str, object]:
        """Rates, as a JSON file may hold them."""
        return {
            "texts": self.texts,
            "words": self.words,
            "wer_before": self.errors_before / max(1, self.words),
            "wer_after": self.errors_after / max(1, self.words),
            "exact": self.exact / max(1, self.texts),
            "names": self.names,
            "names_kept": self.names_kept / max(1, self.names),
            "repaired": {
                name: {"edits": count, "share": self.repaired[name] / count}
                for name, count in sorted(self.edits.items())
            },
        }
