"""What must and must not come: each processor against the definition, and against transformers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgedec.errors import InputError, UsageError
from edgedec.forcing import Forced, ForcedLast, MinLength, NoRepeatNgrams, Suppressed
from edgedec.manifest import Decoding
from edgedec.processors import Processor, Temperature
from edgedec.sampling import Sampler, Sampling, Terms

V = 8
Logits = NDArray[np.float32]
ROWS = st.lists(st.integers(-12, 12).map(lambda i: i / 4), min_size=V, max_size=V)
TOKENS = st.lists(st.integers(0, V - 1), max_size=12)


def row(values: Sequence[float]) -> Logits:
    made = np.array(values, np.float32)
    made.flags.writeable = False
    return made


def after(
    processor: Processor, prompt: Sequence[int], output: Sequence[int], logits: Logits
) -> Any:
    """The processed logits behind an output."""
    state = processor.start(prompt)
    for token in output:
        state = processor.advance(state, token, logits)
    return processor.apply(state, logits)


def masked(found: Logits, logits: Logits) -> set[int]:
    gone = set(np.flatnonzero(np.isneginf(found)).tolist())
    assert all(found[token] == logits[token] for token in range(V) if token not in gone)
    return gone


@given(ROWS, TOKENS, TOKENS, st.integers(1, 4))
def test_no_ngram_occurs_twice(
    values: list[float], prompt: list[int], output: list[int], n: int
) -> None:
    text = [*prompt, *output]
    before = {tuple(text[i : i + n]) for i in range(len(text) - n + 1)}
    last = text[len(text) - n + 1 :]
    expected = {token for token in range(V) if (*last, token) in before}
    found = after(NoRepeatNgrams(n), prompt, output, row(values))
    assert masked(found, row(values)) == expected


@given(ROWS, TOKENS, st.integers(0, 9))
def test_no_end_before_the_least_length(values: list[float], output: list[int], n: int) -> None:
    found = after(MinLength(n, (2, 5)), [1], output, row(values))
    assert masked(found, row(values)) == ({2, 5} if len(output) < n else set())


@given(ROWS, TOKENS)
def test_forced_positions(values: list[float], output: list[int]) -> None:
    positions = {0: 3, 2: 6}
    found = after(Forced(positions), [1, 2], output, row(values))
    token = positions.get(len(output))
    if token is None:
        assert not masked(found, row(values))
    else:
        assert found.tolist() == [0 if i == token else -math.inf for i in range(V)]


@given(ROWS, TOKENS, st.integers(1, 13))
def test_the_last_token_is_forced(values: list[float], output: list[int], limit: int) -> None:
    found = after(ForcedLast(4, limit), [1], output, row(values))
    only = [0 if i == 4 else -math.inf for i in range(V)]
    assert found.tolist() == (only if len(output) == limit - 1 else values)


@given(ROWS, TOKENS, st.integers(0, 2))
def test_suppressed_always_and_at_first(values: list[float], output: list[int], first: int) -> None:
    found = after(Suppressed((1, 7), (2,), first), [1], output, row(values))
    assert masked(found, row(values)) == ({1, 2, 7} if len(output) == first else {1, 7})


ALL = [NoRepeatNgrams(2), MinLength(3, (2,)), Forced({1: 4}), ForcedLast(3, 4), Suppressed((5,))]


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


# --- the chain -------------------------------------------------------------------------------


def names(sampler: Sampler) -> list[str]:
    return [type(processor).__name__ for processor in sampler.chain]


def test_the_order_is_that_of_transformers() -> None:
    class Anything:
        def start(self) -> None: ...
        def advance(self, state: None, token: int) -> None: ...
        def mask(self, state: None) -> None: ...

    sampling = Sampling(
        temperature=0.7,
        top_k=3,
        repetition_penalty=1.2,
        presence_penalty=0.1,
        no_repeat_ngram_size=3,
        min_new_tokens=2,
        suppress_tokens=(3,),
        forced_bos_token_id=5,
    )
    terms = Terms(V, frozenset({1}), 9, Decoding(forced_last=1))
    assert names(Sampler.build(sampling, Anything(), terms, [Temperature(2.0)])) == [
        "Repetition",
        "Occurrence",
        "NoRepeatNgrams",
        "MinLength",
        "Allowed",
        "Forced",
        "ForcedLast",
        "Suppressed",
        "Temperature",
        "Temperature",
        "TopK",
    ]


def test_what_is_not_asked_for_is_not_there() -> None:
    terms = Terms(V, frozenset({1}), 9, Decoding())
    assert Sampler.build(Sampling(), None, terms).plain_greedy
    # Without a token that ends a text there is nothing to hold back.
    assert Sampler.build(Sampling(min_new_tokens=3), None, Terms(V, frozenset(), 9)).plain_greedy


def test_the_users_first_token_stands_for_the_models() -> None:
    terms = Terms(V, frozenset({1}), 9, Decoding(forced={0: 2, 1: 3}))
    assert Sampler.build(Sampling(), None, terms).chain == (Forced({0: 2, 1: 3}),)
    chosen = Sampler.build(Sampling(forced_bos_token_id=7), None, terms)
    assert chosen.chain == (Forced({0: 7, 1: 3}),)


def test_the_first_token_is_the_first_that_is_free() -> None:
    decoding = Decoding(forced={0: 2, 1: 3}, suppressed=(6,), suppressed_first=(5,))
    sampler = Sampler.build(
        Sampling(suppress_tokens=(4,)), None, Terms(V, frozenset(), 9, decoding)
    )
    assert sampler.chain[1] == Suppressed((4, 6), (5,), 2)


@pytest.mark.parametrize(
    ("given", "decoding", "message"),
    [
        ({"suppress_tokens": (V,)}, Decoding(), f"no id {V}; ids are 0 to {V - 1}"),
        ({"suppress_tokens": (-1,)}, Decoding(), "no id -1"),
        ({"forced_bos_token_id": V}, Decoding(), f"forced tokens: there is no id {V}"),
        ({}, Decoding(forced={0: V}), f"forced tokens: there is no id {V}"),
        ({}, Decoding(forced_last=V), f"forced tokens: there is no id {V}"),
        ({}, Decoding(suppressed_first=(V,)), f"suppressed tokens: there is no id {V}"),
    ],
)
def test_ids_that_do_not_exist_are_refused(
    given: dict[str, Any], decoding: Decoding, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        Sampler.build(Sampling(**given), None, Terms(V, frozenset({1}), 9, decoding))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("no_repeat_ngram_size", -1),
        ("no_repeat_ngram_size", 2.5),
        ("min_new_tokens", -1),
        ("min_new_tokens", True),
        ("forced_bos_token_id", -1),
        ("forced_bos_token_id", "en"),
    ],
)
def test_settings_out_of_range_are_refused(name: str, value: Any) -> None:
    with pytest.raises(UsageError, match=f"{name} is {value!r}"):
        Sampling(**{name: value})


def test_nothing_left_is_said() -> None:
    sampler = Sampler.build(Sampling(no_repeat_ngram_size=1), None, Terms(V, frozenset(), 9))
    with pytest.raises(InputError, match=r"allows no token here.*no_repeat_ngram_size"):
        sampler.draw(sampler.start(range(V)), row([0.0] * V), 0)


# --- against transformers --------------------------------------------------------------------

MADE: list[tuple[Processor, Callable[[Any], Any]]] = [
    *[(NoRepeatNgrams(n), lambda t, n=n: t.NoRepeatNGramLogitsProcessor(n)) for n in (1, 2, 3)],
    (MinLength(4, (2, 5)), lambda t: t.MinNewTokensLengthLogitsProcessor(3, 4, [2, 5])),
    (Forced({0: 3}), lambda t: t.ForcedBOSTokenLogitsProcessor(3)),
    (ForcedLast(3, 5), lambda t: t.ForcedEOSTokenLogitsProcessor(8, 3)),
    (Suppressed((1, 4)), lambda t: t.SuppressTokensLogitsProcessor([1, 4])),
    (Suppressed((), (1, 4)), lambda t: t.SuppressTokensAtBeginLogitsProcessor([1, 4], 3)),
    (Suppressed((), (1,), 1), lambda t: t.SuppressTokensAtBeginLogitsProcessor([1], 4)),
]


@pytest.mark.full
@pytest.mark.parametrize(("processor", "make"), MADE, ids=lambda p: type(p).__name__)
def test_as_transformers(processor: Processor, make: Callable[[Any], Any]) -> None:
    """Prompts of three ids, but of one where its first forced token is meant."""
    torch = pytest.importorskip("torch")
    import transformers

    random = np.random.default_rng(8)
    for length in [*range(8)] * 5:
        logits = row(random.normal(size=V))
        prompt = random.integers(0, V, 1 if isinstance(processor, Forced) else 3).tolist()
        output = random.integers(0, V, length).tolist()
        theirs = make(transformers)(
            torch.tensor([[*prompt, *output]]), torch.tensor(logits.copy())[None]
        )
        ours = after(processor, prompt, output, logits)
        np.testing.assert_array_equal(ours, theirs[0].numpy())
