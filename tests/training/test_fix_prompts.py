"""The passages that the parts of `fix` are trained on: damaged or clean, and nothing held out."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")
pytestmark = pytest.mark.full

from edgedec.models.reference.fix.passages import make_stream  # noqa: E402 - needs torch
from edgedec.models.reference.fix.prompts import prompts  # noqa: E402
from edgedec.models.reference.stories.prompts import Apart  # noqa: E402
from edgedec.models.reference.stories.tokenizer import train_tokenizer  # noqa: E402

SECRET = "Nobody saw the silver clock in the tower of the old town strike nine."
TEXTS = [
    f"Number {index} went home along the road. He was glad, and so was number {index + 1}. {end}"
    for index in range(120)
    for end in ([SECRET] if index % 5 == 0 else ["It rained."])
]


def test_passages_are_damaged_or_clean_and_fit() -> None:
    tokenizer = train_tokenizer(TEXTS, 400)
    streams = {"tiny": make_stream(TEXTS, tokenizer)}
    free = prompts(streams, tokenizer, 200, apart=Apart([]))
    assert any("silver clock" in prompt.turns[0] for prompt in free)
    made = prompts(streams, tokenizer, 200, apart=Apart([SECRET]))
    assert len(set(made)) == 200
    everything = "\n".join(TEXTS)
    assert 20 < sum(prompt.turns[0] in everything for prompt in made) < 90
    for prompt in made:
        assert not prompt.chat
        assert "silver clock" not in prompt.turns[0]
        assert len(tokenizer.encode(prompt.turns[0]).ids) < 320
    assert made == prompts(streams, tokenizer, 200, apart=Apart([SECRET]))
    assert made != prompts(streams, tokenizer, 200, seed=1, apart=Apart([SECRET]))


def test_too_little_text_is_an_error() -> None:
    tokenizer = train_tokenizer(TEXTS, 400)
    only = {"tiny": make_stream([SECRET], tokenizer)}
    with pytest.raises(ValueError, match="give more text"):
        prompts(only, tokenizer, 5, apart=Apart([SECRET]))
