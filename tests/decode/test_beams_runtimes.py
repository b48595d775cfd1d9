"""Beams on real runtimes: several leaves of a session's tree, with the bundled models."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import edgedec
from edgedec.beams import Beams, Rule, Search
from edgedec.contracts import Session
from edgedec.runtimes import native
from edgedec.sampling import Sampler, Sampling

from .searched import Found, Wish, model, search

PROMPTS = {"stories": "One day the old dog", "fix": "one day teh old dogg sat on teh mat"}
LIMIT = 20


class Reading:
    """An engine whose sessions have read a source already, if the model reads."""

    def __init__(self, name: str, runtime: str) -> None:
        setup = edgedec.load(name, runtime=runtime, strategy="plain")._setup
        self._engine, tokens = setup.engine, setup.bundle.manifest.architecture.tokens
        self.capabilities = setup.engine.capabilities
        self.stop = frozenset(tokens.eos)
        text = PROMPTS[name]
        self._source = setup.text.encode_source(text) if self.capabilities.encoder else []
        begin = tokens.decoder_start
        self.prompt = setup.text.encode(text) if begin is None else [begin]

    def session(self) -> Session:
        session = self._engine.session()
        if self._source:
            session.encode(np.array(self._source, np.int32))
        return session


def found(engine: Reading, wish: Wish) -> Any:
    beams = Beams(
        num_beams=wish.size * wish.groups,
        num_return_sequences=3,
        num_beam_groups=wish.groups,
        diversity_penalty=wish.diversity,
    )
    rule = Rule(beams, Sampler.build(Sampling()), wish.stop, wish.limit)
    searched = Search(engine.session(), engine.capabilities, rule)
    list(searched.run(engine.prompt))
    return searched.found()


@pytest.mark.skipif(not native.built(), reason="the C engine was not built")
@pytest.mark.parametrize("name", PROMPTS)
@pytest.mark.parametrize(("size", "groups", "diversity"), [(4, 1, 0.0), (2, 3, 0.5)])
def test_native_finds_what_single_texts_give(
    name: str, size: int, groups: int, diversity: float
) -> None:
    """Its rows do not depend on their neighbours: a text alone has the very same numbers."""
    engine = Reading(name, "native")
    wish = Wish(engine.stop, LIMIT, size, groups, diversity=diversity)
    expected: list[Found] = search(model(engine, engine.prompt), wish)[:3]
    ours = found(engine, wish)
    assert [each.tokens for each in ours] == [each.tokens for each in expected]
    scores = [each.score for each in expected]
    # The sure ones are differences of logits of ten and more, which have six digits behind the dot.
    assert [each.score for each in ours] == pytest.approx(scores, 1e-5, 1e-6)
    if groups == 1:
        # A session that is given another search afterwards starts from what it holds.
        session = engine.session()
        rule = Rule(Beams(4, 3), Sampler.build(Sampling()), engine.stop, LIMIT)
        for _ in range(2):
            again = Search(session, engine.capabilities, rule)
            list(again.run(engine.prompt))
            assert again.found() == ours


@pytest.mark.skipif(not native.built(), reason="the C engine was not built")
@pytest.mark.parametrize("name", PROMPTS)
def test_onnx_and_native_find_texts_of_the_same_score(name: str) -> None:
    """Eight-bit activations differ a little: so may the texts, but not how likely they are."""
    scores = []
    for runtime in ("native", "onnx"):
        engine = Reading(name, runtime)
        scores.append([each.score for each in found(engine, Wish(engine.stop, LIMIT, 4))])
    assert scores[0] == pytest.approx(scores[1], abs=0.05)
