"""Each processor against the definition, written out token by token."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgedec.processors import (
    MinP,
    Mirostat,
    Occurrence,
    Processor,
    Repetition,
    Temperature,
    TopK,
    TopP,
)

V = 12
Logits = NDArray[np.float32]

# Coarse values, so that ties are common; some tokens are masked already.
VALUES = st.one_of(st.integers(-12, 12).map(lambda i: i / 4), st.just(-math.inf))
ROWS = st.lists(VALUES, min_size=V, max_size=V).filter(lambda row: max(row) > -math.inf)
TOKENS = st.lists(st.integers(0, V - 1), max_size=8)


def row(values: Sequence[float]) -> Logits:
    made = np.array(values, np.float32)
    made.flags.writeable = False
    return made


def probabilities(logits: Sequence[float]) -> list[float]:
    peak = max(logits)
    weights = [math.exp(value - peak) for value in logits]
    total = math.fsum(weights)
    return [weight / total for weight in weights]


def kept(processor: Processor, state: Any, logits: Logits) -> set[int]:
    out = processor.apply(state, logits)
    assert out.dtype == np.float32
    finite = set(np.flatnonzero(np.isfinite(out)).tolist())
    for token in finite:
        assert out[token] == logits[token]
    return finite


@given(ROWS, st.floats(0.05, 5))
def test_temperature_divides(values: list[float], temperature: float) -> None:
    out = Temperature(temperature).apply(None, row(values))
    expected = probabilities([value / temperature for value in values])
    np.testing.assert_allclose(probabilities(out.tolist()), expected, atol=1e-5)


def test_tiny_temperature_is_greedy_without_overflow() -> None:
    out = Temperature(1e-300).apply(None, row([1, 3, 2, 3]))
    assert probabilities(out.tolist()) == [0, 0.5, 0, 0.5]
    assert np.isneginf(Temperature(1e-300).apply(None, row([1e30, -1e30]))[1])


@given(ROWS, st.integers(1, V + 3))
def test_top_k_keeps_what_fewer_than_k_exceed(values: list[float], k: int) -> None:
    expected = {
        i
        for i, value in enumerate(values)
        if value > -math.inf and sum(other > value for other in values) < k
    }
    assert kept(TopK(k), None, row(values)) == expected


@given(ROWS, st.floats(0.01, 0.999))
def test_top_p_keeps_the_shortest_sufficient_head(values: list[float], p: float) -> None:
    chances = probabilities(values)
    order = sorted(range(V), key=lambda i: (-chances[i], i))
    expected: set[int] = set()
    for token in order:
        expected.add(token)
        if math.fsum(chances[i] for i in expected) >= p:
            break
    found = kept(TopP(p), None, row(values))
    # Where the sum meets p to the last bit, either answer is right.
    if found != expected:
        smaller = min(found, expected, key=len)
        assert abs(math.fsum(chances[i] for i in smaller) - p) < 1e-9


@pytest.mark.parametrize("sharpness", [0.1, 1, 5])
def test_top_p_of_a_large_vocabulary(sharpness: float) -> None:
    """The short cut over the head gives what the full sort gives."""
    logits = row(np.round(np.random.default_rng(1).normal(size=20_000) * sharpness, 2))
    for p in (0.1, 0.5, 0.9, 0.999):
        chances = np.array(probabilities(logits.tolist()))
        order = np.argsort(-chances, kind="stable")
        count = int(np.searchsorted(np.cumsum(chances[order]), p)) + 1
        found = kept(TopP(p), None, logits)
        assert abs(len(found) - count) <= 1
        assert found >= set(order[: count - 1].tolist())


def test_top_p_takes_the_lowest_of_many_equals() -> None:
    values = np.zeros(20_000)
    values[5_000:5_900] = 8.0
    share = 900 * math.exp(8) / (900 * math.exp(8) + 19_100)
    p = share + 50.5 * (1 - share) / 19_100
    assert kept(TopP(p), None, row(values)) == {*range(5_000, 5_900), *range(51)}


@given(ROWS, st.floats(0.001, 1))
def test_min_p_keeps_a_share_of_the_best(values: list[float], p: float) -> None:
    chances = probabilities(values)
    found = kept(MinP(p), None, row(values))
    for token, chance in enumerate(chances):
        if abs(chance - p * max(chances)) > 1e-6:
            assert (token in found) == (chance > p * max(chances))


@given(ROWS, TOKENS, TOKENS, st.floats(0.2, 5))
def test_repetition_of_prompt_and_output(
    values: list[float], prompt: list[int], output: list[int], penalty: float
) -> None:
    processor = Repetition(penalty)
    state = processor.start(prompt)
    for token in output:
        state = processor.advance(state, token, row(values))
    out = processor.apply(state, row(values))
    for token, value in enumerate(values):
        seen = token in prompt or token in output
        expected = value if not seen else value * penalty if value < 0 else value / penalty
        assert out[token] == pytest.approx(expected, rel=1e-6)


@given(ROWS, TOKENS, TOKENS, st.floats(-2, 2), st.floats(-2, 2))
def test_occurrence_counts_the_output_only(
    values: list[float], prompt: list[int], output: list[int], frequency: float, presence: float
) -> None:
    processor = Occurrence(frequency, presence)
    state = processor.start(prompt)
    for token in output:
        state = processor.advance(state, token, row(values))
    out = processor.apply(state, row(values))
    for token, value in enumerate(values):
        count = output.count(token)
        expected = value - count * frequency - (count > 0) * presence
        assert out[token] == pytest.approx(expected, rel=1e-5, abs=1e-5)


@given(ROWS, st.floats(0.1, 8), st.floats(0, 12))
def test_mirostat_masks_by_surprise(values: list[float], tau: float, limit: float) -> None:
    chances = probabilities(values)
    found = kept(Mirostat(tau, 0.1), limit, row(values))
    for token, chance in enumerate(chances):
        surprise = -math.log2(chance) if chance else math.inf
        if abs(surprise - limit) > 1e-4:
            assert (token in found) == (surprise <= limit or chance == max(chances) > 0)


def test_mirostat_moves_its_limit_by_the_error() -> None:
    processor = Mirostat(3.0, 0.25)
    logits = row(np.log([0.5, 0.25, 0.125, 0.125]))
    assert processor.start([1, 2]) == 6
    # Token 2 has 3 bits: no error. Token 0 has 1 bit: the limit rises by 0.25 * 2.
    assert processor.advance(6.0, 2, logits) == pytest.approx(6.0, abs=1e-6)
    assert processor.advance(6.0, 0, logits) == pytest.approx(6.5, abs=1e-6)


ALL = [
    Repetition(1.3),
    Occurrence(0.5, 0.5),
    Temperature(0.7),
    TopK(3),
    TopP(0.6),
    MinP(0.2),
    Mirostat(2.0, 0.1),
]


@pytest.mark.parametrize("processor", ALL, ids=lambda p: type(p).__name__)
@settings(max_examples=30)
@given(values=ROWS, tokens=TOKENS)
def test_pure(processor: Processor, values: list[float], tokens: list[int]) -> None:
    """Input rows cannot be written to, and an old state gives again what it gave before."""
    logits = row(values)
    states = [processor.start([1, 1, 2])]
    first = [processor.apply(states[0], logits).copy()]
    for token in tokens:
        states.append(processor.advance(states[-1], token, logits))
        first.append(processor.apply(states[-1], logits).copy())
    for state, expected in zip(reversed(states), reversed(first), strict=True):
        np.testing.assert_array_equal(processor.apply(state, logits), expected)


@pytest.mark.parametrize("processor", ALL, ids=lambda p: type(p).__name__)
def test_a_row_with_nothing_left_stays_so(processor: Processor) -> None:
    out = processor.apply(processor.start([1]), row([-math.inf] * V))
    assert (out == -np.inf).all()


# --- against transformers ------------------------------------------------------------------------


def theirs(make: Callable[[Any], Any], logits: Logits, ids: Sequence[int]) -> list[float]:
    torch = pytest.importorskip("torch")
    import transformers

    scores = torch.tensor(logits.copy())[None]
    return make(transformers)(torch.tensor([list(ids)]), scores)[0].tolist()


PEERS: list[tuple[Processor, Callable[[Any], Any]]] = [
    (Temperature(0.7), lambda t: t.TemperatureLogitsWarper(0.7)),
    (TopK(5), lambda t: t.TopKLogitsWarper(5)),
    (TopP(0.8), lambda t: t.TopPLogitsWarper(0.8)),
    (MinP(0.1), lambda t: t.MinPLogitsWarper(0.1)),
    (Repetition(1.4), lambda t: t.RepetitionPenaltyLogitsProcessor(1.4)),
]


@pytest.mark.full
@pytest.mark.parametrize(("processor", "make"), PEERS, ids=lambda p: type(p).__name__)
def test_as_transformers(processor: Processor, make: Callable[[Any], Any]) -> None:
    generator = np.random.default_rng(3)
    for _ in range(20):
        logits = row(generator.normal(size=500) * 2)
        ids = generator.integers(0, 500, 30).tolist()
        ours = processor.apply(processor.start(ids), logits).tolist()
        expected = theirs(make, logits, ids)
        np.testing.assert_array_equal(np.isfinite(ours), np.isfinite(expected))
        np.testing.assert_allclose(probabilities(ours), probabilities(expected), atol=1e-6)
