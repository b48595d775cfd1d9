"""Every strategy, with and without a source to copy from, gives the text of plain decoding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import numpy as np
import pytest

from edgedec import drafting
from edgedec.accept import Rule
from edgedec.contracts import Drafter, Needs, Source
from edgedec.decode import Tally
from edgedec.host import Files, Scratch
from edgedec.runtimes.fake import Fake
from edgedec.sampling import Sampler, Sampling
from edgedec.strategies.plain import Silent

from .looped import TRAINED, architecture, drafted, fake

if TYPE_CHECKING:
    from edgedec.text import Text


def options(name: str) -> dict[str, str]:
    return {"bundle": "draft"} if name == "draft_model" else {}


SOURCE = Source((4, 5, 6, 7, 8, 9, 4, 5, 6, 1), "4 5 6 7 8 9 4 5 6")
"""What an encoder reads: numbers, which are their own tokens."""


class Numbers:
    """Texts of numbers, for the strategies that look at words."""

    special: frozenset[int] = frozenset()

    def encode(self, text: str, special: bool = True) -> list[int]:
        return [int(word) for word in text.split()]

    def decode(self, ids: Sequence[int], *, after: Sequence[int] = ()) -> str:
        return "".join(self.push(token) for token in ids)

    def stream(self, *, after: Sequence[int] = ()) -> Numbers:
        return self

    def push(self, token: int) -> str:
        return f" {token}"


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("encoder", [False, True])
@pytest.mark.parametrize("name", drafting.names())
def test_every_strategy_gives_the_text_of_plain_decoding(
    name: str, encoder: bool, temperature: float
) -> None:
    if name == "aggressive" and not encoder:
        pytest.skip("it copies what an encoder reads")
    if name in TRAINED:
        pytest.skip("it needs a trained part: tested by itself")
    rule = Rule(Sampler.build(Sampling(temperature=temperature, seed=5)), frozenset({1}), 60)

    def opened() -> Fake:
        return fake(sharpness=8.0, encoder=encoder)

    def ids(drafters: Sequence[Drafter], needs: Needs, prompt: Sequence[int]) -> list[int]:
        engine = opened()
        looped, _ = drafted(engine, engine.session(), drafters, needs)
        if encoder:
            looped.encode(np.array(SOURCE.tokens, np.int32), SOURCE)
        return [each.token for step in looped.run(prompt, rule, Tally()) for each in step]

    for prompt in ([3], [4, 5, 6, 4, 5, 6, 4]):
        engine, text = opened(), cast("Text", Numbers())
        files = Files(lambda path: opened())
        host = Scratch(engine, engine.session(), architecture(encoder=encoder), files, text)
        chosen = drafting.choose(name, options(name)).fitted(host)
        assert not chosen.lossy
        drafters = [each for each, _ in chosen.open(host)]
        assert ids(drafters, chosen.needs(host), prompt) == ids([Silent()], Needs(), prompt)
