"""Damages clean English text, and says where: what `fix` learns to undo. Seeded by its caller.

Words are what stands between white space, marks included. Knows no tokens and no model.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edgedec.models.reference.fix.misspell import Spell, habit, slip, sound_alike

RATE = 1 / 12  # edits per word of a damaged text, on average
KINDS = {"spelling": 0.4, "marks": 0.3, "words": 0.3}  # "marks": case and punctuation
# (share of texts, factor on RATE): most people err little, some a lot; the mean factor is 1
_CARE = ((0.7, 0.6), (0.22, 1.5), (0.08, 3.125))
_NAME_SPARED = 0.8  # a misspelt name can seldom be put right, so few are misspelt
_GLUE = "\0"  # at the end of a word: the white space after it is lost
_TRIES = 24

_WORD = re.compile(r"\S+")
_CORE = re.compile(r"[A-Za-z]+(?:'[A-Za-z]+)*")
_SENTENCE_END = re.compile(r"[.!?:][\"')]*$")
_SMALL = """
a an the of to in on at by for with from into and or but so if as than that this it he she they we
you his her their its my your is are was were be been am have has had do does did not will would
could should can may no all up out then there when who which
"""
FUNCTION_WORDS = frozenset(_SMALL.split())


@dataclass(frozen=True)
class Edit:
    """One damage: its kind, its name, and the clean word that it hit."""

    kind: str
    name: str
    index: int


@dataclass(frozen=True)
class Damaged:
    """The damaged text, and the edits that made it, in the order of the words.

    `starts` is where each clean word begins in the damaged text, or would begin.
    """

    text: str
    edits: tuple[Edit, ...]
    starts: tuple[int, ...]


Change = Callable[[Sequence[str], int, random.Random], str | None]


@dataclass(frozen=True)
class _Op:
    name: str
    weight: float
    change: Change


def damage(text: str, rng: random.Random, rate: float | None = None) -> Damaged:
    """Make at least one edit; `rate` of them per word, by default drawn around `RATE`."""
    words = words_of(text)
    if rate is None:
        shares, factors = zip(*_CARE, strict=True)
        rate = RATE * rng.choices(factors, shares)[0]
    count = max(1, sum(rng.random() < rate for _ in words))
    kinds = rng.choices(list(KINDS), list(KINDS.values()), k=count)
    changed: dict[int, str] = {}
    edits = []
    for kind in kinds:
        edit = _edit(words, kind, changed, rng)
        if edit is not None:
            edits.append(edit)
    return _render(text, changed, edits)


def careless(text: str, rng: random.Random) -> Damaged:
    """As people type a line in a hurry: no first capitals or none at all, no final stop.

    There may be wrong spellings, too.
    """
    words = words_of(text)
    everywhere = rng.random() < 0.4
    changed: dict[int, str] = {}
    edits = []
    for index, word in enumerate(words):
        wrong = word.lower() if everywhere or starts_sentence(words, index) else word
        if index == len(words) - 1:
            wrong = re.sub(r"\.(?=[\"')]*$)", "", wrong) or wrong
        if wrong != word:
            changed[index] = wrong
            edits.append(Edit("marks", "careless", index))
    rate = rng.choice((0.0, RATE, 4 * RATE))
    for _ in range(sum(rng.random() < rate for _ in words)):
        edit = _edit([changed.get(i, w) for i, w in enumerate(words)], "spelling", {}, rng, changed)
        if edit is not None and all(edit.index != other.index for other in edits):
            edits.append(edit)
    return _render(text, changed, edits)


def untouched(text: str) -> Damaged:
    """A text without damage."""
    return _render(text, {}, ())


def words_of(text: str) -> list[str]:
    """The words of a text, with the marks that touch them."""
    return _WORD.findall(text)


def starts_sentence(words: Sequence[str], index: int) -> bool:
    """Whether a word is the first of its sentence (or may be)."""
    return index == 0 or bool(_SENTENCE_END.search(words[index - 1])) or words[index][0] in "\"'("


def is_name(words: Sequence[str], index: int) -> bool:
    """Whether a word has a capital that no sentence start explains (`I` is no name)."""
    core = _CORE.search(words[index])
    if core is None or not core[0][0].isupper() or core[0].split("'")[0] == "I":
        return False
    return not starts_sentence(words, index)


def _edit(
    words: Sequence[str],
    kind: str,
    taken: dict[int, str],
    rng: random.Random,
    into: dict[int, str] | None = None,
) -> Edit | None:
    """Make one edit of a kind at a word that has none; None if no place was found."""
    ops = _OPS[kind]
    into = taken if into is None else into
    for _ in range(6):
        op = rng.choices(ops, [op.weight for op in ops])[0]
        for _ in range(_TRIES):
            index = rng.randrange(len(words))
            if index in taken:
                continue
            wrong = op.change(words, index, rng)
            if wrong is not None:
                into[index] = wrong
                return Edit(kind, op.name, index)
    return None


def _render(text: str, changed: dict[int, str], edits: Sequence[Edit]) -> Damaged:
    damaged, end, glued = "", 0, True  # nothing stands before the first word that is left
    starts = []
    for index, match in enumerate(_WORD.finditer(text)):
        gap = "" if glued else text[end : match.start()]
        word = changed.get(index, match[0])
        starts.append(len(damaged) + len(gap))
        if word:
            # a dropped word takes the space before it along
            damaged += gap + word.removesuffix(_GLUE)
            glued = word.endswith(_GLUE)
        end = match.end()
    return Damaged(damaged, tuple(sorted(edits, key=lambda edit: edit.index)), tuple(starts))


def _spelt(spell: Spell) -> Change:
    """A change of a word's letters that keeps its marks and its capital."""

    def change(words: Sequence[str], index: int, rng: random.Random) -> str | None:
        word = words[index]
        core = _CORE.search(word)
        if core is None or (len(core[0]) > 1 and core[0].isupper()):
            return None
        if is_name(words, index) and rng.random() < _NAME_SPARED:
            return None
        wrong = spell(core[0].lower(), rng)
        if not wrong or wrong == core[0].lower():
            return None
        wrong = wrong[0].upper() + wrong[1:] if core[0][0].isupper() else wrong
        return word[: core.start()] + wrong + word[core.end() :]

    return change


def _space(words: Sequence[str], index: int, rng: random.Random) -> str | None:
    """Lose the space after a word, or put one into it."""
    word = words[index]
    if not word.isalpha():
        return None
    if rng.random() < 0.6:
        following = words[index + 1 : index + 2]
        return word + _GLUE if following and following[0][0].islower() else None
    if len(word) < 4:
        return None
    place = rng.randrange(1, len(word))
    return f"{word[:place]} {word[place:]}"


def _lower(words: Sequence[str], index: int, _: random.Random) -> str | None:
    return words[index].lower() if words[index] != words[index].lower() else None


def _raise(words: Sequence[str], index: int, rng: random.Random) -> str | None:
    word = words[index]
    if not word.islower():
        return None
    return word.upper() if rng.random() < 0.2 else word.capitalize() if word[0].isalpha() else None


def _drop_mark(words: Sequence[str], index: int, rng: random.Random) -> str | None:
    places = [m.start() for m in re.finditer(r"[^\w\s]", words[index])]
    if not places:
        return None
    place = rng.choice(places)
    return words[index][:place] + words[index][place + 1 :] or None


def _apostrophe(words: Sequence[str], index: int, rng: random.Random) -> str | None:
    word = words[index]
    match = re.search(r"(?<=[A-Za-z])'(?=[a-z])", word)
    if match is None:
        return None
    place = match.start()
    if rng.random() < 0.75:
        return word[:place] + word[place + 1 :]
    return word[: place - 1] + "'" + word[place - 1] + word[place + 1 :]


def _add_mark(words: Sequence[str], index: int, rng: random.Random) -> str | None:
    word = words[index]
    if re.search(r"[,.!?]$", word):
        return word + word[-1]
    if not word[-1].isalpha() or index + 1 == len(words):
        return None
    if word.endswith("s") and rng.random() < 0.5:
        return word[:-1] + "'s"
    return word + rng.choices((",", "."), (5, 1))[0]


def _swap_mark(words: Sequence[str], index: int, rng: random.Random) -> str | None:
    others = {",": ".;", ".": ",!?", ";": ",", ":": ";,", "!": ".", "?": ".", '"': "'"}
    places = [m.start() for m in re.finditer(r"[,.;:!?\"]", words[index])]
    if not places:
        return None
    place = rng.choice(places)
    return (
        words[index][:place] + rng.choice(others[words[index][place]]) + words[index][place + 1 :]
    )


def _opening(words: Sequence[str], index: int, rng: random.Random) -> str | None:
    """Lose the capital of a sentence."""
    return _lower(words, index, rng) if starts_sentence(words, index) else None


def _closing(words: Sequence[str], index: int, _: random.Random) -> str | None:
    """Lose the stop of a sentence."""
    word = re.sub(r"[.!?](?=[\"')]*$)", "", words[index])
    return word if word and word != words[index] else None


def _double(words: Sequence[str], index: int, rng: random.Random) -> str | None:
    core = _CORE.search(words[index])
    if core is None or (core[0].lower() not in FUNCTION_WORDS and rng.random() < 0.6):
        return None
    start = words[index][: core.end()]
    return f"{start} {words[index][core.start() :]}"


def _drop_small(words: Sequence[str], index: int, _: random.Random) -> str | None:
    return "" if words[index] in FUNCTION_WORDS and len(words) > 3 else None


def _drop_any(words: Sequence[str], index: int, _: random.Random) -> str | None:
    return "" if words[index].isalpha() and words[index].islower() and len(words) > 5 else None


_OPS: dict[str, tuple[_Op, ...]] = {
    "spelling": (
        _Op("slip", 48, _spelt(slip)),
        _Op("habit", 34, _spelt(habit)),
        _Op("sound-alike", 12, _spelt(sound_alike)),
        _Op("space", 6, _space),
    ),
    "marks": (
        _Op("lost capital", 20, _lower),
        _Op("lost opening capital", 14, _opening),
        _Op("stray capital", 9, _raise),
        _Op("lost mark", 22, _drop_mark),
        _Op("lost stop", 12, _closing),
        _Op("apostrophe", 7, _apostrophe),
        _Op("added mark", 10, _add_mark),
        _Op("wrong mark", 6, _swap_mark),
    ),
    "words": (
        _Op("doubled", 50, _double),
        _Op("dropped small word", 43, _drop_small),
        _Op("dropped word", 7, _drop_any),
    ),
}
