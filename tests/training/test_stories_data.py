"""What the `stories` recipe trains on, and that held-out text is never among it."""

from __future__ import annotations

import dataclasses
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from edgedec.models.reference.stories import data
from edgedec.models.reference.stories.recast import recast
from edgedec.models.reference.stories.recipe import WIDE, Recipe
from edgedec.models.reference.stories.tasks import NAMES
from edgedec.models.reference.stories.tokenizer import train_tokenizer

WORDS = ("cat", "dog", "sun", "hat", "tree", "bird", "fish", "ball", "star", "moon", "lake", "road",
         "hill", "boat", "king", "door")  # fmt: skip


def story(index: int) -> str:
    first, second = WORDS[index % 16], WORDS[index // 16 % 16]
    return f"One day a {first} met a {second}. {first.title()} {index} was glad.\n" * 3


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small copy of the data's layout: 100 stories, two of the books held out and kept."""
    stories = [story(index).strip() for index in range(100)]
    (tmp_path / "text").mkdir()
    (tmp_path / "corpus").mkdir()
    cased = f"\n{data.END}\n".join(stories) + f"\n{data.END}\n"
    (tmp_path / "text/tinystories_cased_2MB.txt").write_text(cased)
    lower = "\n".join(
        text.lower().replace("\n", "\n\n") for text in [*stories[90:], story(101).strip()]
    )
    (tmp_path / "text/tinystories_4MB.txt").write_text(lower + "\ncut off")
    head = f"\n\n{data.END}\n\n".join(text.replace("\n", "\n\n") for text in stories[:99:7])
    (tmp_path / "corpus/tinystories-head.txt").write_text(head)
    secret = "this secret line of fourteen words must never be seen by any model ever"
    for name in data.HELD_OUT_FILES:
        (tmp_path / name).write_text("nothing of note")
    for name in data.HELD_OUT_BOOKS:
        (tmp_path / "corpus" / f"{name}.txt").write_text(secret)
    book = f"A plain paragraph.\n\nHe wrote: {secret}.\n\nAnother plain paragraph."
    (tmp_path / "corpus/austen-emma.txt").write_text(book)
    (tmp_path / "corpus/grimm-tales.txt").write_text("A king had three sons.")
    (tmp_path / "corpus/wikipedia-core.txt").write_text("Tea is a drink.")
    (tmp_path / "corpus/dialogue-some.txt").write_text("User: Hello.")
    return tmp_path


def test_the_last_stories_are_held_out_of_every_file(folder: Path) -> None:
    texts = data.load_texts(folder)
    held = {data.story_key(text) for text in texts.held_out["tinystories"]}
    trained = [data.story_key(text) for text in texts.train["tiny"]]
    assert 5 <= len(held) <= 7
    assert held.isdisjoint(trained)
    assert len(set(trained)) == len(trained) == 101 - len(held)
    for text in texts.train["chat"]:
        assert data.story_key(text.split(data.ASSISTANT)[1]) not in held


def test_a_paragraph_that_quotes_held_out_text_is_dropped(folder: Path) -> None:
    texts = data.load_texts(folder)
    assert texts.train["books"] == ["A plain paragraph.\n\nAnother plain paragraph."]
    assert texts.train["fairy"] == ["A king had three sons."]
    row = next(row for row in texts.provenance if row["file"] == "corpus/austen-emma.txt")
    assert row["dropped"] == 1
    assert "secret" not in str(texts.train)


def test_the_tail_begins_before_the_story_it_cuts() -> None:
    raw = data.END.join(("a" * 50, "b" * 50, "c" * 50))
    assert data.hold_out_tail(raw, 0.1) == (["a" * 50, "b" * 50], ["c" * 50])


def test_capitals_come_back() -> None:
    caser = data.Truecaser(['"Hi," said Tom to Ann. "Where is Tom?" asked Ann.'] * 3)
    lower = 'once there was tom. "where is the cat?" asked ann.\nshe saw a dog named rex.'
    cased = 'Once there was Tom. "Where is the cat?" asked Ann.\nShe saw a dog named Rex.'
    assert caser(lower) == cased


def test_tokens_are_cached_and_end_each_document(folder: Path, tmp_path: Path) -> None:
    texts = data.load_texts(folder)
    tokenizer = train_tokenizer(texts.train["tiny"], size=300)
    assert [tokenizer.token_to_id(text) for text in (data.END, data.USER, data.ASSISTANT)] == [
        *range(3)
    ]
    first = data.load_tokens(texts, tokenizer, tmp_path / "cache")
    again = data.load_tokens(texts, tokenizer, tmp_path / "cache")
    assert {name: array.tolist() for name, array in first.items()} == {
        name: array.tolist() for name, array in again.items()
    }
    assert int((first["tiny"] == 0).sum()) == len(texts.train["tiny"])
    assert decoded(tokenizer, first["fairy"]) == "A king had three sons."


def decoded(tokenizer: Tokenizer, tokens: data.Tokens) -> str:
    assert tokens.dtype == np.uint16
    return str(tokenizer.decode(tokens.tolist()))


@pytest.mark.parametrize(("recipe", "tokens"), [(Recipe(), 8192), (WIDE, 32768)])
def test_every_phase_has_the_same_tokens_and_enough_tasks(recipe: Recipe, tokens: int) -> None:
    for phase in recipe.phases:
        rows = sum(phase.rows.values())
        assert rows * phase.length == tokens
        assert 0.10 <= phase.rows["tasks"] / rows <= 0.16
        assert set(phase.rows) <= {*data.STREAMS, "tasks"}
    assert recipe.phase(0) is recipe.phases[0]
    assert recipe.phase(recipe.steps - 1) is recipe.phases[-1]


@pytest.mark.parametrize("steps", [7, 10, 100, 3029])
def test_rows_are_counted_as_they_are_drawn(steps: int) -> None:
    recipe = dataclasses.replace(Recipe(), steps=steps)
    drawn: Counter[tuple[str, int]] = Counter()
    for step in range(steps):
        phase = recipe.phase(step)
        for name, count in phase.rows.items():
            assert recipe.drawn(name, phase.length, step) == drawn[name, phase.length]
            drawn[name, phase.length] += count


def test_a_recast_story_has_other_names_of_the_same_kind() -> None:
    told = "Lily met Tom. Tom gave Lily a ball. Max the dog saw it. Lilies grow."
    rng = random.Random(0)
    seen = {recast(told, rng) for _ in range(20)}
    assert len(seen) > 15
    for text in seen:
        words = text.replace(".", "").split()
        girl, boy, dog = words[0], words[2], words[8]
        again = f"{girl} met {boy}. {boy} gave {girl} a ball. {dog} the dog saw it. Lilies grow."
        assert text == again
        assert len({girl, boy, dog}) == 3
        assert recast(girl, rng) in NAMES[NAMES.index("Lily") :]
        assert recast(boy, rng) in NAMES[: NAMES.index("Lily")]
    assert recast("A fox ran.", rng) == "A fox ran."
