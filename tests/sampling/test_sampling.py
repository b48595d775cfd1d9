"""The settings, the chain and the draw: exact where it can be, by statistics where it cannot."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgedec.errors import InputError, UsageError
from edgedec.gumbel import gumbel
from edgedec.sampling import Sampler, Sampling, logprobs

V = 29
TINY = 1e-4


def row(values: Any) -> NDArray[np.float32]:
    made = np.array(values, np.float32)
    made.flags.writeable = False
    return made


LOGITS = row(np.random.default_rng(7).normal(size=V) * 1.2)


def chance(statistic: float, degrees: int) -> float:
    """P(chi-square >= statistic); one more degree, to make it even, only makes it larger."""
    half = statistic / 2
    terms = range((degrees + 1) // 2)
    return math.fsum(math.exp(i * math.log(half) - half - math.lgamma(i + 1)) for i in terms)


# --- settings ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -0.1),
        ("temperature", math.nan),
        ("temperature", math.inf),
        ("temperature", "hot"),
        ("temperature", True),
        ("top_k", -1),
        ("top_k", 1.5),
        ("top_p", 0.0),
        ("top_p", 1.01),
        ("min_p", -0.5),
        ("min_p", 2),
        ("repetition_penalty", 0),
        ("frequency_penalty", math.nan),
        ("presence_penalty", 101),
        ("mirostat_eta", 0),
        ("seed", -1),
        ("seed", 1 << 64),
        ("seed", 0.5),
    ],
)
def test_values_out_of_range_are_named(name: str, value: Any) -> None:
    with pytest.raises(UsageError, match=name) as caught:
        Sampling(**{name: value})
    assert repr(value) in str(caught.value)


def test_mirostat_needs_a_temperature() -> None:
    with pytest.raises(UsageError, match="temperature"):
        Sampling(mirostat_tau=5.0)
    with pytest.raises(UsageError, match="mirostat_tau"):
        Sampling(temperature=1.0, mirostat_tau=0.0)


@pytest.mark.parametrize(
    ("sampling", "plain"),
    [
        (Sampling(), True),
        (Sampling(top_k=5, top_p=0.5, min_p=0.1, seed=3), True),
        (Sampling(temperature=0.5), False),
        (Sampling(repetition_penalty=1.1), False),
        (Sampling(presence_penalty=0.1), False),
    ],
)
def test_plain_greedy_is_recognised(sampling: Sampling, plain: bool) -> None:
    sampler = Sampler.build(sampling)
    assert sampler.plain_greedy == plain
    if plain:
        assert sampler.draw(sampler.start([1]), LOGITS, 0) == LOGITS.argmax()


def test_order_of_the_chain() -> None:
    everything = Sampling(1.1, 5, 0.9, 0.1, 1.2, 0.1, 0.1, 3.0)
    names = [type(p).__name__ for p in Sampler.build(everything, Only([1])).chain]
    assert names == [
        "Repetition",
        "Occurrence",
        "Allowed",
        "Temperature",
        "TopK",
        "TopP",
        "MinP",
        "Mirostat",
    ]


# --- the draw ------------------------------------------------------------------------------------


def test_greedy_takes_the_lowest_of_equals() -> None:
    logits = row([0, 2, 1, 2, 2])
    sampler = Sampler.build(Sampling())
    assert [sampler.draw((), logits, index) for index in range(5)] == [1] * 5


def test_greedy_with_a_penalty_moves_on() -> None:
    sampler = Sampler.build(Sampling(presence_penalty=5.0))
    state, drawn = sampler.start([]), []
    for index in range(3):
        drawn.append(sampler.draw(state, row([0, 3, 2, 1]), index))
        state = sampler.advance(state, drawn[-1], row([0, 3, 2, 1]))
    assert drawn == [1, 2, 3]


def test_draw_is_argmax_of_logits_and_noise() -> None:
    sampler = Sampler.build(Sampling(temperature=1.0, seed=5))
    for index in range(50):
        noisy = LOGITS.astype(np.float64) + gumbel(5, index, np.arange(V))
        assert sampler.draw(sampler.start([]), LOGITS, index) == noisy.argmax()


def test_noise_of_a_token_does_not_depend_on_who_else_is_left() -> None:
    """Masking tokens that were not drawn changes nothing."""
    free = Sampler.build(Sampling(temperature=1.0, seed=5))
    for index in range(50):
        token = free.draw(free.start([]), LOGITS, index)
        bound = Sampler.build(Sampling(temperature=1.0, seed=5), Only([0, token, V - 1]))
        assert bound.draw(bound.start([]), LOGITS, index) == token


SETTINGS = [
    Sampling(temperature=1.0),
    Sampling(temperature=0.7),
    Sampling(temperature=1.5, top_k=9),
    Sampling(temperature=1.0, top_p=0.8),
    Sampling(temperature=1.0, min_p=0.05),
    Sampling(temperature=0.9, top_k=15, top_p=0.9, min_p=0.02),
    Sampling(temperature=1.0, repetition_penalty=1.5),
    Sampling(temperature=1.0, mirostat_tau=2.0),
]


@pytest.mark.parametrize("sampling", SETTINGS, ids=str)
def test_frequencies_are_the_distribution(sampling: Sampling) -> None:
    """G-test of the sampler over 120 seeds and 100 indices, deterministic."""
    counts = np.zeros(V)
    for seed in range(120):
        sampler = Sampler.build(Sampling(**{**fields(sampling), "seed": seed}))
        state = sampler.start([1, 2, 3])
        for index in range(100):
            counts[sampler.draw(state, LOGITS, index)] += 1
    processed = sampler.process(state, LOGITS).astype(np.float64)
    expected = np.exp(processed - processed.max())
    expected *= counts.sum() / expected.sum()
    assert not counts[expected == 0].any()
    # Rare tokens share a bin, as the approximation needs about five in each.
    rare = (expected > 0) & (expected < 8)
    bins = [*counts[expected >= 8], counts[rare].sum()]
    means = [*expected[expected >= 8], expected[rare].sum()]
    g = 2 * sum(n * math.log(n / mean) for n, mean in zip(bins, means, strict=True) if n)
    assert chance(g, len(bins) - 1) > TINY


def fields(sampling: Sampling) -> dict[str, Any]:
    return {name: getattr(sampling, name) for name in sampling.__dataclass_fields__}


def test_g_test_would_notice_a_wrong_temperature() -> None:
    """The test above can fail: draws at 0.9 are told from a distribution at 1."""
    counts = np.zeros(V)
    for seed in range(120):
        sampler = Sampler.build(Sampling(temperature=0.9, seed=seed))
        for index in range(100):
            counts[sampler.draw(sampler.start([]), LOGITS, index)] += 1
    expected = np.exp(LOGITS.astype(np.float64))
    expected *= counts.sum() / expected.sum()
    seen = counts > 0
    g = 2 * (counts[seen] * np.log(counts[seen] / expected[seen])).sum()
    assert chance(float(g), V - 1) < TINY


def test_a_walk_through_a_tree_gives_the_plain_text() -> None:
    """A fake model; drafts of any shape, checked in any order, leave the text as it is."""
    generator = np.random.default_rng(11)
    table = row(generator.normal(size=(V, V)) * 1.5)
    sampling = Sampling(
        temperature=0.9, top_k=12, repetition_penalty=1.2, mirostat_tau=2.5, seed=77
    )
    sampler = Sampler.build(sampling)

    def plain(length: int) -> list[int]:
        state, out = sampler.start([4]), [4]
        for index in range(length):
            logits = table[out[-1]]
            out.append(sampler.draw(state, logits, index))
            state = sampler.advance(state, out[-1], logits)
        return out[1:]

    expected = plain(40)
    state, out = sampler.start([4]), [4]
    while len(out) <= 40:
        # Two random branches and, half the time, the right beginning: then draws run ahead.
        children = set(generator.integers(0, V, 6).tolist())
        for token in children:
            ahead = sampler.advance(state, token, table[out[-1]])
            sampler.draw(ahead, table[token], len(out))
        logits = table[out[-1]]
        token = sampler.draw(state, logits, len(out) - 1)
        state = sampler.advance(state, token, logits)
        out.append(token)
    assert out[1:41] == expected


def test_seeds_differ() -> None:
    texts = set()
    for seed in range(50):
        sampler = Sampler.build(Sampling(temperature=1.0, seed=seed))
        texts.add(tuple(sampler.draw(sampler.start([]), LOGITS, index) for index in range(12)))
    assert len(texts) == 50


def test_mirostat_steers_surprise_to_its_target() -> None:
    """A Zipf model of 5,000 words; the average surprise of its text comes to tau."""
    logits = row(-1.05 * np.log(np.arange(1, 5001)))
    surprise = -(logits - np.log(np.exp(logits.astype(np.float64)).sum())) / math.log(2)
    for tau in (3.5, 5.0, 7.0):
        sampler = Sampler.build(Sampling(temperature=1.0, mirostat_tau=tau, seed=1))
        state, found = sampler.start([]), []
        for index in range(1500):
            token = sampler.draw(state, logits, index)
            state = sampler.advance(state, token, logits)
            found.append(surprise[token])
        assert np.mean(found[200:]) == pytest.approx(tau, abs=0.1)


def test_mirostat_measures_after_the_other_processors() -> None:
    """With temperature 2 the surprise of a token is that of the flattened distribution."""
    sampler = Sampler.build(Sampling(temperature=2.0, mirostat_tau=1.0, mirostat_eta=1.0))
    state = sampler.start([])
    logits = row(2 * np.log([0.5, 0.25, 0.125, 0.125]))
    (_, limit) = sampler.advance(state, 2, logits)
    assert limit == pytest.approx(2.0 - (3.0 - 1.0), abs=1e-6)


# --- constraints ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Only:
    ids: Any

    def start(self) -> None:
        return None

    def advance(self, state: None, token: int) -> None:
        return None

    def mask(self, state: None) -> Any:
        return self.ids


@dataclass(frozen=True)
class CountingUp:
    """Allows only what is above the last token; the state is that token."""

    def start(self) -> int:
        return -1

    def advance(self, state: int, token: int) -> int:
        return token

    def mask(self, state: int) -> Sequence[int]:
        return list(range(state + 1, V))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize(
    "mask", [[3, 5, 7], np.isin(np.arange(V), [3, 5, 7]), (3, 5, 7), np.array([7, 5, 3])]
)
def test_only_what_is_allowed_is_drawn(temperature: float, mask: Any) -> None:
    sampler = Sampler.build(Sampling(temperature=temperature), Only(mask))
    assert not sampler.plain_greedy
    drawn = {sampler.draw(sampler.start([]), LOGITS, index) for index in range(60)}
    best = {max((3, 5, 7), key=lambda i: LOGITS[i])}
    assert drawn == (best if temperature == 0 else {3, 5, 7})


def test_no_mask_allows_all() -> None:
    bound, free = (
        Sampler.build(Sampling(seed=2, temperature=1.0), Only(None)),
        Sampler.build(Sampling(seed=2, temperature=1.0)),
    )
    for index in range(20):
        expected = free.draw(free.start([]), LOGITS, index)
        assert bound.draw(bound.start([]), LOGITS, index) == expected


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_constraint_has_a_state_of_its_own_and_may_run_dry(temperature: float) -> None:
    sampler = Sampler.build(Sampling(temperature=temperature), CountingUp())
    state, last = sampler.start([20]), -1
    with pytest.raises(InputError, match="allows no token"):
        for index in range(V + 1):
            token = sampler.draw(state, LOGITS, index)
            assert token > last
            state, last = sampler.advance(state, token, LOGITS), token
    assert last == V - 1


@pytest.mark.parametrize("mask", [[True] * 3, [0.5], [-1], [V], np.ones((2, V), bool), ["a"]])
def test_a_mask_that_makes_no_sense_is_refused(mask: Any) -> None:
    sampler = Sampler.build(Sampling(), Only(mask))
    with pytest.raises(UsageError, match="constraint"):
        sampler.draw(sampler.start([]), LOGITS, 0)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_logits_that_are_no_numbers_are_told(temperature: float, value: float) -> None:
    sampler = Sampler.build(Sampling(temperature=temperature))
    with pytest.raises(InputError, match="no number"):
        sampler.draw(sampler.start([]), row([value] * V), 0)


def test_input_rows_are_not_written_to() -> None:
    """Every row in this file is read-only; here it is also shared by all processors at once."""
    sampler = Sampler.build(Sampling(1.1, 5, 0.9, 0.1, 1.2, 0.1, 0.1, 3.0), CountingUp())
    before = LOGITS.copy()
    state = sampler.start([1, 2])
    again = [sampler.draw(state, LOGITS, 0) for _ in range(3)]
    sampler.advance(state, again[0], LOGITS)
    assert sampler.draw(state, LOGITS, 0) == again[0] == again[2]
    np.testing.assert_array_equal(LOGITS, before)


# --- log-probabilities ---------------------------------------------------------------------------


@pytest.mark.parametrize("k", [0, 1, 5, V, V + 10])
def test_logprobs_of_a_token_and_the_best(k: int) -> None:
    exact = LOGITS - math.log(math.fsum(math.exp(value) for value in LOGITS.tolist()))
    found = logprobs(LOGITS, 3, k)
    order = np.argsort(-LOGITS, kind="stable")[:k]
    assert found.token == pytest.approx(float(exact[3]), abs=1e-6)
    assert found.ids.tolist() == order.tolist()
    np.testing.assert_allclose(found.values, exact[order], atol=1e-6)


def test_logprobs_of_equals_and_of_masked_tokens() -> None:
    found = logprobs(row([1, 1, -math.inf, 1]), 2, 2)
    assert found.ids.tolist() == [0, 1]
    assert found.token == -math.inf
    assert found.values == pytest.approx([-math.log(3)] * 2)
