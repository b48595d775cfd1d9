"""The trunk of a session against a plain list of rows."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from edgedec.trunk import Trunk


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["go on", "grow", "cut", "read"]), st.integers(0, 90))))
def test_a_trunk_is_what_was_put_into_it(calls: list[tuple[str, int]]) -> None:
    trunk = Trunk()
    found: list[tuple[int, int, int]] = []
    for kind, number in calls:
        count = len(found)
        if kind == "cut":
            trunk.cut(min(number, count))
            del found[number:]
        elif kind == "go on":
            slot, position = found[-1][1:] if found else (-1, -1)
            found += [(5, slot + 1 + i, position + 1 + i) for i in range(number)]
            trunk.go_on([5] * number)
        elif kind == "grow":
            new = [(7, 3 * count + 2 * i, count + 5 * i) for i in range(number)]
            found += new
            trunk.grow([7] * number, [row[1] for row in new], [row[2] for row in new])
        else:
            assert trunk.slots.tolist() == [row[1] for row in found]
            assert trunk.positions.tolist() == [row[2] for row in found]
        assert trunk.tokens == [row[0] for row in found]
        assert (trunk.slot, trunk.end) == (found[-1][1:] if found else (-1, -1))
