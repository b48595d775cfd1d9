"""Whisper's rules against a plain restatement, and against transformers' processors."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgedec.speech.rules import OneOf, Timestamps

VOCAB, END, PLAIN, FIRST = 60, 30, 35, 36
RULES = Timestamps(first=FIRST, end=END, no_timestamps=PLAIN, latest_first=6)


def allowed(written: Sequence[int], logits: np.ndarray, rules: Timestamps) -> set[int]:
    """The rules in words, one after the other, over all that was written."""
    left = set(range(VOCAB)) - {rules.no_timestamps}
    times = [token for token in written if token >= rules.first]
    if not written:
        left = {token for token in left if token >= rules.first}
        if rules.latest_first is not None:
            left = {token for token in left if token <= rules.first + rules.latest_first}
    elif written[-1] >= rules.first:
        alone = len(written) > 1 and written[-2] < rules.first
        if alone:  # a segment has ended: words may not follow
            left = {token for token in left if token >= rules.end}
        else:  # a segment has begun: a time may not follow
            left = {token for token in left if token < rules.first}
    if times:
        ended = written[-1] >= rules.first and len(written) > 1 and written[-2] < rules.first
        least = times[-1] if ended else times[-1] + 1
        left = {token for token in left if not rules.first <= token < least}
    chances = {token: math.exp(logits[token]) for token in left}
    words = [chance for token, chance in chances.items() if token < rules.first]
    if sum(c for t, c in chances.items() if t >= rules.first) > max(words, default=0):
        left = {token for token in left if token >= rules.first}
    return left


def after(rules: Timestamps, written: Sequence[int]) -> object:
    state = rules.start([FIRST + 3, 1])  # what came before does not count
    for token in written:
        state = rules.advance(state, token, np.zeros(VOCAB, np.float32))
    return state


tokens = st.integers(0, VOCAB - 1)
values = st.lists(st.floats(-8, 8, width=16), min_size=VOCAB, max_size=VOCAB)


@settings(max_examples=400, deadline=None)
@given(
    st.lists(tokens | st.integers(FIRST, VOCAB - 1), max_size=7),
    values,
    st.sampled_from([None, 0, 6]),
)
def test_what_is_allowed(written: list[int], numbers: list[float], latest: int | None) -> None:
    logits = np.array(numbers, np.float32)
    # Sums that are as large as the largest word to a rounding error are nobody's promise.
    logits += np.random.RandomState(0).rand(VOCAB).astype(np.float32)
    rules = Timestamps(FIRST, END, PLAIN, latest)
    found = rules.apply(after(rules, written), logits)  # type: ignore[arg-type]
    assert set(np.flatnonzero(found > -np.inf).tolist()) == allowed(written, logits, rules)
    kept = found > -np.inf
    assert (found[kept] == logits[kept]).all()


def test_the_input_is_not_written_to() -> None:
    logits = np.zeros(VOCAB, np.float32)
    logits.flags.writeable = False
    RULES.apply(RULES.start([]), logits)
    OneOf((3, 5)).apply(None, logits)


def test_states_do_not_share_anything() -> None:
    zeros = np.zeros(VOCAB, np.float32)
    start = RULES.start([])
    one = RULES.advance(start, FIRST + 2, zeros)
    other = RULES.advance(start, FIRST + 5, zeros)
    assert start == RULES.start([])
    assert (one.latest, other.latest) == (FIRST + 2, FIRST + 5)


def test_one_of() -> None:
    logits = np.arange(VOCAB, dtype=np.float32)
    found = OneOf((3, 5)).apply(None, logits)
    assert np.flatnonzero(found > -np.inf).tolist() == [3, 5]
    assert found.argmax() == 5


@pytest.mark.full
@pytest.mark.parametrize("latest", [None, 6])
def test_rules_are_those_of_transformers(latest: int | None) -> None:
    import torch
    from transformers import GenerationConfig
    from transformers.generation.logits_process import (
        SuppressTokensAtBeginLogitsProcessor,
        SuppressTokensLogitsProcessor,
        WhisperTimeStampLogitsProcessor,
    )

    from edgedec.manifest import Decoding
    from edgedec.sampling import Sampler, Sampling, Terms

    config = GenerationConfig(eos_token_id=END)
    config.no_timestamps_token_id = PLAIN
    if latest is not None:
        config.max_initial_timestamp_index = latest
    prompt, never, not_first = [31, 32], [2, 3, 31], [4, END]
    theirs = [
        SuppressTokensAtBeginLogitsProcessor(not_first, len(prompt)),
        SuppressTokensLogitsProcessor(never),
        WhisperTimeStampLogitsProcessor(config, begin_index=len(prompt)),
    ]
    rules = Timestamps(FIRST, END, PLAIN, latest)
    decoding = Decoding(suppressed=tuple(never), suppressed_first=tuple(not_first))
    terms = Terms(VOCAB, frozenset([END]), 50, decoding)
    sampler = Sampler.build(Sampling(), None, terms, [rules])
    random = np.random.RandomState(0)
    for _ in range(400):
        written, state = [], sampler.start(prompt)
        for _ in range(random.randint(0, 9)):
            timed = random.rand() < 0.5
            token = int(random.randint(FIRST if timed else 0, VOCAB if timed else END))
            written.append(token)
            state = sampler.advance(state, token, np.zeros(VOCAB, np.float32))
        logits = (4 * random.randn(VOCAB)).astype(np.float32)
        expected, ids = torch.tensor(logits)[None], torch.tensor([[*prompt, *written]])
        for processor in theirs:
            expected = processor(ids, expected)
        np.testing.assert_array_equal(sampler.process(state, logits), expected[0].numpy())
