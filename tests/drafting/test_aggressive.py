"""Drafting from the source: it keeps its place through changes, and says where it may go on."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgedec import draft
from edgedec.architecture import Architecture
from edgedec.bundle import open_bundle
from edgedec.contracts import Context, Host, Source
from edgedec.copyist import Copyist
from edgedec.errors import UnsupportedError, UsageError
from edgedec.passage import Passage, Words
from edgedec.strategies.aggressive import Aggressive
from edgedec.text import Text

from .both import plain_host

STORIES = open_bundle("stories")
TEXT = Text.open(STORIES.path, STORIES.manifest.architecture)
START = 0
SENTENCE = (
    "The old man had a small boat, and every morning he went down to the river to fish. "
    'One day he caught nothing at all. "I will try again tomorrow," he said to his wife.'
)


def copyist(options: Aggressive | None = None) -> Copyist:
    return (options or Aggressive()).open(cast("Host", SimpleNamespace(text=TEXT)))


def source(text: str) -> Source:
    return Source((*TEXT.encode(text), START), text)


def passes(read: Source, target: str, budget: int, options: Aggressive | None = None) -> int:
    """Turns it takes to write a target: each accepts what the tree holds, and one token more."""
    drafter, wanted = copyist(options), TEXT.encode(target)
    written, turns = [START], 0
    while len(written) <= len(wanted):
        context = Context(list(written), 1, 0, 0.0, read)
        tree = draft.check(drafter.propose(context, budget), STORIES.manifest.architecture.vocab)
        children, node = draft.children(tree), -1
        while len(written) <= len(wanted):
            token = wanted[len(written) - 1]
            written.append(token)
            if (node, token) not in children:
                break
            node = children[node, token]
        turns += 1
    return turns


CHANGES = {
    "nothing": (SENTENCE, SENTENCE),
    "a word misspelt": (SENTENCE.replace("morning", "mornign"), SENTENCE),
    "a word missing": (SENTENCE.replace("every ", ""), SENTENCE),
    "a word doubled": (SENTENCE.replace("river", "river river"), SENTENCE),
    "a capital lost": (SENTENCE.replace("One", "one"), SENTENCE),
    "a comma lost": (SENTENCE.replace("boat,", "boat"), SENTENCE),
    "a comma too many": (SENTENCE.replace("down", "down,"), SENTENCE),
    "a word joined": (SENTENCE.replace("went down", "wentdown"), SENTENCE),
    "a word parted": (SENTENCE.replace("nothing", "no thing"), SENTENCE),
}


@pytest.mark.parametrize("name", CHANGES)
def test_one_change_costs_one_or_two_passes_more(name: str) -> None:
    damaged, target = CHANGES[name]
    wide = Aggressive(tokens=256)
    assert passes(source(damaged), target, 256, wide) <= (1 if name == "nothing" else 4)


def test_branches_save_passes() -> None:
    damaged = SENTENCE
    for missing in ("old ", "every ", "down ", "at ", "his "):
        damaged = damaged.replace(missing, "", 1)
    counts = [
        passes(source(damaged), SENTENCE, 12, Aggressive(branches=branches)) for branches in (1, 3)
    ]
    assert counts[1] < counts[0] < len(TEXT.encode(SENTENCE)) / 3


def test_an_encoder_with_other_tokens_is_copied_word_by_word() -> None:
    foreign = Source(tuple(range(100, 130)), SENTENCE)
    assert passes(foreign, SENTENCE, 64, Aggressive(tokens=64)) == 1


def test_it_finds_back_after_a_long_change() -> None:
    inserted = "There was nobody there who could have told them what it was all about. "
    target = SENTENCE.replace("One day", inserted + "One day")
    grown = passes(source(SENTENCE), target, 64) - passes(source(SENTENCE), SENTENCE, 64)
    assert grown <= len(TEXT.encode(inserted)) + 3


def test_a_new_source_begins_anew_and_none_gives_nothing() -> None:
    drafter = copyist()
    first, second = source("one two three four"), source("five six seven eight")
    for read in (first, second, first):
        found = drafter.propose(Context([START], 1, 0, 0.0, read), 16)
        assert found.tokens.tolist() == list(read.tokens[:-1])
    assert not len(drafter.propose(Context([START], 1, 0, 0.0, None), 16).tokens)


@settings(max_examples=60, deadline=None)
@given(
    st.text(max_size=60),
    st.lists(st.integers(0, STORIES.manifest.architecture.vocab - 1), max_size=40),
    st.integers(0, 40),
)
def test_whatever_is_written_the_draft_is_a_tree_within_its_budget(
    text: str, output: Sequence[int], budget: int
) -> None:
    drafter, read = copyist(Aggressive(branches=4)), source(text)
    for end in range(0, len(output) + 1, 3):
        found = drafter.propose(Context([START, *output[:end]], 1, 0, 0.0, read), budget)
        draft.check(found, STORIES.manifest.architecture.vocab)
        assert len(found.tokens) <= budget
        assert np.isfinite(found.score).all()


def test_words_are_found_by_their_tokens() -> None:
    passage = Words(TEXT).passage(source("The cat, again."))
    assert passage.words == ("the", "cat", ",", "again", ".")
    assert [passage.start(word) for word in range(passage.count)] == [
        index for index, size in enumerate(passage.sizes) if size
    ]
    assert passage.word_of(len(passage.tokens)) == passage.count
    assert sum(passage.sizes) == len(passage.tokens) == len(TEXT.encode("The cat, again."))


@given(st.lists(st.integers(1, 4), min_size=2, max_size=20), st.data())
def test_the_place_behind_what_was_written(tokens: list[int], data: st.DataObject) -> None:
    """Against looking everywhere: the longest run first, then the nearest place."""
    written = data.draw(st.lists(st.integers(1, 4), min_size=2, max_size=12))
    near = data.draw(st.integers(0, 20))
    passage = Passage(tuple(tokens), (1,) * len(tokens), ("a",) * len(tokens))
    found = {}
    for place in range(2, len(tokens) + 1):
        runs = range(1, min(place, len(written)) + 1)
        same = [n for n in runs if tokens[place - n : place] == written[-n:]]
        if len(same) >= 2:
            found[place] = max(same)
    if not found:
        assert passage.behind(written, near) == (-1, 0)
        return
    place, same = passage.behind(written, near)
    assert found[place] == same
    best = max((length, -abs(each - near)) for each, length in found.items())
    assert (same, -abs(place - near)) == best


def test_a_phrase_that_comes_twice_leads_to_the_near_place() -> None:
    """The first "long slow river" was misspelt: what follows it must not be taken for the second,
    which stands far behind."""
    damaged = (
        "We came to the lnog slw river at noon, and rested in the shade of some old trees until "
        "the worst of the heat was over. Then we went down to the long slow river to swim."
    )
    clean = damaged.replace("lnog slw", "long slow")
    assert passes(source(damaged), clean, 16) <= 9


def test_a_wrong_turn_is_taken_back() -> None:
    """What was written stands far behind by chance; the text goes on where it was."""
    read = [*range(100, 112), *range(20, 40), 7, 8, *range(60, 70)]
    passage = Passage(tuple(read), (1,) * len(read), ("a",) * len(read))
    drafter = copyist()
    drafter._take(passage, [0.9] * len(read))
    drafter._known = None
    written = [START, *range(100, 112), 7, 8, 60, 61, 62]
    context = Context(written, 1, 0)
    assert drafter.propose(context, 8).tokens.tolist()[:2] == [63, 64]  # five tokens stand there
    written += [25, 26, 27]
    assert 28 not in drafter.propose(context, 8).tokens.tolist()
    written += [28]
    assert drafter.propose(context, 8).tokens.tolist()[:3] == [29, 30, 31]


def test_it_needs_a_text_to_copy() -> None:
    model: Architecture = STORIES.manifest.architecture
    with pytest.raises(UnsupportedError, match="has none: use prompt_lookup"):
        Aggressive().needs(plain_host(model))
    with pytest.raises(UsageError, match="tokens is 0"):
        Aggressive(tokens=0)
