"""Prompts to train drafting for stories on: python .../prompts.py --data D --out FILE.

What a user would give: beginnings of stories and of other prose, and the requests that the model
knows, one JSON line each, as `edgedec train --data` reads them. All is made of training texts, and
nothing that `edgedec bench` asks is among it. Knows no model.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from edgedec.benchmark import workloads
from edgedec.models.reference.stories.data import (
    ASSISTANT,
    USER,
    Texts,
    as_chat,
    grams,
    load_texts,
    story_key,
)
from edgedec.models.reference.stories.tasks import Pool, make_task, usable_sentences
from edgedec.prompts import Prompt

SHARES = {"story": 0.50, "prose": 0.15, "asked": 0.12, "task": 0.23}
TASKS = {"rename": 7, "quote": 7, "list": 6, "repeat": 3}
SHORTEST, LONGEST = 3, 60
"""Words of a beginning; half of them are shorter than the geometric mean."""
BEGINNING = 260
"""Characters of a beginning that is told again, at most: as `edgedec bench` gives them."""
AGAIN = ("Continue this story: ", "Write a story that begins: ")
SHARED = 12
"""A run of so many words that a benchmark's text has, too, keeps a prompt out."""


class Apart:
    """Tells prompts that share nothing with given texts, by default those of `edgedec bench`.

    Neither is the beginning of the other, and no run of `SHARED` words stands in both.
    """

    def __init__(self, texts: Iterable[str] | None = None) -> None:
        known = list(benchmark_texts() if texts is None else texts)
        self._keys = [story_key(text) for text in known]
        self._runs = {run for text in known for run in grams(text, SHARED)}

    def __call__(self, text: str) -> bool:
        """Whether a text is far enough from all of them."""
        key = story_key(text)
        near = any(key.startswith(other) or other.startswith(key) for other in self._keys)
        return not near and self._runs.isdisjoint(grams(text, SHARED))


def benchmark_texts() -> Iterator[str]:
    """All that `edgedec bench` asks the models that ship."""
    for name in (*workloads.DEFAULT, *workloads.SOURCES):
        for prompt in workloads.shipped(name).prompts:
            yield from prompt.turns


@dataclass(frozen=True)
class Sources:
    """What prompts are made of."""

    stories: list[str]
    books: list[list[str]]  # paragraphs that tell something
    pool: Pool

    @classmethod
    def of(cls, texts: Texts, rng: random.Random) -> Sources:
        """From training texts; a quarter of what tasks are made of is from books.

        Raises:
            ValueError: there are none of a kind.
        """
        stories = list(texts.train["tiny"])
        rng.shuffle(stories)
        books = [told(text) for name in ("fairy", "books") for text in texts.train[name]]
        books = [paragraphs for paragraphs in books if paragraphs]
        if not (stories and books):
            raise ValueError("these texts have no stories or no books: give more text")
        prose = [rng.choice(rng.choice(books)) for _ in range(len(stories) // 4)]
        return cls(stories, books, Pool.build([*stories[: 3 * len(prose)], *prose]))


def told(text: str) -> list[str]:
    """The paragraphs of a book, one line each, that are prose of two sentences or more."""
    lines = (" ".join(part.split()) for part in text.split("\n\n"))
    return [line for line in lines if len(usable_sentences(line)) > 1]


def story(sources: Sources, rng: random.Random) -> Prompt:
    """The first words of a story."""
    return Prompt((opening(rng.choice(sources.stories), rng),))


def prose(sources: Sources, rng: random.Random) -> Prompt:
    """The first words of a paragraph of a book."""
    return Prompt((opening(rng.choice(rng.choice(sources.books)), rng),))


def opening(text: str, rng: random.Random) -> str:
    """The first words of a text, few or many; a third end where a sentence does."""
    words = text.split(" ")
    wanted = SHORTEST * (LONGEST / SHORTEST) ** rng.random()
    part = words[: min(round(wanted), max(1, len(words) - SHORTEST))]
    ends = [place + 1 for place, word in enumerate(part) if word.endswith((".", "!", "?", '"'))]
    return " ".join(part[: ends[-1]] if ends and rng.random() < 1 / 3 else part)


def asked(sources: Sources, rng: random.Random) -> Prompt:
    """A request for a story, or to go on with one (of stories mostly, or of a book)."""
    if rng.random() < 0.4:
        ask = as_chat(rng.choice(sources.stories), rng)
        return Prompt((ask.removeprefix(USER).split(ASSISTANT)[0],), chat=True)
    books = rng.random() < 0.4
    text = rng.choice(rng.choice(sources.books)) if books else rng.choice(sources.stories)
    sentences = usable_sentences(text.split("\n")[0]) or (opening(text, rng),)
    begun = sentences[0]
    for sentence in sentences[1 : rng.randint(1, 5)]:
        if len(begun) + 1 + len(sentence) > BEGINNING:
            break
        begun = f"{begun} {sentence}"
    return Prompt((rng.choice(AGAIN) + begun,), chat=True)


def task(sources: Sources, rng: random.Random) -> Prompt:
    """A request with one right answer."""
    kind = rng.choices(list(TASKS), list(TASKS.values()))[0]
    return Prompt((make_task(rng, sources.pool, kind).prompt,), chat=True)


_MAKERS: dict[str, Callable[[Sources, random.Random], Prompt]] = {
    "story": story,
    "prose": prose,
    "asked": asked,
    "task": task,
}


def prompts(texts: Texts, count: int, seed: int = 0, apart: Apart | None = None) -> list[Prompt]:
    """Different prompts in mixed order; all but those too near to what is measured.

    Raises:
        ValueError: the texts do not give so many.
    """
    rng = random.Random(f"prompts/{seed}")
    apart = apart or Apart()
    sources = Sources.of(texts, rng)
    found: dict[Prompt, None] = {}
    for _ in range(40 * count):
        name = rng.choices(list(SHARES), list(SHARES.values()))[0]
        made = _MAKERS[name](sources, rng)
        if made not in found and apart(made.turns[0]):
            found[made] = None
            if len(found) == count:
                return list(found)
    raise ValueError(f"these texts give {len(found)} prompts, not {count}: give more text")


def write(path: Path, made: Iterable[Prompt]) -> int:
    """Write prompts, one JSON line each; returns how many."""
    lines = [
        json.dumps(
            {"turns": prompt.turns} if prompt.chat else {"prompt": prompt.turns[0]},
            ensure_ascii=False,
        )
        for prompt in made
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return len(lines)


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with corpus/ and text/")
    parser.add_argument("--out", type=Path, required=True, help="the file of prompts")
    parser.add_argument("--count", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    made = prompts(load_texts(arguments.data), arguments.count, arguments.seed)
    print(f"{arguments.out}: {write(arguments.out, made)} prompts")


if __name__ == "__main__":
    main()
