"""The prompts that shipped parts are trained on: as users give them, and nothing held out."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgedec.models.reference.stories import prompts
from edgedec.models.reference.stories.data import STREAMS, Texts
from edgedec.models.reference.stories.prompts import Apart
from edgedec.prompts import read_prompts

NAMES = ("Tom", "Lily", "Ben", "Anna", "Max", "Mia", "Sam", "Sue")
THINGS = ("a dog, a cat and a hen", "a hat, a ball and a kite", "a pear, an egg and a bun")
SECRET = (
    "The silver clock in the tower of the old town struck nine when nobody was there to hear it."
)


def story(index: int) -> str:
    name, other = NAMES[index % 8], NAMES[(index + 3) % 8]
    return (
        f"Once there was a child called {name} who lived at number {index} of the long street. "
        f'{name} saw {THINGS[index % 3]}. "Come and look at number {index}," said {other}. '
        f"They walked home in the rain with {index} stones in their hands."
    )


@pytest.fixture(scope="module")
def texts() -> Texts:
    """120 stories and two books; some of them quote a secret."""
    train: dict[str, list[str]] = {name: [] for name in STREAMS}
    train["tiny"] = [f"{SECRET} {story(i)}" if i % 5 == 0 else story(i) for i in range(120)]
    paragraphs = [story(i).replace("Once", "Then") for i in range(200, 260)]
    train["books"] = ["\n\n".join([*paragraphs, f"{SECRET} He slept."])]
    train["fairy"] = ["\n\n".join(paragraphs[::-1])]
    return Texts(train, {}, [])


def test_what_is_measured_is_no_prompt(texts: Texts) -> None:
    free = prompts.prompts(texts, 300, apart=Apart([]))
    assert any(SECRET in prompt.turns[0] for prompt in free)
    apart = Apart([SECRET, "Tell me a story about Tom."])
    made = prompts.prompts(texts, 300, apart=apart)
    for prompt in made:
        (turn,) = prompt.turns
        assert SECRET not in turn
        assert not SECRET.startswith(turn)
        assert turn != "Tell me a story about Tom."
    assert len(set(made)) == 300


@pytest.mark.parametrize(
    ("text", "far"),
    [
        (SECRET, False),
        (SECRET.upper(), False),
        ("The silver clock in the tower", False),  # the model may go on as the secret does
        (SECRET + " He slept.", False),
        ("Continue this story: " + SECRET, False),
        ("clock in the tower of the old town struck nine when nobody", False),
        ("clock in the tower of the old town struck nine when", True),
        ("The golden clock in the tower", True),
    ],
)
def test_near_is_a_beginning_or_a_run_of_twelve_words(text: str, far: bool) -> None:
    assert Apart([SECRET])(text) is far


def test_all_that_the_benchmark_asks_is_known() -> None:
    known = list(prompts.benchmark_texts())
    assert len(set(known)) == 1500  # of 8 workloads, two of which ask the same greedily and not
    apart = Apart()
    assert not any(apart(text) for text in known)
    assert apart(story(7))


def test_prompts_are_openings_and_requests_of_many_lengths(texts: Texts) -> None:
    made = prompts.prompts(texts, 400, apart=Apart([]))
    plain = [prompt.turns[0] for prompt in made if not prompt.chat]
    asked = [prompt.turns[0] for prompt in made if prompt.chat]
    assert 0.5 < len(plain) / len(made) < 0.8
    lengths = sorted(len(text.split(" ")) for text in plain)
    assert lengths[0] <= 4
    assert lengths[-1] >= 25
    everything = "\n".join([*texts.train["tiny"], *texts.train["books"], *texts.train["fairy"]])
    assert all(text in everything for text in plain)
    for start in (*prompts.AGAIN, "Quote", "Repeat", "Number"):
        assert any(text.startswith(start) for text in asked), start
    assert not any("<|" in text for text in asked)


def test_the_seed_decides(texts: Texts) -> None:
    first, again, other = (prompts.prompts(texts, 50, seed, Apart([])) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_a_file_is_read_as_it_was_written(texts: Texts, tmp_path: Path) -> None:
    made = prompts.prompts(texts, 60, apart=Apart([]))
    assert prompts.write(tmp_path / "p.jsonl", made) == 60
    assert list(read_prompts(tmp_path / "p.jsonl")) == made


def test_too_little_text_is_an_error(texts: Texts) -> None:
    class Nothing(Apart):
        def __call__(self, text: str) -> bool:
            return False

    with pytest.raises(ValueError, match="give 0 prompts, not 5: give more text"):
        prompts.prompts(texts, 5, apart=Nothing([]))
    with pytest.raises(ValueError, match="no books: give more text"):
        prompts.prompts(Texts({**texts.train, "books": [], "fairy": []}, {}, []), 5)
