"""Beams on real runtimes: several leaves of a session's tree, with the bundled model."""

from __future__ import annotations

from typing import Any

import pytest

import edgedec
from edgedec.beams import Beams, Rule, Search
from edgedec.contracts import Engine
from edgedec.runtimes import native
from edgedec.sampling import Sampler, Sampling

from .searched import Found, Wish, model, search

PROMPT, LIMIT = "One day the old dog", 20


def opened(runtime: str) -> tuple[Engine, list[int], frozenset[int]]:
    loaded = edgedec.load("stories", runtime=runtime, strategy="plain")
    setup = loaded._setup
    stop = setup.bundle.manifest.architecture.tokens.eos
    return setup.engine, setup.text.encode(PROMPT), frozenset(stop)


def found(engine: Engine, prompt: list[int], wish: Wish) -> Any:
    beams = Beams(
        num_beams=wish.size * wish.groups,
        num_return_sequences=3,
        num_beam_groups=wish.groups,
        diversity_penalty=wish.diversity,
    )
    rule = Rule(beams, Sampler.build(Sampling()), wish.stop, wish.limit)
    searched = Search(engine.session(), engine.capabilities, rule)
    list(searched.run(prompt))
    return searched.found()


@pytest.mark.skipif(not native.built(), reason="the C engine was not built")
@pytest.mark.parametrize(("size", "groups", "diversity"), [(4, 1, 0.0), (2, 3, 0.5)])
def test_native_finds_what_single_texts_give(size: int, groups: int, diversity: float) -> None:
    """Its rows do not depend on their neighbours: a text alone has the very same numbers."""
    engine, prompt, stop = opened("native")
    wish = Wish(stop, LIMIT, size, groups, diversity=diversity)
    expected: list[Found] = search(model(engine, prompt), wish)[:3]
    ours = found(engine, prompt, wish)
    assert [each.tokens for each in ours] == [each.tokens for each in expected]
    assert [each.score for each in ours] == pytest.approx([e.score for e in expected], 1e-5)
    if groups == 1:
        # A session that is given another search afterwards starts from what it holds.
        session = engine.session()
        rule = Rule(Beams(4, 3), Sampler.build(Sampling()), stop, LIMIT)
        for _ in range(2):
            again = Search(session, engine.capabilities, rule)
            list(again.run(prompt))
            assert again.found() == ours


@pytest.mark.skipif(not native.built(), reason="the C engine was not built")
def test_onnx_and_native_find_texts_of_the_same_score() -> None:
    """Eight-bit activations differ a little: so may the texts, but not how likely they are."""
    scores = []
    for runtime in ("native", "onnx"):
        engine, prompt, stop = opened(runtime)
        scores.append([each.score for each in found(engine, prompt, Wish(stop, LIMIT, 4))])
    assert scores[0] == pytest.approx(scores[1], abs=0.05)
