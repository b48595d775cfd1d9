"""Clean passages of a wanted length from the texts of `stories`. Knows no torch and no model."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from tokenizers import Tokenizer

from edgedec.models.reference.stories.data import Texts

_TITLES = "Mr Mrs Ms Dr St Jr Sr Prof Capt Col Gen Lt Rev Hon Esq Messrs vs etc No Mt Co Inc Ltd"
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
        if match[0][0] == "." and (
            before in _TITLES.split() or (len(before) == 1 and before != "I")
        ):
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
