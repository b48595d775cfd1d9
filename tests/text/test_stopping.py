"""Stop strings against a search in the whole text."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgedec.errors import UsageError
from edgedec.stopping import StopStrings

# Two letters make matches, overlaps and false beginnings common.
PIECES = st.lists(st.text("ab", max_size=5), max_size=12)
STOPS = st.lists(st.text("ab", min_size=1, max_size=5), max_size=4)


def shown(stops: list[str], pieces: list[str]) -> tuple[str, bool]:
    """All the text that comes out, and whether it was stopped."""
    finder, out = StopStrings(stops), ""
    for piece in pieces:
        text, stopped = finder.push(piece)
        out += text
        if stopped:
            return out, True
    return out + finder.flush(), finder.stopped


@given(STOPS, PIECES)
def test_as_a_search_in_the_whole_text(stops: list[str], pieces: list[str]) -> None:
    whole = "".join(pieces)
    places = [whole.find(stop) for stop in stops if stop in whole]
    assert shown(stops, pieces) == (whole[: min(places, default=len(whole))], bool(places))


@given(STOPS, PIECES)
def test_holds_back_no_more_than_may_be_needed(stops: list[str], pieces: list[str]) -> None:
    finder, out, seen = StopStrings(stops), "", ""
    for piece in pieces:
        text, stopped = finder.push(piece)
        out, seen = out + text, seen + piece
        if stopped:
            return
        held = seen[len(out) :]
        assert seen == out + held
        assert not held or any(stop.startswith(held) or held.startswith(stop[:1]) for stop in stops)
        # Something starts at the very first held character and is not decided yet.
        assert not held or any(stop.startswith(held) and stop != held for stop in stops)


def test_the_stop_itself_is_not_shown_and_nothing_follows() -> None:
    finder = StopStrings(["\nUser:"])
    assert finder.push("Hello") == ("Hello", False)
    assert finder.push("\nUs") == ("", False)
    assert finder.push("er: next") == ("", True)
    assert finder.push("more") == ("", True)
    assert finder.flush() == ""


def test_a_false_beginning_is_shown_as_soon_as_it_is_one() -> None:
    finder = StopStrings(["END"])
    assert finder.push("the E") == ("the ", False)
    assert finder.push("N") == ("", False)
    assert finder.push("d") == ("ENd", False)
    assert finder.push(" EN") == (" ", False)
    assert finder.flush() == "EN"


def test_the_match_that_starts_first_wins() -> None:
    assert shown(["c", "abcd"], ["xab", "c", "d"]) == ("x", True)
    assert shown(["c", "abcd"], ["xab", "c", "e"]) == ("xab", True)
    assert shown(["c", "abcd"], ["xab", "c"]) == ("xab", True)


def test_one_string_is_one_stop() -> None:
    assert shown("ab", ["xaxb", "ab"]) == ("xaxb", True)  # type: ignore[arg-type]


@pytest.mark.parametrize("stops", [[""], ["a", ""], [3], [None]])
def test_an_empty_stop_makes_no_sense(stops: Any) -> None:
    with pytest.raises(UsageError, match="stop"):
        StopStrings(stops)
