"""The accepted path and the draw: against a plain walk and against numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgedec import _tree
from edgedec._tree import walk
from edgedec.sampling import Sampler, Sampling

from .both import FAST, needs_c

KINDS = [walk, *([FAST] if FAST else [])]


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=150, deadline=None)
@given(st.data())
def test_the_path_is_that_of_a_plain_walk(kind: Any, data: st.DataObject) -> None:
    count, root = data.draw(st.integers(0, 12)), data.draw(st.integers(0, 2))
    tokens = np.array([data.draw(st.integers(0, 2)) for _ in range(count)], np.int32)
    parents = np.array([data.draw(st.integers(-1, i - 1)) for i in range(count)], np.int32)
    best = np.array([data.draw(st.integers(0, 2)) for _ in range(root + 1 + count)], np.int32)
    path, node, said = [], -1, [int(best[root])]
    while True:
        below = [
            i for i in range(count) if parents[i] == node and tokens[i] == best[root + 1 + node]
        ]
        if not below:
            break
        node = below[0]
        path.append(node)
        said.append(int(best[root + 1 + node]))
    assert kind.follow(tokens, parents, best, root) == (tuple(path), tuple(said))


@pytest.mark.parametrize("kind", KINDS)
def test_arrays_that_do_not_fit_are_refused(kind: Any) -> None:
    one = np.zeros(1, np.int32)
    with pytest.raises(ValueError, match="fit together"):
        kind.follow(one, one, one, 0)


@needs_c
@pytest.mark.parametrize("vocab", [1, 7, 64, 1000, 50_000])
@pytest.mark.parametrize("temperature", [1e-9, 0.3, 0.8, 1.0, 30.0])
def test_c_draws_what_numpy_draws(vocab: int, temperature: float) -> None:
    assert FAST is not None
    random = np.random.default_rng(vocab)
    for index in range(25):
        logits = random.normal(0, 5, vocab).astype(np.float32)
        logits[random.random(vocab) < 0.2] = -np.inf
        seed = int(random.integers(0, 1 << 63)) * 2 + 1
        drawn = FAST.draw(logits, temperature, seed, index)
        assert drawn == walk.draw(logits, temperature, seed, index)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("logits", [[np.nan, 1.0], [np.inf, 1.0], [-np.inf, -np.inf]])
def test_logits_that_are_no_numbers(kind: Any, logits: list[float]) -> None:
    assert kind.draw(np.array(logits, np.float32), 0.8, 1, 2) == -1


@pytest.mark.parametrize("temperature", [0.5, 1.0])
def test_the_sampler_draws_the_same_by_either_way(temperature: float) -> None:
    """A top-k of the whole vocabulary changes nothing but the way through the code."""
    sampling = Sampling(temperature=temperature, seed=11)
    quick = Sampler.build(sampling)
    slow = Sampler.build(Sampling(temperature=temperature, top_k=500, seed=11))
    random = np.random.default_rng(0)
    for index in range(200):
        logits = random.normal(0, 3, 500).astype(np.float32)
        assert quick.draw((), logits, index) == slow.draw(slow.start([]), logits, index)


def test_what_is_used_is_what_was_compiled() -> None:
    assert (FAST is not None) == _tree.COMPILED
