"""Tables of successors and the trees grown from them: C against Python, and against enumeration."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgedec import gumbel
from edgedec._tree import successors
from edgedec._tree.keys import context_keys

from .both import FAST, arrays, needs_c, same

KINDS = [successors.Successors, *([FAST.Successors] if FAST else [])]


def filled(table: Any, seed: int, steps: int = 12) -> list[int]:
    """Teach a table something random; returns the text."""
    random = np.random.default_rng(seed)
    text = [3]
    for _ in range(steps):
        count = int(random.integers(0, 5))
        tokens = random.integers(0, 5, count).astype(np.int32)
        parents = np.array([random.integers(-1, i) if i else -1 for i in range(count)], np.int32)
        width = int(random.integers(1, 9))
        ids = np.stack([random.permutation(20)[:width] for _ in range(count + 1)]).astype(np.int32)
        values = -np.sort(-random.normal(0, 2, (count + 1, width)).astype(np.float32))
        table.learn(text, tokens, parents, ids, values, float(random.choice([1.0, 0.5])))
        text.append(int(random.integers(0, 5)))
        table.count(text, len(text) - 1)
    return text


@needs_c
@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    orders=st.sampled_from([(1, 1), (1, 2), (2, 2), (1, 3), (3, 3), (2, 4)]),
    sets=st.sampled_from([1, 4, 64]),
    temperature=st.sampled_from([0.0, 0.7]),
)
def test_c_and_python_learn_and_grow_alike(
    seed: int, orders: tuple[int, int], sets: int, temperature: float
) -> None:
    assert FAST is not None
    fast, twin = FAST.Successors(*orders, sets), successors.Successors(*orders, sets)
    text = filled(fast, seed)
    assert filled(twin, seed) == text
    assert len(fast) == len(twin)
    dumped, expected = fast.dump(), twin.dump()
    assert dumped[:2] == expected[:2]
    weights = (np.frombuffer(part[2], np.float32) for part in (dumped, expected))
    assert np.allclose(*weights, atol=1e-5)
    # From one and the same table, so that rounding cannot part ways at a tie.
    fresh, copy = FAST.Successors(*orders, sets), successors.Successors(*orders, sets)
    for each in (fresh, copy):
        each.load(*dumped)
        each.count(text, len(text) // 2)
    one, other = arrays(12), arrays(12)
    count = fresh.grow(text, 12, 4, temperature, 7, 5, *one)
    assert count == copy.grow(text, 12, 4, temperature, 7, 5, *other)
    assert same(one, other, count)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), nodes=st.integers(1, 20), depth=st.integers(1, 4))
def test_the_tree_is_the_likeliest_of_its_size(
    kind: Any, seed: int, nodes: int, depth: int
) -> None:
    """Every path there is, sorted: no better one is left out."""
    table = kind(1, 2, 64)
    text = filled(table, seed)
    out = arrays(nodes)
    count = table.grow(text, nodes, depth, 0.0, 0, 0, *out)
    _, parents, score, rank = (part[:count] for part in out)
    paths = np.ones(count)
    for node in range(count):
        assert -1 <= parents[node] < node
        paths[node] = score[node] * (paths[parents[node]] if parents[node] >= 0 else 1)
    whole = arrays(512)
    total = table.grow(text, 512, depth, 0.0, 0, 0, *whole)
    every = np.ones(total)
    for node in range(total):
        every[node] = whole[2][node] * (every[whole[1][node]] if whole[1][node] >= 0 else 1)
    assert count == min(nodes, total)
    assert np.allclose(np.sort(paths), np.sort(every)[-count:] if count else [], atol=1e-6)
    siblings = {(int(p), int(r)) for p, r in zip(parents, rank, strict=True)}
    assert len(siblings) == count  # a rank is given once below each node


@pytest.mark.parametrize("kind", KINDS)
def test_overwriting_and_mixing(kind: Any) -> None:
    none = np.zeros(0, np.int32)
    ids = np.array([[4, 5]], np.int32)
    for rate, expected in ((1.0, {6: 0.5, 7: 0.5}), (0.5, {4: 0.25, 5: 0.25, 6: 0.25, 7: 0.25})):
        table = kind(1, 1, 4)
        table.learn([9], none, none, ids, np.zeros((1, 2), np.float32), 1.0)
        table.learn([9], none, none, ids + 2, np.zeros((1, 2), np.float32), rate)
        out = arrays(4)
        count = table.grow([9], 4, 1, 0.0, 0, 0, *out)
        found = dict(zip(out[0][:count].tolist(), out[2][:count].tolist(), strict=True))
        assert found == pytest.approx({t: p * successors.TRUST[0] for t, p in expected.items()})


@pytest.mark.parametrize("kind", KINDS)
def test_ranks_follow_the_noise_of_the_draw(kind: Any) -> None:
    table = kind(1, 1, 4)
    ids = np.arange(10, 18, dtype=np.int32)[None]
    logits = np.linspace(2, -1, 8, dtype=np.float32)[None]
    none = np.zeros(0, np.int32)
    table.learn([1], none, none, ids, logits, 1.0)
    firsts = set()
    for index in range(20):
        out = arrays(8)
        table.grow([1], 8, 1, 0.8, 5, index, *out)
        p = np.exp(logits[0] - logits[0].max())
        drawn = np.log(p / p.sum()) / 0.8 + gumbel.gumbel(5, index, ids[0])
        assert out[0][0] == ids[0][drawn.argmax()]
        firsts.add(int(out[0][0]))
    assert len(firsts) > 2


@pytest.mark.parametrize("kind", KINDS)
def test_long_contexts_are_known_as_far_as_they_were_loaded(kind: Any) -> None:
    def guessed(table: Any, text: list[int]) -> int:
        out = arrays(1)
        return int(out[0][0]) if table.grow(text, 1, 1, 0.0, 0, 0, *out) else -1

    table = kind(1, 2, 64)
    keys = context_keys(np.array([1, 2, 3, 4], np.int32), 4)
    line, weights = np.full((1, 8), -1, np.int32), np.zeros((1, 8), np.float32)
    line[0, 0], weights[0, 0] = 9, 1
    table.load(keys.tobytes(), line.tobytes(), weights.tobytes(), 4)
    assert (guessed(table, [1, 2, 3, 4]), guessed(table, [8, 2, 3, 4])) == (9, -1)
    # What was seen behind two tokens is added to what is likely behind four.
    table.count([3, 4, 7, 3, 4, 7, 3, 4, 5], 0)
    assert (guessed(table, [1, 2, 3, 4]), guessed(table, [8, 2, 3, 4])) == (7, 7)
    out = arrays(3)
    assert table.grow([1, 2, 3, 4], 3, 1, 0.0, 0, 0, *out) == 3
    shares = np.array([2, 1, 1]) / 4.5 * successors.TRUST[3]
    assert dict(zip(out[0].tolist(), out[2].tolist(), strict=True)) == pytest.approx(
        dict(zip([7, 9, 5], shares.tolist(), strict=True))
    )
    assert len(table) == 1 + 3 + 3
    # So long contexts are not looked for where nobody said that there are any.
    short = kind(1, 2, 64)
    short.load(keys.tobytes(), line.tobytes(), weights.tobytes())
    assert guessed(short, [1, 2, 3, 4]) == -1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("given", [(0, 1, 4), (2, 1, 4), (1, 5, 4), (1, 1, 3), (1, 1, 0)])
def test_tables_that_cannot_be(kind: Any, given: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="power of two"):
        kind(*given)


@pytest.mark.parametrize("kind", KINDS)
def test_arrays_that_do_not_fit(kind: Any) -> None:
    table = kind(1, 1, 4)
    none, one = np.zeros(0, np.int32), np.zeros(1, np.int32)
    with pytest.raises(ValueError, match="fit together"):
        table.learn([1], one, none, np.zeros((1, 2), np.int32), np.zeros((1, 2), np.float32), 1.0)
    with pytest.raises(ValueError, match="fit together"):
        table.load(b"12345678", b"", b"")
