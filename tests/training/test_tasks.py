"""The template tasks have one answer, which can be worked out from the prompt alone."""

from __future__ import annotations

import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgedec.models.reference.stories.tasks import (
    KINDS,
    NAMES,
    Pool,
    Task,
    join_items,
    make_task,
    number,
    replace_name,
    series_items,
    usable_sentences,
)

TEXTS = (
    'Tom saw a dog, a cat, and a hen. The dog ran to Tom. "Come here," said Tom.',
    "Lily had a red ball. She threw the ball to Ben. Ben fell down and laughed.",
    "They bought apples, pears and plums. It was a warm day. The sun was high.",
    'Anna looked up. "Where is my hat?" she asked.',
)
POOL = Pool.build(TEXTS)


def tasks(kind: str, count: int = 200) -> list[Task]:
    rng = random.Random(kind)
    return [make_task(rng, POOL, kind) for _ in range(count)]


def test_the_same_seed_gives_the_same_task() -> None:
    for kind in KINDS:
        assert make_task(random.Random(3), POOL, kind) == make_task(random.Random(3), POOL, kind)


@pytest.mark.parametrize("kind", ["repeat", "quote"])
def test_repeated_and_quoted_words_stand_in_the_prompt(kind: str) -> None:
    for task in tasks(kind):
        assert task.answer in task.prompt
        assert task.answer != task.prompt


def test_a_quoted_sentence_is_the_only_one_with_the_word() -> None:
    asked = [task for task in tasks("quote", 400) if 'the word "' in task.prompt]
    assert asked
    for task in asked:
        word = re.search(r'the word "(\w+)"', task.prompt)
        assert word is not None
        text = task.prompt.replace(f'"{word[1]}"', "").replace(task.answer, "")
        assert word[1] in task.answer
        assert word[1] not in text


def test_renaming_leaves_nothing_of_the_old_name() -> None:
    for task in tasks("rename"):
        in_prompt = [name for name in NAMES if re.search(rf"\b{name}\b", task.prompt)]
        in_answer = [name for name in NAMES if re.search(rf"\b{name}\b", task.answer)]
        gone = set(in_prompt) - set(in_answer)
        assert len(gone) == 1
        assert replace_name(task.answer, gone.pop(), "") == task.answer


def test_lists_have_one_entry_for_each_thing() -> None:
    for task in tasks("list"):
        for line in task.answer.split("\n"):
            entry = re.fullmatch(r"(?:- |\d\. )(.+)", line)
            assert entry is not None
            assert entry[1] in task.prompt


def test_series_are_found_in_text() -> None:
    assert series_items("She saw a dog, a cat, and a hen.") == ["a dog", "a cat", "a hen"]
    assert series_items("They like apples, pears and plums.") == ["apples", "pears", "plums"]
    assert series_items("He ran, fell, and cried.") == []


@pytest.mark.parametrize(
    "odd",
    ['She said, "no.', "Short.", "x" * 121 + ".", "no mark at the end", "Curly \u2019 quote here."],
)
def test_odd_sentences_are_left_out(odd: str) -> None:
    assert usable_sentences(odd) == ()


def test_a_pool_without_names_says_what_is_missing() -> None:
    with pytest.raises(ValueError, match="rename"):
        make_task(random.Random(0), Pool.build(["The sun was high today."]), "rename")


@given(
    st.lists(st.from_regex(r"[a-z]{1,6}", fullmatch=True), min_size=2, max_size=6), st.booleans()
)
def test_joined_items_can_be_taken_apart(items: list[str], comma: bool) -> None:
    joined = join_items(items, comma)
    assert re.split(r", and | and |, ", joined) == items or "and" in items


@given(st.lists(st.text(alphabet="abc ", min_size=1), min_size=1, max_size=9))
def test_numbering_counts_from_one(lines: list[str]) -> None:
    numbered = number(lines).split("\n")
    assert [int(line.split(".")[0]) for line in numbered] == list(range(1, len(lines) + 1))
