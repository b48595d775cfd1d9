"""Where the clean texts of `fix` come from: careful prose only, cut at sentences."""

from __future__ import annotations

import random

import pytest
from tokenizers import Tokenizer

from edgedec.models.reference.fix.passages import (
    fragment,
    is_clean,
    make_stream,
    make_streams,
    split_sentences,
)
from edgedec.models.reference.fix.recipe import Recipe
from edgedec.models.reference.stories.data import STREAMS, Texts
from edgedec.models.reference.stories.tokenizer import train_tokenizer

PARAGRAPHS = [f"Number {index} went home. He was glad. The road was long." for index in range(60)]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(PARAGRAPHS, 300)


def test_titles_and_initials_end_no_sentence() -> None:
    text = 'Mr. J. Smith came. "Who is it?" asked Dr. Watson. It was I. He left!'
    assert split_sentences(text) == [
        "Mr. J. Smith came.",
        '"Who is it?" asked Dr. Watson.',
        "It was I.",
        "He left!",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "no capital here.",
        "No stop here",
        'An "open quote.',
        "A _marked_ word.",
        "CHAPTER ONE BEGINS.",
        "So i said.",
        "A stray , comma.",
        "Curly \N{RIGHT SINGLE QUOTATION MARK} marks.",
    ],
)
def test_careless_prose_is_left_out(text: str) -> None:
    assert not is_clean(text)


def test_a_passage_is_consecutive_and_fits(tokenizer: Tokenizer) -> None:
    document = "\n\n".join(PARAGRAPHS)
    stream = make_stream([document], tokenizer)
    assert len(stream.sentences) == 3 * len(PARAGRAPHS)
    for limit in (12, 40, 90):
        for seed in range(20):
            text = stream.passage(limit, random.Random(seed))
            assert text in document
            assert len(tokenizer.encode(text).ids) <= 1.3 * limit


def test_a_passage_stops_at_what_is_left_out(tokenizer: Tokenizer) -> None:
    stream = make_stream(["One is here.\n\nbad line\n\nTwo is here."], tokenizer)
    assert stream.sentences == ["One is here.", "Two is here."]
    assert {stream.passage(200, random.Random(seed)) for seed in range(20)} == set(stream.sentences)


def test_restored_capitals_and_typed_chats_are_not_used(tokenizer: Tokenizer) -> None:
    train = {name: ["The sun was warm. It shone."] for name in STREAMS}
    train["tiny"] = ["Cased story one. It was good.", "Head story two. It was good.", "Guessed."]
    train["dialogue"] = ["A: Hey you.\nB: Oh no.", "User: A table, please.\nAssistant: Done."]
    rows: list[dict[str, object]] = [{"parts": 1}, {"parts": 1}, {"parts": 1}]
    streams = make_streams(Texts(train, {}, rows), tokenizer)
    assert set(streams) == set(Recipe().streams)
    assert len(streams["tiny"].sentences) == 4
    assert streams["dialogue"].sentences == ["A table, please.", "Done."]
    assert streams["dialogue"].gaps == ["", ""]


def test_a_fragment_is_closed_like_a_sentence() -> None:
    text = "When the rain came, the old man went home to his small house."
    made = {fragment(text, random.Random(seed)) for seed in range(20)}
    assert made == {"When the rain came."}


def test_the_edit_weight_falls_to_its_end() -> None:
    recipe = Recipe(steps=100)
    weights = [recipe.weight(step) for step in range(101)]
    assert weights[0] == recipe.edit_weight
    assert weights[100] == recipe.edit_weight_end
    assert weights == sorted(weights, reverse=True)
