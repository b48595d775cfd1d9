"""How much of a tree is checked, by each policy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgedec import policies
from edgedec.contracts import Draft
from edgedec.errors import UnsupportedError

from .both import tree

FLAT = np.linspace(1.0, 1.2, 21)


def chain(*scores: float) -> Draft:
    return tree(list(range(len(scores))), list(range(-1, len(scores) - 1)), list(scores))


def chosen(policy: str, given: Draft, times: np.ndarray = FLAT) -> list[int]:
    found = policies.policy_named(policy)
    assert found is not None
    return list(found.choose(given, times))


@pytest.mark.parametrize("name", policies.NAMES[1:])
@settings(max_examples=60, deadline=None)
@given(st.data())
def test_parents_are_chosen_with_their_children(name: str, data: st.DataObject) -> None:
    count = data.draw(st.integers(0, 12))
    given = tree(
        [0] * count,
        [data.draw(st.integers(-1, i - 1)) for i in range(count)],
        [data.draw(st.floats(0.0625, 0.5, width=32)) for _ in range(count)],
    )
    room = data.draw(st.integers(1, 14))
    found = chosen(name, given, np.linspace(1, 2, room))
    assert found == sorted(set(found))
    assert len(found) < room
    for node in found:
        assert given.parents[node] in (-1, *found)


def test_fixed_takes_the_first() -> None:
    assert chosen("fixed", chain(*[0.1] * 12)) == list(range(8))


def test_confidence_stops_at_the_first_unsure_node() -> None:
    assert chosen("confidence", chain(0.9, 0.5, 0.3, 0.9)) == [0, 1]


def test_entropy_goes_on_where_one_guess_stands_out() -> None:
    sure = tree([1, 2, 3], [-1, 0, 1], [0.97, 0.95, 0.97])
    assert chosen("entropy", sure) == [0, 1, 2]
    torn = tree([1, 2, 3, 4], [-1, -1, -1, 0], [0.33, 0.33, 0.33, 0.99])
    assert chosen("entropy", torn) == []


def test_goodput_follows_acceptance_and_price() -> None:
    policy = policies.Goodput()
    long = chain(*[0.5] * 10)
    steep = 1 + np.arange(11) * 0.6
    for _ in range(60):
        policy.learn(8, 8)
    assert len(policy.choose(long, FLAT)) == 10
    for _ in range(60):
        policy.learn(8, 0)
    assert len(policy.choose(long, steep)) == 0


def test_thompson_draws_longer_chains_where_more_is_accepted() -> None:
    lengths = []
    for accepted in (0, 8):
        policy = policies.Thompson()
        for _ in range(40):
            policy.learn(8, accepted)
        lengths.append(np.mean([len(policy.choose(chain(*[0.5] * 10), FLAT)) for _ in range(200)]))
    assert lengths[0] < 0.5
    assert lengths[1] > 8
    first, again = policies.Thompson(), policies.Thompson()
    for _ in range(20):
        assert first.choose(chain(*[0.5] * 9), FLAT) == again.choose(chain(*[0.5] * 9), FLAT)


def test_fixed_takes_as_many_as_its_name_says() -> None:
    assert chosen("fixed:3", chain(*[0.1] * 12)) == list(range(3))
    policy = policies.policy_named("fixed:40")
    assert policy is not None and policy.asks == 40
    for wrong in ("fixed:0", "fixed:64", "fixed:", "fixed:x", "best:3"):
        with pytest.raises(UnsupportedError, match="fixed:N"):
            policies.policy_named(wrong)


def test_names() -> None:
    assert policies.policy_named("best") is None
    with pytest.raises(UnsupportedError, match="no policy 'magic'; there is: best, fixed"):
        policies.policy_named("magic")
