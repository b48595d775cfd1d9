"""What `fix` learns to undo: the damage is seeded, of the stated rates, and says where it is."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from edgedec.models.reference.fix import misspell
from edgedec.models.reference.fix.damage import (
    KINDS,
    RATE,
    Damaged,
    careless,
    damage,
    is_name,
    words_of,
)
from edgedec.models.reference.fix.score import Score, align

TEXT = (
    '"We are coming to that," said Mr. Holmes. "You have nothing else to tell us before we go into '
    'this matter?"\n\nSir Henry smiled. "I don\'t know much of British life yet, for I have spent '
    "nearly all my time in Canada. But I hope that to lose one of your boots isn't a part of the "
    'ordinary routine over here, and I will believe it when they say so."'
)


def test_a_seed_decides_the_damage() -> None:
    same = [damage(TEXT, random.Random(5)) for _ in range(2)]
    assert same[0] == same[1]
    assert damage(TEXT, random.Random(6)) != same[0]
    assert careless(TEXT, random.Random(5)) == careless(TEXT, random.Random(5))


def test_the_rates_are_those_that_are_stated() -> None:
    found = [damage(TEXT, random.Random(seed)) for seed in range(1500)]
    kinds = Counter(edit.kind for made in found for edit in made.edits)
    edits = kinds.total()
    assert edits / (len(found) * len(words_of(TEXT))) == pytest.approx(RATE, rel=0.08)
    for kind, share in KINDS.items():
        assert kinds[kind] / edits == pytest.approx(share, abs=0.03), kind


def test_every_edit_is_one_word_and_is_named() -> None:
    names: Counter[str] = Counter()
    for seed in range(400):
        made = damage(TEXT, random.Random(seed))
        assert made.edits
        assert made.text != TEXT
        assert "\0" not in made.text
        places = [edit.index for edit in made.edits]
        assert places == sorted(set(places))
        names.update(edit.name for edit in made.edits)
    assert set(names) == {
        "slip", "habit", "sound-alike", "space",
        "lost capital", "lost opening capital", "stray capital", "lost mark", "lost stop",
        "apostrophe", "added mark", "wrong mark",
        "doubled", "dropped small word", "dropped word",
    }  # fmt: skip


def test_words_that_no_edit_names_stay() -> None:
    words = words_of(TEXT)
    for seed in range(200):
        made = damage(TEXT, random.Random(seed))
        # an edit may glue its word to the next one that is left
        hit = {edit.index + after for edit in made.edits
               for after in range(3 if edit.name == "space" else 1)}  # fmt: skip
        left = iter(words_of(made.text))
        assert all(word in left for index, word in enumerate(words) if index not in hit), made


def test_a_careless_line_has_lost_its_capital_and_its_stop() -> None:
    made = [careless("The cat sat on the mat.", random.Random(seed)) for seed in range(40)]
    assert all(one.text[0] != "T" and not one.text.endswith(".") for one in made)
    assert "the cat sat on the mat" in {one.text for one in made}
    assert any("spelling" in {edit.kind for edit in one.edits} for one in made)


def test_a_name_has_a_capital_that_no_sentence_start_explains() -> None:
    words = words_of('When Ann came I said, "Hello, Tom." Then he left Rome.')
    assert [word for index, word in enumerate(words) if is_name(words, index)] == [
        "Ann",
        'Tom."',
        "Rome.",
    ]


@pytest.mark.parametrize("spell", [misspell.slip, misspell.habit, misspell.sound_alike])
def test_a_wrong_spelling_is_wrong(spell: misspell.Spell) -> None:
    for word in ("friend", "their", "believe", "running", "science", "little", "the", "a"):
        wrong = {spell(word, random.Random(seed)) for seed in range(60)}
        assert word not in wrong
        assert "" not in wrong


def test_alignment_counts_the_least_errors() -> None:
    clean = words_of("the cat sat on the mat")
    assert align(clean, clean).errors == 0
    assert align(clean, words_of("the cat sat the the mat")).errors == 1
    found = align(clean, words_of("a the cat on the mat now"))
    assert found.errors == 3
    assert found.places == (1, 2, None, 3, 4, 5)
    assert not found.intact(1)  # its neighbour is missing
    assert found.intact(4)
    assert not align(clean, words_of("the the cat sat on the mat")).intact(0)


def test_a_score_counts_what_was_repaired_and_kept() -> None:
    clean = "Then Ann and Tom met the old man."
    made = Damaged("Then Ann adn Tom met old man.", (), ())
    score = Score()
    score.add(clean, made, "Then Anne and Tom met the old man.")
    report = score.report()
    assert report["wer_before"] == pytest.approx(2 / 8)
    assert report["wer_after"] == pytest.approx(1 / 8)
    assert (report["names"], report["names_kept"]) == (2, 0.5)
