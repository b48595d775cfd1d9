"""Template tasks with one exact answer: repeat, quote, rename, list. Knows no tokens, no torch.

Every task is made from sentences of a pool, so a pool of held-out text gives held-out tasks.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

KINDS = ("repeat", "quote", "rename", "list")
_SHARES = (3, 6, 7, 4)  # the harder, the more

NAMES = tuple(
    re.findall(
        r"\w+",
        "Tom Ben Sam Max Tim Jack Jim Bob Joe Dan Peter Paul John Harry George Henry Fred Charlie "
        "David Edward Robert Arthur Oliver Leo Noah Billy Andy Tommy Johnny Dick Lily Lucy Anna "
        "Mary Jane Emma Mia Sue Sara Sarah Kate Amy Ella Molly Alice Dorothy Polly Betty Nancy "
        "Annie Ellen Susan Helen Martha Laura Emily Clara Nora Ruth Maggie Sophie Tina Mandy Lisa "
        "Katy",
    )
)
NAME = re.compile(r"\b(" + "|".join(NAMES) + r")\b")
_BREAK = re.compile(r"(?<=[.!?])\s+(?=[\"A-Z])|(?<=[.!?][\"'])\s+(?=[\"A-Z])")
_TITLE = re.compile(r"\b(?:Mr|Mrs|Ms|Dr|St|No|vol|Vol|[A-Z])\.$")
_PLAIN = re.compile(r"[A-Za-z0-9 ,.;:!?'\"-]+")
_SPEECH = re.compile(r"\"[^\"]+\"")
_ITEM = r"(?:(?:a|an|the|some|two|three) )?[a-z]+"
_SERIES = re.compile(rf"\b({_ITEM}), ((?:{_ITEM}, )*)({_ITEM},? )?and ({_ITEM})")
_DETERMINED = re.compile(r"(?:a|an|the|some|two|three) [a-z]{3,}")
_PLURAL = re.compile(r"[a-z]{3,}s")
_NOT_ITEMS = frozenset(
    re.findall(r"\w+", "was his this its has is as yes thus always perhaps us less does")
)
_LONGEST, _SHORTEST, _PASSAGE = 120, 12, 200

_BEFORE_OR_AFTER = {
    "repeat": (
        ("Repeat this text:", "Repeat this:", "Copy this text exactly:", "Say this again:",
         "Repeat the following text.", "Write this text again, word for word:"),
        ("Repeat the text above.", "Copy the text above.", "Say that again, word for word."),
    ),
    "first": (
        ("Quote the first sentence of this text:", "What is the first sentence here?",
         "Copy only the first sentence:"),
        ("Quote the first sentence.", "What is the first sentence?"),
    ),
    "last": (
        ("Quote the last sentence of this text:", "What is the last sentence here?",
         "Copy only the last sentence:"),
        ("Quote the last sentence.", "What is the last sentence?"),
    ),
    "word": (
        ('Quote the sentence with the word "{a}":', 'Which sentence has the word "{a}"?'),
        ('Quote the sentence with the word "{a}".', 'Which sentence has the word "{a}"?'),
    ),
    "speech": (
        ("Quote the spoken words in this text:", "What is said in this text?"),
        ("Quote the spoken words.", "What is said?"),
    ),
    "rename": (
        ("Change the name {a} to {b}:", "Rename {a} to {b} in this text:",
         "Replace {a} with {b}:", "Write this again, but call {a} {b}:"),
        ("Change {a} to {b}.", "Rename {a} to {b}.", "Write it again with {b} in place of {a}."),
    ),
    "sentences": (
        ("Number the sentences:", "Make a numbered list of these sentences:"),
        ("Number the sentences.",),
    ),
    "bullets": (
        ("Make a list:", "Make a bullet list:", "Make a list of the things in this sentence:",
         "List the things, one on each line:"),
        ("Make a list of the things.", "Make a bullet list of them."),
    ),
    "numbers": (
        ("Make a numbered list:", "Number the things in this sentence:"),
        ("Make a numbered list of the things.",),
    ),
}  # fmt: skip
_FRAMES = (
    "{items}", "{name} saw {items}.", "{name} has {items}.", "There were {items}.",
    "{name} likes {items}.", "In the box were {items}.", "{name} and {other} found {items}.",
    "We need {items}.", "{name} bought {items} at the shop.", "I can see {items}.",
)  # fmt: skip


@dataclass(frozen=True)
class Task:
    """One prompt and the only answer that counts as exact."""

    kind: str
    prompt: str
    answer: str


@dataclass(frozen=True)
class Pool:
    """What tasks are made of: paragraphs cut into sentences, and indexes into them."""

    paragraphs: tuple[tuple[str, ...], ...]
    named: tuple[int, ...]
    paired: tuple[int, ...]
    spoken: tuple[int, ...]
    items: tuple[tuple[str, ...], ...]
    paired_share: float = 0.0  # of rename tasks that must have a sentence with two names

    @classmethod
    def build(cls, texts: Iterable[str], paired_share: float = 0.0) -> Pool:
        """Cut texts into usable paragraphs (a blank or single line break parts them)."""
        cut = (usable_sentences(line) for text in texts for line in text.split("\n"))
        paragraphs = tuple(sentences for sentences in cut if sentences)
        named = tuple(i for i, p in enumerate(paragraphs) if any(NAME.search(s) for s in p))
        paired = tuple(i for i in named if any(_two_names(s) for s in paragraphs[i]))
        spoken = tuple(i for i, p in enumerate(paragraphs) if any(_one_speech(s) for s in p))
        found = {item for p in paragraphs for s in p for item in series_items(s)}
        determined = tuple(sorted(item for item in found if " " in item))
        plural = tuple(sorted(item for item in found if " " not in item))
        items = tuple(group for group in (determined, plural) if group)
        return cls(paragraphs, named, paired, spoken, items, paired_share)


def usable_sentences(paragraph: str) -> tuple[str, ...]:
    """Split a paragraph; empty if any sentence is odd in length, quotes or characters."""
    parts = tuple(part.strip() for part in _BREAK.split(paragraph.strip()))
    return parts if all(_usable(part) for part in parts) else ()


def _usable(sentence: str) -> bool:
    return (
        _SHORTEST <= len(sentence) <= _LONGEST
        and sentence[-1] in '.!?"'
        and sentence.count('"') % 2 == 0
        and _PLAIN.fullmatch(sentence) is not None
        and _TITLE.search(sentence) is None
    )


def _two_names(sentence: str) -> bool:
    return len(set(NAME.findall(sentence))) > 1


def _one_speech(sentence: str) -> bool:
    return len(_SPEECH.findall(sentence)) == 1


def series_items(sentence: str) -> list[str]:
    """Things named in a series such as "a dog, a cat, and a bird"."""
    found: list[str] = []
    for match in _SERIES.finditer(sentence):
        parts = [match[1], *match[2].split(", "), (match[3] or "").strip(" ,"), match[4]]
        for part in parts:
            plural = _PLURAL.fullmatch(part) and part not in _NOT_ITEMS
            if plural or _DETERMINED.fullmatch(part):
                found.append(part)
    return found


def join_items(items: Sequence[str], comma: bool) -> str:
    """Write items as English does: "a, b and c" or "a, b, and c"."""
    last = ", and " if comma and len(items) > 2 else " and "
    return ", ".join(items[:-1]) + last + items[-1]


def make_task(rng: random.Random, pool: Pool, kind: str | None = None) -> Task:
    """Make one task; tries again until the drawn sentences suit the kind."""
    kind = kind or rng.choices(KINDS, _SHARES)[0]
    for _ in range(1000):
        made = _MAKERS[kind](rng, pool)
        if made is not None:
            return Task(kind, *made)
    raise ValueError(f"no text in the pool suits the task {kind!r}; give it more text")


def _passage(rng: random.Random, pool: Pool, index: int, least: int, most: int) -> tuple[str, ...]:
    sentences = pool.paragraphs[index]
    if len(sentences) < least:
        return ()
    count = rng.randint(least, min(most, len(sentences)))
    start = rng.randint(0, len(sentences) - count)
    passage = sentences[start : start + count]
    return passage if len(" ".join(passage)) <= _PASSAGE else ()


def _ask(rng: random.Random, style: str, text: str, **names: str) -> str:
    before, after = _BEFORE_OR_AFTER[style]
    if rng.random() < 0.65:
        gap = rng.choice(("\n", "\n", " "))
        return rng.choice(before).format(**names) + gap + text
    return text + "\n" + rng.choice(after).format(**names)


def _repeat(rng: random.Random, pool: Pool) -> tuple[str, str] | None:
    passage = _passage(rng, pool, rng.randrange(len(pool.paragraphs)), 1, 3)
    text = " ".join(passage)
    return (_ask(rng, "repeat", text), text) if text else None


def _quote(rng: random.Random, pool: Pool) -> tuple[str, str] | None:
    style = rng.choice(("first", "last", "word", "speech"))
    if style == "speech":
        return _speech(rng, pool)
    most = 2 if style == "word" else 3
    passage = _passage(rng, pool, rng.randrange(len(pool.paragraphs)), 2, most)
    if len(set(passage)) < 2:
        return None
    if style == "word":
        return _word(rng, passage)
    return _ask(rng, style, " ".join(passage)), passage[0 if style == "first" else -1]


def _word(rng: random.Random, passage: tuple[str, ...]) -> tuple[str, str] | None:
    sets = [set(re.findall(r"[a-z]{4,}", sentence.lower())) for sentence in passage]
    pick = rng.randrange(len(passage))
    others = set().union(*(words for i, words in enumerate(sets) if i != pick))
    alone = sorted(w for w in sets[pick] if w in passage[pick] and not any(w in o for o in others))
    if not alone:
        return None
    return _ask(rng, "word", " ".join(passage), a=rng.choice(alone)), passage[pick]


def _speech(rng: random.Random, pool: Pool) -> tuple[str, str] | None:
    if not pool.spoken:
        return None
    text = " ".join(_passage(rng, pool, rng.choice(pool.spoken), 1, 3))
    speech = _SPEECH.findall(text)
    if len(speech) != 1 or speech[0] == text:
        return None
    return _ask(rng, "speech", text), speech[0]


def _rename(rng: random.Random, pool: Pool) -> tuple[str, str] | None:
    if not pool.named:
        return None
    # telling two names apart is the hard part: training can ask for more of it
    among = pool.paired if pool.paired and rng.random() < pool.paired_share else pool.named
    text = " ".join(_passage(rng, pool, rng.choice(among), 1, 3))
    present = set(NAME.findall(text))
    if not present:
        return None
    free = [name for name in NAMES if name not in text]
    old, (fresh, new) = rng.choice(sorted(present)), rng.sample(free, 2)
    if rng.random() < 0.5:
        text, old = replace_name(text, old, fresh), fresh
    return _ask(rng, "rename", text, a=old, b=new), replace_name(text, old, new)


def replace_name(text: str, old: str, new: str) -> str:
    """Replace a whole-word name."""
    return re.sub(rf"\b{old}\b", new, text)


def _list(rng: random.Random, pool: Pool) -> tuple[str, str] | None:
    style = rng.choice(("bullets", "bullets", "numbers", "sentences"))
    if style == "sentences":
        passage = _passage(rng, pool, rng.randrange(len(pool.paragraphs)), 2, 4)
        return (_ask(rng, style, " ".join(passage)), number(passage)) if passage else None
    if not pool.items:
        return None
    group = rng.choice(pool.items)
    items = rng.sample(group, min(len(group), rng.randint(2, 5)))
    name, other = rng.sample(NAMES, 2)
    joined = join_items(items, comma=rng.random() < 0.5)
    text = rng.choice(_FRAMES).format(items=joined, name=name, other=other)
    answer = number(items) if style == "numbers" else "\n".join(f"- {item}" for item in items)
    return _ask(rng, style, text), answer


def number(lines: Sequence[str]) -> str:
    """One numbered line for each entry."""
    return "\n".join(f"{index}. {line}" for index, line in enumerate(lines, start=1))


_MAKERS: dict[str, Callable[[random.Random, Pool], tuple[str, str] | None]] = {
    "repeat": _repeat,
    "quote": _quote,
    "rename": _rename,
    "list": _list,
}
