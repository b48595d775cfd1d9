"""Clean passages of a wanted length, and batches of damaged and clean ones. Knows no model.

A batch is decided by the seed and the step alone, so a run resumes with nothing to restore.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from tokenizers import Encoding, Tokenizer

from edgedec.models.reference.fix.damage import Damaged, careless, damage
from edgedec.models.reference.fix.recipe import Bucket, Recipe
from edgedec.models.reference.stories.data import Texts
from edgedec.training.torch_mu import Pairs

END_ID = 0
_SHORT = "Mr Mrs Ms Dr St Jr Sr Prof Capt Col Gen Lt Rev Hon Esq Messrs vs etc No Mt Co Inc Ltd".split()
_BREAK = re.compile(r"[.!?][\"')]*(\s+)(?=[\"'(]*[A-Z])")
_ODD = re.compile(r"[^ -~\n]|[_\[\]{}|=<>*\\#~^@]|http|--.*--.*--|\.\.\.\.|  |[A-Z]{2,} [A-Z]{2,}")
_SPEAKER = re.compile(r"^(?:User|Assistant): ")


@dataclass(frozen=True)
class Stream:
    """Sentences in the order of their texts; `gaps` stand before them, "" where a text begins."""

    sentences: list[str]
    gaps: list[str]
    letters_per_token: float

    def passage(self, limit: int, rng: random.Random) -> str:
        """Consecutive sentences that fill about `limit` tokens, if they can."""
        letters = limit * self.letters_per_token
        best = ""
        for _ in range(6):
            start = rng.randrange(len(self.sentences))
            text = self.sentences[start]
            for index in range(start + 1, len(self.sentences)):
                gap = self.gaps[index]
                if not gap or len(text) + len(self.sentences[index]) + 1 > letters:
                    break
                text += gap + self.sentences[index]
            if len(text) <= letters and len(text) > len(best):
                best = text
            if len(best) > 0.7 * letters:
                break
        return best


def split_sentences(paragraph: str) -> list[str]:
    """Sentences of a paragraph; the stop of a title or of an initial ends none."""
    pieces, start = [], 0
    for match in _BREAK.finditer(paragraph):
        before = paragraph[start : match.start()].rsplit(" ", 1)[-1].lstrip("\"'(")
        if match[0][0] == "." and (before in _SHORT or (len(before) == 1 and before != "I")):
            continue
        pieces.append(paragraph[start : match.start(1)])
        start = match.end()
    return [*pieces, paragraph[start:]]


def is_clean(paragraph: str) -> bool:
    """Whether a paragraph looks like prose that was set with care."""
    opened = re.match(r"[\"'(]*[A-Z]", paragraph)
    closed = re.search(r"[.!?][\"')]*$", paragraph)
    quotes = paragraph.count('"') % 2 == 0
    return bool(opened and closed and quotes and not _ODD.search(paragraph)
                and not re.search(r"\bi\b|\s[,.;!?](?:\s|$)", paragraph))  # fmt: skip


def make_stream(documents: Iterable[str], tokenizer: Tokenizer) -> Stream:
    """Split the clean paragraphs of documents into sentences."""
    sentences: list[str] = []
    gaps: list[str] = []
    for document in documents:
        gap = ""
        for paragraph, separator in _paragraphs(document):
            if not is_clean(paragraph):
                gap = ""
                continue
            for sentence in split_sentences(paragraph):
                sentences.append(sentence)
                gaps.append(gap)
                gap = " "
            gap = separator
    sample = sentences[:: max(1, len(sentences) // 2000)]
    tokens = sum(len(encoding.ids) for encoding in tokenizer.encode_batch(sample))
    return Stream(sentences, gaps, sum(len(text) + 1 for text in sample) / tokens)


def _paragraphs(document: str) -> Iterator[tuple[str, str]]:
    """Paragraphs with what parts them from the next; speakers' lines stand for themselves."""
    separator = "\n\n" if "\n\n" in document else "\n"
    for part in document.split(separator):
        for line in part.split("\n"):
            spoken = _SPEAKER.match(line)
            yield (line[spoken.end() :], "") if spoken else (line, separator)


def make_streams(texts: Texts, tokenizer: Tokenizer) -> dict[str, Stream]:
    """The clean sentences of all streams that are used.

    Left out: stories whose capitals were restored by rule, and the chats that people typed.
    """
    cased = sum(int(str(row["parts"])) for row in texts.provenance[:2])
    documents = {name: texts.train[name] for name in ("fairy", "books", "wiki")}
    documents["tiny"] = texts.train["tiny"][:cased]
    documents["dialogue"] = [text for text in texts.train["dialogue"] if "\nAssistant: " in text]
    return {name: make_stream(part, tokenizer) for name, part in documents.items()}


def fragment(text: str, rng: random.Random) -> str:
    """The beginning of a sentence up to a comma or a few words, closed like a sentence."""
    words = text.split()
    ends = [i for i, word in enumerate(words[:12]) if i > 1 and word.endswith((",", ";"))]
    end = rng.choice(ends) + 1 if ends else min(len(words), rng.randint(3, 9))
    part = " ".join(words[:end]).rstrip(",;:.!?\"'-")
    return f"{part}." if part.count('"') == 0 else text


class Mixture:
    """Draws damaged and clean passages as the recipe says."""

    def __init__(self, streams: dict[str, Stream], tokenizer: Tokenizer, recipe: Recipe) -> None:
        self._streams, self._tokenizer, self._recipe = streams, tokenizer, recipe

    def state(self) -> dict[str, int]:
        """Nothing: the step decides."""
        return {}

    def restore(self, state: dict[str, int]) -> None:
        """Nothing to do."""

    def batch(self, step: int) -> Pairs:
        """The batch of a step: rows of one bucket, padded to its length."""
        recipe = self._recipe
        rng = random.Random(f"{recipe.seed}/{step}")
        bucket = rng.choices(recipe.buckets, [b.share for b in recipe.buckets])[0]
        rows = recipe.batch_tokens // bucket.length
        blocks = [np.zeros((rows, bucket.length), dtype=np.int64) for _ in range(3)]
        sources, tokens, targets = blocks
        weights = np.zeros((rows, bucket.length), dtype=np.float32)
        lengths = np.zeros(rows, dtype=np.int64)
        for row, (clean, damaged, source, target) in enumerate(self._rows(bucket, rows, rng)):
            lengths[row] = len(source.ids) + 1
            sources[row, : len(source.ids)] = source.ids
            targets[row, : len(target.ids)] = target.ids
            tokens[row, 1 : len(target.ids) + 1] = target.ids
            weights[row, : len(target.ids) + 1] = 1.0
            weights[row, : len(target.ids)][touched(clean, damaged, target)] = recipe.weight(step)
        return Pairs(*map(torch.from_numpy, (tokens, targets, weights, sources, lengths)))

    def _rows(
        self, bucket: Bucket, count: int, rng: random.Random
    ) -> list[tuple[str, Damaged, Encoding, Encoding]]:
        found: list[tuple[str, Damaged, Encoding, Encoding]] = []
        while len(found) < count:
            pairs = [self.draw(bucket, rng) for _ in range(count - len(found))]
            sources = self._tokenizer.encode_batch([damaged.text for _, damaged in pairs])
            targets = self._tokenizer.encode_batch([clean for clean, _ in pairs])
            for (clean, damaged), source, target in zip(pairs, sources, targets, strict=True):
                if clean and max(len(source.ids), len(target.ids)) < bucket.length:
                    found.append((clean, damaged, source, target))
        return found

    def draw(self, bucket: Bucket, rng: random.Random) -> tuple[str, Damaged]:
        """A clean passage and what became of it; the passage may be too long or empty."""
        recipe = self._recipe
        names = list(recipe.streams)
        stream = self._streams[rng.choices(names, [recipe.streams[n] for n in names])[0]]
        text = stream.passage(round(bucket.length * rng.uniform(0.9, 1.0)), rng)
        shortest, second = recipe.buckets[:2]
        if bucket == shortest and text and rng.random() < recipe.fragment_share:
            text = fragment(text, rng)
        if not text or rng.random() < recipe.clean_share:
            return text, Damaged(text, ())
        share = {shortest: recipe.careless_share, second: recipe.careless_share / 2}
        hurried = rng.random() < share.get(bucket, 0.0)
        return text, (careless if hurried else damage)(text, rng)


def touched(clean: str, damaged: Damaged, target: Encoding) -> list[bool]:
    """Which tokens of the clean text belong to a word that an edit hit."""
    spans = [match.span() for match in re.finditer(r"\S+", clean)]
    hit = [spans[edit.index] for edit in damaged.edits]
    return [any(a < end and b > start for a, b in hit) for start, end in target.offsets]
