"""What a model wrote, context by context, against plain dictionaries."""

from __future__ import annotations

import math
from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgedec import _tree
from edgedec._tree.keys import context_key, context_keys
from edgedec.written import ONCE, RARE, Contexts, Written

Text = tuple[list[int], np.ndarray, np.ndarray]
Known = dict[tuple[int, ...], tuple[int, dict[int, float]]]


def written_texts(seed: int, count: int) -> list[Text]:
    """Random texts over a few tokens, a random part of each written, with what was likely."""
    random, found = np.random.default_rng(seed), []
    width = int(random.integers(1, 12))
    for _ in range(count):
        tokens = random.integers(0, 4, int(random.integers(2, 12))).tolist()
        rows = int(random.integers(0, len(tokens)))
        ids = np.array([random.permutation(20)[:width] for _ in range(rows)], np.int32)
        values = -np.sort(-random.normal(0, 2, (rows, width)).astype(np.float32))
        found.append((tokens, ids.reshape(rows, width), values))
    return found


def by_hand(texts: list[Text], lengths: range) -> Known:
    """How often each context came, and the mean share of what was likely behind it."""
    seen: Counter[tuple[int, ...]] = Counter()
    sums: defaultdict[tuple[int, ...], Counter[int]] = defaultdict(Counter)
    for tokens, ids, values in texts:
        for row in range(len(ids)):
            end = len(tokens) - len(ids) + row
            shares = np.exp(values[row].astype(np.float64))
            shares = (shares / shares.sum())[: _tree.WIDTH]
            for length in lengths:
                if length > end:
                    continue
                context = tuple(tokens[end - length : end])
                seen[context] += 1
                for token, share in zip(ids[row].tolist(), shares.tolist(), strict=False):
                    sums[context][token] += share
    return {
        context: (count, {t: s / count for t, s in sums[context].most_common(_tree.WIDTH)})
        for context, count in seen.items()
    }


def gain(known: Known, context: tuple[int, ...], lengths: range) -> float:
    """What it is worth to know a context, in nats."""
    count, here = known[context]
    shorter = known[context[1:]][1] if len(context) > lengths.start else {}
    nats = sum(p * math.log(p / max(shorter.get(t, 0), float(RARE))) for t, p in here.items())
    return nats * (count if count > 1 else ONCE)


def found_in(contexts: Contexts, known: Known) -> list[tuple[int, ...]]:
    keys = {context_key(context, len(context)): context for context in known}
    return [keys[int(key)] for key in contexts.keys]


def collected(texts: list[Text], lengths: range) -> Written:
    written = Written(lengths)
    for tokens, ids, values in texts:
        written.add(tokens, ids, values)
    return written


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    lengths=st.sampled_from([range(1, 2), range(1, 3), range(2, 5)]),
    most=st.integers(0, 40),
)
def test_the_contexts_that_say_most(seed: int, lengths: range, most: int) -> None:
    texts = written_texts(seed, 9)
    if not any(len(ids) for _, ids, _ in texts):
        return
    known, written = by_hand(texts, lengths), collected(texts, range(1, 5))
    everything = written.contexts(lengths)
    assert sorted(found_in(everything, known)) == sorted(known)
    assert everything.longest == lengths[-1]
    assert (np.diff(everything.keys.astype(object)) > 0).all()
    for context, ids, shares in zip(
        found_in(everything, known), everything.ids, everything.shares, strict=True
    ):
        expected = known[context][1]
        assert (np.diff(shares) <= 0).all()
        assert (ids >= 0).sum() == len(expected)
        for token, share in zip(ids.tolist(), shares.tolist(), strict=True):
            # Where two are as likely, either may be the last that has a place.
            assert share == pytest.approx(expected.get(token, share if token >= 0 else 0), abs=1e-5)
    gains = {context: gain(known, context, lengths) for context in known}
    few = found_in(written.contexts(lengths, most), known)
    assert len(few) == min(most, len(known))
    left = [worth for context, worth in gains.items() if context not in few]
    assert not few or not left or min(map(gains.__getitem__, few)) >= max(left) - 1e-3


@given(tokens=st.lists(st.integers(0, (1 << 31) - 1), max_size=12), order=st.integers(1, 5))
def test_keys_all_at_once(tokens: list[int], order: int) -> None:
    found = context_keys(np.array(tokens, np.int32), order).tolist()
    ends = range(order, len(tokens) + 1)
    assert found == [context_key(tokens[:end], order) for end in ends]
