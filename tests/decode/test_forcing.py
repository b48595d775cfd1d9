"""What must and must not come holds in drafted text as in plain text, token for token."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgedec import drafting
from edgedec.accept import Rule
from edgedec.decode import Tally
from edgedec.host import Files, Scratch
from edgedec.manifest import Decoding
from edgedec.sampling import Sampler, Sampling, Terms
from edgedec.strategies.plain import Silent

from .looped import TRAINED, VOCAB, architecture, drafted, fake, run
from .test_exact import Guesses
from .test_strategies import options

STOP = frozenset({1})
SETTINGS = st.builds(
    Sampling,
    temperature=st.sampled_from([0.0, 0.0, 0.8]),
    no_repeat_ngram_size=st.sampled_from([0, 2, 3]),
    min_new_tokens=st.sampled_from([0, 7]),
    suppress_tokens=st.sampled_from([(), (5, 9)]),
    forced_bos_token_id=st.sampled_from([None, 12]),
    repetition_penalty=st.sampled_from([1.0, 1.3]),
    seed=st.integers(0, 1000),
)
DEMANDS = st.builds(
    Decoding,
    forced=st.sampled_from([{}, {0: 4}, {0: 4, 1: 6, 5: 7}]),
    forced_last=st.sampled_from([None, 1, 3]),
    suppressed=st.sampled_from([(), (8,)]),
    suppressed_first=st.sampled_from([(), (10, 11)]),
)


def rule(sampling: Sampling, decoding: Decoding, limit: int) -> Rule:
    terms = Terms(VOCAB, STOP, limit, decoding)
    return Rule(Sampler.build(sampling, None, terms), STOP, limit)


@settings(max_examples=60, deadline=None)
@given(
    sampling=SETTINGS,
    decoding=DEMANDS,
    prompt=st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=10),
    limit=st.integers(1, 40),
    right=st.sampled_from([0.0, 0.5, 1.0]),
    seed=st.integers(0, 1 << 30),
)
def test_any_draft_gives_the_text_of_plain_decoding(
    sampling: Sampling, decoding: Decoding, prompt: list[int], limit: int, right: float, seed: int
) -> None:
    chosen = rule(sampling, decoding, limit)
    # Habits are strong, so that n-grams would repeat.
    plain = run(fake(sharpness=8.0), Silent(), prompt, chosen)
    done = run(fake(sharpness=8.0), Guesses(plain.tokens, right, seed), prompt, chosen)
    assert done.tokens == plain.tokens
    assert done.tally.finish == plain.tally.finish
    check(plain.tokens, plain.tally, prompt, chosen, decoding)


def check(
    tokens: list[int], tally: Tally, prompt: list[int], chosen: Rule, decoding: Decoding
) -> None:
    """What was asked for, read off the text itself."""
    sampling = chosen.sampler.sampling
    forced = dict(decoding.forced)
    if sampling.forced_bos_token_id is not None:
        forced[0] = sampling.forced_bos_token_id
    if decoding.forced_last is not None:
        forced[chosen.limit - 1] = decoding.forced_last
    for place, token in enumerate(tokens):
        assert forced.get(place, token) == token
    if len(tokens) < chosen.limit:
        assert tally.finish == "stop"
        assert len(tokens) >= sampling.min_new_tokens or forced.get(len(tokens)) == 1
    free = [token for place, token in enumerate(tokens) if place not in forced]
    assert not {*sampling.suppress_tokens, *decoding.suppressed} & {*free}
    n, text = sampling.no_repeat_ngram_size, [*prompt, *tokens]
    for end in range(len(prompt) + 1, len(text) + 1) if n else ():
        if end - len(prompt) - 1 not in forced and end >= n:
            earlier = [text[i : i + n] for i in range(end - n)]
            assert text[end - n : end] not in earlier


@pytest.mark.parametrize("name", drafting.names())
def test_every_strategy_gives_the_text_of_plain_decoding(name: str) -> None:
    if name == "aggressive" or name in TRAINED:
        pytest.skip("it copies what an encoder reads, or needs a trained part")
    chosen = drafting.choose(name, options(name))
    decoding = Decoding(forced={0: 7}, forced_last=1, suppressed_first=(3,))
    sampling = Sampling(no_repeat_ngram_size=4, min_new_tokens=20, suppress_tokens=(9,))
    expected = rule(sampling, decoding, 40)
    for prompt in ([3], [4, 5, 6, 4, 5, 6, 4]):
        engine = fake(sharpness=8.0)
        session, files = engine.session(), Files(lambda path: fake(sharpness=8.0))
        host = Scratch(engine, session, architecture(), files)
        fitted = chosen.fitted(host)
        drafters = [each for each, _ in fitted.open(host)]
        looped, _ = drafted(engine, session, drafters, fitted.needs(host))
        tokens = [each.token for step in looped.run(prompt, expected, Tally()) for each in step]
        assert tokens == run(fake(sharpness=8.0), Silent(), prompt, expected).tokens
