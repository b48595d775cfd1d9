"""The prompts that `edgedec bench` ships, made from text that `stories` was never trained on.

    python bench/make_workloads.py --data ../shared/data

Writes `edgedec/benchmark/texts/*.jsonl`: the same files from the same data, whenever it is run.
Every prompt is made of the held-out end of TinyStories or of the five held-out books.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edgedec.models.reference.fix.damage import damage
from edgedec.models.reference.fix.passages import is_clean
from edgedec.models.reference.stories.data import HELD_OUT_BOOKS, hold_out_tail
from edgedec.models.reference.stories.tasks import Pool, make_task, usable_sentences

TARGET = Path(__file__).parents[1] / "edgedec" / "benchmark" / "texts"
STORIES, TASKS = 200, 300
"""Prompts of a file: enough for 20 pairs of 256 new tokens each."""
OPENING = 12
"""Words that begin a story, as in the model card of `stories`."""
SHORTEST, LONGEST = 100, 260
"""Characters of a beginning that is told again."""
AGAIN = ("Continue this story: ", "Write a story that begins: ")
"""Answers to these begin with what they were given, and go on."""

WHOLE = 0.25
"""Of the paragraphs that `fix` gets, the share without damage."""
PASSAGE = 200, 800
"""Characters of a paragraph that is damaged: a minute's typing, and what `fix` reads at once."""

TASK_FILES = {"edit": ("rename", 80), "quote": ("quote", 60), "list": ("list", 50)}
"""Which task, and the shortest answer in characters: an answer of three words measures nothing."""


@dataclass(frozen=True)
class Source:
    """Held-out documents of one origin, each a list of paragraphs."""

    name: str
    documents: tuple[tuple[str, ...], ...]


def main() -> None:
    """Write every file anew."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    sources = held_out(parser.parse_args().data)
    write("story", openings(sources))
    write("continue", told_again(sources))
    for name, (kind, shortest) in TASK_FILES.items():
        write(name, tasks(kind, shortest, sources))
    write("fix", damaged(sources))


def held_out(data: Path) -> list[Source]:
    """The end of TinyStories and the books, in paragraphs of one line."""
    raw = (data / "text/tinystories_cased_2MB.txt").read_text(encoding="utf-8", errors="ignore")
    stories = [tuple(story.split("\n")) for story in hold_out_tail(raw)[1]]
    found = [Source("tinystories", tuple(stories))]
    for book in HELD_OUT_BOOKS:
        text = (data / f"corpus/{book}.txt").read_text(encoding="utf-8", errors="ignore")
        paragraphs = tuple(" ".join(part.split()) for part in text.split("\n\n"))
        found.append(Source(book, (paragraphs,)))
    return found


def openings(sources: list[Source]) -> Iterator[tuple[str, dict[str, object]]]:
    """The first words of every story; then of other places where a sentence begins."""
    for story in sources[0].documents:
        yield sources[0].name, {"prompt": first_words(story[0])}
    rng = random.Random("openings")
    later = [(s.name, p) for s in sources for d in s.documents for p in d[1:] if is_prose(p)]
    # Half of what follows is from stories: the books are 30 times as long.
    groups = [
        [each for each in later if (each[0] == sources[0].name) is tiny] for tiny in (True, False)
    ]
    for group in groups:
        rng.shuffle(group)
    for pair in zip(*groups, strict=False):
        for name, paragraph in pair:
            yield name, {"prompt": first_words(paragraph)}


def first_words(text: str) -> str:
    """The first 12 words, without what ends them."""
    return " ".join(text.split(" ")[:OPENING])


def is_prose(paragraph: str) -> bool:
    """A paragraph that tells something: long enough, and no speech at its start."""
    sentences = usable_sentences(paragraph)
    return len(sentences) > 1 and len(paragraph.split(" ")) > 2 * OPENING and paragraph[0] != '"'


def told_again(sources: list[Source]) -> Iterator[tuple[str, dict[str, object]]]:
    """Beginnings of stories that are to be told from there; of stories and books in turn."""
    rng = random.Random("told again")
    found = [(s.name, text) for s in sources for d in s.documents for text in beginnings(d)]
    rng.shuffle(found)
    stories = [each for each in found if each[0] == sources[0].name]
    books = [each for each in found if each[0] != sources[0].name]
    for pair in zip(stories, books, strict=False):
        for name, text in pair:
            yield name, {"turns": [rng.choice(AGAIN) + text]}


def beginnings(document: tuple[str, ...]) -> Iterator[str]:
    """The first sentences of every paragraph that is long enough, as many as are short enough."""
    for paragraph in document:
        text = ""
        for sentence in usable_sentences(paragraph) if is_prose(paragraph) else ():
            if len(text) + 1 + len(sentence) > LONGEST:
                break
            text = f"{text} {sentence}".strip()
        if len(text) >= SHORTEST:
            yield text


def tasks(
    kind: str, shortest: int, sources: list[Source]
) -> Iterator[tuple[str, dict[str, object]]]:
    """Requests of one kind, about stories and books in turn."""
    rng = random.Random(f"bench/{kind}")
    split = [("tinystories", sources[:1]), ("books", sources[1:])]
    pools = [
        (name, Pool.build("\n".join(d) for source in part for d in source.documents))
        for name, part in split
    ]
    while True:
        for name, pool in pools:
            task = make_task(rng, pool, kind)
            while len(task.answer) < shortest:
                task = make_task(rng, pool, kind)
            yield name, {"turns": [task.prompt]}


def damaged(sources: list[Source]) -> Iterator[tuple[str, dict[str, object]]]:
    """Paragraphs as `fix` gets them: damaged, but for a quarter; of stories and books in turn."""
    rng = random.Random("bench/fix")
    groups: list[list[str]] = []
    for part in (sources[:1], sources[1:]):
        found = [p for s in part for d in s.documents for p in d]
        groups.append([p for p in found if PASSAGE[0] <= len(p) <= PASSAGE[1] and is_clean(p)])
        rng.shuffle(groups[-1])
    for pair in zip(*groups, strict=False):
        for name, text in zip((sources[0].name, "books"), pair, strict=True):
            whole = rng.random() < WHOLE
            yield name, {"prompt": text if whole else damage(text, rng).text}


def write(name: str, prompts: Iterator[tuple[str, dict[str, object]]]) -> None:
    """As many different prompts as a file takes, one a line."""
    most = TASKS if name in TASK_FILES else STORIES
    lines: list[str] = []
    seen: set[str] = set()
    for source, prompt in prompts:
        key = json.dumps(prompt)
        if key not in seen:
            seen.add(key)
            lines.append(json.dumps({**prompt, "source": source}, ensure_ascii=False))
        if len(lines) == most:
            break
    path = TARGET / f"{name}.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{path.name}: {len(lines)} prompts, {path.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
