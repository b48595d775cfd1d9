"""Texts into token arrays: what is held out, what is mixed, and where it came from.

Knows no torch and no model.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

END = "<|endoftext|>"
USER = "<|user|>"
ASSISTANT = "<|assistant|>"
STREAMS = ("tiny", "chat", "fairy", "books", "wiki", "dialogue")

HELD_OUT_BOOKS = (
    "alger-from-farm-to-fortune-or-nat-nasons-strange-experience",
    "burnett-the-cozy-lion-as-told-by-queen-crosspatch",
    "doyle-the-hound-of-the-baskervilles",
    "nesbit-five-children-and-it",
    "twain-eves-diary-complete",
)
# Never trained on either; paragraphs of the corpus that share 13 words with them are dropped.
HELD_OUT_FILES = ("text/wiki.valid.raw", "text/wiki.test.raw", "text/spec_bench_question.jsonl")
HELD_OUT_SHARE = 0.05
_GRAM = 13
_FAIRY = re.compile(
    r"andersen|grimm|jacobs|lang-(?!tales)|baum-(?!mary)|barrie-peter|burnett-(barty|the-good)|"
    r"carroll-(alice|through)|collodi|kipling-just|lofting|macdonald|nesbit-(grim|pussy|the-magic)|"
    r"potter|wilde|tolstoy|hawthorne|stevenson-fables|grahame"
)

Tokens = NDArray[np.uint16]


@dataclass(frozen=True)
class Texts:
    """Training documents by stream, held-out documents by name, and a table of sources."""

    train: dict[str, list[str]]
    held_out: dict[str, list[str]]
    provenance: list[dict[str, object]]


def story_key(text: str) -> str:
    """Lower-case letters only: the same story in another file has the same key."""
    return re.sub(r"[^a-z]", "", text.lower())


def _edges(text: str) -> tuple[str, str]:
    key = story_key(text)
    return key[:80], key[-80:]


def split_stories(raw: str) -> list[str]:
    """Stories of a cased TinyStories file, one line break between paragraphs."""
    stories = (re.sub(r"\s*\n\s*", "\n", part).strip() for part in raw.split(END))
    return [story for story in stories if story]


def split_lower_stories(raw: str) -> list[str]:
    """Stories of the lower-case file: a single line break parts stories, a double paragraphs."""
    parts = re.split(r"(?<!\n)\n(?!\n)", raw)[:-1]  # the last one is cut off
    return [re.sub(r"\s*\n\s*", "\n", part).strip() for part in parts if part.strip()]


def hold_out_tail(raw: str, share: float = HELD_OUT_SHARE) -> tuple[list[str], list[str]]:
    """Split a cased file: stories wholly in the head, and those that reach into the tail."""
    limit = int(len(raw) * (1.0 - share))
    cut = raw.rfind(END, 0, limit)
    cut = 0 if cut < 0 else cut + len(END)
    return split_stories(raw[:cut]), split_stories(raw[cut:])


def distinct_stories(groups: Iterable[list[str]], held_out: list[str]) -> list[list[str]]:
    """Keep each story once, in the first group that has it; drop every held-out one."""
    seen = {edge for story in held_out for edge in _edges(story)}
    kept: list[list[str]] = []
    for group in groups:
        fresh = []
        for story in group:
            edges = _edges(story)
            if seen.isdisjoint(edges):
                fresh.append(story)
                seen.update(edges)
        kept.append(fresh)
    return kept


class Truecaser:
    """Gives lower-case stories their capitals back, as learned from cased ones."""

    _word = re.compile(r"[A-Za-z][A-Za-z']*")
    _start = re.compile(r"(?:^|\n|[.!?]'?\s|\.\"\s|(?:^|\s)\")\"?$")
    _named = re.compile(r"\b(?:named|called) ([a-z]+)\b")
    _after_speech = re.compile(r"[!?]\"\s$")

    def __init__(self, cased: Iterable[str]) -> None:
        self._inside: Counter[str] = Counter()
        self._spoken: Counter[str] = Counter()
        for text in cased:
            for match in self._word.finditer(text):
                self._count(match[0], text[max(0, match.start() - 4) : match.start()])

    def _count(self, word: str, before: str) -> None:
        sign = 1 if word[0].isupper() else -1
        if self._after_speech.search(before):
            self._spoken[word.lower()] += sign
        elif not self._start.search(before):
            self._inside[word.lower()] += sign

    def __call__(self, text: str) -> str:
        """Return the text with capitals."""
        names = set(self._named.findall(text)) - {"him", "her", "it", "the", "a", "out"}

        def case(match: re.Match[str]) -> str:
            word = match[0]
            if word.removesuffix("'s") in names:
                return word[0].upper() + word[1:]
            return self._case(word, text[max(0, match.start() - 4) : match.start()])

        return self._word.sub(case, text)

    def _case(self, word: str, before: str) -> str:
        spoken = self._after_speech.search(before) and self._spoken[word] > 0
        start = not self._after_speech.search(before) and self._start.search(before)
        if spoken or start or self._inside[word] > 0:
            return word[0].upper() + word[1:]
        return word


def as_chat(story: str, rng: random.Random) -> str:
    """Wrap a story as the answer to a request, so that a plain request gets a story."""
    opening = re.split(r"(?<=[.!?])\s", story, maxsplit=1)[0]
    about = re.search(r"\b(an? (?:[a-z]+ ){1,3}named [A-Z][a-z]+)", opening)
    name = re.search(r"(?<!^)\b(?:named|called) ([A-Z][a-z]+)", opening)
    asks = ["Tell me a story.", "Write a short story.", f"Write a story that begins: {opening}",
            f"Continue this story: {opening}"]  # fmt: skip
    if about:
        asks += [f"Tell me a story about {about[1]}.", f"Write a story about {about[1]}."]
    if name:
        asks += [f"Tell me a story about {name[1]}.", f"Write a short story about {name[1]}."]
    ask = rng.choice(asks)
    answer = story[len(opening) :].strip() if ask.startswith("Continue") else story
    return f"{USER}{ask}{ASSISTANT}{answer}"


def grams(text: str, size: int = _GRAM) -> Iterator[int]:
    """Hashes of all runs of `size` words, lower case, letters and digits only."""
    words = re.findall(r"[a-z0-9]+", text.lower())
    return (hash(tuple(words[i : i + size])) for i in range(len(words) - size + 1))


def _held_out_grams(root: Path) -> set[int]:
    paths = [root / "corpus" / f"{book}.txt" for book in HELD_OUT_BOOKS]
    paths += [root / name for name in HELD_OUT_FILES]
    return {g for path in paths for g in grams(path.read_text(encoding="utf-8"))}


def _stream_of(name: str) -> str:
    for prefix, stream in (
        ("wikipedia", "wiki"),
        ("dialogue", "dialogue"),
        ("instruct", "dialogue"),
    ):
        if name.startswith(prefix):
            return stream
    return "fairy" if _FAIRY.match(name) else "books"


def load_texts(root: Path) -> Texts:
    """Read the data folder; held-out texts and everything that quotes them stay out."""
    cased, held_tiny = hold_out_tail(_read(root / "text/tinystories_cased_2MB.txt"))
    head = split_stories(_read(root / "corpus/tinystories-head.txt"))
    lower = split_lower_stories(_read(root / "text/tinystories_4MB.txt"))
    cased, head, lower = distinct_stories((cased, head, lower), held_tiny)
    caser = Truecaser(cased + head)
    train: dict[str, list[str]] = {stream: [] for stream in STREAMS}
    train["tiny"] = cased + head + [caser(story) for story in lower]
    rng = random.Random(0)
    train["chat"] = [as_chat(story, rng) for story in train["tiny"]]
    provenance = [
        _row(name, "tiny", stories)
        for name, stories in (
            ("text/tinystories_cased_2MB.txt", cased),
            ("corpus/tinystories-head.txt", head),
            ("text/tinystories_4MB.txt", lower),
        )
    ]
    banned = _held_out_grams(root)
    for path in sorted((root / "corpus").glob("*.txt")):
        if path.stem in HELD_OUT_BOOKS or path.stem in ("tinystories-head", "SOURCES"):
            continue
        raw = _read(path).split("\n\n")
        kept = [part for part in raw if banned.isdisjoint(grams(part))]
        train[_stream_of(path.stem)].append("\n\n".join(kept).strip())
        provenance.append(_row(f"corpus/{path.name}", _stream_of(path.stem), kept, len(raw)))
    held_out = {"tinystories": held_tiny}
    held_out |= {book: [_read(root / "corpus" / f"{book}.txt")] for book in HELD_OUT_BOOKS}
    return Texts(train, held_out, provenance)


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="ignore")


def _row(name: str, stream: str, parts: list[str], before: int | None = None) -> dict[str, object]:
    dropped = 0 if before is None else before - len(parts)
    size = sum(len(part.encode()) for part in parts)
    return {"file": name, "stream": stream, "parts": len(parts), "dropped": dropped, "bytes": size}


def encode_documents(tokenizer: Tokenizer, documents: Iterable[str]) -> Tokens:
    """All documents as one array, each followed by the end token."""
    end = tokenizer.token_to_id(END)
    pieces = [[*encoding.ids, end] for encoding in tokenizer.encode_batch(list(documents))]
    return np.concatenate([np.asarray(piece, dtype=np.uint16) for piece in pieces])


def load_tokens(texts: Texts, tokenizer: Tokenizer, cache: Path) -> dict[str, Tokens]:
    """Token arrays by stream, encoded once and kept in `cache`."""
    digest = hashlib.sha256(tokenizer.to_str().encode())
    for name in STREAMS:
        digest.update("".join(texts.train[name]).encode())
    path = cache / f"tokens-{digest.hexdigest()[:16]}.npz"
    if not path.exists():
        arrays = {name: encode_documents(tokenizer, texts.train[name]) for name in STREAMS}
        cache.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial.npz")
        np.savez(partial, **arrays)  # type: ignore[arg-type]  # stubs want one type for all
        table = json.dumps(texts.provenance, indent=1) + "\n"
        (cache / "provenance.json").write_text(table, encoding="utf-8")
        partial.replace(path)
    with np.load(path) as stored:
        return {name: stored[name] for name in STREAMS}
